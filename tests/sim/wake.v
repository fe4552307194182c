// SPDX-License-Identifier: Apache-2.0
// A board's system, by itself: the SDRAM is woken and its mode register written with no pin unknown. Says PASS, or what is wrong.
`timescale 1ns / 1ps
`default_nettype none
module wake;
  reg clk = 0;
  reg rst = 1;
  always #8 clk = ~clk;

  wire transmit, cke, cs_n, ras_n, cas_n, we_n, drive;
  wire [7:0] leds;
  wire [1:0] ba, dqm;
  wire [12:0] a;
  wire [15:0] dq;
  edgemoe_system system (
      .clk(clk),
      .rst(rst),
      .receive(1'b1),
      .transmit(transmit),
      .leds(leds),
      .sdram_cke(cke),
      .sdram_cs_n(cs_n),
      .sdram_ras_n(ras_n),
      .sdram_cas_n(cas_n),
      .sdram_we_n(we_n),
      .sdram_ba(ba),
      .sdram_a(a),
      .sdram_dqm(dqm),
      .sdram_dq_o(dq),
      .sdram_dq_oe(drive),
      .sdram_dq_i(16'b0)
  );

  initial begin
    repeat (5) @(posedge clk);
    #1 rst = 0;
    repeat (3) @(negedge clk);
    while ({cke, cs_n, ras_n, cas_n, we_n} !== 5'b10000) begin
      if (^{transmit, leds, cke, cs_n, ras_n, cas_n, we_n, ba, a, dqm, drive} === 1'bx) begin
        $display("a pin is unknown");
        $finish;
      end
      @(negedge clk);
    end
    $display("PASS");
    $finish;
  end
  initial begin
    #1000000 $display("the mode register is not written");
    $finish;
  end
endmodule
