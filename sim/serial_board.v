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
    reg [15:0] sampled;  // at the pads, by the falling edge
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
        .cke(cke),
        .cs_n(cs_n),
        .ras_n(ras_n),
        .cas_n(cas_n),
        .we_n(we_n),
        .ba(ba),
        .a(a),
        .dqm(dqm),
        .dq_in(dq_o),
        .dq_in_enable(dq_oe),
        .dq_out(dq_i),
        .violations(violations),
        .first_violation(first_violation)
    );
endmodule
