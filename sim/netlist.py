# SPDX-License-Identifier: Apache-2.0
"""What a synthesised netlist holds and how deep its logic is.

LUT levels: a LUT counts 1, a wide multiplexer (MUXF7..9) 0.5, entering a carry chain 0.5 and every further CARRY4 of it
1/16 (the chain has wires of its own), an asynchronous read of LUT memory 1, the output of a block RAM without its
output register 2, and a multiplier between registers 4, which Vivado's packing of those registers into the DSP slice
removes. Flip-flops end and begin paths.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from edgemoe.hw.memory import block_memory

DSP_SLICES = ("DSP48E2", "DSP48E1")  # of UltraScale+; of series 7, whose multiplier is 25 x 18 instead of 27 x 18
KINDS = ("lut", "ff", "dsp", "bram", "uram")
_LUT_MEMORIES = {
    "RAM32X1D": 2,
    "RAM64X1D": 2,
    "RAM128X1D": 4,
    "RAM256X1D": 8,
    "RAM32M": 4,
    "RAM64M": 4,
    "RAM32M16": 8,
    "RAM64M8": 8,
}
_LUT_MEMORIES |= {"RAM32X1S": 1, "RAM64X1S": 1, "RAM512X1S": 8, "RAM128X1S": 2, "RAM256X1S": 4}
_BLOCK_READ, _MULTIPLIER, _CARRY_ENTRY, _CARRY_STEP, _WIDE = 2.0, 4.0, 0.5, 1 / 16, 0.5


def measure(netlist: Mapping[str, Any], netlists: Mapping[str, Any]) -> dict[str, Any]:
    """Counts, the deepest paths inside, and the depth from every port (of the module or of one inside it) to every
    other.
    """
    counts: dict[str, float] = dict.fromkeys(KINDS, 0)
    inner = {
        name
        for name, other in netlists.items()
        if not int(other.get("attributes", {}).get("blackbox", "0"), 2) or "." in name
    }
    graph = _Graph(netlist)
    memories = []
    for name, cell in netlist["cells"].items():
        kind = cell["type"]
        if re.fullmatch(r"LUT[1-6]|LUT6_2|SRL16E|SRLC32E|SRLC16E", kind):
            counts["lut"] += 1
        elif kind in _LUT_MEMORIES:
            counts["lut"] += _LUT_MEMORIES[kind]
        elif re.fullmatch(r"FD[RSCP]E(_1)?|LD[CP]E", kind):
            counts["ff"] += 1
        elif kind in DSP_SLICES:
            counts["dsp"] += 1
        elif kind.startswith("RAMB"):
            counts["bram"] += 0.5 if kind.startswith("RAMB18") else 1
        elif kind.startswith("URAM"):
            counts["uram"] += 1
        elif block_memory.MODULE in kind:
            memories.append(measure(netlists[kind], netlists))
            graph.memory(cell)
            continue
        graph.add(name, cell, kind in inner)
    for memory in memories:
        for kind in KINDS:
            counts[kind] += memory[kind]
    return {**counts, **graph.paths()}


class _Graph:
    """Combinational arcs between the bits of a netlist. A source or a sink is `reg` or a port:
    `name`, or `instance:name`.
    """

    def __init__(self, netlist: Mapping[str, Any]) -> None:
        self.arcs: dict[int, list[tuple[int, float]]] = defaultdict(list)  # output bit -> (input bit, levels)
        self.starts: dict[int, dict[str, float]] = defaultdict(dict)
        self.ends: list[tuple[int, str, float, str]] = []  # (bit, sink, levels, name)
        self.names: dict[int, str] = {}
        for name, net in netlist["netnames"].items():
            if net.get("hide_name"):
                continue
            for i, bit in enumerate(net["bits"]):
                if isinstance(bit, int):
                    self.names.setdefault(bit, f"{name}[{i}]" if len(net["bits"]) > 1 else name)
        for name, port in netlist["ports"].items():
            for bit in port["bits"]:
                if not isinstance(bit, int):
                    continue
                if port["direction"] == "input":
                    self.starts[bit][name] = 0.0
                else:
                    self.ends.append((bit, name, 0.0, name))

    def add(self, name: str, cell: Mapping[str, Any], inner: bool) -> None:
        kind, connections, directions = cell["type"], cell["connections"], cell.get("port_directions", {})
        inputs = {
            p: [b for b in bits if isinstance(b, int)]
            for p, bits in connections.items()
            if directions.get(p) == "input"
        }
        outputs = {
            p: [b for b in bits if isinstance(b, int)]
            for p, bits in connections.items()
            if directions.get(p) == "output"
        }
        if inner:
            for port, bits in outputs.items():
                for bit in bits:
                    self.starts[bit][f"{name}:{port}"] = 0.0
            for port, bits in inputs.items():
                self.ends += [(bit, f"{name}:{port}", 0.0, f"{name}.{port}") for bit in bits]
        elif kind.startswith(("LUT", "MUXF")):
            cost = 1.0 if kind.startswith("LUT") else _WIDE
            self.connect(inputs, outputs, cost)
        elif kind in ("INV", "BUF", "BUFG"):
            self.connect(inputs, outputs, 0.0)
        elif kind.startswith("CARRY"):
            self.connect({p: b for p, b in inputs.items() if p in ("S", "DI")}, outputs, _CARRY_ENTRY)
            self.connect({p: b for p, b in inputs.items() if p not in ("S", "DI")}, outputs, _CARRY_STEP)
        elif kind in DSP_SLICES and not any(_number(cell["parameters"].get(p, "0")) for p in ("MREG", "PREG")):
            self.connect({p: b for p, b in inputs.items() if p in "ABCD"}, outputs, _MULTIPLIER)
        elif kind in _LUT_MEMORIES or kind.startswith("SRL"):
            addresses = {p: b for p, b in inputs.items() if p.startswith(("A", "DPRA"))}
            self.connect(addresses, outputs, 1.0)
            self.register(name, {p: b for p, b in inputs.items() if p not in addresses}, outputs, 1.0)
        else:
            self.register(name, inputs, outputs, _BLOCK_READ if kind.startswith(("RAMB", "URAM")) else 0.0)

    def memory(self, cell: Mapping[str, Any]) -> None:
        """A block memory: registered at every port."""
        connections = {p: [b for b in bits if isinstance(b, int)] for p, bits in cell["connections"].items()}
        read = {"read_data": connections.pop("read_data")}
        self.register("memory", connections, read, _BLOCK_READ)

    def connect(self, inputs: Mapping[str, list[int]], outputs: Mapping[str, list[int]], levels: float) -> None:
        for bits in outputs.values():
            for out in bits:
                self.arcs[out] += [(bit, levels) for sources in inputs.values() for bit in sources]

    def register(
        self, name: str, inputs: Mapping[str, list[int]], outputs: Mapping[str, list[int]], levels: float
    ) -> None:
        for bits in outputs.values():
            for bit in bits:
                self.starts[bit]["reg"] = max(levels, self.starts[bit].get("reg", 0.0))
                name = self.names.get(bit, name)
        for port, bits in inputs.items():
            if port not in ("C", "CLK", "WCLK", "clk") and not port.startswith(("CLK", "WCLK")):
                self.ends += [(bit, "reg", 0.0, f"{name} ({port})" if port != "D" else name) for bit in bits]

    def paths(self) -> dict[str, Any]:
        """arcs: [source, sink, levels, from, to], the deepest of each pair;
        the deepest paths from register to register beside them.
        """
        depth: dict[int, dict[str, tuple[float, int]]] = {}  # bit -> source -> (levels, bit where it began)
        state: dict[int, int] = {}
        for root in {end[0] for end in self.ends}:
            stack = [root]
            while stack:
                bit = stack[-1]
                if state.get(bit) == 2:
                    stack.pop()
                    continue
                if bit not in state:
                    state[bit] = 1
                    stack += [source for source, _ in self.arcs.get(bit, ()) if source not in state]
                    continue
                state[bit] = 2
                stack.pop()
                here = {source: (levels, bit) for source, levels in self.starts.get(bit, {}).items()}
                for before, levels in self.arcs.get(bit, ()):
                    for source, (so_far, begin) in depth.get(before, {}).items():
                        if source not in here or so_far + levels > here[source][0]:
                            here[source] = (so_far + levels, begin)
                depth[bit] = here
        best: dict[tuple[str, str], tuple[float, int, str]] = {}
        deepest: dict[str, tuple[float, int]] = {}  # register -> path that ends there
        for bit, sink, levels, name in self.ends:
            for source, (so_far, begin) in depth.get(bit, {}).items():
                total = so_far + levels
                if (source, sink) not in best or total > best[source, sink][0]:
                    best[source, sink] = (total, begin, name)
                if source == sink == "reg":
                    plain = re.sub(r"\[\d+\]", "", name)
                    if plain not in deepest or total > deepest[plain][0]:
                        deepest[plain] = (total, begin)

        def label(bit: int) -> str:
            return re.sub(r"\[\d+\]$", "", self.names.get(bit, "?"))

        arcs = [
            [source, sink, round(total, 2), label(begin), name] for (source, sink), (total, begin, name) in best.items()
        ]
        worst = sorted(((total, label(begin), name) for name, (total, begin) in deepest.items()), reverse=True)[:8]
        return {"arcs": arcs, "worst": [[round(total, 2), begin, end] for total, begin, end in worst]}


def _number(value: object) -> int:
    return (
        int(value, 2)
        if isinstance(value, str) and set(value) <= {"0", "1"}
        else 0
        if isinstance(value, str)
        else int(str(value))
    )
