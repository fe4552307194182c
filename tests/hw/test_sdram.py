# SPDX-License-Identifier: Apache-2.0
"""The SDRAM controller against a model of the chip, driven by the AXI master of cocotbext-axi."""

import json
import random

import cocotb
import pytest
from bench_axi import STALLS
from bench_sdram import CONFIGS, System, Watch, clocks, master, run, timing
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiResp
from edgemoe.hw.periphery.sdram import Sdram, SdramConfig, SdramTiming
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim.bench import parameters, start

# Cycles at 60 MHz, from the acceptance of the (first) address to the last answer.
CYCLES = {
    "write of 256 beats": 1050,
    "read of 256 beats": 1054,
    "reads of 4 x 64 beats": 1053,
    "reads and writes of 4 x 64 beats each, other rows": 2124,
    "read of one beat, row open": 9,
    "read of one beat, other row": 13,
}


class Bench:
    """Master, watchers and the seed of one simulation; `finish` asks the chip what it thinks."""

    def __init__(self, dut):
        given = parameters()
        self.dut, self.config = dut, CONFIGS[given.get("config", "60 MHz")]
        self.random = random.Random(given.get("seed", 1))
        self.axi = master(dut, STALLS[given.get("stall", "no stall")])
        self.watch = Watch(dut)

    async def finish(self):
        await clocks(self.dut, 20)
        self.watch.check()
        assert int(self.dut.violations.value) == 0, f"the chip's rule {int(self.dut.first_violation.value)} is broken"


@cocotb.test()
async def everything_is_read_as_written(dut):
    """Four owners of a region each, at borders of banks and rows and at both ends, read and write at random at the same
    time.
    """
    bench = Bench(dut)
    await start(dut)
    size, row = bench.config.bytes, 1 << bench.config.column_bits + 1

    async def owner(number, base, length):
        rng = random.Random(number)
        held = bytearray(rng.randbytes(length))
        await bench.axi.write(base, bytes(held))
        for _ in range(12):
            at = rng.randrange(length)
            count = min(length - at, rng.choice((1, 3, 8, 40, 64, 200, 900)))
            if rng.random() < 0.5:
                content = rng.randbytes(count)
                held[at : at + count] = content
                assert (await bench.axi.write(base + at, content)).resp == AxiResp.OKAY
            else:
                answer = await bench.axi.read(base + at, count)
                assert answer.resp == AxiResp.OKAY and answer.data == held[at : at + count], f"bytes at {base + at:#x}"
        assert (await bench.axi.read(base, length)).data == held

    regions = ((0, row + 40), (7 * row - 200, 400), (size // 2 + 4 * row - 1000, 2000), (size - 1500, 1500))
    for task in [cocotb.start_soon(owner(i, *region)) for i, region in enumerate(regions)]:
        await task
    await bench.finish()


@cocotb.test()
async def strobes_choose_bytes(dut):
    bench = Bench(dut)
    await start(dut)
    channel, masks = bench.axi.write_if.w_channel, []
    send = channel.send

    async def punched(beat):
        masks.append(bench.random.getrandbits(8))
        beat.wstrb &= masks[-1]
        await send(beat)

    held = bytearray(bench.random.randbytes(512))
    await bench.axi.write(4096, bytes(held))
    channel.send = punched
    for _ in range(12):
        masks.clear()
        at = 8 * bench.random.randrange(48)
        content = bench.random.randbytes(128)
        await bench.axi.write(4096 + at, content)
        for i, byte in enumerate(content):
            if masks[i // 8] >> i % 8 & 1:
                held[at + i] = byte
    assert (await bench.axi.read(4096, 512)).data == held
    await bench.finish()


@cocotb.test()
async def beyond_the_memory_is_refused(dut):
    bench = Bench(dut)
    axi, size = bench.axi, bench.config.bytes
    await start(dut)
    held = bench.random.randbytes(64)
    for at in (0, size - 64):
        await axi.write(at, held)
    for at in (size, 1 << 40, (1 << 64) - 4096):
        assert (await axi.read(at, 8 * 20)).resp == AxiResp.DECERR
        assert (await axi.write(at, bytes(8 * 20))).resp == AxiResp.DECERR
    for at in (0, size - 64):  # a refused burst spoils neither the memory nor what follows
        answer = await axi.read(at, 64)
        assert answer.resp == AxiResp.OKAY and answer.data == held
    assert bench.watch.refused == 3 * 20
    await bench.finish()


@cocotb.test()
async def refresh_goes_on_under_load(dut):
    """Reads and writes that leave no cycle free for many refresh intervals, then none at all;
    the chip counts what is missed.
    """
    bench = Bench(dut)
    axi = bench.axi
    await start(dut)
    held = bench.random.randbytes(2048)
    await axi.write(0, held)
    tasks = [axi.init_read(0, 2048) for _ in range(4)] + [axi.init_write(1 << 20, held) for _ in range(4)]
    for task in tasks:
        await task.wait()
    assert all(task.data.data == held for task in tasks[:4])
    await clocks(dut, 3 * bench.config.refresh_interval)
    assert (await axi.read((1 << 20), 2048)).data == held
    await bench.finish()


@cocotb.test()
async def cycles_are_as_committed(dut):
    bench = Bench(dut)
    axi, took = bench.axi, {}
    await start(dut)
    await axi.write(1 << 12, bytes(8))
    await axi.read(1 << 12, 8)  # the initialisation is over
    content = bench.random.randbytes(2048)
    quarters = [content[i : i + 512] for i in range(0, 2048, 512)]

    async def measure(name, *events):
        begun = bench.watch.begin()
        for event in events:
            await event.wait()
        took[name] = bench.watch.ended - begun()

    await measure("write of 256 beats", axi.init_write(0, content))
    await measure("read of 256 beats", axi.init_read(0, 2048))
    await measure("reads of 4 x 64 beats", *(axi.init_read(i * 512, 512) for i in range(4)))
    both = [
        f(i * 512 + at, x)
        for i in range(4)
        for f, at, x in ((axi.init_read, 0, 512), (axi.init_write, 1 << 16, quarters[i]))
    ]
    await measure("reads and writes of 4 x 64 beats each, other rows", *both)
    await axi.read(64, 8)
    await measure("read of one beat, row open", axi.init_read(64, 8))
    await measure("read of one beat, other row", axi.init_read(1 << 20, 8))
    assert took == CYCLES, json.dumps(took)
    await bench.finish()


@cocotb.test()
async def latency_is_as_stated(dut):
    """Single transfers, the row open: the cycles that the unit's attributes promise, and one more when the other
    direction was last.
    """
    bench = Bench(dut)
    unit, axi = Sdram(bench.config), bench.axi
    await start(dut)
    await axi.write(256, bytes(range(8)))
    await axi.read(256, 8)
    transfers = {
        "read": ("arvalid", "rvalid", unit.READ_LATENCY, lambda: axi.init_read(256, 8)),
        "write": ("awvalid", "bvalid", unit.WRITE_LATENCY, lambda: axi.init_write(256, bytes(8))),
    }
    before = "read"
    for name in ("read", "write", "write", "read", "read"):
        asked, answered, latency, transfer = transfers[name]
        await clocks(dut, 10)
        event = transfer()
        while not getattr(dut, f"{name}_{asked}").value:
            await RisingEdge(dut.clk)
        count = 0
        while not getattr(dut, f"{name}_{answered}").value:
            await RisingEdge(dut.clk)
            count += 1
        assert count == latency + (name != before), f"{name} after {before}: {count} cycles, not {latency}"
        await event.wait()
        before = name
    await bench.finish()


@cocotb.test()
async def neither_direction_locks_the_other(dut):
    """A write without data does not stop reads, a reader that takes nothing does not stop writes."""
    bench = Bench(dut)
    axi = bench.axi
    await start(dut)
    held = bench.random.randbytes(1024)
    await axi.write(0, held)
    axi.write_if.w_channel.pause = True
    write = axi.init_write(4096, held)
    await clocks(dut, 50)
    assert (await axi.read(0, 1024)).data == held
    assert not write.is_set()
    axi.write_if.w_channel.pause = False
    await write.wait()
    axi.read_if.r_channel.pause = True
    read = axi.init_read(4096, 1024)
    await clocks(dut, 50)
    await axi.write(8192, held)
    assert not read.is_set()
    axi.read_if.r_channel.pause = False
    await read.wait()
    assert read.data.data == held
    assert (await axi.read(8192, 1024)).data == held
    await bench.finish()


@cocotb.test()
async def a_reset_may_come_at_any_time(dut):
    """The chip keeps its state, with a burst or an open row;
    what it held is lost, what is written afterwards is not.
    """
    bench = Bench(dut)
    axi = bench.axi
    await start(dut)
    for _ in range(8):
        held = bench.random.randbytes(300)
        await axi.write(5000, held)
        assert (await axi.read(5000, 300)).data == held
        axi.init_read(0, 2048)
        axi.init_write(1 << 16, bytes(2048))
        await clocks(dut, bench.random.randrange(20, 900))
        dut.rst.value = 1
        await clocks(dut, 3)
        dut.rst.value = 0
    await clocks(dut, 100)
    # A suspended clock, refreshes and a row's longest time missed: of no account when the content is given up.
    assert int(dut.first_violation.value) in (0, 7, 19, 20)


@cocotb.test()
async def the_chip_objects(dut):
    bench = Bench(dut)
    await start(dut)
    await bench.axi.write(0, bytes(64))
    assert int(dut.violations.value) > 0
    assert int(dut.first_violation.value) == parameters()["violation"]


TRAFFIC = ["everything_is_read_as_written", "strobes_choose_bytes", "beyond_the_memory_is_refused"]


def bench(config, testcases, **given):
    """Each in a simulation of its own: a chip that is reset has lost what it held."""
    for testcase in testcases:
        run(
            System(CONFIGS[config]),
            __name__,
            name="sdram_system",
            testcase=[testcase],
            parameters={"config": config, **given},
        )


@pytest.mark.parametrize("stall", STALLS)
def test_under_stalls(stall):
    bench("60 MHz", [*TRAFFIC, "refresh_goes_on_under_load"], stall=stall)


@pytest.mark.parametrize("config", [name for name in CONFIGS if name != "60 MHz"])
def test_other_clocks(config):
    bench(config, [*TRAFFIC, "refresh_goes_on_under_load"], stall="both" if "133" in config else "no stall")
    bench(config, ["latency_is_as_stated"])


def test_cycles():
    bench("60 MHz", ["cycles_are_as_committed", "latency_is_as_stated"])


def test_directions_are_independent():
    bench("60 MHz", ["neither_direction_locks_the_other"])


def test_reset():
    bench("60 MHz", ["a_reset_may_come_at_any_time"])


def test_the_chip_finds_a_controller_that_is_too_fast():
    system = System(timing(CONFIGS["60 MHz"], row_to_column=16.0))
    run(system, __name__, name="sdram_system", testcase=["the_chip_objects"], parameters={"violation": 11})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"clock_hz": 133e6}, "cas_latency 2 holds up to 100 MHz"),
        ({"clock_hz": 200e6, "cas_latency": 3}, "clock_hz must be 1 to 166 MHz"),
        ({"cas_latency": 4}, "cas_latency must be 2 or 3, not 4"),
        ({"power_up_us": -1}, "power_up_us must not be negative"),
        ({"init_refreshes": 1}, "init_refreshes must be at least 2"),
        ({"row_bits": 14}, "row_bits must be 1..13"),
        ({"pad_registers": 3}, "pad_registers must be 0, 1 or 2"),
        ({"timing": SdramTiming(refresh_interval=300.0)}, "between two refreshes there must be time for an access"),
    ],
)
def test_what_no_chip_can_do_is_refused(change, message):
    with pytest.raises(EdgemoeError, match=message):
        SdramConfig(**{"clock_hz": 60e6, **change})


def test_a_negative_time_is_refused():
    with pytest.raises(EdgemoeError, match="row_precharge must be a positive number of nanoseconds, not 0"):
        SdramTiming(row_precharge=0)


def test_cycles_last_no_less_than_nanoseconds():
    config = SdramConfig(clock_hz=60e6)
    assert (config.row_precharge, config.row_to_column, config.refresh_cycle, config.refresh_interval) == (2, 2, 4, 468)
    assert config.power_up == 12000 and config.bytes == 32 << 20 and config.mode == 0x22
    assert SdramConfig(clock_hz=50e6).row_precharge == 1, "20 ns are one cycle of 50 MHz, whatever the rounding"
