# SPDX-License-Identifier: Apache-2.0
"""The largest magnitude of each row that is written to activation memory, and the step that it asks for."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.lane_tree import larger, reduce_lanes, tree_stages
from edgemoe.hw.compute.pipeline import delay
from edgemoe.hw.contract import layouts
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig

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


class RowMaxima(wiring.Component):
    """code[table][row] = the largest of maximum_code(max over lanes of |word|) of the row's words; step =
    row_step(code) of the row that is asked for, 1 of table 0.

    Ports:
        write (in MaximaWrite): a word is written.
        steps (in StepPort): a row's step.
    Latency: MAX_DELAY = 3 + tree cycles from a word to the first question that it counts for; STEP_LATENCY = 3 cycles
        from a question to the step.
    Interval: INTERVAL = 1 cycle between words, of the same row as well, and between questions.
    Format: words signed 16 bit; codes 7 bit, steps mantissa * 2^exponent / 8.
    Limits: tables 1 to 3 of config.table_rows rows; rows beyond begin again at the first.
    Twin: `models.numbers.arithmetic.maximum_code`, `models.numbers.arithmetic.row_step`.
    """

    INTERVAL = 1
    STEP_LATENCY = 3

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        self.stages = tree_stages(config.lanes)
        self.MAX_DELAY = 3 + self.stages
        super().__init__({"write": In(MaximaWrite(config)), "steps": In(StepPort())})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        row_bits = (self.config.table_rows - 1).bit_length()
        m.submodules.codes = codes = Memory(shape=CODE_BITS, depth=4 * self.config.table_rows, init=[])
        store = codes.write_port()
        read, answer = codes.read_port(transparent_for=[store]), codes.read_port()

        # magnitude; tree; code, table; maximum
        written, cycles = self.write, 2 + self.stages
        magnitudes = []
        for lane in range(self.config.lanes):
            word = written.word[lane].as_signed()
            magnitude = Signal(WORD_BITS, name=f"magnitude_{lane}", reset_less=True)
            m.d.sync += magnitude.eq(Mux(word < 0, -word, word))
            magnitudes.append(magnitude)
        valid = delay(m, written.valid, 1, name="valid_1", reset_less=False)
        maximum = reduce_lanes(m, valid, magnitudes, larger, name="maximum")
        valid = delay(m, valid, self.stages, name="valid", reset_less=False)
        place = delay(m, Cat(written.row[:row_bits], written.table), cycles - 1, name="place")
        code = Signal(CODE_BITS, reset_less=True)
        m.d.sync += code.eq(code_of(maximum))
        before = Mux(delay(m, written.first, cycles, name="first"), 0, read.data)
        m.d.comb += [
            read.addr.eq(place),
            read.en.eq(1),
            store.en.eq(delay(m, valid, 1, name="store", reset_less=False)),
            store.addr.eq(delay(m, place, 1, name="stored")),
            store.data.eq(Mux(code > before, code, before)),
        ]

        # read; decoded; held
        table = delay(m, self.steps.table, 1, name="table")
        m.d.comb += answer.addr.eq(Cat(self.steps.row[:row_bits], self.steps.table))
        found, step = Mux(table == 0, 0, answer.data), Signal(layouts.STEP, reset_less=True)
        large = found[3:] != 0
        m.d.sync += [
            step.mantissa.eq(Mux(large, found[:3] + 9, 8)),
            step.exponent.eq(Mux(large, found[3:] - 1, 0)),
        ]
        m.d.comb += self.steps.step.eq(delay(m, step, self.STEP_LATENCY - 2, name="held"))
        return m


__all__ = ["MaximaWrite", "RowMaxima", "StepPort"]
