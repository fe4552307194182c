# SPDX-License-Identifier: Apache-2.0
r"""Generated Verilog as text: what is mended before it is simulated, synthesised or shipped; its names; its head.

Yosys writes correct Verilog-2005, but not Verilog that every tool takes as it is. `finish` mends that without a
change of meaning, and every writer of Verilog goes through `complete`, which calls it: the core, the systems of ECP5
boards, the units in their benches.

* Combinational blocks are `always @*`. Such a block runs when something that it reads changes; one that reads
  constants only would never run. Yosys therefore lets every block read a register of its own, initialised in its
  declaration. By Verilog-2005 that is an event; by SystemVerilog (IEEE 1800-2017, 6.8) it comes before any process
  starts, and nothing happens. A nonblocking assignment in an `initial` block comes when every process waits already:
  in both languages, in whatever order a simulator starts them.
* A `case` without a default relies on the assignments before it. An empty default says so.
* An element of an array is a wire called `\name[1] `, beside the vector `name`. Tools that pass names on as text take
  it for bit 1 of that vector: Yosys' own ABC9 then joins two nets that have nothing in common. Such names get round
  brackets.
* A port's name is a reserved word to Verilator's SystemC output, which nobody makes here.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from functools import cache

from edgemoe.hw.contract.config import NAME, HardwareConfig, sizes
from edgemoe.models.errors import EdgemoeError

LONGEST_NAME = 64
SYSTEMC_WORDS = ("interrupt",)  # ports of ours that Verilator reserves

_TRIGGER = re.compile(r"^  reg (\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ) = 0;$", re.M)
_ELEMENT = re.compile(r"\\[^\s\[]+\[\S* ")
_ROUND = re.compile(r"\\[^\s(]+\(\d+\)\S* ")
_CASE = re.compile(r"^( *)(casez? \(|default:|endcase).*\n", re.M)
_PORT = re.compile(rf"^(  (?:input|output) ({'|'.join(SYSTEMC_WORDS)});\n  (?:wire|reg) \2;)$", re.M)
_STARTED = re.compile(
    r"^  reg (\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ );\n.*INITIALDLY \*/\n  initial \1<= "
    r"1'h0;\n.*INITIALDLY \*/$",
    re.M,
)
_WAIVED = re.compile(r"^  /\* verilator lint_o(?:n|ff) SYMRSVDWORD \*/\n", re.M)
_DEFAULT = re.compile(r"^ *default: ;\n", re.M)


@cache
def primitives() -> Mapping[str, str]:
    """Name -> text of the modules that generated Verilog only instantiates."""
    from edgemoe.hw.compute.slice_row import cell_module, cell_source
    from edgemoe.hw.contract.dsp_slice import DspSlice
    from edgemoe.hw.memory import block_memory

    return {block_memory.MODULE: block_memory.SOURCE.read_text()} | {
        cell_module(kind): cell_source(kind) for kind in DspSlice
    }


def complete(text: str) -> str:
    """What Yosys wrote, finished, with the modules that it only instantiates."""
    return "\n".join([finish(text), *(source for name, source in primitives().items() if name in text)])


def waived(rule: str, text: str) -> str:
    """Lines of Verilog that Verilator reads without one of its warnings."""
    return f"  /* verilator lint_off {rule} */\n{text}\n  /* verilator lint_on {rule} */"


def finish(text: str) -> str:
    """What Yosys wrote, mended as this module's head says; a second time changes nothing."""
    text = _TRIGGER.sub(
        lambda found: f"  reg {found[1]};\n" + waived("INITIALDLY", f"  initial {found[1]}<= 1'h0;"), text
    )
    text = _ELEMENT.sub(lambda found: found[0].replace("[", "(").replace("]", ")"), text)
    text = _PORT.sub(lambda found: waived("SYMRSVDWORD", found[1]), _WAIVED.sub("", text))
    parts, end, complete = [], 0, [True]  # whether each open case, the outermost first, has its default
    for line in _CASE.finditer(text):
        if line[2] == "default:":
            complete[-1] = True
        elif line[2] == "endcase":
            if not complete.pop():
                parts += [text[end : line.start()], f"{line[1]}  default: ;\n"]
                end = line.start()
        else:
            complete.append(False)
    assert complete == [True], "case and endcase do not match"
    return "".join([*parts, text[end:]])


def unfinished(text: str) -> str:
    """The inverse of `finish`: Verilog as Yosys wrote it."""
    text = _ROUND.sub(lambda found: found[0].replace("(", "[").replace(")", "]"), text)
    return _STARTED.sub(r"  reg \1 = 0;", _DEFAULT.sub("", _WAIVED.sub("", text)))


# -------------------------------------------------------------------------------------------------------------------
# names


@cache
def _reserved() -> frozenset[str]:
    """Words that are no identifier in Verilog-2005, SystemVerilog-2017 or VHDL-2008 (with which a design may be
    mixed).
    """
    return frozenset(
        """
        accept_on alias always always_comb always_ff always_latch and assert assign assume automatic before begin
        bind bins binsof bit break buf bufif0 bufif1 byte case casex casez cell chandle checker class clocking cmos
        config const constraint context continue cover covergroup coverpoint cross deassign default defparam design
        disable dist do edge else end endcase endchecker endclass endclocking endconfig endfunction endgenerate
        endgroup endinterface endmodule endpackage endprimitive endprogram endproperty endsequence endspecify
        endtable endtask enum event eventually expect export extends extern final first_match for force foreach
        forever fork forkjoin function generate genvar global highz0 highz1 if iff ifnone ignore_bins illegal_bins
        implements implies import incdir include initial inout input inside instance int integer interconnect
        interface intersect join join_any join_none large let liblist library local localparam logic longint
        macromodule matches medium modport module nand negedge nettype new nexttime nmos nor noshowcancelled not
        notif0 notif1 null or output package packed parameter pmos posedge primitive priority program property
        protected pull0 pull1 pulldown pullup pulsestyle_ondetect pulsestyle_onevent pure rand randc randcase
        randsequence rcmos real realtime ref reg reject_on release repeat restrict return rnmos rpmos rtran rtranif0
        rtranif1 s_always s_eventually s_nexttime s_until s_until_with scalared sequence shortint shortreal
        showcancelled signed small soft solve specify specparam static string strong strong0 strong1 struct super
        supply0 supply1 sync_accept_on sync_reject_on table tagged task this throughout time timeprecision timeunit
        tran tranif0 tranif1 tri tri0 tri1 triand trior trireg type typedef union unique unique0 unsigned until
        until_with untyped use uwire var vectored virtual void wait wait_order wand weak weak0 weak1 while wildcard
        wire with within wor xnor xor
        abs access after all architecture array attribute block body buffer bus component configuration constant
        disconnect downto elsif entity exit file generic group guarded impure in inertial is label linkage literal
        loop map mod next of on open others out port postponed procedure process range record register reject rem
        report rol ror select severity shared signal sla sll sra srl subtype then to transport unaffected units
        variable when xnor
        """.split()
    )


def checked_name(name: str) -> str:
    """The name, if modules, files and macros can be named after it; EdgemoeError otherwise."""
    if not re.fullmatch(rf"[A-Za-z][A-Za-z0-9_]{{0,{LONGEST_NAME - 1}}}", name):
        raise EdgemoeError(
            f"{name[:80]!r} cannot name a module: give a letter, then letters, digits and underscores, at most "
            f"{LONGEST_NAME} in all"
        )
    if name.lower() in _reserved():
        raise EdgemoeError(
            f"{name!r} cannot name a module: it is a reserved word of Verilog, SystemVerilog or VHDL; add a letter"
        )
    return name


def named(text: str, name: str) -> str:
    """The same modules under names that begin with `name` instead of NAME; nothing else is touched.

    Only where a module is declared or instantiated, and in comments at the margin.
    """
    if name == NAME:
        return text
    return re.sub(
        rf"^(module |  |// )(\\?){NAME}(?=[\s._(])", lambda found: found[1] + found[2] + name, text, flags=re.M
    )


def legible(text: str, module: str, interfaces: Mapping[str, str]) -> str:
    """The same design for people: modules without the numbers that Amaranth gave to some of their names, where no other
    module bears the name alone, and before the ports of every interface of `module` what it is. Nothing else is
    touched.
    """
    alone = {name: re.sub(r"\$\d+", "", name) for name in re.findall(r"^module \\(\S+) ", text, re.M)}
    taken = list(alone.values())
    shown = {name: short for name, short in alone.items() if taken.count(short) == 1}
    text = re.sub(
        r"^(module |  )\\(\S+) ", lambda found: f"{found[1]}\\{shown.get(found[2], found[2])} ", text, flags=re.M
    )
    start = text.index(f"module {module}(")
    body, end, rest = text[start:].partition("endmodule")
    for name, meaning in interfaces.items():
        port = re.escape(name).replace(r"\*", r"\w+")
        if first := re.search(rf"^  (?:input|output) (?:\[\d+:0\] )?{port};$", body, re.M):
            body = f"{body[: first.start()]}  // {name}: {meaning}\n{body[first.start() :]}"
    return text[:start] + body + end + rest


# --------------------------------------------------------------------------------------------------------------------
# head


def head(config: HardwareConfig, module: str, interfaces: Mapping[str, str]) -> str:
    """The comment at the top of a written file: what it is, of which sizes, with which ports (interface -> meaning).

    It is added when a file is written and no sooner: no cache key depends on the version in it.
    """
    lines = [
        "// SPDX-License-Identifier: Apache-2.0",
        f"// {module}: generated by edgemoe {importlib.metadata.version('edgemoe')}; do not edit.",
        "//",
        "// Sizes:",
        *(f"//   {key} = {value}" for key, value in sizes(config).items()),
        "//",
        "// Ports:",
        *(f"//   {name}: {meaning}" for name, meaning in interfaces.items()),
    ]
    return "\n".join(lines) + "\n\n"


def core_interfaces(config: HardwareConfig) -> dict[str, str]:
    """Ports of the core by interface."""
    master = f"AXI4 master, {config.data_bits} bits of data, 40 of address, "
    master += f"INCR bursts of at most {config.burst_beats} beats"
    return {
        "aclk": "clock of everything, rising edge",
        "aresetn": "reset, active low, synchronous to aclk",
        "s_axil_*": "AXI4-Lite slave, 32 bits of data, 12 of address: the registers",
        **{f"{name}_*": master for name in config.master_names},
        "interrupt": "level, active high",
    }


SYSTEM_INTERFACES: Mapping[str, str] = {
    "clk": "clock of everything, rising edge; the SDRAM's is its inverse",
    "rst": "reset, active high, synchronous to clk",
    "receive, transmit": "serial line, idle high",
    "leds": "eight, active high",
    "sdram_*": "a 16-bit SDRAM",
}
