// SPDX-License-Identifier: Apache-2.0
// Simple dual-port memory: one write port with an enable for each of GROUPS equal parts, one registered read port; contents undefined at start.
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
    output reg [WIDTH - 1:0] read_data
);
  localparam PART = WIDTH / GROUPS;
  reg [WIDTH - 1:0] memory[0:DEPTH - 1];
  integer group;
  always @(posedge clk) begin
    if (GROUPS == 1) begin
      if (write_enable[0]) memory[write_address] <= write_data;
    end else begin
      for (group = 0; group < GROUPS; group = group + 1)
        if (write_enable[group]) memory[write_address][group * PART +: PART] <= write_data[group * PART +: PART];
    end
    if (read_enable) read_data <= memory[read_address];
  end
endmodule
