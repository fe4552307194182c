# SPDX-License-Identifier: Apache-2.0
"""What makes an instruction legal: one table, which the sequencer, the emulator, the compiler and the manual read.

A rule is evaluated on the integers of an `isa.Instruction` and on the Amaranth values of `layouts.INSTRUCTION` alike.
So its conditions are made of what means the same on both: comparisons, `+`, `*`, `&`, `|` and `Place.pick`; never
`and`, `or`, `not`, `~` or `if`. A rule that asks for a product is a `Bound`: numbers are compared at once, hardware
forms the product in steps.

What cannot be told before execution is no matter of these rules: that memory exists at an address, that the queues have
room, that an instruction does not overwrite what it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME, Activation, ErrorCode, Instruction, Memory, Opcode, Scale, Stationary
from edgemoe.models.numbers.words import MOST_KEYS

TRANSFERS = (Opcode.LOAD, Opcode.STORE, Opcode.IMAGE)
IN_BODIES = (Opcode.LOAD, Opcode.STORE, Opcode.MATMUL)  # what EXPERTS may repeat
WITH_ROWS = (*TRANSFERS, Opcode.MATMUL, Opcode.LAYERNORM, Opcode.ROUTE)
ROW_INDEX = BY_NAME["rows"].limit  # the last row's index is taken in as many bits as `rows` has


def _pick(condition: Any, then: Any, other: Any) -> Any:
    return then if condition else other


@dataclass(frozen=True)
class Place:
    """What a rule must know beside the instruction itself.

    looping     it is in the body of EXPERTS
    address     its address, with the expert's stride applied
    patch_line  channels x patch: pixels of a patch that lie side by side, over all planes
    table_end   row_base + rows
    pick        chooses between two values; hardware brings its multiplexer
    """

    looping: Any
    address: Any
    patch_line: Any
    table_end: Any
    pick: Callable[[Any, Any, Any], Any] = _pick

    @classmethod
    def of(cls, i: Instruction, looping: bool = False, expert: int = 0) -> Place:
        """That of an instruction of numbers."""
        return cls(looping, i.address + expert * i.expert_stride, i.channels * i.patch, i.row_base + i.rows)


Condition = Callable[[Any, HardwareConfig, Place], Any]


def one_of(value: Any, choices: tuple[IntEnum, ...]) -> Any:
    """Whether a value is one of these."""
    return reduce(or_, (value == choice for choice in choices))


@dataclass(frozen=True)
class Rule:
    """`text` must hold of instructions with these opcodes; `condition` says that it does not."""

    name: str
    error: ErrorCode
    opcodes: tuple[Opcode, ...]  # all of them: also those that are none
    text: str
    condition: Condition
    built: Callable[[HardwareConfig], bool] = lambda h: True  # builds that judge it

    def broken(self, i: Any, h: HardwareConfig, at: Place) -> Any:
        """Whether the instruction must be refused."""
        found = self.condition(i, h, at) if self.built(h) else False
        return found if self.opcodes == tuple(Opcode) else one_of(i.opcode, self.opcodes) & found


class Span(NamedTuple):
    """(rows - 1) x stride + base + words must not be beyond `limit`."""

    rows: Any
    stride: Any
    base: Any
    words: Any
    limit: Any

    @property
    def end(self) -> int:
        """One beyond the last word; of numbers. A span of no rows counts as one of ROW_INDEX + 1, as it does in
        hardware.
        """
        return (self.rows - 1 & ROW_INDEX) * self.stride + self.base + self.words


@dataclass(frozen=True)
class Bound:
    """A rule about a span. Bounds without a common opcode are never judged of one instruction, so hardware may
    multiply for them in the same step.
    """

    name: str
    opcodes: tuple[Opcode, ...]
    text: str
    used: Condition  # whether the instruction has this span at all, given that its opcode may
    span: Callable[[Any, HardwareConfig, Place], Span]
    error: ErrorCode = ErrorCode.CAPACITY

    def applies(self, i: Any, h: HardwareConfig, at: Place) -> Any:
        """Whether the span is one of this instruction."""
        return one_of(i.opcode, self.opcodes) & self.used(i, h, at)

    def broken(self, i: Any, h: HardwareConfig, at: Place) -> bool:
        """Whether the instruction must be refused; of numbers."""
        span = self.span(i, h, at)
        return bool(self.applies(i, h, at)) and span.end > span.limit


def _queued(i: Any) -> Any:
    return i.gather | i.scatter | i.queued


def _on_chip(i: Any) -> Any:
    return (i.stationary == Stationary.KEYS) | (i.stationary == Stationary.VALUES)


def _with_scores(i: Any) -> Any:
    """Whether a table of softmax, or score memory, is used row by row."""
    softmax = i.probabilities | (i.memory == Memory.SCORE) | (i.scale == Scale.SOFTMAX)
    return (i.opcode == Opcode.ROUTE) | softmax


def _words_of(memory: Any, h: HardwareConfig, at: Place) -> Any:
    """Words of the memory that a field names."""
    upper = at.pick(memory == Memory.RESIDUAL, h.residual_words, h.score_words)
    lower = at.pick(memory == Memory.KEY_VALUE, h.key_value_words, upper)
    return at.pick(memory == Memory.ACTIVATION, h.activation_words, lower)


def _always(i: Any, h: HardwareConfig, at: Place) -> Any:
    return True


def _illegal(name: str, opcodes: tuple[Opcode, ...], text: str, condition: Condition) -> Rule:
    return Rule(name, ErrorCode.ILLEGAL_INSTRUCTION, opcodes, text, condition)


def _capacity(name: str, opcodes: tuple[Opcode, ...], text: str, condition: Condition) -> Rule:
    return Rule(name, ErrorCode.CAPACITY, opcodes, text, condition)


ANY, MATMUL, ROUTE, IMAGE = tuple(Opcode), (Opcode.MATMUL,), (Opcode.ROUTE,), (Opcode.IMAGE,)

CONDITIONS: tuple[Rule, ...] = (
    _illegal("opcode", ANY, "the opcode exists", lambda i, h, at: (i.opcode == 0) | (i.opcode > max(Opcode))),
    _illegal(
        "residual",
        ANY,
        "`residual` is for MATMUL with `memory` = RESIDUAL",
        lambda i, h, at: i.residual & ((i.opcode != Opcode.MATMUL) | (i.memory != Memory.RESIDUAL)),
    ),
    _illegal(
        "queue",
        ANY,
        "`gather`, `scatter` and `queued` are for the body of EXPERTS",
        lambda i, h, at: _queued(i) & (at.looping == 0),
    ),
    _illegal(
        "body",
        tuple(o for o in Opcode if o not in IN_BODIES),
        f"the body of EXPERTS holds only {', '.join(o.name for o in IN_BODIES)}",
        lambda i, h, at: at.looping,
    ),
    _illegal("length", (Opcode.EXPERTS,), "`length` is at least 1", lambda i, h, at: i.length == 0),
    _illegal(
        "address",
        (*TRANSFERS, Opcode.MATMUL),
        "`address`, with the expert's stride, is a multiple of 64 (MATMUL: with weights)",
        lambda i, h, at: ((at.address & 63) != 0) & ((i.opcode != Opcode.MATMUL) | (_on_chip(i) == 0)),
    ),
    _illegal(
        "load to scores",
        (Opcode.LOAD,),
        "`memory` is not SCORE, which only MATMUL writes",
        lambda i, h, at: i.memory == Memory.SCORE,
    ),
    _illegal(
        "picture",
        IMAGE,
        "`across`, `down`, `channels` and `patch` are at least 1",
        lambda i, h, at: (i.across == 0) | (i.down == 0) | (i.channels == 0) | (i.patch == 0),
    ),
    _illegal(
        "picture's memory",
        IMAGE,
        "`memory` is ACTIVATION",
        lambda i, h, at: i.memory != Memory.ACTIVATION,
    ),
    _illegal(
        "copy's memory",
        MATMUL,
        "with `copy`, `memory` is not ACTIVATION: a memory takes one word a cycle",
        lambda i, h, at: i.copy & (i.memory == Memory.ACTIVATION),
    ),
    _illegal(
        "expert's score",
        MATMUL,
        "`scale` = EXPERT goes with `gather`, `scatter` or `queued`",
        lambda i, h, at: (i.scale == Scale.EXPERT) & (_queued(i) == 0),
    ),
    Rule(
        "attention",
        ErrorCode.ILLEGAL_INSTRUCTION,
        MATMUL,
        "with `probabilities` or `memory` = SCORE, `attention` is one of the build's kinds (not judged by a build of "
        "softmax alone)",
        lambda i, h, at: (i.probabilities | (i.memory == Memory.SCORE)) & (one_of(i.attention, h.kinds) == 0),
        built=lambda h: len(h.kinds) > 1,
    ),
    Rule(
        "row sums",
        ErrorCode.ILLEGAL_INSTRUCTION,
        MATMUL,
        "`row_sums` goes without `scatter` (not judged by a build without `head_norms`)",
        lambda i, h, at: i.row_sums & i.scatter,
        built=lambda h: h.keeps_row_sums,
    ),
    _capacity(
        "activation",
        MATMUL,
        "`activation` is NONE or one of the build's `activations`",
        lambda i, h, at: one_of(i.activation, (Activation.NONE, *map(Activation.of, h.functions))) == 0,
    ),
    Rule(
        "gate",
        ErrorCode.ILLEGAL_INSTRUCTION,
        MATMUL,
        "`activation` = GATED goes with `memory` = ACTIVATION and without `scatter` (not judged by a build without "
        "RELA attention)",
        lambda i, h, at: (i.activation == Activation.GATED) & ((i.memory != Memory.ACTIVATION) | i.scatter),
        built=lambda h: h.gates,
    ),
    _capacity(
        "rows",
        WITH_ROWS,
        "`rows` is 1 to the build's `rows`",
        lambda i, h, at: (i.rows == 0) | (i.rows > h.rows),
    ),
    _capacity(
        "rows of a table",
        (Opcode.MATMUL, Opcode.LAYERNORM, Opcode.ROUTE),
        "`row_base` + `rows` is at most the build's `rows`",
        lambda i, h, at: at.table_end > h.rows,
    ),
    _capacity(
        "rows of scores",
        (Opcode.MATMUL, Opcode.ROUTE),
        "`rows` is at most the build's `tokens` (MATMUL: with `probabilities`, `memory` = SCORE or `scale` = SOFTMAX)",
        lambda i, h, at: _with_scores(i) & (i.rows > h.tokens),
    ),
    _capacity(
        "keys",
        MATMUL,
        f"`keys` is at most {MOST_KEYS}, if `stationary` is KEYS or VALUES, or with `probabilities`",
        lambda i, h, at: (_on_chip(i) | i.probabilities) & (i.keys > MOST_KEYS),
    ),
    _capacity(
        "blocks",
        MATMUL,
        "`chunks` and `columns` are at least 1",
        lambda i, h, at: (i.chunks == 0) | (i.columns == 0),
    ),
    _capacity(
        "elements",
        (Opcode.LAYERNORM,),
        "`elements` is at least 1",
        lambda i, h, at: i.elements == 0,
    ),
    _capacity(
        "experts",
        ROUTE,
        "`experts` is 1 to the build's `experts`",
        lambda i, h, at: (i.experts == 0) | (i.experts > h.experts),
    ),
    _capacity(
        "top-k",
        ROUTE,
        "`top_k` is 1 to the build's `top_k`",
        lambda i, h, at: (i.top_k == 0) | (i.top_k > h.top_k),
    ),
    _capacity("choices", ROUTE, "`top_k` is at most `experts`", lambda i, h, at: i.top_k > i.experts),
    _capacity(
        "logits",
        ROUTE,
        "`experts` is at most `columns` x lanes",
        lambda i, h, at: i.experts > i.columns * h.lanes,
    ),
    _capacity(
        "words of logits",
        ROUTE,
        "`columns` is at most the words that the build's `experts` take",
        lambda i, h, at: i.columns > h.words(h.experts),
    ),
)
"""Rules that one look at the fields decides."""

BOUNDS: tuple[Bound, ...] = (
    Bound(
        "streamed words",
        (Opcode.MATMUL, Opcode.ROUTE),
        "`rows` rows of `chunks` words (ROUTE: of `columns`) from `stream_base`, `stream_stride` apart, lie within "
        "activation memory (`probabilities`, ROUTE: score memory)",
        _always,
        lambda i, h, at: Span(
            i.rows,
            i.stream_stride,
            i.stream_base,
            at.pick(i.opcode == Opcode.ROUTE, i.columns, i.chunks),
            at.pick(i.probabilities | (i.opcode == Opcode.ROUTE), h.score_words, h.activation_words),
        ),
    ),
    Bound(
        "stationary words",
        MATMUL,
        "`keys` rows of `chunks` words (VALUES: of `columns`) from `stationary_base`, `stationary_stride` apart, lie "
        "within key/value memory, if `stationary` is KEYS or VALUES",
        lambda i, h, at: _on_chip(i),
        lambda i, h, at: Span(
            i.keys,
            i.stationary_stride,
            i.stationary_base,
            at.pick(i.stationary == Stationary.KEYS, i.chunks, i.columns),
            h.key_value_words,
        ),
    ),
    Bound(
        "destination's words",
        (Opcode.MATMUL, *TRANSFERS),
        "`rows` rows of `columns` words from `destination_base`, `destination_stride` apart, lie within `memory`",
        _always,
        lambda i, h, at: Span(i.rows, i.destination_stride, i.destination_base, i.columns, _words_of(i.memory, h, at)),
    ),
    Bound(
        "copy's words",
        MATMUL,
        "with `copy`, `rows` rows of `columns` words from `copy_base`, `copy_stride` apart, lie within activation "
        "memory",
        lambda i, h, at: i.copy,
        lambda i, h, at: Span(i.rows, i.copy_stride, i.copy_base, i.columns, h.activation_words),
    ),
    Bound(
        "patches",
        IMAGE,
        "`across` x `down` is at most `rows`",
        _always,
        lambda i, h, at: Span(i.down, i.across, 0, i.across, i.rows),
    ),
    Bound(
        "pixels of a patch",
        IMAGE,
        "`channels` x `patch`^2 is at most `columns` x lanes",
        _always,
        lambda i, h, at: Span(i.patch, at.patch_line, 0, at.patch_line, i.columns * h.lanes),
    ),
)
"""Rules about the last word of an operand, and about a picture's patches."""

RULES: tuple[Rule | Bound, ...] = (*CONDITIONS, *BOUNDS)


def violated(i: Any, h: HardwareConfig, at: Place) -> list[Rule | Bound]:
    """The rules that an instruction (of numbers) breaks; the first one's error is reported."""
    return [rule for rule in RULES if rule.broken(i, h, at)]
