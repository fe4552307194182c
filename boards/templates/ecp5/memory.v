// SPDX-License-Identifier: Apache-2.0
// edgemoe_block_memory for an ECP5: the same memory in slices of one byte. A byte of 2048 words is one block RAM, so few blocks follow each other
// behind a short multiplexer. In one piece Yosys takes the fewest blocks, 36 bits of 512 words each, and 35 of them behind every output
// bit of the activation memory can be placed, but not routed.
module edgemoe_block_memory #(
    parameter WIDTH = 16,
    parameter DEPTH = 16,
    parameter ADDRESS_BITS = 4,
    parameter GROUPS = 1
) (
    input wire clk,
    input wire [GROUPS - 1:0] write_enable,
    input wire [ADDRESS_BITS - 1:0] write_address,
    input wire [WIDTH - 1:0] write_data,
    input wire read_enable,
    input wire [ADDRESS_BITS - 1:0] read_address,
    output wire [WIDTH - 1:0] read_data
);
  localparam PART = WIDTH / GROUPS;
  localparam SLICE = DEPTH > 1024 && PART % 8 == 0 ? 8 : PART;
  genvar index;
  generate
    for (index = 0; index < WIDTH / SLICE; index = index + 1) begin : slice
      reg [SLICE - 1:0] memory[0:DEPTH - 1];
      reg [SLICE - 1:0] read;
      always @(posedge clk) begin
        if (write_enable[index * SLICE / PART]) memory[write_address] <= write_data[index * SLICE +: SLICE];
        if (read_enable) read <= memory[read_address];
      end
      assign read_data[index * SLICE +: SLICE] = read;
    end
  endgenerate
endmodule
