# SPDX-License-Identifier: Apache-2.0
"""Legality: whether the instruction that the sequencer holds may be issued."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import ErrorCode
from edgemoe.hw.contract.layouts import DRAM_OFFSET_BITS, INSTRUCTION
from edgemoe.hw.contract.rules import BOUNDS, CONDITIONS, Bound, Place, Span, one_of

LIMIT = data.StructLayout({"used": 1, "words": 21})
SPAN = data.StructLayout({"rows": 16, "stride": 10, "base": 20, "words": 10, "limit": LIMIT})
STAGES = 4  # behind a span's turn: span, product, end, verdict


def turns() -> list[list[Bound]]:
    """BOUNDS in as few turns as possible: those of one turn share no opcode."""
    found: list[list[Bound]] = []
    for bound in BOUNDS:
        free = (turn for turn in found if not any(set(bound.opcodes) & set(other.opcodes) for other in turn))
        turn = next(free, None)
        if turn is None:
            found.append([bound])
        else:
            turn.append(bound)
    return found


class Legality(wiring.Component):
    """Judges an instruction by the table `contract.rules`.

    CONDITIONS are all judged at once, one register each. BOUNDS take turns at one multiplier:

        turn     chosen        span      product      end                outside
        k        its values -> rows-1 -> * stride  -> + base + words ->  > limit

    Ports:
        start (in): pulse, a cycle before the others stand.
        instruction, looping (in): stand still until `judged`.
        address (in): may come five cycles late.
        judged (out): the verdict holds, until the next `start`:
        error, error_code (out): it may not be issued; ILLEGAL_INSTRUCTION before CAPACITY.
    Latency: LATENCY = TURNS + 5 cycles from start to judged.
    Interval: INTERVAL = TURNS + 5 cycles between instructions.
    Format: unsigned integers, exact.
    Limits: those of the fields' widths.
    Twin: `hw.contract.rules.violated`, the same table on integers.
    """

    TURNS = len(turns())
    LATENCY = INTERVAL = TURNS + STAGES + 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "instruction": In(INSTRUCTION),
                "looping": In(1),
                "address": In(DRAM_OFFSET_BITS),
                "judged": Out(1),
                "error": Out(1),
                "error_code": Out(ErrorCode),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        last = self.LATENCY - 1
        turn, patch_line, table_end = Signal(range(self.LATENCY), init=last), Signal(10), Signal(17)
        i, at = self.instruction, Place(self.looping, self.address, patch_line, table_end, Mux)
        with m.If(self.start):
            m.d.sync += turn.eq(0)
        with m.Elif(turn != last):
            m.d.sync += turn.eq(turn + 1)
        # channels x patch, four bits by six: a sum, for which no DSP slice is worth its place.
        parts = [Mux(i.channels[k], i.patch << k, 0) for k in range(len(i.channels))]
        m.d.sync += [patch_line.eq((parts[0] + parts[1]) + (parts[2] + parts[3])), table_end.eq(i.row_base + i.rows)]

        conditions = [rule for rule in CONDITIONS if rule.built(self.config)]
        broken = Signal(len(conditions))
        m.d.sync += broken.eq(Cat(Value.cast(rule.broken(i, self.config, at)) for rule in conditions))
        illegal = broken & Const(
            sum((rule.error == ErrorCode.ILLEGAL_INSTRUCTION) << n for n, rule in enumerate(conditions))
        )
        m.d.comb += [
            self.judged.eq(turn == last),
            self.error.eq(broken.any() | self._outside(m, turn, at)),
            self.error_code.eq(Mux(illegal.any(), ErrorCode.ILLEGAL_INSTRUCTION, ErrorCode.CAPACITY)),
        ]
        return m

    def _outside(self, m: Module, turn: Signal, at: Place) -> Signal:
        """Whether a span has been found to end beyond its limit."""
        chosen, span = Signal(SPAN), Signal(SPAN)
        product, start, end = Signal(26), Signal(22), Signal(28)
        of_product, of_end = Signal(LIMIT), Signal(LIMIT)  # the limit of the span whose product, whose end is there
        with m.Switch(turn):
            for number, bounds in enumerate(turns()):
                with m.Case(number):
                    m.d.sync += self._chosen(chosen, bounds, at)
            with m.Default():
                m.d.sync += chosen.limit.used.eq(0)
        m.d.sync += [span.eq(chosen), span.rows.eq(chosen.rows - 1)]  # row count to the last row's index
        m.d.sync += [
            product.eq(span.rows * span.stride), start.eq(span.base + span.words), of_product.eq(span.limit),
            end.eq(product + start), of_end.eq(of_product),
        ]  # fmt: skip
        outside = Signal()
        with m.If(of_end.used & (end > of_end.words)):
            m.d.sync += outside.eq(1)
        with m.If(self.start):
            m.d.sync += outside.eq(0)
        return outside

    def _chosen(self, chosen: Signal, bounds: list[Bound], at: Place) -> list:
        """`chosen` becomes that of the bound, among these, which has the instruction's opcode."""
        i, h = self.instruction, self.config
        used = Cat(Value.cast(bound.applies(i, h, at)) for bound in bounds).any()
        *first, values = [bound.span(i, h, at) for bound in bounds]
        for bound, others in zip(bounds, first, strict=False):
            mine = one_of(i.opcode, bound.opcodes)
            values = Span(*(Mux(mine, a, b) for a, b in zip(others, values, strict=True)))
        rows, stride, base, words, limit = values
        return [
            chosen.limit.used.eq(used),
            chosen.rows.eq(rows),
            chosen.stride.eq(stride),
            chosen.base.eq(base),
            chosen.words.eq(words),
            chosen.limit.words.eq(limit),
        ]
