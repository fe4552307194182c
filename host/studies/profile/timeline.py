# SPDX-License-Identifier: Apache-2.0
"""When each instruction ran and what the core did meanwhile: as the simulated core says itself, or as the planner's
model of it does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from edgemoe.host.compiler.link import Outline
from edgemoe.host.compiler.timing import Execution, Limit
from edgemoe.host.studies.benchmark import STATES
from edgemoe.host.studies.profile.recorder import NOTED
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Instruction, Opcode, Stationary
from edgemoe.hw.contract.registers import STATE_COUNTERS
from numpy.typing import NDArray

MEANING: Mapping[str, Mapping[str, str]] = {  # of the states that cycles are told apart by
    "rtl": {name: STATE_COUNTERS[counter] for name, counter in STATES.items()},
    "plan": {
        Limit.ARRAY: "rows stream past the array, or its next block is loaded",
        Limit.BUS: "data move, or weights have not come",
        Limit.LATENCY: "the memory, or a unit's pipeline, has not answered",
        Limit.DEPENDENCY: "earlier results are not yet written",
    },
}
OPERATIONS = ("patch embedding", "attention", "MLP", "experts", "heads")
BUS = ("read", "written")  # share of the bus's width that is used
UNITS = ("transfer", "weights", "experts", "keys", "values", "norm", "router")
BINS = 300  # of the activity over a pass


def unit_of(i: Instruction, expert: int | None) -> str:
    """Who works: the array with what it holds, or another unit."""
    if i.opcode == Opcode.MATMUL:
        held = {Stationary.KEYS: "keys", Stationary.VALUES: "values"}
        return held.get(Stationary(i.stationary), "weights" if expert is None else "experts")
    return {Opcode.LAYERNORM: "norm", Opcode.ROUTE: "router", Opcode.END: "end"}.get(i.opcode, "transfer")


def operation_of(part: str) -> str:
    """A part of the model without its number."""
    return "heads" if part.startswith(("head", "results")) else re.sub(r"^layer \d+ ", "", part)


@dataclass(frozen=True)
class Marks:
    """Counters as they rise over a pass.

    counts  [n, 1 + states + 2]: cycle, cycles in each state, beats read and written, from a row of zeros on
    ends    of each execution (those of EXPERTS, which only repeats others, left out), the row in which it has ended
    """

    counts: NDArray[np.int64]
    ends: Sequence[int]


def measured(samples: Sequence[Sequence[int]], executions: Sequence[Execution]) -> Marks:
    """From a recorder's samples; the last execution is that of END, which ends with the run."""
    table = np.array(samples, np.int64)
    retired = table[:, NOTED.index("INSTRUCTIONS")]
    if retired[-1] != len(executions) - 1:
        raise RuntimeError(f"{retired[-1]} instructions retired, the queues ask for {len(executions) - 1}")
    ends = [int(row) for row in np.searchsorted(retired, np.arange(1, len(executions)))]
    return Marks(np.delete(table, NOTED.index("INSTRUCTIONS"), axis=1), [*ends, len(table) - 1])


def planned(executions: Sequence[Execution], hardware: HardwareConfig) -> Marks:
    """From what the planner says of each."""
    rows = [
        (e.cost.cycles, *e.cost.spent.values(), e.cost.read // hardware.bus_bytes, e.cost.written // hardware.bus_bytes)
        for e in executions
    ]
    return Marks(np.cumsum([[0] * len(rows[0]), *rows], axis=0), range(1, len(rows) + 1))


@dataclass(frozen=True)
class Span:
    """An execution, from the end of the one before to its own. spent: cycles by state."""

    run: int
    instruction: int
    label: str
    part: str
    operation: str
    unit: str
    expert: int | None
    rows: int
    start: int
    end: int
    spent: Mapping[str, int]

    def summary(self) -> dict[str, Any]:
        """A row of a table, with what most cycles went into."""
        most = max(self.spent, key=lambda state: self.spent[state])
        return asdict(self) | {"spent": {k: v for k, v in self.spent.items() if v}, "mostly": most}


def spans(
    marks: Marks, executions: Sequence[Execution], outline: Outline, states: Sequence[str], run: int = 0, first: int = 0
) -> Iterator[Span]:
    """Of a pass that begins at cycle `first`."""
    before = marks.counts[0]
    for execution, row in zip(executions, marks.ends, strict=True):
        i, now = outline.instructions[execution.number], marks.counts[row]
        part, spent = outline.lowered.drafts[execution.number].part, now - before
        yield Span(
            run=run,
            instruction=execution.number,
            label=i.label,
            part=part,
            operation=operation_of(part),
            unit=unit_of(i, execution.expert),
            expert=execution.expert,
            rows=execution.cost.rows,
            start=first + int(before[0]),
            end=first + int(now[0]),
            spent={state: int(count) for state, count in zip(states, spent[1:], strict=False)},
        )
        before = now


def activity(marks: Marks, states: Sequence[str], first: int = 0) -> Iterator[dict[str, float]]:
    """The pass in BINS equal parts: of each, the share of its cycles in every state, and of the bus that was used."""
    edges = np.linspace(0, marks.counts[-1, 0], BINS + 1)
    counts = np.stack([np.interp(edges, marks.counts[:, 0], column) for column in marks.counts.T[1:]], axis=1)
    widths, shares = np.diff(edges), np.diff(counts, axis=0)
    for start, width, share in zip(edges, widths, shares / widths[:, None], strict=False):
        found = dict(zip([*states, *BUS], (round(float(value), 4) for value in share), strict=True))
        yield {"start": round(first + float(start)), "end": round(first + float(start + width)), **found}
