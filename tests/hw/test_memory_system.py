# SPDX-License-Identifier: Apache-2.0
"""Reader, writer, weight prefetch, DMA and fetch together, against AXI memories of cocotbext-axi."""

import random

import cocotb
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bench_axi import NARROW, STALLS, STRIPED, Memory, cycles
from cocotb.triggers import RisingEdge
from edgemoe.hw.contract.config import PRESETS
from edgemoe.hw.contract.isa import Opcode, Stationary
from edgemoe.hw.contract.layouts import JOB, ROW_BITS
from edgemoe.hw.contract.weight_stream import WeightStream
from edgemoe.hw.control.fetch import Fetch
from edgemoe.hw.memory.axi import Failure
from edgemoe.hw.memory.dma import Dma
from edgemoe.hw.memory.reader import Reader
from edgemoe.hw.memory.weights import Weights
from edgemoe.hw.memory.writer import Writer
from edgemoe.sim.bench import StreamDriver, StreamMonitor, pack, parameters, run_bench, start

CONFIGS = {c.name: c for c in (PRESETS["tiny"], PRESETS["base"], PRESETS["zcu102"], STRIPED, NARROW)}
BUS = ("stop", "read", "write")  # ports of a unit that do not face the core


class System(wiring.Component):
    """The units wired as in the core; what faces the core becomes ports <unit>_<port>."""

    def __init__(self, config):
        self.config = config
        self.units = {"weights": Weights(config), "dma": Dma(config), "fetch": Fetch(config)}
        self.reader = Reader(config, {name: self.units[name].CAPACITY for name in ("fetch", "dma", "weights")})
        self.writer = Writer(config)
        ports = {"stop": In(1), "idle": Out(1), "base": self.reader.signature.members["base"]}
        ports |= {"read_failure": Out(Failure()), "write_failure": Out(Failure())}
        for name, unit in self.units.items():
            ports |= {f"{name}_{p}": member for p, member in unit.signature.members.items() if p not in BUS}
        for i in range(config.masters):
            for axi in (self.reader.axi[i], self.writer.axi[i]):
                ports |= {f"axi_{i}_{p}": member for p, member in axi.signature.members.items()}
            ports |= {f"axi_{i}_{p}": Out(1) for p in ("arid", "awid")} | {
                f"axi_{i}_{p}": In(1) for p in ("rid", "bid")
            }
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        reader, writer = self.reader, self.writer
        m.submodules.reader, m.submodules.writer = reader, writer
        for name, unit in self.units.items():
            m.submodules[name] = unit
            wiring.connect(m, unit.read, getattr(reader, name))
            m.d.comb += unit.stop.eq(self.stop)
            for p, member in unit.signature.members.items():
                if p not in BUS:
                    self._expose(m, member, getattr(unit, p), getattr(self, f"{name}_{p}"))
        wiring.connect(m, self.units["dma"].write, writer.client)
        wiring.connect(m, reader.failure, wiring.flipped(self.read_failure))
        wiring.connect(m, writer.failure, wiring.flipped(self.write_failure))
        m.d.comb += [
            reader.base.eq(self.base),
            writer.base.eq(self.base),
            reader.stop.eq(self.stop),
            writer.stop.eq(self.stop),
            self.idle.eq(reader.idle & writer.idle),
        ]
        for i in range(self.config.masters):
            for axi in (reader.axi[i], writer.axi[i]):
                for p, member in axi.signature.members.items():
                    self._expose(m, member, getattr(axi, p), getattr(self, f"axi_{i}_{p}"))
        return m

    @staticmethod
    def _expose(m, member, inner, outer):
        if member.is_signature:
            wiring.connect(m, wiring.flipped(outer), inner)
        else:
            m.d.comb += inner.eq(outer) if member.flow == In else outer.eq(inner)


class Bench:
    """DRAM, on-chip memories in Python, and the drivers of one simulation."""

    def __init__(self, dut):
        given = parameters()
        self.dut, self.config, self.seed = dut, CONFIGS[given["config"]], given.get("seed", 1)
        stall = STALLS[given.get("stall", "no stall")]
        self.stall = stall
        self.random = random.Random(self.seed)
        self.read = Memory(dut, self.config, write=False, stall=stall, seed=self.seed)
        self.written = Memory(dut, self.config, write=True, stall=stall, seed=self.seed + 1)
        self.content = self.read.fill(self.seed)
        self.chip = [{} for _ in range(4)]  # memory -> address -> lanes
        self.queue = [self.random.randrange(self.config.rows) for _ in range(self.config.rows)]
        for name in ("stop", "dma_operation_start", "fetch_jump", "dma_memories_entry_row", "dma_memories_read_data"):
            getattr(dut, name).value = 0
        self.errors = []
        cocotb.start_soon(self.watch())

    async def watch(self):
        dut, lanes, edge = self.dut, self.config.lanes, RisingEdge(self.dut.clk)
        row = before = 0
        while True:
            await edge
            if dut.rst.value:
                continue
            assert bool(dut.weights_rows_valid.value) == (int(dut.weights_rows_level.value) != 0), (
                "level promises a row that is not there"
            )
            if dut.dma_memories_write_valid.value:
                word, lanes_meant = int(dut.dma_memories_write_word.value), int(dut.dma_memories_write_lanes.value)
                held = self.chip[int(dut.dma_memories_write_memory.value)].setdefault(
                    int(dut.dma_memories_write_address.value), [0] * lanes
                )
                for lane in range(lanes):
                    if lanes_meant >> lane & 1:
                        held[lane] = word >> 16 * lane & 0xFFFF
            word = 0
            if dut.dma_reads.value:
                lanes_read = self.chip[int(dut.dma_memories_read_memory.value)][
                    int(dut.dma_memories_read_address.value)
                ]
                word = sum(v << 16 * lane for lane, v in enumerate(lanes_read))
            dut.dma_memories_read_data.value, before = before, word
            index = int(dut.dma_memories_entry_index.value)
            dut.dma_memories_entry_row.value, row = row, self.queue[index] if index < len(self.queue) else 0
            for kind in ("read", "write"):
                if getattr(dut, f"{kind}_failure_valid").value:
                    self.errors.append((kind, int(getattr(dut, f"{kind}_failure_address").value)))

    async def move(self, limit=20000, *, rows=0, address=0, **fields):
        """One DMA command; returns its cycles."""
        job = {"instruction": {"opcode": int(Opcode.LOAD), **fields}, "rows": rows, "address": address}
        self.dut.dma_operation_job.value = pack(JOB, job)
        self.dut.dma_operation_start.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.dma_operation_start.value = 0
        for count in range(limit):
            await RisingEdge(self.dut.clk)
            if self.dut.dma_operation_done.value:
                return count
        raise AssertionError("DMA does not end")

    def words(self, address, count):
        size = self.config.word_bytes
        return [self.lanes(self.content[address + i * size : address + (i + 1) * size]) for i in range(count)]

    @staticmethod
    def lanes(content):
        return [content[i] | content[i + 1] << 8 for i in range(0, len(content), 2)]

    def job(self, eight_bit, chunks, columns, extra=0):
        """A weight job somewhere in DRAM, and the words that it must give."""
        c = self.config
        size = c.word_bytes
        beats = WeightStream(c, chunks, columns, 8 if eight_bit else 16).beats + extra
        address = 64 * self.random.randrange((len(self.content) - beats * c.bus_bytes) // 64)
        words, at = [], address
        block = chunks * c.lanes // (2 if eight_bit else 1)
        for _ in range(columns):
            words += self.words(at, c.parameter_words + block)
            at += (c.parameter_words + block) * size
        stationary = Stationary.WEIGHTS8 if eight_bit else Stationary.WEIGHTS16
        fields = {"beats": beats, "stationary": int(stationary), "chunks": chunks, "columns": columns}
        return pack(JOB, {"instruction": fields, "address": address}), words

    def unrow(self, bits):
        return [bits >> 16 * lane & 0xFFFF for lane in range(self.config.lanes)]


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def weights_come_as_rows(dut):
    bench = Bench(dut)
    rows = StreamMonitor(dut, "weights_rows", payload="word", stall=bench.stall[1], seed=bench.seed)
    driver = StreamDriver(dut, "weights_jobs", idle=0.5)
    await start(dut)
    shapes = [(False, 1, 1), (True, 1, 1), (True, 3, 2), (False, 2, 3), (True, 1, 4), (False, 1, 1)]
    jobs = [bench.job(*shape, extra=i % 3) for i, shape in enumerate(shapes)]
    expected = [row for _, part in jobs for row in part]
    await driver.send([job for job, _ in jobs])
    got = await rows.receive(len(expected), limit=20000)
    assert [bench.unrow(bits) for bits in got] == expected
    await cycles(dut, 100)
    assert len(rows.values) == len(expected), "padding came out"
    assert dut.idle.value and not bench.errors


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def full_fifo_streams_without_a_gap(dut):
    bench = Bench(dut)
    c = bench.config
    dut.weights_rows_ready.value = 0
    await start(dut)
    bits = [bench.job(True, 1, 1), bench.job(False, 1, 2), bench.job(True, 1, 1)]
    cocotb.start_soon(StreamDriver(dut, "weights_jobs").send([job for job, _ in bits]))
    await cycles(dut, 1500)
    words = 4 * c.parameter_words + 3 * c.lanes
    count = min(sum(len(rows) for _, rows in bits), (c.prefetch_beats // c.beats_per_word) * c.words_per_beat)
    assert words >= count - c.lanes and int(dut.weights_rows_level.value) == min(
        2 * c.lanes, sum(len(r) for _, r in bits)
    )
    dut.weights_rows_ready.value = 1
    for i in range(count):
        await RisingEdge(dut.clk)
        assert dut.weights_rows_valid.value, f"a gap before row {i} of {count}"


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def load_then_store_gives_the_same(dut):
    bench = Bench(dut)
    c, rng = bench.config, bench.random
    await start(dut)
    assert await bench.move(rows=0, columns=3) < 8
    for memory, rows, columns, gather in (
        (0, 5, 3, 0),
        (1, 1, 1, 0),
        (2, 7, 1, 1),
        (0, 9, 4, 1),
        (1, 30, 6, 0),
        (2, 3, 3, 0),
    ):
        bench.chip[memory].clear()
        address = 64 * rng.randrange((len(bench.content) - 2 * rows * columns * c.word_bytes) // 64)
        base, stride = rng.randrange(1 << 19), rng.randrange(columns, 900)
        fields = {
            "memory": memory,
            "destination_base": base,
            "destination_stride": stride,
            "rows": rows,
            "columns": columns,
            "gather": gather,
        }
        await bench.move(**fields, address=address)
        words = bench.words(address, rows * columns)
        wanted = {}
        for i in range(rows):
            for j in range(columns):
                wanted[base + (bench.queue[i] if gather else i) * stride + j] = words[i * columns + j]
        assert bench.chip[memory] == wanted
        # Back to DRAM, with guard bytes around.
        target = 8192 + 64 * rng.randrange(200)
        length = -(-rows * columns * c.word_bytes // c.bus_bytes) * c.bus_bytes
        bench.written.write(target - 64, b"\xa5" * (length + 128))
        took = await bench.move(**fields, opcode=int(Opcode.STORE), address=target)
        used = rows * columns * c.word_bytes
        back = bench.written.read(target - 64, length + 128)
        flat = b"".join(v.to_bytes(2, "little") for i in range(rows) for j in range(columns)
                        for v in wanted[base + (bench.queue[i] if gather else i) * stride + j])  # fmt: skip
        assert back == b"\xa5" * 64 + flat + bytes(length - used) + b"\xa5" * 64
        if bench.stall == (0.0, 0.0):
            assert took <= max(rows * columns, length // c.bus_bytes) * 1.3 + 60, "STORE is slow"
    assert not bench.errors


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def images_become_patches(dut):
    bench = Bench(dut)
    c, rng = bench.config, bench.random
    await start(dut)
    shapes = [(4, 4, 2, 3), (8, 3, 2, 1), (16, 2, 2, 3), (4, 3, 1, 1)]  # patch side, patches across, down, channels
    shapes += [(1, 5, 3, 3), (2, 3, 2, 1), (7, 2, 3, 2), (14, 3, 1, 3), (24, 1, 2, 1), (63, 1, 1, 1)]
    for patch, across, down, channels in shapes:
        bench.chip[0].clear()
        width, height = across * patch, down * patch
        size = width * height * channels
        picture = bench.content[640 : 640 + size]
        beats = -(-size // c.bus_bytes)
        shape = {"across": across, "down": down, "channels": channels, "patch": patch}
        # Fields of LOAD and STORE that an IMAGE does not have may hold anything.
        others = {
            "memory": rng.randrange(4),
            "gather": 1,
            "rows": rng.randrange(1 << ROW_BITS),
            "columns": rng.randrange(1 << 10),
        }
        took = await bench.move(
            opcode=int(Opcode.IMAGE),
            destination_base=1000,
            destination_stride=200,
            address=640,
            beats=beats,
            **shape,
            **others,
        )
        got = {a: list(w) for a, w in bench.chip[0].items()}
        for ch in range(channels):
            for y in range(height):
                for x in range(width):
                    token = y // patch * across + x // patch
                    q = ch * patch * patch + y % patch * patch + x % patch
                    address = 1000 + token * 200 + q // c.lanes
                    assert got[address][q % c.lanes] == picture[(ch * height + y) * width + x], (patch, ch, y, x)
        assert len(got) == across * down * -(-channels * patch * patch // c.lanes)
        if bench.stall == (0.0, 0.0):
            assert took <= size / min(patch & -patch, c.lanes, 16, c.bus_bytes) * 1.4 + 60, "IMAGE is slow"


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def instructions_follow_jumps(dut):
    bench = Bench(dut)
    rng = bench.random
    await start(dut)
    dut.fetch_instruction_ready.value = 0
    for _ in range(12):
        pc = 64 * rng.randrange(1000)
        dut.fetch_pc.value, dut.fetch_jump.value = pc, 1
        await RisingEdge(dut.clk)
        dut.fetch_jump.value, dut.fetch_pc.value = 0, 0
        for i in range(rng.choice((0, 0, 1, 2, 3, 8))):
            await cycles(dut, rng.randrange(8))
            dut.fetch_instruction_ready.value = 1
            while True:
                await RisingEdge(dut.clk)
                if dut.fetch_instruction_valid.value:
                    break
            dut.fetch_instruction_ready.value = 0
            at = pc + 64 * i
            assert int(dut.fetch_failure_address.value) == at
            assert int(dut.fetch_instruction_payload.value) == int.from_bytes(bench.content[at : at + 64], "little")
        await cycles(dut, rng.randrange(20))
    # A failed fetch counts only when it is wanted.
    bench.read.failing = {6400 + 64}
    dut.fetch_pc.value, dut.fetch_jump.value = 6400, 1
    await RisingEdge(dut.clk)
    dut.fetch_jump.value = 0
    await cycles(dut, 300)
    assert dut.fetch_instruction_valid.value and not dut.fetch_failure_valid.value
    dut.fetch_instruction_ready.value = 1
    await RisingEdge(dut.clk)
    await cycles(dut, 3)
    assert (
        dut.fetch_failure_valid.value
        and not dut.fetch_instruction_valid.value
        and int(dut.fetch_failure_address.value) == 6464
    )
    dut.fetch_instruction_ready.value = 0
    assert not bench.errors


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def everything_stops_and_starts_again(dut):
    bench = Bench(dut)
    c, rng = bench.config, bench.random
    await start(dut)
    dut.weights_rows_ready.value, dut.fetch_instruction_ready.value = 0, 0
    for round_ in range(8):
        store = round_ % 2
        bench.chip[0] = {i: [i * 7 + lane & 0xFFFF for lane in range(c.lanes)] for i in range(400)}
        fields = {
            "rows": 40,
            "columns": 5,
            "destination_stride": 5,
            "address": 4096 * 3,
            "opcode": int(Opcode.STORE if store else Opcode.LOAD),
        }
        bench.written.write(4096 * 2, b"\x5a" * 32768)
        jobs = StreamDriver(dut, "weights_jobs").send([bench.job(False, 2, 2)[0]] * 3)
        dut.fetch_pc.value, dut.fetch_jump.value = 64 * rng.randrange(1000), 1
        await RisingEdge(dut.clk)
        dut.fetch_jump.value = 0
        tasks = [cocotb.start_soon(bench.move(**fields)), cocotb.start_soon(jobs)]
        await cycles(dut, rng.randrange(3, 90))
        for task in tasks:
            task.cancel()
        dut.stop.value, dut.dma_operation_start.value, dut.weights_jobs_valid.value = 1, 0, 0
        await RisingEdge(dut.clk)
        for _ in range(3000):
            await RisingEdge(dut.clk)
            if dut.idle.value:
                break
        assert dut.idle.value
        await cycles(dut, 2)
        if store:  # what an abandoned STORE wrote is a part of what it should have written, and nothing else
            flat = b"".join(v.to_bytes(2, "little") for i in range(200) for v in bench.chip[0][i])
            back = bench.written.read(4096 * 2, 32768)
            whole = b"\x5a" * 4096 + flat + b"\x5a" * 32768
            n = next((i for i in range(4096, 32768) if back[i] != whole[i]), 32768)
            assert back == whole[:n] + b"\x5a" * (32768 - n)
        dut.stop.value = 0
        # Instructions come again only after a jump.
        await cycles(dut, 40)
        assert not dut.fetch_instruction_valid.value and dut.idle.value
        at = 64 * rng.randrange(1000)
        dut.fetch_pc.value, dut.fetch_jump.value = at, 1
        await RisingEdge(dut.clk)
        dut.fetch_jump.value = 0
        monitor = StreamMonitor(dut, "weights_rows", payload="word")
        job, rows = bench.job(True, 1, 2)
        await StreamDriver(dut, "weights_jobs").send([job])
        bench.chip[1].clear()
        await bench.move(memory=1, rows=4, columns=3, destination_stride=3, address=512)
        assert [bench.chip[1][i] for i in range(12)] == bench.words(512, 12)
        assert [bench.unrow(bits) for bits in await monitor.receive(len(rows), limit=5000)] == rows
        monitor._task.cancel()
        dut.weights_rows_ready.value = 0
        await RisingEdge(dut.clk)
        assert dut.fetch_instruction_valid.value and int(dut.fetch_failure_address.value) == at
        assert int(dut.fetch_instruction_payload.value) == int.from_bytes(bench.content[at : at + 64], "little")
    # An answer that is not OKAY, of either master or both, is told with the offset of its burst.
    assert not bench.errors
    begin, length = 4096 * 3 + 5 * c.bus_bytes, c.burst_limit * c.bus_bytes
    starts = [begin, *range(4096 * 3 + length, 4096 * 3 + 4 * length, length)]
    for failing in (
        [begin],
        [(0, starts[1])],
        [(c.masters - 1, starts[2])],
        [(c.masters - 1, starts[1]), (0, starts[3])],
    ):
        bench.errors.clear()
        bench.written.failing = set(failing)
        words = 4 * c.burst_limit * c.words_per_beat // c.beats_per_word
        await bench.move(rows=words // 4, columns=4, destination_stride=5, address=begin, opcode=int(Opcode.STORE))
        await cycles(dut, 2)
        told = [f if isinstance(f, int) else f[1] for f in failing]
        assert sorted(set(bench.errors)) == [("write", at) for at in told], f"{failing}: {bench.errors}"


TESTS = [
    "weights_come_as_rows",
    "load_then_store_gives_the_same",
    "images_become_patches",
    "instructions_follow_jumps",
    "everything_stops_and_starts_again",
]


def run(config, stall="no stall", testcase=None, seed=1):
    given = {"config": config, "stall": stall, "seed": seed}
    run_bench(System(CONFIGS[config]), __name__, parameters=given, testcase=testcase, name=f"memory_system_{config}")


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("config", CONFIGS)
def test_under_stalls(config, stall):
    run(config, stall, TESTS)


@pytest.mark.parametrize("config", CONFIGS)
def test_weight_rate(config):
    run(config, testcase=["full_fifo_streams_without_a_gap"])
