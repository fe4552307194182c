// SPDX-License-Identifier: Apache-2.0
//
// The accelerator's system and its SDRAM chip, as they stand on a board: what is left is the serial line.
module serial_board #(
    parameter CLOCK_HZ = 60000000,
    parameter POWER_UP_US = 200
) (
    input clk,
    input chip_clk,  // the inverse of clk: as an input of its own it costs the simulation nothing
    input rst,
    input receive,
    output transmit,
    output [7:0] leds,
    output [31:0] violations,
    output [7:0] first_violation
);
    wire cke, cs_n, ras_n, cas_n, we_n, dq_oe;
    wire [1:0] ba, dqm;
    wire [12:0] a;
    wire [15:0] dq_o, dq_i;
    // The pads: registers on the way out, and one that samples at the falling edge on the way in.
    reg pad_cke = 0, pad_dq_oe = 0;
    reg pad_cs_n = 1, pad_ras_n = 1, pad_cas_n = 1, pad_we_n = 1;
    reg [1:0] pad_ba, pad_dqm = 3;
    reg [12:0] pad_a;
    reg [15:0] pad_dq_o, sampled;
    always @(posedge clk) begin
        {pad_cke, pad_cs_n, pad_ras_n, pad_cas_n, pad_we_n} <= {cke, cs_n, ras_n, cas_n, we_n};
        {pad_ba, pad_a, pad_dqm, pad_dq_o, pad_dq_oe} <= {ba, a, dqm, dq_o, dq_oe};
    end
    always @(posedge chip_clk) sampled <= dq_i;

    // From a register, so that no logic hangs on an input: Verilator evaluates such logic at every step.
    reg reset = 1;
    always @(posedge clk) reset <= rst;

    edgemoe_system system (
        .clk(clk),
        .rst(reset),
        .receive(receive),
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
        .sdram_dq_o(dq_o),
        .sdram_dq_oe(dq_oe),
        .sdram_dq_i(sampled)
    );

    sdram_chip #(
        .CLOCK_HZ(CLOCK_HZ),
        .POWER_UP_US(POWER_UP_US)
    ) chip (
        .clk(chip_clk),
        .cke(pad_cke),
        .cs_n(pad_cs_n),
        .ras_n(pad_ras_n),
        .cas_n(pad_cas_n),
        .we_n(pad_we_n),
        .ba(pad_ba),
        .a(pad_a),
        .dqm(pad_dqm),
        .dq_in(pad_dq_o),
        .dq_in_enable(pad_dq_oe),
        .dq_out(dq_i),
        .violations(violations),
        .first_violation(first_violation)
    );
endmodule
