# SPDX-License-Identifier: Apache-2.0
"""The order of attention's products needs the same memory bandwidth whatever the parallelism: one streamed word and one
word of keys or values a cycle at most, for P = 4, 8, 16, 32 lanes. Fetching each of P keys anew for every query
would need P + 1."""

from __future__ import annotations

from collections import Counter

import cocotb
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from cocotb.triggers import FallingEdge
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory, Opcode, Scale, Stationary
from edgemoe.hw.contract.layouts import JOB
from edgemoe.hw.control.loader import Loader
from edgemoe.hw.control.streamer import Streamer
from edgemoe.hw.memory.on_chip import Memories
from edgemoe.hw.memory.pipeline import delay
from edgemoe.sim.bench import StreamDriver, pack, parameters, run_bench, start

TOKENS, HEAD_WIDTH = 129, 32
LANES = (4, 8, 16, 32)


class Schedule(wiring.Component):
    """Streamer and loader as the engine joins them, without array and memories: what they would read shows at the
    ports.

    `streamed`: a word of queries or scores is read, at `stream_address`; `stationary`: a word of keys or values, at
    `stationary_address`. A row's results count as written `WRITTEN` cycles after it was streamed.
    """

    def __init__(self, config: HardwareConfig) -> None:
        self.config, self.WRITTEN = config, config.lanes + 30
        super().__init__(
            {
                "jobs": In(stream.Signature(JOB)),
                "loads": In(stream.Signature(JOB)),
                "completed": Out(8),
                "streamed": Out(1),
                "stream_address": Out(20),
                "stationary": Out(1),
                "stationary_address": Out(20),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.streamer = streamer = Streamer(self.config, block_spacing=4, probability_latency=8)
        m.submodules.loader = loader = Loader(self.config)
        connect(m, flipped(self.jobs), streamer.jobs)
        connect(m, flipped(self.loads), loader.jobs)
        final = streamer.streamed.issue.tag.valid & streamer.streamed.issue.tag.final
        for _ in range(self.WRITTEN):
            later = Signal()
            m.d.sync += later.eq(final)
            final = later
        address = delay(m, streamer.streamed.address, 1)
        key_value = delay(m, loader.key_value.address, Memories.LATENCY)
        m.d.comb += [
            streamer.ready.eq(loader.ready),
            loader.swap.eq(streamer.streamed.issue.tag.valid & streamer.streamed.issue.swap),
            loader.completed.eq(streamer.completed),
            streamer.final_written.eq(final),
            self.completed.eq(streamer.completed),
            self.streamed.eq(streamer.streamed.issue.tag.valid),
            self.stream_address.eq(address),
            self.stationary.eq(loader.load.valid),
            self.stationary_address.eq(key_value),
        ]
        return m


class Schedules(wiring.Component):
    """One schedule for every P, side by side as `p4`, `p8`...: a single bench to build."""

    def __init__(self) -> None:
        self.schedules = {f"p{lanes}": Schedule(HardwareConfig("attention", lanes=lanes)) for lanes in LANES}
        super().__init__({name: Out(schedule.signature) for name, schedule in self.schedules.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, schedule in self.schedules.items():
            m.submodules[name] = schedule
            connect(m, schedule, flipped(getattr(self, name)))
        return m


def jobs(lanes: int) -> list[dict[str, int]]:
    """Scores (queries x keys) and values (probabilities x values) of one head, as the compiler gives them."""
    head, keys = max(2, HEAD_WIDTH // lanes), -(-TOKENS // lanes)
    scores = dict(
        opcode=Opcode.MATMUL, stationary=Stationary.KEYS, rows=TOKENS, keys=TOKENS, chunks=head, columns=keys,
        memory=Memory.SCORE, stream_base=100, stream_stride=3 * head,
        stationary_base=2 * head, stationary_stride=6 * head, destination_stride=keys,
    )  # fmt: skip
    values = dict(
        opcode=Opcode.MATMUL, stationary=Stationary.VALUES, rows=TOKENS, keys=TOKENS, chunks=keys, columns=head,
        scale=Scale.SOFTMAX, probabilities=1, wait_stream=1, stream_stride=keys,
        stationary_base=5 * head, stationary_stride=6 * head,
    )  # fmt: skip
    return [scores, values]


def reads(job: dict[str, int], lanes: int) -> tuple[list[int], list[int]]:
    """Addresses of the streamed and of the stationary words, in order:
    for each block all tokens, and `lanes` keys or values.
    """
    streamed, stationary = [], []
    for c in range(job["columns"]):
        for r in range(job["chunks"]):
            streamed += [job.get("stream_base", 0) + i * job["stream_stride"] + r for i in range(TOKENS)]
            first, word = (c * lanes, r) if job["stationary"] == Stationary.KEYS else (r * lanes, c)
            stationary += [job["stationary_base"] + (first + k) * job["stationary_stride"] + word for k in range(lanes)]
    return streamed, stationary


@cocotb.test()
async def bandwidth(dut):
    lanes = parameters()["lanes"]
    given = jobs(lanes)
    words = [
        pack(JOB, dict(instruction={k: int(v) for k, v in job.items()}, rows=TOKENS, expert=0, address=0, sequence=n))
        for n, job in enumerate(given)
    ]
    await start(dut)
    for name in ("jobs", "loads"):
        cocotb.start_soon(StreamDriver(dut, f"p{lanes}_{name}").send(words))
    ports = ("streamed", "stationary", "stream_address", "stationary_address", "completed")
    is_streamed, is_stationary, stream_address, stationary_address, completed = (
        getattr(dut, f"p{lanes}_{port}") for port in ports
    )
    streamed, stationary, per_cycle, active = [], [], Counter(), []
    for cycle in range(100_000):
        await FallingEdge(dut.clk)
        now = int(is_streamed.value), int(is_stationary.value)
        per_cycle[now] += 1
        if now[0]:
            streamed.append(int(stream_address.value))
            active.append(cycle)
        if now[1]:
            stationary.append(int(stationary_address.value))
        if int(completed.value) == len(given):
            break
    expected = [reads(job, lanes) for job in given]
    assert streamed == expected[0][0] + expected[1][0]
    # Keys and values beyond the last token are addressed, but what comes is not used: 0 is loaded.
    assert stationary == expected[0][1] + expected[1][1]

    blocks = sum(job["columns"] * job["chunks"] for job in given)
    total = len(streamed) + len(stationary)
    assert total == blocks * (TOKENS + lanes)
    assert max(a + b for a, b in per_cycle) <= 2, "one word a cycle from either memory, at most"
    # The array hardly ever waits: filling, the softmax's dependency and emptying, once each.
    span = active[-1] - active[0] + 1
    assert len(active) / span > 0.97
    # An array of P x P multiplies P^2 pairs a cycle on less than two words of P values: values per product fall as 1/P.
    products = blocks * TOKENS * lanes**2
    assert total * lanes / products == pytest.approx((1 + lanes / TOKENS) / lanes)
    naive = blocks * TOKENS * (lanes + 1)
    assert total / span < 2 < lanes + 1 and naive / total > (lanes + 1) / 1.3


@pytest.mark.parametrize("lanes", LANES)
def test_one_streamed_and_one_stationary_word_a_cycle(lanes: int) -> None:
    run_bench(Schedules(), __name__, parameters={"lanes": lanes}, name="schedules")
