# SPDX-License-Identifier: Apache-2.0
"""Reader against AXI memories of cocotbext-axi: order, room, bursts, errors, stopping, rate."""

import random
from itertools import groupby

import cocotb
import pytest
from bench_axi import NARROW, STALLS, STRIPED, Memory, WithIds, cycles
from cocotb.triggers import RisingEdge
from edgemoe.hw.contract.config import PRESETS
from edgemoe.hw.memory.axi import Request
from edgemoe.hw.memory.reader import Reader
from edgemoe.sim.bench import StreamDriver, pack, parameters, run_bench, start

CONFIGS = {c.name: c for c in (PRESETS["tiny"], PRESETS["zcu102"], STRIPED, NARROW)}


def clients(config):
    limit = config.burst_limit
    return {"fetch": 128 // config.bus_bytes, "dma": 8 * limit, "weights": max(8 * limit, config.prefetch_beats)}


class Client:
    """Asks, collects what comes, frees its buffer at random, and holds the reader to its promise of room."""

    def __init__(self, dut, config, name, capacity, release, seed):
        self.dut, self.name, self.capacity = dut, name, capacity
        self.driver = StreamDriver(dut, f"{name}_request", idle=0.2, seed=seed)
        self.random, self.release = random.Random(seed), release
        self.beats, self.last, self.faults, self.held = [], [], [], 0
        getattr(dut, f"{name}_release").value = 0
        self.task = cocotb.start_soon(self.watch())

    async def watch(self):
        dut = self.dut

        def port(name):
            return getattr(dut, f"{self.name}_{name}")

        valid, release = port("valid"), port("release")
        edge = RisingEdge(dut.clk)
        while True:
            await edge
            if valid.value and not dut.rst.value:
                self.beats.append(int(port("data").value))
                self.last.append(int(port("last").value))
                self.faults.append(int(port("fault").value))
                self.held += 1
                assert self.held <= self.capacity, f"{self.name}: more beats than its buffer holds"
            freed = min(self.held, self.random.randint(1, 4)) if self.random.random() < self.release else 0
            self.held -= freed
            release.value = freed

    async def ask(self, requests):
        await self.driver.send([pack(Request(), {"address": a, "beats": n}) for a, n in requests])

    async def wait(self, count, limit=40000):
        for _ in range(limit):
            if len(self.beats) >= count:
                return
            if self.task.done():
                self.task.result()
            await RisingEdge(self.dut.clk)
        raise AssertionError(f"{self.name}: {len(self.beats)} of {count} beats")


def setup():
    config, given = CONFIGS[parameters()["config"]], parameters()
    dut = cocotb.top
    return dut, config, STALLS[given.get("stall", "no stall")], given.get("seed", 1)


def expected(config, content, requests):
    size = config.bus_bytes
    return [int.from_bytes(content[a + i * size : a + (i + 1) * size], "little") for a, n in requests for i in range(n)]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def every_client_gets_its_beats_in_order(dut):
    dut, config, stall, seed = setup()
    dut.stop.value = 0
    memory = Memory(dut, config, write=False, stall=stall, seed=seed)
    content = memory.fill(seed)
    rng = random.Random(seed)
    size, end = config.bus_bytes, len(content)
    instruction = 64 // size
    asked = {"fetch": [(64 * rng.randrange(end // 64), instruction) for _ in range(30)]}
    for name in ("dma", "weights"):
        lengths = [rng.choice((0, 1, 2, 3, config.burst_limit, rng.randrange(200))) for _ in range(10)]
        asked[name] = [(size * rng.randrange(end // size - n), n) for n in lengths]
    users = {
        n: Client(dut, config, n, c, 0.8 if stall[1] == 0 else 0.3, seed + i)
        for i, (n, c) in enumerate(clients(config).items())
    }
    await start(dut)
    await cocotb.triggers.gather(*(cocotb.start_soon(users[n].ask(asked[n])) for n in users))
    for name, user in users.items():
        values = expected(config, content, asked[name])
        await user.wait(len(values))
        assert user.beats == values, f"{name}: wrong data"
        marks = [int(i == n - 1) for _, n in asked[name] for i in range(n)]
        assert user.last == marks and not any(user.faults)
    await cycles(dut, 5)
    assert dut.idle.value and not dut.failure_valid.value
    per_master = [[(memory.linear(m, a), n) for i, a, n in memory.bursts if i == m] for m in range(config.masters)]
    assert all(p == per_master[0] for p in per_master), "the masters issued different bursts"
    assert sum(n for _, n in per_master[0]) == sum(n for r in asked.values() for _, n in r)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def a_long_transfer_runs_at_full_rate(dut):
    dut, config, _, _ = setup()
    dut.stop.value = 0
    memory = Memory(dut, config, write=False)
    memory.fill(1)
    user = {n: Client(dut, config, n, c, 1.0, 5) for n, c in clients(config).items()}["weights"]
    await start(dut)
    moments = []

    async def note():
        count = 0
        while True:
            await RisingEdge(dut.clk)
            count += 1
            if dut.weights_valid.value:
                moments.append(count)

    cocotb.start_soon(note())
    beats = 6 * config.burst_limit
    await user.ask([(0, beats)])
    await user.wait(beats)
    # The memory model itself pauses between bursts; inside one there is no gap.
    gaps = [b - a - 1 for a, b in zip(moments, moments[1:], strict=False)]
    assert sum(g > 0 for g in gaps) <= 5 and max(gaps) <= 3, gaps


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def errors_are_reported_where_they_count(dut):
    dut, config, stall, seed = setup()
    dut.stop.value = 0
    memory = Memory(dut, config, write=False, stall=stall, seed=seed)
    memory.fill(seed)
    users = {n: Client(dut, config, n, c, 1.0, i) for i, (n, c) in enumerate(clients(config).items())}
    await start(dut)
    seen = []

    async def note():
        while True:
            await RisingEdge(dut.clk)
            if dut.failure_valid.value:
                seen.append(int(dut.failure_address.value))

    cocotb.start_soon(note())
    size = config.bus_bytes
    memory.failing = {64, (0, 1024 + 3 * size), (config.masters - 1, 8192 + 5 * size), 8192 + 6 * size}
    await users["fetch"].ask([(64, 64 // size)])
    await users["fetch"].wait(64 // size)
    assert any(users["fetch"].faults) and not seen, "an instruction fetch ahead of need is no error"
    await users["dma"].ask([(1024, 8)])
    await users["dma"].wait(8)
    await users["weights"].ask([(8192, 8)])
    await users["weights"].wait(8)
    await cycles(dut, 3)
    assert users["dma"].faults == [0, 0, 0, 1, 0, 0, 0, 0] and users["weights"].faults == [0, 0, 0, 0, 0, 1, 1, 0]
    assert seen == [1024 + 3 * size, 8192 + 5 * size, 8192 + 6 * size]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def stop_drains_and_starts_afresh(dut):
    dut, config, stall, seed = setup()
    dut.stop.value = 0
    memory = Memory(dut, config, write=False, stall=stall, seed=seed)
    content = memory.fill(seed)
    users = {n: Client(dut, config, n, c, 0.0, i) for i, (n, c) in enumerate(clients(config).items())}
    await start(dut)
    rng = random.Random(seed)
    for _ in range(8):
        for user in users.values():
            user.held, user.release, user.beats = 0, 0.0, []
        tasks = [cocotb.start_soon(users[n].ask([(0, 300)])) for n in ("dma", "weights")]
        await cycles(dut, rng.randrange(3, 60))
        for task in tasks:
            task.cancel()
        dut.stop.value = 1
        for n in users:
            getattr(dut, f"{n}_request_valid").value = 0
        await RisingEdge(dut.clk)
        for _ in range(3000):
            await RisingEdge(dut.clk)
            assert not any(getattr(dut, f"{n}_valid").value for n in users), "a beat came through while stopped"
            if dut.idle.value:
                break
        assert dut.idle.value
        for user in users.values():
            user.held, user.release, user.beats = 0, 1.0, []
        dut.stop.value = 0
        await users["dma"].ask([(4096, 40)])
        await users["weights"].ask([(512, 40)])
        await users["dma"].wait(40)
        await users["weights"].wait(40)
        assert users["dma"].beats == expected(config, content, [(4096, 40)])
        assert users["weights"].beats == expected(config, content, [(512, 40)])
        await cycles(dut, 4)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def others_pass_between_the_bursts_of_a_long_transfer(dut):
    dut, config, _, _ = setup()
    dut.stop.value = 0
    memory = Memory(dut, config, write=False)
    memory.fill(1)
    users = {n: Client(dut, config, n, c, 1.0, i) for i, (n, c) in enumerate(clients(config).items())}
    await start(dut)
    long = cocotb.start_soon(users["weights"].ask([(0, 40 * config.burst_limit)]))
    await users["weights"].wait(2 * config.burst_limit)
    before = len(users["weights"].beats)
    await users["fetch"].ask([(64, 64 // config.bus_bytes)])
    await users["fetch"].wait(64 // config.bus_bytes)
    # At most what was in flight already, and the bursts chosen meanwhile, come first.
    assert len(users["weights"].beats) - before <= (config.outstanding + 3) * config.burst_limit
    await long


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def the_last_two_take_turns(dut):
    """While both wait and have room, burst by burst; each alone has the bus for itself."""
    dut, config, _, _ = setup()
    dut.stop.value = 0
    memory = Memory(dut, config, write=False)
    memory.fill(1)
    users = {n: Client(dut, config, n, c, 1.0, i) for i, (n, c) in enumerate(clients(config).items())}
    await start(dut)
    beats, limit = 12 * config.burst_limit, config.burst_limit
    places = {"dma": 0, "weights": 1 << 16}
    tasks = [cocotb.start_soon(users[n].ask([(at, beats)])) for n, at in places.items()]
    for name in places:
        await users[name].wait(beats)
    for task in tasks:
        await task
    order = [memory.linear(m, a) >= places["weights"] for m, a, _ in memory.bursts if m == 0]
    assert sorted(order) == [False] * 12 + [True] * 12, f"bursts of {limit} beats: {order}"
    runs = [len(list(same)) for _, same in groupby(order[2:18])]
    assert max(runs) <= 2, f"weights' turns: {order}"


def run(config, stall="no stall", testcase=None, seed=1):
    c = CONFIGS[config]
    run_bench(
        WithIds(Reader(c, clients(c))),
        __name__,
        parameters={"config": config, "stall": stall, "seed": seed},
        testcase=testcase,
        name=f"reader_{config}",
    )


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("config", CONFIGS)
def test_data_under_stalls(config, stall):
    run(
        config,
        stall,
        [
            "every_client_gets_its_beats_in_order",
            "stop_drains_and_starts_afresh",
            "errors_are_reported_where_they_count",
        ],
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_rate_and_fairness(config):
    run(
        config,
        testcase=[
            "a_long_transfer_runs_at_full_rate",
            "others_pass_between_the_bursts_of_a_long_transfer",
            "the_last_two_take_turns",
        ],
    )


def test_burst_limits():
    assert {c.name: c.burst_limit for c in CONFIGS.values()} == {"tiny": 16, "zcu102": 64, "striped": 16, "narrow": 16}
