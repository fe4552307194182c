# SPDX-License-Identifier: Apache-2.0
"""Loader and streamer together: how closely blocks of few rows follow each other, and a MATMUL the one before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.accumulator import Accumulator
from edgemoe.hw.compute.narrow import Narrow
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.isa import Opcode, Stationary
from edgemoe.hw.control.loader import Loader
from edgemoe.hw.control.streamer import Streamer
from edgemoe.hw.memory.pipeline import delay
from edgemoe.sim.rtl import rtl
from numpy.testing import assert_array_equal

CHUNKS, COLUMNS = 12, 3
LEAD = Streamer.LATENCY + Narrow.LATENCY


class Blocks(wiring.Component):
    """MATMULs with weights that are always there, one for each `start`; `swap` is at the array. Results are written
    WRITTEN cycles behind it.
    """

    LATENCY = 0
    INTERVAL = 1
    WRITTEN = 30

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        fields = {"stationary": In(2), "rows": In(16), "wait_stream": In(1), "follow": In(1)}
        super().__init__({"start": In(1), **fields, "swap": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.streamer = streamer = Streamer(
            self.config, block_spacing=Accumulator.REVISIT, probability_latency=7
        )
        m.submodules.loader = loader = Loader(self.config, lead=LEAD)
        for name, port in (("streams", streamer.jobs), ("loads", loader.jobs)):
            waiting, fields = Signal(2, name=name), port.payload.instruction
            m.d.sync += waiting.eq(waiting + self.start - (port.valid & port.ready))
            m.d.comb += [
                port.valid.eq(waiting != 0),
                port.payload.rows.eq(self.rows),
                fields.opcode.eq(Opcode.MATMUL),
                fields.stationary.eq(self.stationary),
                fields.wait_stream.eq(self.wait_stream),
                fields.follow.eq(self.follow),
                fields.chunks.eq(CHUNKS),
                fields.columns.eq(COLUMNS),
            ]
        issue = streamer.streamed.issue
        here = delay(m, issue, Narrow.LATENCY, name="rounded", reset_less=False)
        written = delay(m, here, self.WRITTEN, name="written", reset_less=False).tag
        last = written.valid & written.emits & (written.column == COLUMNS - 1)
        m.d.comb += [
            streamer.ready.eq(loader.ready),
            loader.weights.valid.eq(1),
            loader.weights.level.eq(2 * self.config.lanes),
            loader.swap.eq(here.tag.valid & here.swap),
            loader.column_done.eq(here.tag.valid & here.tag.column_end),
            streamer.first_written.eq(last & (written.index == 0)),
            streamer.final_written.eq(written.valid & written.final),
            self.swap.eq(loader.swap),
        ]
        return m


@pytest.mark.parametrize("lanes", [8, 32])
def test_blocks_and_matmuls_follow_as_closely_as_they_may(lanes: int) -> None:
    """Pairs of rows: half as many cycles as the array has rows, if the way from the issue to the array is no longer;
    rows: as many as it has. Blocks of more rows leave no gap.
    """
    config = replace(preset({8: "small", 32: "zcu102"}[lanes]), packed=1)
    pairs, cycles = max(lanes // 2, LEAD + 2), 100 + CHUNKS * COLUMNS * (lanes + 24)
    cases = [(Stationary.WEIGHTS8, pairs, rows) for rows in (1, pairs - 1, pairs, pairs + 3)]
    cases += [(Stationary.WEIGHTS16, max(lanes, LEAD + 2), rows) for rows in (4, lanes + 8)]
    kinds, leasts, lengths = (np.array(column) for column in zip(*cases, strict=True))
    start = np.arange(cycles * len(cases)) % cycles == 3
    columns = {"start": start, "stationary": kinds.repeat(cycles), "rows": lengths.repeat(cycles)}
    unit = Blocks(config)
    swaps = np.flatnonzero(rtl(unit, columns)["swap"]).reshape(len(cases), COLUMNS, CHUNKS)
    apart = np.diff(swaps)[:, :, 1:]  # inside a column block, when it is under way
    assert_array_equal(apart, np.maximum(leasts, lengths)[:, None, None] + np.zeros_like(apart))

    # Two, of which the second waits: for all rows of the first, or the first row of its last column.
    rows, pause, waits = np.array([9, unit.WRITTEN + 20]), [], 2 * cycles + 2 * COLUMNS * CHUNKS * (unit.WRITTEN + 20)
    for follow in (0, 1):
        place = np.arange(waits * len(rows))
        columns = {"start": (place % waits == 3) | (place % waits == 5), "rows": rows.repeat(waits)}
        columns |= {name: np.full(len(place), on) for name, on in (("wait_stream", 1), ("follow", follow))}
        columns["stationary"] = np.full(len(place), int(Stationary.WEIGHTS8))
        swaps = np.flatnonzero(rtl(unit, columns)["swap"]).reshape(len(rows), 2, COLUMNS * CHUNKS)
        pause.append(swaps[:, 1, 0] - swaps[:, 0, -1])
    begin = pause[0] - (rows - 1) - unit.WRITTEN
    assert (begin > LEAD).all() and len(set(begin)) == 1
    assert_array_equal(pause[1], [unit.WRITTEN + begin[0], rows[1] + 2])
