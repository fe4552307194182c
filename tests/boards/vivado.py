# SPDX-License-Identifier: Apache-2.0
"""As much of Vivado as our scripts touch, behind a real Tcl interpreter: every command checks that what it is given
exists.

A command that is not modelled is an error, as is a pin, an interface or a property that nothing has.
`python -m tests.boards.vivado -source SCRIPT [-log FILE] [-tclargs ...]` runs a script of the current folder, for its
Makefile.
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

INSTALLED = {
    "xilinx.com:ip:zynq_ultra_ps_e": ("3.4", "3.5"),
    "xilinx.com:ip:processing_system7": ("5.5",),
    "xilinx.com:ip:proc_sys_reset": ("5.0",),
    "xilinx.com:ip:smartconnect": ("1.0",),
}
HP = range(4)
PINS = {
    "zynq_ultra_ps_e": {
        "pl_clk0",
        "pl_resetn0",
        "pl_ps_irq0",
        "maxihpm0_fpd_aclk",
        *(f"saxihp{i}_fpd_aclk" for i in HP),
    },
    "processing_system7": {
        *("FCLK_CLK0", "FCLK_RESET0_N", "IRQ_F2P", "M_AXI_GP0_ACLK"),
        *(f"S_AXI_HP{i}_ACLK" for i in HP),
    },
    "proc_sys_reset": {"slowest_sync_clk", "ext_reset_in", "peripheral_aresetn", "interconnect_aresetn"},
    "smartconnect": {"aclk", "aresetn"},
}
INTERFACES = {
    "zynq_ultra_ps_e": {"M_AXI_HPM0_FPD": "master", **{f"S_AXI_HP{i}_FPD": "slave" for i in HP}},
    "processing_system7": {"M_AXI_GP0": "master", **{f"S_AXI_HP{i}": "slave" for i in HP}},
    "proc_sys_reset": {},
    "smartconnect": {"S00_AXI": "slave", "M00_AXI": "master"},
}
# What is behind a high-performance port; every part is assigned to a master or excluded, else Vivado assigns it as it
# likes.
SEGMENTS = {
    f"SAXIGP{i + 2}/HP{i}_{part}" for i in HP for part in ("DDR_LOW", "DDR_HIGH", "LPS_OCM", "QSPI", "PCIE_LOW")
}
SEGMENTS |= {f"S_AXI_HP{i}/HP{i}_DDR_LOWOCM" for i in HP}
# Of a processor: automation's rule and options, pin of the clock, properties of the clock asked for and given, and by
# high-performance port: its interface, its clock, what switches it on.
PROCESSORS = {
    "zynq_ultra_ps_e": (
        ("xilinx.com:bd_rule:zynq_ultra_ps_e", ""),
        "pl_clk0",
        ("CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ", "CONFIG.PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ"),
        {i: (f"S_AXI_HP{i}_FPD", f"saxihp{i}_fpd_aclk", f"CONFIG.PSU__USE__S_AXI_GP{i + 2}") for i in HP},
    ),
    "processing_system7": (
        ("xilinx.com:bd_rule:processing_system7", 'make_external "FIXED_IO, DDR" Master "Disable" Slave "Disable" '),
        "FCLK_CLK0",
        ("CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ", "CONFIG.PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ"),
        {i: (f"S_AXI_HP{i}", f"S_AXI_HP{i}_ACLK", f"CONFIG.PCW_USE_S_AXI_HP{i}") for i in HP},
    ),
}
PLL_MHZ = 33.33 * 45  # what a board's reference clock makes of 1,500
DIVISORS = range(1, 64)  # of each of the two dividers behind it
PROPERTIES = {
    "zynq_ultra_ps_e": {
        *("PSU__FPGA_PL0_ENABLE", "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ", "PSU__USE__IRQ0", "PSU__MAXIGP0__DATA_WIDTH"),
        *(f"PSU__USE__M_AXI_GP{i}" for i in range(3)),
        *(f"PSU__USE__S_AXI_GP{i + 2}" for i in HP),
        *(f"PSU__SAXIGP{i + 2}__DATA_WIDTH" for i in HP),
    },
    "processing_system7": {
        *("PCW_EN_CLK0_PORT", "PCW_FPGA0_PERIPHERAL_FREQMHZ", "PCW_USE_FABRIC_INTERRUPT", "PCW_IRQ_F2P_INTR"),
        *("PCW_USE_M_AXI_GP0", "PCW_UIPARAM_DDR_PARTNO", "PCW_UART0_PERIPHERAL_ENABLE"),
        *(f"PCW_USE_S_AXI_HP{i}" for i in HP),
        *(f"PCW_S_AXI_HP{i}_DATA_WIDTH" for i in HP),
    },
    "smartconnect": {"NUM_SI", "NUM_MI"},
}
NO_PROCESSOR: Any = (None, None, (None, None), {})
OPTIONS = {
    "-force",
    "-norecurse",
    "-quiet",
    "-all",
    "-import_files",
    "-top",
    "-fixed",
    "-include_bit",
    "-hierarchical",
    "-setup",
    "-hold",
}


class Refused(Exception):
    """Vivado would have stopped here."""


def attributes(wrapper: str) -> dict[str, dict[str, str]]:
    """Interface -> {logical name: port} as Vivado infers them from a module's attributes."""
    found: dict[str, dict[str, str]] = {}
    for bus, logical, port in re.findall(
        r'X_INTERFACE_INFO = "\S+ (\w+) (\w+)"[^)]*\*\)\s*\w+ wire (?:\[\d+:0\] )?(\w+)', wrapper
    ):
        found.setdefault(bus, {})[logical] = port
    return found


class Vivado:
    """One run of one script in `folder`. slack: what place and route achieve, in nanoseconds."""

    def __init__(
        self, folder: Path, *, slack: float = 0.1, parts: tuple[str, ...] = (), board_parts: tuple[str, ...] = ()
    ):
        import tkinter

        self.tcl = tkinter.Tcl()
        self.folder, self.slack, self.parts, self.board_parts = folder, slack, parts, board_parts
        self.core_interfaces = attributes((folder / "edgemoe_ip.v").read_text())
        self.cells: dict[str, str] = {}  # name -> IP
        self.nets: list[list[str]] = []
        self.interface_nets: list[tuple[str, str]] = []
        self.addresses: dict[str, tuple[int | None, int | None, str]] = {}  # segment -> (offset, range, space)
        self.excluded: set[tuple[str, str]] = set()  # (space, segment)
        self.settings: dict[str, dict[str, str]] = {}
        self.log: list[str] = []
        self.core_made: set[str] = set()
        self.failure: Exception | None = None
        for name in dir(self):
            if name.startswith("do_"):
                self._define(name[3:], getattr(self, name))
        self.tcl.createcommand("note", self.log.append)
        self.tcl.eval(
            "rename puts put; proc puts args {if {[llength $args] == 1} {note [lindex $args 0]} else {put {*}$args}}"
        )
        self.tcl.eval("namespace eval ipx {}; rename unknown {}")

    def _define(self, name: str, function: Callable[..., Any]) -> None:
        def command(*words: str) -> str:
            try:
                flags, values, options = [], [], {}
                rest = list(map(str, words))
                while rest:
                    word = rest.pop(0)
                    if word in OPTIONS or (name == "ipx__package_project" and word == "-set_current" and not rest):
                        flags.append(word)
                    elif word.startswith("-") and not re.match(r"-\d", word):
                        options[word[1:]] = rest.pop(0)
                    else:
                        values.append(word)
                self.log.append(f"{name} {' '.join(map(str, words))}")
                result = function(*values, flags=flags, options=options)
                return "" if result is None else str(result)
            except Exception as error:
                self.failure = self.failure or error
                raise

        self.tcl.createcommand(name.replace("__", "::"), command)

    def source(self, script: str, *arguments: str) -> None:
        """Run a script as `vivado -mode batch -source script -tclargs ...` does."""
        self.tcl.setvar("argv", " ".join(arguments))
        try:
            self.tcl.eval(f"source {{{self.folder / script}}}")
        except Exception as error:
            raise self.failure or Refused(str(error)) from error

    def _need(self, condition: object, message: str) -> None:
        if not condition:
            raise Refused(message)

    # ------------------------------------------------------------------------------------------------ projects and
    # files

    def do_create_project(self, name, folder, flags, options):
        self._need(options.pop("part") in self.parts and not options, "create_project: unknown part")

    def do_close_project(self, flags, options):
        pass

    def do_add_files(self, names, flags, options):
        self._need(
            set(options) <= {"fileset"} and options.get("fileset", "constrs_1") == "constrs_1", f"add_files {options}"
        )
        for name in self.tcl.splitlist(names):
            self._need(Path(name).is_file() or Path(name).name == "system_wrapper.v", f"no such file {name}")

    def do_current_fileset(self, flags, options):
        return "sources_1"

    def do_current_project(self, flags, options):
        return "project"

    def do_update_compile_order(self, flags, options):
        self._need(options == {"fileset": "sources_1"}, "update_compile_order")

    def do_get_board_parts(self, pattern, flags, options):
        return " ".join(part for part in self.board_parts if part.startswith(pattern.removesuffix("*")))

    def do_update_ip_catalog(self, flags, options):
        self._need(
            self.settings["project"]["ip_repo_paths"] == str(self.folder.resolve() / "ip"),
            "the IP is looked for elsewhere",
        )

    def do_set_property(self, *words, flags, options):
        if "dict" in options:
            (target,) = words
            pairs = self.tcl.splitlist(options["dict"])
        else:
            name, value, target = words
            pairs = (name, value)
        settings = self.settings.setdefault(target, {})
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            if target in self.cells:
                allowed = PROPERTIES.get(self.cells[target].split(":")[2], set())
                self._need(name.removeprefix("CONFIG.") in allowed, f"{target} has no property {name}")
            settings[name] = value

    def do_get_property(self, name, target, flags, options):
        fixed = {
            "PROGRESS": "100%",
            "STATUS": "write_bitstream Complete!",
            "DIRECTORY": str(self.folder / "runs"),
            "SLACK": str(self.slack),
        }
        _, _, (wanted, given), _ = PROCESSORS.get(self._kind(target)[0] if target in self.cells else "", NO_PROCESSOR)
        if name == given:
            asked = float(self.settings[target][wanted])
            given = min((PLL_MHZ / (a * b) for a in DIVISORS for b in DIVISORS), key=lambda mhz: abs(mhz - asked))
            return f"{given:.6f}"
        return fixed.get(name) or self.settings.get(target, {}).get(name, "")

    # ------------------------------------------------------------------------------------------------ the IP packager

    def do_ipx__package_project(self, *values, flags, options):
        expected = {
            "root_dir": str(self.folder.resolve() / "ip"),
            "vendor": "edgemoe",
            "library": "accelerator",
            "taxonomy": "/UserIP",
            "set_current": "true",
        }
        self._need(
            options == expected and self.settings["sources_1"]["top"] == "edgemoe_ip", f"package_project {options}"
        )

    def do_ipx__current_core(self, flags, options):
        return "the_core"

    def do_ipx__get_bus_interfaces(self, name, flags, options):
        return name if name in self.core_interfaces else ""

    def _made(self, kind: str, name: str) -> str:
        return f"{kind}:{name}" if f"{kind}:{name}" in self.core_made else ""

    def do_ipx__get_memory_maps(self, name, flags, options):
        return self._made("map", name)

    def do_ipx__get_address_blocks(self, name, flags, options):
        self._need(options["of_objects"] == "map:s_axil", "address block of what?")
        return self._made("block", name)

    def do_ipx__get_address_spaces(self, name, flags, options):
        return self._made("space", name)

    def do_ipx__add_memory_map(self, name, core, flags, options):
        self.core_made.add(f"map:{name}")

    def do_ipx__add_address_block(self, name, memory_map, flags, options):
        self.core_made.add(f"block:{name}")

    def do_ipx__add_address_space(self, name, core, flags, options):
        self.core_made.add(f"space:{name}")

    def _of_core(self, core, flags, options):
        self._need(core == "the_core", "not the core")

    do_ipx__create_xgui_files = do_ipx__update_checksums = do_ipx__check_integrity = do_ipx__save_core = _of_core

    # ------------------------------------------------------------------------------------------------ block designs

    def do_get_ipdefs(self, flags, options):
        found = re.fullmatch(r"VLNV =~ (\S+):\*", options["filter"])
        self._need(found, f"get_ipdefs -filter {options['filter']}")
        name = found[1]
        versions = {**INSTALLED, "edgemoe:accelerator:edgemoe_ip": ("1.0",)}.get(name, ())
        return " ".join(f"{name}:{version}" for version in versions)

    def do_create_bd_design(self, name, flags, options):
        self._need(name == "system", "name")

    def do_create_bd_cell(self, name, flags, options):
        self._need(options["type"] == "ip" and len(options["vlnv"].split(":")) == 4, f"create_bd_cell {options}")
        self._need(name not in self.cells, f"a second cell {name}")
        self.cells[name] = options["vlnv"]
        return name

    def do_apply_bd_automation(self, cell, flags, options):
        self._need(self.cells[cell].split(":")[2] in PROCESSORS, "automation of another cell")
        (rule, told), *_ = PROCESSORS[self.cells[cell].split(":")[2]]
        preset = int("board_part" in self.settings.get("project", {}))
        self._need(options == {"rule": rule, "config": f'{told}apply_board_preset "{preset}"'}, f"{options}")

    def _kind(self, pin: str) -> tuple[str, str]:
        cell, _, name = pin.partition("/")
        self._need(cell in self.cells, f"no cell {cell}")
        return self.cells[cell].split(":")[2], name

    def do_get_bd_pins(self, pin, flags, options):
        kind, name = self._kind(pin)
        single = {port for bus in self.core_interfaces.values() if len(bus) == 1 for port in bus.values()}
        self._need(name in (single if kind == "edgemoe_ip" else PINS[kind]), f"no pin {pin}")
        return pin

    def do_get_bd_intf_pins(self, pin, flags, options):
        kind, name = self._kind(pin)
        buses = {
            n: "slave" if n.startswith("s_") else "master" for n, bus in self.core_interfaces.items() if len(bus) > 1
        }
        known = buses if kind == "edgemoe_ip" else INTERFACES[kind]
        self._need(name in known, f"no interface {pin}")
        return f"{pin}={known[name]}"

    def do_connect_bd_net(self, *pins, flags, options):
        self.nets.append(list(pins))

    def do_connect_bd_intf_net(self, one, other, flags, options):
        (a, way), (b, back) = (pin.split("=") for pin in (one, other))
        self._need((way, back) == ("master", "slave"), f"{one} to {other}")
        self._need(not {a, b} & {pin for net in self.interface_nets for pin in net}, f"{a} or {b} is connected twice")
        self.interface_nets.append((a, b))

    def do_get_bd_addr_spaces(self, name, flags, options):
        _, space = self._kind(name)
        self._need(space == "Data" or space in self.core_interfaces, f"no address space {name}")
        return name

    def do_get_bd_addr_segs(self, name, flags, options):
        kind, segment = self._kind(name.removeprefix("/"))
        if kind == "edgemoe_ip":
            self._need(segment == "s_axil/reg0", f"no segment {name}")
            return name
        found = sorted(f"/ps/{known}" for known in SEGMENTS if fnmatch.fnmatchcase(known, segment))
        self._need(found, f"no segment {name}")
        return " ".join(found)

    def do_assign_bd_address(self, segment, flags, options):
        place = (int(options[name], 0) if name in options else None for name in ("offset", "range"))
        self.addresses[segment] = (*place, options["target_address_space"])

    def do_exclude_bd_addr_seg(self, segment, flags, options):
        self._need(segment.removeprefix("/ps/") in SEGMENTS, f"no segment {segment}")
        self.excluded.add((options["target_address_space"], segment))

    def do_validate_bd_design(self, flags, options):
        """Every pin we know is driven, every interface of the core is connected."""
        connected = {pin for net in self.nets for pin in net}
        for cell, vlnv in self.cells.items():
            kind = vlnv.split(":")[2]
            clocks = {
                "edgemoe_ip": ("aclk", "aresetn", "interrupt"),
                "smartconnect": ("aclk", "aresetn"),
                "proc_sys_reset": ("slowest_sync_clk", "ext_reset_in"),
            }
            for pin in clocks.get(kind, ()):
                self._need(f"{cell}/{pin}" in connected, f"{cell}/{pin} is not connected")
        for bus, members in self.core_interfaces.items():
            if len(members) > 1:
                self._need(any(f"core/{bus}" in net for net in self.interface_nets), f"core/{bus} is not connected")
        kind = self.cells["ps"].split(":")[2]
        _, clock, _, ports = PROCESSORS[kind]
        clocks = {pin for net in self.nets if f"ps/{clock}" in net for pin in net}
        settings = self.settings["ps"]
        for i, (interface, own_clock, switch) in ports.items():
            used = any(f"ps/{interface}" in net for net in self.interface_nets)
            self._need(used == (settings.get(switch) == "1"), f"HP{i} is used but not enabled, or the other way round")
            self._need(used == (f"ps/{own_clock}" in clocks), f"HP{i} has no clock")
            own = "S_AXI_" if kind == "processing_system7" else "SAXIGP"
            behind = {name for name in SEGMENTS if f"/HP{i}_" in name and name.startswith(own)}
            for segment in (f"/ps/{known}" for known in behind if used):
                assigned, excluded = segment in self.addresses, segment in {name for _, name in self.excluded}
                self._need(
                    assigned != excluded, f"{segment} is {'both' if assigned else 'neither'} assigned and excluded"
                )

    def do_save_bd_design(self, flags, options):
        pass

    def do_get_files(self, name, flags, options):
        return name

    def do_make_wrapper(self, flags, options):
        self._need(options == {"files": "system.bd"}, "make_wrapper")
        return "system_wrapper.v"

    # ------------------------------------------------------------------------------------------------ runs

    def do_launch_runs(self, run, flags, options):
        if options.get("to_step") == "write_bitstream":
            runs = self.folder / "runs"
            runs.mkdir(exist_ok=True)
            (runs / "system_wrapper.bit").write_text("bits")
            handoff = self.folder / "work/system/edgemoe.gen/sources_1/bd/system/hw_handoff"
            handoff.mkdir(parents=True, exist_ok=True)
            (handoff / "system.hwh").write_text("<hwh/>")

    def do_wait_on_run(self, run, flags, options):
        self._need(run in ("synth_1", "impl_1"), f"no run {run}")

    def do_get_runs(self, run, flags, options):
        self.do_wait_on_run(run, flags, options)
        return run

    def do_get_timing_paths(self, flags, options):
        return "path"

    def _anything(self, *values, flags, options):
        pass

    do_open_run = do_close_design = do_report_utilization = do_report_timing_summary = do_write_hw_platform = _anything


def main() -> None:
    """`vivado -mode batch` in a board's folder, for the part and the board that it is for."""
    from edgemoe.boards import facts

    folder = Path.cwd()
    board = facts.board(json.loads((folder / "board.json").read_text())["board"])
    script, _, rest = " ".join(sys.argv[1:]).partition(" -tclargs ")
    found = re.match(r"-source (\S+)", script)
    assert found, sys.argv
    Vivado(folder, parts=(board.part,), board_parts=(f"{board.board_part}:part0:1.0",)).source(found[1], *rest.split())
    if found[1] == "package_ip.tcl":
        (folder / "ip").mkdir(exist_ok=True)
        (folder / "ip/component.xml").write_text("<component/>")


if __name__ == "__main__":
    main()
