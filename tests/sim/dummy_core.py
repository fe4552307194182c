# SPDX-License-Identifier: Apache-2.0
"""Generates the Verilog of a small core with the ports of the real one:
it copies memory, and can be told to break the rules of the bus.
"""

from __future__ import annotations

_MASTER = """
  output {p}awid, output [39:0] {p}awaddr, output [7:0] {p}awlen, output [2:0] {p}awsize, output [1:0] {p}awburst,
  output [3:0] {p}awcache, output [2:0] {p}awprot, output reg {p}awvalid, input {p}awready,
  output [{d}:0] {p}wdata, output [{s}:0] {p}wstrb, output {p}wlast, output {p}wvalid, input {p}wready,
  input {p}bid, input [1:0] {p}bresp, input {p}bvalid, output {p}bready,
  output {p}arid, output [39:0] {p}araddr, output [7:0] {p}arlen, output [2:0] {p}arsize, output [1:0] {p}arburst,
  output [3:0] {p}arcache, output [2:0] {p}arprot, output reg {p}arvalid, input {p}arready,
  input {p}rid, input [{d}:0] {p}rdata, input [1:0] {p}rresp, input {p}rlast, input {p}rvalid, output {p}rready,"""

_PORTS = """module edgemoe(input aclk, input aresetn,
  /* verilator lint_off SYMRSVDWORD */ output interrupt, /* verilator lint_on SYMRSVDWORD */ {masters}
  input [11:0] s_axil_awaddr, input [2:0] s_axil_awprot, input s_axil_awvalid, output s_axil_awready,
  input [31:0] s_axil_wdata, input [3:0] s_axil_wstrb, input s_axil_wvalid, output s_axil_wready,
  output [1:0] s_axil_bresp, output reg s_axil_bvalid, input s_axil_bready,
  input [11:0] s_axil_araddr, input [2:0] s_axil_arprot, input s_axil_arvalid, output s_axil_arready,
  output reg [31:0] s_axil_rdata, output [1:0] s_axil_rresp, output reg s_axil_rvalid, input s_axil_rready);
"""

# Registers: 0x10/0x14 source, 0x18/0x1c target, 0x20 bursts, 0x24 beats a burst - 1, 0x28 which rule to break; 0x00 bit
# 0 starts, 0x04 done and errors, 0x0c clears the interrupt. Any other address is answered with DECERR.
_BODY = """
  reg [31:0] r [0:15];
  reg bad_write, bad_read, done, failed, busy;
  wire take = s_axil_awvalid && s_axil_wvalid && !s_axil_bvalid;
  assign s_axil_awready = take, s_axil_wready = take, s_axil_bresp = {2{bad_write}}, s_axil_rresp = {2{bad_read}};
  assign s_axil_arready = !s_axil_rvalid, interrupt = done;
  wire start = take && s_axil_awaddr == 0 && s_axil_wdata[0];
"""

_ENGINE = """
  reg [7:0] beats_$I, filled_$I; reg [31:0] bursts_$I; reg [2:0] state_$I; reg [39:0] from_$I, to_$I; reg failed_$I;
  reg [$D:0] buffer_$I [0:255];
  wire [7:0] length_$I = r[9][7:0];
  assign {p}awid = 0, {p}awcache = 3, {p}awprot = 0, {p}awburst = 1;
  assign {p}arid = 0, {p}arcache = 3, {p}arprot = 0, {p}arburst = 1;
  assign {p}arsize = r[10] == 1 ? $Z - 1 : $Z, {p}awsize = $Z, {p}arlen = length_$I, {p}awlen = length_$I;
  assign {p}araddr = from_$I, {p}awaddr = to_$I, {p}rready = state_$I == 2;
  assign {p}wvalid = state_$I == 4, {p}wdata = buffer_$I[beats_$I];
  assign {p}wlast = beats_$I == length_$I && r[10] != 2, {p}wstrb = ~0, {p}bready = state_$I == 5;
  always @(posedge aclk) if (!aresetn) begin
    state_$I <= 0; {p}arvalid <= 0; {p}awvalid <= 0; failed_$I <= 0; beats_$I <= 0; filled_$I <= 0;
  end else case (state_$I)
    0: if (start) begin
      from_$I <= {r[5][7:0], r[4]} + $B; to_$I <= {r[7][7:0], r[6]} + $B; bursts_$I <= r[8];
      state_$I <= r[8] == 0 ? 6 : 1; failed_$I <= 0; {p}arvalid <= r[8] != 0;
    end
    1: if ({p}arready) begin {p}arvalid <= 0; state_$I <= 2; filled_$I <= 0; end
      else if (r[10] == 3) from_$I <= from_$I + 64;
    2: if ({p}rvalid) begin
      buffer_$I[filled_$I] <= {p}rdata; filled_$I <= filled_$I + 1; failed_$I <= failed_$I || {p}rresp != 0;
      if ({p}rlast) begin state_$I <= 3; {p}awvalid <= 1; end
    end
    3: if ({p}awready) begin {p}awvalid <= 0; state_$I <= 4; beats_$I <= 0; end
    4: if ({p}wready) begin beats_$I <= beats_$I + 1; if (beats_$I == length_$I) state_$I <= 5; end
    5: if ({p}bvalid) begin
      from_$I <= from_$I + (length_$I + 1) * $N; to_$I <= to_$I + (length_$I + 1) * $N;
      failed_$I <= failed_$I || {p}bresp != 0;
      bursts_$I <= bursts_$I - 1; {p}arvalid <= bursts_$I != 1; state_$I <= bursts_$I == 1 ? 6 : 1;
    end
    default: if (finished) state_$I <= 0;
  endcase
"""

_REGISTERS = """
  wire finished = {all};
  always @(posedge aclk) if (!aresetn) begin
    done <= 0; failed <= 0; busy <= 0; bad_write <= 0; bad_read <= 0; r[10] <= 0;
    s_axil_bvalid <= 0; s_axil_rvalid <= 0;
  end else begin
    if (take) begin
      s_axil_bvalid <= 1; bad_write <= s_axil_awaddr[11:6] != 0;
      if (s_axil_awaddr[11:6] == 0) r[s_axil_awaddr[5:2]] <= s_axil_wdata;
    end else if (s_axil_bready) s_axil_bvalid <= 0;
    if (s_axil_arvalid && s_axil_arready) begin
      s_axil_rvalid <= 1; bad_read <= s_axil_araddr[11:6] != 0;
      s_axil_rdata <= s_axil_araddr[5:2] == 1 ? {{30'd0, failed, !busy}} : r[s_axil_araddr[5:2]];
    end else if (s_axil_rready) s_axil_rvalid <= 0;
    if (start) busy <= 1;
    if (busy && finished) begin done <= 1; busy <= 0; failed <= {fails}; end
    else if (take && s_axil_awaddr == 12) done <= 0;
  end
endmodule
"""


def dummy_core(masters: int = 1, data_bits: int = 128) -> str:
    """Verilog of a module ``edgemoe`` with the given number and width of AXI masters;
    each copies within its own memory.
    """
    size = data_bits // 8
    prefixes = ["m_axi_"] if masters == 1 else [f"m_axi{index}_" for index in range(masters)]
    text = (
        _PORTS.format(masters="".join(_MASTER.format(p=prefix, d=data_bits - 1, s=size - 1) for prefix in prefixes))
        + _BODY
    )
    for index, prefix in enumerate(prefixes):
        # The second master's memory begins elsewhere: the same addresses, moved.
        values = {
            "{p}": prefix,
            "$I": str(index),
            "$D": str(data_bits - 1),
            "$Z": str(size.bit_length() - 1),
            "$N": str(size),
            "$B": f"40'h{0x1_4000_0000 * index:x}",
        }
        engine = _ENGINE
        for name, value in values.items():
            engine = engine.replace(name, value)
        text += engine
    indices = range(masters)
    text += _REGISTERS.format(
        all=" && ".join(f"state_{i} == 6" for i in indices), fails=" || ".join(f"failed_{i}" for i in indices)
    )
    return "/* verilator lint_off WIDTH */ /* verilator lint_off LATCH */\n" + text
