# SPDX-License-Identifier: Apache-2.0
"""The largest magnitude of each row that is written to activation memory, and the step that it asks for."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.lane_tree import largest, reduce_lanes, tree_stages
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.memory.pipeline import delay

TABLE_BITS = 2
CODE_BITS = 7


class MaximaWrite(wiring.Signature):
    """A word of row `row` of a table, as its source sees it; with `first` the row's maximum begins with it."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "table": Out(TABLE_BITS),
                "row": Out(layouts.ROW_BITS),
                "first": Out(1),
                "word": Out(layouts.word(config)),
            }
        )


class StepPort(wiring.Signature):
    """Asking for a row's step, as who asks sees it: it stands RowMaxima.STEP_LATENCY cycles after `table` and `row`."""

    def __init__(self) -> None:
        super().__init__({"table": Out(TABLE_BITS), "row": Out(layouts.ROW_BITS), "step": In(layouts.STEP)})


def code_of(maximum: Value) -> Value:
    """`arithmetic.maximum_code` of a magnitude of 16 bits."""
    code = Signal(CODE_BITS)
    for length in range(9, WORD_BITS + 1):
        found = Const(8 * (length - 8), CODE_BITS) | maximum[length - 4 : length - 1]
        code = Mux(maximum[length - 1 :] == 1, found, code)
    return code


def kept_step(code: Value) -> Value:
    """`arithmetic.row_step` of a code, as the table has it: mantissa - 8, then the exponent. It grows with the code."""
    large = code[3:] != 0
    return Cat(Mux(large, (code[:3] + 1)[:4], 0), Mux(large, (code[3:] - 1)[:3], 0))


class RowMaxima(wiring.Component):
    """step[table][row] = row_step of the largest of maximum_code(max over lanes of |word|) of the row's words; that of
    the row that is asked for, 1 of table 0.

    ==========  ====================================================  ==============================
    stage       value                                                 beside it
    ==========  ====================================================  ==============================
    magnitude   lane by lane
    tree        the largest, four to one a stage
    step        that it asks for                                      that of the row, from the table
    larger      of both, into the table
    ==========  ====================================================  ==============================

    Ports:
        write (in MaximaWrite): a word is written.
        steps (in StepPort): a row's step.
    Latency: MAX_DELAY = 3 + tree cycles from a word to the first question that it counts for; STEP_LATENCY = 3 cycles
        from a question to the step.
    Interval: INTERVAL = 1 cycle between words, and between questions; REVISIT = 4 cycles between words of the same row.
    Format: words signed 16 bit; steps mantissa * 2^exponent / 8.
    Limits: tables 1 to 3 of config.table_rows rows; rows beyond begin again at the first.
    Twin: `models.numbers.arithmetic.maximum_code`, `models.numbers.arithmetic.row_step`.
    """

    INTERVAL = 1
    REVISIT = 4
    STEP_LATENCY = 3

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        self.stages = tree_stages(config.lanes)
        self.MAX_DELAY = 3 + self.stages
        super().__init__({"write": In(MaximaWrite(config)), "steps": In(StepPort())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row_bits = (self.config.table_rows - 1).bit_length()
        m.submodules.table = memory = Memory(shape=CODE_BITS, depth=4 * self.config.table_rows, init=[])
        store, read, answer = memory.write_port(), memory.read_port(), memory.read_port()

        written, cycles = self.write, 2 + self.stages
        magnitudes = []
        for lane in range(self.config.lanes):
            word = written.word[lane].as_signed()
            magnitude = Signal(WORD_BITS, name=f"magnitude_{lane}", reset_less=True)
            m.d.sync += magnitude.eq(Mux(word < 0, -word, word))
            magnitudes.append(magnitude)
        valid = delay(m, written.valid, 1, name="valid_1", reset_less=False)
        maximum = reduce_lanes(m, valid, magnitudes, largest, name="maximum")
        valid = delay(m, valid, self.stages, name="valid", reset_less=False)
        place = delay(m, Cat(written.row[:row_bits], written.table), cycles - 2, name="place")
        step, before, more = (Signal(CODE_BITS, name=name, reset_less=True) for name in ("step", "before", "more"))
        m.d.sync += [step.eq(kept_step(code_of(maximum))), before.eq(read.data)]
        m.d.sync += more.eq(Mux(step > before, step, before))
        with m.If(delay(m, written.first, cycles - 1, name="first")):
            m.d.sync += before.eq(0)
        m.d.comb += [
            read.addr.eq(place),
            read.en.eq(1),
            store.en.eq(delay(m, valid, 2, name="store", reset_less=False)),
            store.addr.eq(delay(m, place, 3, name="stored")),
            store.data.eq(more),
        ]

        # asked; read; held
        asked = delay(m, Cat(self.steps.row[:row_bits], self.steps.table), 1, name="asked")
        held = Signal(CODE_BITS, reset_less=True)
        m.d.sync += held.eq(answer.data)
        with m.If(delay(m, asked, 1, name="read")[row_bits:] == 0):
            m.d.sync += held.eq(0)
        m.d.comb += [
            answer.addr.eq(asked),
            self.steps.step.mantissa.eq(Cat(held[:3], ~held[3], held[3])),  # 8 more
            self.steps.step.exponent.eq(held[4:]),
        ]
        return m


__all__ = ["MaximaWrite", "RowMaxima", "StepPort"]
