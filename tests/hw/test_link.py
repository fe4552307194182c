# SPDX-License-Identifier: Apache-2.0
"""Link: requests as the driver packs them, between a register file and a memory that stall;
damaged, cut and foreign frames.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from amaranth.sim import Simulator
from edgemoe.hw.contract import frames
from edgemoe.hw.contract.frames import BLOCK, Answer, Command, Request, Status
from edgemoe.hw.periphery.link import Link

TIMEOUT = 60
MEMORY_BYTES = 2 * frames.LONGEST
HELLO_VALUE = frames.VERSION << 24 | MEMORY_BYTES // frames.PAGE_BYTES


class Line:
    """The computer's end of the line: everything between `send` and `receive` is bytes."""

    def __init__(self, ctx: Any, dut: Link, gap: int) -> None:
        self.ctx, self.dut, self.gap = ctx, dut, gap
        ctx.set(dut.sent.ready, 0)

    async def send(self, data: bytes) -> None:
        for byte in data:
            self.ctx.set(self.dut.received.payload, byte)
            self.ctx.set(self.dut.received.valid, 1)
            await self.ctx.tick().until(self.dut.received.ready)
            self.ctx.set(self.dut.received.valid, 0)
            if self.gap:
                await self.ctx.tick().repeat(self.gap)

    async def receive(self, count: int, limit: int = 4000) -> bytes:
        """As many bytes as come, at most `count`, within `limit` cycles of silence each."""
        data = bytearray()
        while len(data) < count:
            self.ctx.set(self.dut.sent.ready, 1)
            for _ in range(limit):
                if self.ctx.get(self.dut.sent.valid):
                    data.append(self.ctx.get(self.dut.sent.payload))
                    await self.ctx.tick()
                    break
                await self.ctx.tick()
            else:
                break
            self.ctx.set(self.dut.sent.ready, 0)
            if self.gap:
                await self.ctx.tick().repeat(self.gap)
        self.ctx.set(self.dut.sent.ready, 0)
        return bytes(data)

    async def ask(self, request: Request, payload: bytes = b"") -> Answer:
        await self.send(request.pack() + (payload + frames.crc(payload) if payload else b""))
        return await self.answer()

    async def answer(self) -> Answer:
        data = await self.receive(frames.ANSWER_BYTES)
        answer = Answer.unpack(data)
        assert answer is not None, data.hex()
        return answer

    async def payload(self, size: int) -> tuple[bytes, int]:
        """(payload, the status behind it)."""
        data = await self.receive(size + 1 + frames.CRC_BYTES)
        assert len(data) == size + 1 + frames.CRC_BYTES and frames.crc(data[:-4]) == data[-4:]
        return data[:size], data[size]

    async def silence(self, cycles: int = 3 * TIMEOUT) -> None:
        assert await self.receive(1, cycles) == b""


class World:
    """Registers and memory behind the link; each stalls at random. `accesses` holds every register access in order."""

    def __init__(self, stall: float) -> None:
        self.stall = stall
        self.memory = bytearray(random.Random(3).randbytes(MEMORY_BYTES))
        self.registers: dict[int, int] = {}
        self.accesses: list[tuple[str, int, int]] = []
        self.failing: set[int] = set()  # register offsets and memory blocks that answer SLVERR
        self.slow = 0  # cycles that the memory waits before it takes a burst

    def attach(self, simulator: Simulator, dut: Link) -> None:
        chance = random.Random(5)
        read, write, bus = dut.read, dut.write, dut.registers

        async def stalls(ctx: Any) -> None:
            while chance.random() < self.stall:
                await ctx.tick()

        async def take(ctx: Any, valid: Any, ready: Any, *values: Any) -> list[int]:
            await stalls(ctx)
            ctx.set(ready, 1)
            while not ctx.get(valid):
                await ctx.tick()
            found = [ctx.get(value) for value in values]
            await ctx.tick()
            ctx.set(ready, 0)
            return found

        async def give(ctx: Any, valid: Any, ready: Any, values: list[tuple[Any, int]]) -> None:
            await stalls(ctx)
            for signal, value in values:
                ctx.set(signal, value)
            ctx.set(valid, 1)
            while not ctx.get(ready):
                await ctx.tick()
            await ctx.tick()
            ctx.set(valid, 0)

        async def reads(ctx: Any) -> None:
            while True:
                kind = (read.araddr, read.arlen, read.arsize, read.arburst)
                address, length, size, burst = await take(ctx, read.arvalid, read.arready, *kind)
                assert (length, size, burst, address % BLOCK) == (7, 3, 1, 0) and address < MEMORY_BYTES
                for i in range(8):
                    data = int.from_bytes(self.memory[address + 8 * i : address + 8 * i + 8], "little")
                    await give(
                        ctx,
                        read.rvalid,
                        read.rready,
                        [(read.rdata, data), (read.rresp, 2 * (address in self.failing)), (read.rlast, int(i == 7))],
                    )

        async def writes(ctx: Any) -> None:
            while True:
                while not ctx.get(write.awvalid):
                    await ctx.tick()
                for _ in range(self.slow):
                    await ctx.tick()
                address, length = await take(ctx, write.awvalid, write.awready, write.awaddr, write.awlen)
                assert (length, address % BLOCK) == (7, 0) and address < MEMORY_BYTES
                for i in range(8):
                    data, last, strobe = await take(
                        ctx, write.wvalid, write.wready, write.wdata, write.wlast, write.wstrb
                    )
                    assert (last, strobe) == (i == 7, 0xFF)
                    self.memory[address + 8 * i : address + 8 * i + 8] = data.to_bytes(8, "little")
                await give(ctx, write.bvalid, write.bready, [(write.bresp, 2 * (address in self.failing))])

        async def register_reads(ctx: Any) -> None:
            while True:
                (offset,) = await take(ctx, bus.arvalid, bus.arready, bus.araddr)
                value = self.registers.get(offset, offset * 3)
                self.accesses.append(("read", offset, value))
                await give(ctx, bus.rvalid, bus.rready, [(bus.rdata, value), (bus.rresp, 2 * (offset in self.failing))])

        async def register_writes(ctx: Any) -> None:
            while True:
                if chance.random() < 0.5:
                    (offset,) = await take(ctx, bus.awvalid, bus.awready, bus.awaddr)
                    value, strobe = await take(ctx, bus.wvalid, bus.wready, bus.wdata, bus.wstrb)
                else:
                    value, strobe = await take(ctx, bus.wvalid, bus.wready, bus.wdata, bus.wstrb)
                    (offset,) = await take(ctx, bus.awvalid, bus.awready, bus.awaddr)
                assert strobe == 15
                self.registers[offset] = value
                self.accesses.append(("write", offset, value))
                await give(ctx, bus.bvalid, bus.bready, [(bus.bresp, 2 * (offset in self.failing))])

        for process in (reads, writes, register_reads, register_writes):
            simulator.add_testbench(process, background=True)


def run(test: Callable[[Line, World], Any], *, stall: float = 0.0, gap: int = 0) -> World:
    dut, world = Link(TIMEOUT, MEMORY_BYTES), World(stall)
    simulator = Simulator(dut)
    simulator.add_clock(1)
    world.attach(simulator, dut)

    async def computer(ctx: Any) -> None:
        await test(Line(ctx, dut, gap), world)

    simulator.add_testbench(computer)
    simulator.run()
    return world


@pytest.mark.parametrize("stall, gap", [(0.0, 0), (0.5, 0), (0.0, 5), (0.5, 5)])
def test_every_command(stall: float, gap: int) -> None:
    """Idle or full line, stalling or prompt bus."""

    async def test(line: Line, world: World) -> None:
        assert await line.ask(Request(Command.HELLO, 9, 0)) == Answer(Status.OK, 9, 0, HELLO_VALUE)
        assert await line.ask(Request(Command.READ_REGISTER, 10, 0, 0x104)) == Answer(Status.OK, 10, 0, 0x30C)
        assert (await line.ask(Request(Command.WRITE_REGISTER, 11, 2, 0x104, 0xDEADBEEF))).status == Status.OK
        assert await line.ask(Request(Command.READ_REGISTER, 12, 1, 0x104)) == Answer(Status.OK, 12, 1, 0xDEADBEEF)
        data = random.Random(1).randbytes(3 * BLOCK)
        # Without a gap the line is faster than any serial line: what the memory cannot take yet must fit the buffer.
        assert (await line.ask(Request(Command.WRITE_MEMORY, 13, 0, 5 * BLOCK, len(data)), data)).status == Status.OK
        assert world.memory[5 * BLOCK : 8 * BLOCK] == data
        before = bytes(world.memory)
        assert (await line.ask(Request(Command.READ_MEMORY, 14, 0, 4 * BLOCK, 5 * BLOCK))).status == Status.OK
        assert await line.payload(5 * BLOCK) == (before[4 * BLOCK : 9 * BLOCK], Status.OK)
        assert world.memory == before
        await line.silence()

    world = run(test, stall=stall, gap=gap)
    assert [kind for kind, _, _ in world.accesses] == ["read", "write", "read"]


def test_damaged_headers_touch_nothing() -> None:
    """Every bit of a header: no access, and one answer at most, when the line has fallen silent."""

    async def test(line: Line, world: World) -> None:
        before = bytes(world.memory)
        generator = random.Random(2)
        for bit in generator.sample(range(8 * frames.REQUEST_BYTES), 40) + [0, 7]:
            payload = generator.randbytes(BLOCK)
            good = Request(Command.WRITE_MEMORY, 1, 0, 0, BLOCK).pack()
            bad = (int.from_bytes(good, "little") ^ 1 << bit).to_bytes(len(good), "little")
            await line.send(bad + payload + frames.crc(payload))
            data = await line.receive(2 * frames.ANSWER_BYTES, 3 * TIMEOUT)
            answer = Answer.unpack(data)
            assert data == b"" or answer is not None and answer.status == Status.HEADER_DAMAGED
            assert bit < 8 or answer is not None
        assert world.memory == before and not world.accesses
        assert (await line.ask(Request(Command.HELLO, 2, 0))).value == HELLO_VALUE

    run(test)


@pytest.mark.parametrize("cut", [1, 7, 15, 16, 17, 16 + BLOCK // 2, 16 + BLOCK, 16 + BLOCK + 3])
def test_a_frame_that_stops(cut: int) -> None:
    """Silence ends it; a payload's end that does not come is told; the next request is heard."""

    async def test(line: Line, world: World) -> None:
        before = bytes(world.memory)
        payload = bytes(range(BLOCK))
        await line.send(
            (Request(Command.WRITE_MEMORY, 7, 1, BLOCK, BLOCK).pack() + payload + frames.crc(payload))[:cut]
        )
        if cut < frames.REQUEST_BYTES:
            await line.silence()
        else:
            assert await line.answer() == Answer(Status.PAYLOAD_SHORT, 7, 1, 0)
        assert cut > frames.REQUEST_BYTES + BLOCK - 1 or world.memory == before
        assert (await line.ask(Request(Command.WRITE_MEMORY, 7, 2, BLOCK, BLOCK), payload)).status == Status.OK
        assert world.memory[BLOCK : 2 * BLOCK] == payload and world.memory[2 * BLOCK :] == before[2 * BLOCK :]

    run(test)


def test_damaged_payload() -> None:
    async def test(line: Line, world: World) -> None:
        payload = bytes(range(BLOCK))
        for damaged in (b"\xff" + payload[1:], payload[:-1] + b"\x00"):
            await line.send(Request(Command.WRITE_MEMORY, 7, 0, 0, BLOCK).pack() + damaged + frames.crc(payload))
            assert (await line.answer()).status == Status.PAYLOAD_DAMAGED
        assert (await line.ask(Request(Command.WRITE_MEMORY, 7, 1, 0, BLOCK), payload)).status == Status.OK
        assert world.memory[:BLOCK] == payload

    run(test)


def test_what_is_refused() -> None:
    """Unknown commands, addresses and lengths that are no whole blocks or outside: answered, nothing touched."""
    refused = [
        (Command.READ_MEMORY, 8, BLOCK),
        (Command.READ_MEMORY, 0, 8),
        (Command.READ_MEMORY, 0, 0),
        (Command.WRITE_MEMORY, 0, frames.LONGEST + BLOCK),
        (Command.WRITE_MEMORY, MEMORY_BYTES, BLOCK),
        (Command.WRITE_MEMORY, 1 << 31, BLOCK),
        (Command.READ_MEMORY, MEMORY_BYTES - BLOCK, 2 * BLOCK),
        (Command.READ_REGISTER, 2, 0),
        (Command.WRITE_REGISTER, 1 << 12, 0),
    ]

    async def test(line: Line, world: World) -> None:
        before = bytes(world.memory)
        for sequence, (command, address, value) in enumerate(refused):
            assert await line.ask(Request(command, sequence, 3, address, value)) == Answer(
                Status.REFUSED, sequence, 3, 0
            )
        for command in (0, 6, 255):
            assert (await line.ask(Request(command, 1, 0))).status == Status.UNKNOWN_COMMAND
        assert world.memory == before and not world.accesses
        # The longest payload is heard: its bytes are awaited.
        await line.send(Request(Command.WRITE_MEMORY, 1, 0, 0, frames.LONGEST).pack())
        assert (await line.answer()).status == Status.PAYLOAD_SHORT
        assert (await line.ask(Request(Command.READ_MEMORY, 1, 0, MEMORY_BYTES - BLOCK, BLOCK))).status == Status.OK
        await line.payload(BLOCK)

    run(test)


def test_errors_of_the_bus_are_told() -> None:
    async def test(line: Line, world: World) -> None:
        world.failing = {2 * BLOCK, 0x40}
        assert (await line.ask(Request(Command.READ_REGISTER, 1, 0, 0x40))).status == Status.BUS_ERROR
        assert (await line.ask(Request(Command.WRITE_REGISTER, 2, 0, 0x40, 1))).status == Status.BUS_ERROR
        assert (await line.ask(Request(Command.WRITE_REGISTER, 3, 0, 0x44, 1))).status == Status.OK
        data = bytes(2 * BLOCK)
        assert (await line.ask(Request(Command.WRITE_MEMORY, 4, 0, BLOCK, len(data)), data)).status == Status.BUS_ERROR
        assert (await line.ask(Request(Command.WRITE_MEMORY, 5, 0, 3 * BLOCK, len(data)), data)).status == Status.OK
        for address, status in ((0, Status.BUS_ERROR), (3 * BLOCK, Status.OK)):
            assert (await line.ask(Request(Command.READ_MEMORY, 6, 0, address, 4 * BLOCK))).status == Status.OK
            assert (await line.payload(4 * BLOCK))[1] == status

    run(test)


def test_a_memory_too_slow_for_the_line_is_told() -> None:
    async def test(line: Line, world: World) -> None:
        world.slow = 700
        data = bytes(8 * BLOCK)
        assert (await line.ask(Request(Command.WRITE_MEMORY, 1, 0, 0, len(data)), data)).status == Status.OVERRUN
        world.slow = 0
        assert (await line.ask(Request(Command.WRITE_MEMORY, 1, 1, 0, len(data)), data)).status == Status.OK
        assert world.memory[: len(data)] == data

    run(test)


def test_a_repeated_register_access_happens_once() -> None:
    """Until another request, or HELLO, has come between."""

    async def test(line: Line, world: World) -> None:
        first = await line.ask(Request(Command.READ_REGISTER, 5, 0, 0))
        world.registers[0] = 77
        assert await line.ask(Request(Command.READ_REGISTER, 5, 1, 0)) == Answer(Status.OK, 5, 1, first.value)
        assert len(world.accesses) == 1
        await line.ask(Request(Command.WRITE_REGISTER, 6, 0, 0, 1))
        assert (await line.ask(Request(Command.WRITE_REGISTER, 6, 1, 0, 1))).status == Status.OK
        assert len(world.accesses) == 2
        await line.ask(Request(Command.HELLO, 7, 0))
        await line.ask(Request(Command.WRITE_REGISTER, 6, 0, 0, 2))
        assert world.accesses[-1] == ("write", 0, 2) and len(world.accesses) == 3
        await line.ask(Request(Command.READ_MEMORY, 7, 0, 0, BLOCK))
        await line.payload(BLOCK)
        await line.ask(Request(Command.WRITE_REGISTER, 6, 0, 0, 3))
        assert world.accesses[-1] == ("write", 0, 3) and len(world.accesses) == 4
        # What failed is repeated as it was, too.
        world.failing = {0x40}
        assert (await line.ask(Request(Command.READ_REGISTER, 8, 0, 0x40))).status == Status.BUS_ERROR
        world.failing = set()
        assert (await line.ask(Request(Command.READ_REGISTER, 8, 1, 0x40))).status == Status.BUS_ERROR
        assert len(world.accesses) == 5

    run(test)


def test_noise_between_frames() -> None:
    """Bytes that are no frame, among them sync bytes, cost at most a silence."""

    async def test(line: Line, world: World) -> None:
        generator = random.Random(4)
        for _ in range(5):
            await line.send(bytes(generator.choice((0xA5, 0x00, 0x5A, 0xFF)) for _ in range(generator.randrange(40))))
            await line.receive(1000, 3 * TIMEOUT)
            assert (await line.ask(Request(Command.READ_REGISTER, 3, 0, 0x10))).value == 0x30
            await line.ask(Request(Command.HELLO, 2, 0))
        assert not [access for access in world.accesses if access != ("read", 0x10, 0x30)]

    run(test)
