// SPDX-License-Identifier: Apache-2.0
// The core after reset, by itself: reads CTRL, writes START, waits for the first read of memory. Says PASS, or what is wrong.
`timescale 1ns / 1ps
`default_nettype none
module start;
  reg aclk = 0;
  reg aresetn = 0;
  always #5 aclk = ~aclk;

  reg arvalid = 0, awvalid = 0, wvalid = 0;
  wire arready, awready, wready, rvalid, bvalid, interrupt;
  wire [31:0] rdata;
  wire memory_arvalid, memory_awvalid, memory_wvalid;
  edgemoe core (
      .aclk(aclk),
      .aresetn(aresetn),
      .s_axil_araddr(12'h000),
      .s_axil_arprot(3'b000),
      .s_axil_arvalid(arvalid),
      .s_axil_arready(arready),
      .s_axil_rdata(rdata),
      .s_axil_rvalid(rvalid),
      .s_axil_rready(1'b1),
      .s_axil_awaddr(12'h000),
      .s_axil_awprot(3'b000),
      .s_axil_awvalid(awvalid),
      .s_axil_awready(awready),
      .s_axil_wdata(32'h1),
      .s_axil_wstrb(4'hf),
      .s_axil_wvalid(wvalid),
      .s_axil_wready(wready),
      .s_axil_bvalid(bvalid),
      .s_axil_bready(1'b1),
      .interrupt(interrupt),
      .m_axi_arvalid(memory_arvalid),
      .m_axi_arready(1'b0),
      .m_axi_rvalid(1'b0),
      .m_axi_rdata(128'b0),
      .m_axi_rresp(2'b00),
      .m_axi_rlast(1'b0),
      .m_axi_rid(1'b0),
      .m_axi_awvalid(memory_awvalid),
      .m_axi_awready(1'b0),
      .m_axi_wvalid(memory_wvalid),
      .m_axi_wready(1'b0),
      .m_axi_bvalid(1'b0),
      .m_axi_bresp(2'b00),
      .m_axi_bid(1'b0)
  );

  initial begin
    $dumpfile("start.vcd");
    $dumpvars(0, start);
    repeat (5) @(posedge aclk);
    #1 aresetn = 1;
    repeat (5) @(posedge aclk);
    @(negedge aclk) arvalid = 1;
    while (arready !== 1) @(negedge aclk);
    @(negedge aclk) arvalid = 0;
    while (rvalid !== 1) @(negedge aclk);
    if (rdata !== 32'h4) begin
      $display("CTRL reads %h, not idle", rdata);
      $finish;
    end
    if ({interrupt, memory_arvalid, memory_awvalid, memory_wvalid} !== 4'b0000) begin
      $display("something moves before START");
      $finish;
    end
    @(negedge aclk) {awvalid, wvalid} = 2'b11;
    while ((awready & wready) !== 1) @(negedge aclk);
    @(negedge aclk) {awvalid, wvalid} = 2'b00;
    while (memory_arvalid !== 1) @(negedge aclk);
    $display("PASS");
    $finish;
  end
  initial begin
    #20000 $display("time is over");
    $finish;
  end
endmodule
