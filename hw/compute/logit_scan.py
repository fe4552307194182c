# SPDX-License-Identifier: Apache-2.0
"""Router, first part: which word of logits is read when."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import count_shape, index_shape

ADDRESS_BITS = 20
STRIDE_BITS = 10


def logit_token(config: HardwareConfig) -> data.StructLayout:
    """What a word of logits is; it travels beside the word through the router."""
    return data.StructLayout(
        {
            "row": index_shape(config.tokens),
            "column": index_shape(config.words(config.experts)),
            "first": 1,  # word of its row
            "last": 1,
            "fresh": 1,  # nothing of the row has been chosen yet
            "maximum": 1,  # the pass that finds the maxima
            "scored": 1,  # what is chosen in this pass gets its score
        }
    )


class LogitScan(wiring.Component):
    """Addresses of all words of all rows, base + i * stride + column, passes + 1 times: once for the maxima, then once
    for each choice; with `among_chosen` all choices are made twice, as none has a score before the last one is known.

    A pass begins when the last choice of its first row is known, `turn` cycles behind the end of that row in the pass
    before.

    Ports:
        start (in): pulse.
        rows, columns, base, stride, top_k, among_chosen (in): held until `finished`.
        valid, address (out): the word at `address` is read in this cycle,
        token (out): and this says what it is.
        finished (out): pulse: the last word was read in the cycle before.
    Latency: LATENCY = 1 cycle from start to the first word; to `finished` passes * max(rows * columns, columns + turn)
        + rows * columns + 1, with passes = top_k, or 2 * top_k with `among_chosen`.
    Interval: INTERVAL = 1 cycle between words within a pass.
    Limits: rows, columns and top_k are at least 1; addresses modulo 2^20.
    Twin: none (no arithmetic); the order is that of `models.numbers.twins.route`, choice by choice.
    """

    LATENCY = 1
    INTERVAL = 1

    def __init__(self, config: HardwareConfig, turn: int):
        self.config, self.turn = config, turn
        super().__init__(
            {
                "start": In(1),
                "rows": In(count_shape(config.tokens)),
                "columns": In(count_shape(config.words(config.experts))),
                "base": In(ADDRESS_BITS),
                "stride": In(STRIDE_BITS),
                "top_k": In(count_shape(config.top_k)),
                "among_chosen": In(1),
                "valid": Out(1),
                "token": Out(logit_token(config)),
                "address": Out(ADDRESS_BITS),
                "finished": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, token = self.config, self.token
        running, streaming = Signal(), Signal()
        choice, row_address = Signal(len(self.top_k) + 1), Signal(ADDRESS_BITS)
        row, column = Signal.like(token.row, name="row"), Signal.like(token.column, name="column")
        elapsed = Signal(range(2 * self.turn + config.words(config.experts)))
        last_word, last_row, last_pass = Signal(), Signal(), Signal()
        # Known with the row, in a register: what stands still is compared with before.
        single, last_but_one = Signal(), Signal.like(row)
        m.d.sync += [single.eq(self.rows == 1), last_but_one.eq(self.rows - 2)]
        m.d.comb += [
            last_word.eq(column + 1 == self.columns),
            last_pass.eq(choice == Mux(self.among_chosen, self.top_k << 1, self.top_k)),
            self.valid.eq(streaming),
            self.address.eq(row_address + column),
            token.row.eq(row),
            token.column.eq(column),
            token.first.eq(column == 0),
            token.last.eq(last_word),
            token.maximum.eq(choice == 0),
            token.fresh.eq((choice <= 1) | self.among_chosen & (choice == self.top_k + 1)),
            token.scored.eq(Mux(self.among_chosen, choice > self.top_k, choice != 0)),
        ]
        # The table holds what the next pass reads of its first row; known in a register, as `needed` stands still.
        ready, needed = Signal(), Signal.like(elapsed)
        m.d.sync += [needed.eq(self.columns + (self.turn - 1)), ready.eq(elapsed + 1 >= needed)]
        with m.If(elapsed != (1 << len(elapsed)) - 1):
            m.d.sync += elapsed.eq(elapsed + 1)
        restart, streams, runs = Signal(), Signal(), Signal()
        m.d.comb += [streams.eq(streaming), runs.eq(running)]
        with m.If(streaming):
            with m.If(~last_word):
                m.d.sync += column.eq(column + 1)
            with m.Elif(~last_row):
                m.d.sync += [column.eq(0), row.eq(row + 1), row_address.eq(row_address + self.stride)]
                m.d.sync += last_row.eq(row == last_but_one)
            with m.Elif(ready | last_pass):
                m.d.comb += restart.eq(1)
            with m.Else():
                m.d.comb += streams.eq(0)
        with m.Elif(running):
            m.d.comb += restart.eq(ready)
        with m.If(restart):
            m.d.sync += [column.eq(0), row.eq(0), row_address.eq(self.base), choice.eq(choice + 1), elapsed.eq(0)]
            m.d.sync += [ready.eq(0), last_row.eq(single)]
            m.d.comb += [streams.eq(~last_pass), runs.eq(~last_pass)]
        # A start comes late in its cycle: all is as it begins with before.
        with m.If(~running):
            m.d.sync += [
                column.eq(0),
                row.eq(0),
                row_address.eq(self.base),
                choice.eq(0),
                elapsed.eq(0),
                ready.eq(0),
                last_row.eq(self.rows == 1),
            ]
        m.d.sync += [streaming.eq(streams | self.start), running.eq(runs | self.start)]
        m.d.sync += self.finished.eq(restart & last_pass)
        return m
