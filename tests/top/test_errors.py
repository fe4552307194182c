# SPDX-License-Identifier: Apache-2.0
"""Everything that can stop a run: the right code at the right instruction, no stray byte, and a correct inference
straight afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.runtime import driver
from edgemoe.host.runtime.driver import IDLE, START, DeviceError, Driver, Run
from edgemoe.host.runtime.program import CompiledProgram
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import ErrorCode, Instruction, Memory, Opcode, Scale, Stationary
from edgemoe.hw.contract.striped_memory import DeviceTimeout
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.words import MOST_KEYS
from edgemoe.sim.device import Dram, VerilatorDevice
from edgemoe.sim.emulator_device import EmulatorDevice

from .support import NANO, changed, check_equal, check_guards, core, emulated, fill, images_of, quantised, tiny_program

TINY = preset("tiny")


def good() -> CompiledProgram:
    return tiny_program(NANO, ((0, 0),), trace=False)


class Rig:
    """One core for many failures: each `fail` ends with a check that it works as if nothing had been."""

    def __init__(self, device: VerilatorDevice, driver_: Driver) -> None:
        self.device, self.driver, self.program, self.images = device, driver_, good(), images_of(NANO, 1)
        self.reference: Run = emulated(self.program, self.images)
        self.cycles = 0

    def works(self) -> Run:
        """A whole inference, equal to the emulator's, in the usual time, and no byte changed that is not a result."""
        expected = fill(self.device, self.program, self.images)
        run = self.driver.run(self.program, self.images)
        check_equal(self.reference, run)
        check_guards(self.device, self.program, expected)
        assert self.device.read_register(registers.offset("ERROR_CODE")) == 0
        self.cycles = self.cycles or run.cycles
        assert run.cycles == self.cycles
        return run

    def fails(self, program: CompiledProgram, prepare: Callable[[], None] = lambda: None) -> DeviceError:
        """The error of a run; guards are checked, and that the core works again."""
        expected = fill(self.device, program, self.images)
        prepare()
        with pytest.raises(DeviceError) as stop:
            self.driver.run(program, self.images)
        self.settle()
        check_guards(self.device, self.program, expected)
        return stop.value

    def settle(self) -> None:
        """Let the core drain its bus."""
        self.device.step(1000)
        assert self.driver.read("CTRL") & IDLE


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with core(TINY, good().memory_size) as (device, opened):
        found = Rig(device, opened)
        found.works()
        yield found


def first(program: CompiledProgram, condition: Callable[[Instruction], object]) -> int:
    return next(n for n, i in enumerate(program.instructions) if condition(i))


def is_matmul(i: Instruction) -> bool:
    return i.opcode == Opcode.MATMUL


#: name: (which instruction, other opcode or None, other fields)
WEIGHTED = (
    "a matrix",
    lambda i: is_matmul(i) and i.stationary == Stationary.WEIGHTS16 and i.memory == Memory.KEY_VALUE,
)
QUERIES = ("queries", lambda i: is_matmul(i) and i.memory == Memory.ACTIVATION and i.scale == Scale.NORM)
COPYING = ("a copying one", lambda i: is_matmul(i) and i.copy)
SCORES = ("scores", lambda i: i.stationary == Stationary.KEYS)
VALUES = ("values", lambda i: i.probabilities)
NORM = ("norm", lambda i: i.opcode == Opcode.LAYERNORM)
ROUTE = ("route", lambda i: i.opcode == Opcode.ROUTE)
LOAD = ("load", lambda i: i.opcode == Opcode.LOAD)
STORE = ("store", lambda i: i.opcode == Opcode.STORE)
IMAGE = ("image", lambda i: i.opcode == Opcode.IMAGE)
EXPERTS = ("experts", lambda i: i.opcode == Opcode.EXPERTS)
BODY = ("body", lambda i: is_matmul(i) and i.gather)
SCATTER = ("body", lambda i: is_matmul(i) and i.scatter)

ILLEGAL = {
    **{f"opcode {code}": (SCORES, code, {}) for code in (0, 9, 15)},
    "opcode 10 in a body": (BODY, 10, {}),
    "gather outside EXPERTS": (WEIGHTED, None, dict(gather=1)),
    "scatter outside EXPERTS": (WEIGHTED, None, dict(scatter=1)),
    "queued STORE outside EXPERTS": (STORE, None, dict(queued=1)),
    "a body with LAYERNORM": (BODY, int(Opcode.LAYERNORM), dict(rows=1, elements=4)),
    "a body with END": (SCATTER, int(Opcode.END), {}),
    "a body with EXPERTS": (SCATTER, int(Opcode.EXPERTS), {}),
    "EXPERTS of nothing": (EXPERTS, None, dict(length=0)),
    "LOAD to the scores": (LOAD, None, dict(memory=Memory.SCORE)),
    "residual from activation memory": (WEIGHTED, None, dict(residual=1)),
    "residual of a STORE": (STORE, None, dict(residual=1)),
    "two results into one memory": (QUERIES, None, dict(copy=1)),
    "an expert's score without a queue": (WEIGHTED, None, dict(scale=Scale.EXPERT)),
}
LARGE = (1 << 16) - 1
CAPACITY = {
    "stream": (WEIGHTED, None, dict(stream_base=TINY.activation_words - 1)),
    "stream, by its stride": (WEIGHTED, None, dict(stream_stride=1023)),
    "probabilities": (VALUES, None, dict(stream_base=TINY.score_words - 1)),
    "destination": (WEIGHTED, None, dict(destination_base=TINY.key_value_words - 1)),
    "destination of scores": (SCORES, None, dict(destination_base=TINY.score_words - 1)),
    "destination of LOAD": (LOAD, None, dict(destination_base=TINY.activation_words)),
    "destination of IMAGE": (IMAGE, None, dict(destination_base=TINY.activation_words - 1)),
    "source of STORE": (STORE, None, dict(destination_base=TINY.activation_words)),
    "copy": (COPYING, None, dict(copy_base=TINY.activation_words - 1)),
    "stationary keys": (SCORES, None, dict(stationary_base=TINY.key_value_words - 1)),
    "stationary values": (VALUES, None, dict(stationary_stride=1023)),
    "key/value rows": (SCORES, None, dict(keys=MOST_KEYS + 1, stationary_stride=0)),
    "rows": (WEIGHTED, None, dict(rows=TINY.rows + 1)),
    "no rows": (WEIGHTED, None, dict(rows=0)),
    "most rows": (STORE, None, dict(rows=LARGE)),
    "rows of a table": (WEIGHTED, None, dict(row_base=TINY.rows)),
    "rows of LAYERNORM": (NORM, None, dict(row_base=TINY.rows - 1)),
    "tokens of scores": (SCORES, None, dict(rows=TINY.tokens + 1, destination_stride=0, stream_stride=0)),
    "tokens of ROUTE": (ROUTE, None, dict(rows=TINY.tokens + 1, stream_stride=0)),
    "no chunks": (WEIGHTED, None, dict(chunks=0)),
    "no columns": (WEIGHTED, None, dict(columns=0)),
    "elements": (NORM, None, dict(elements=0)),
    "no elements": (NORM, None, dict(elements=0)),
    "experts": (ROUTE, None, dict(experts=TINY.experts + 1)),
    "no experts": (ROUTE, None, dict(experts=0)),
    "top_k": (ROUTE, None, dict(top_k=TINY.top_k + 1)),
    "no top_k": (ROUTE, None, dict(top_k=0)),
    "more choices than experts": (ROUTE, None, dict(experts=3)),
    "experts without logits": (ROUTE, None, dict(columns=1)),
    "more logits than experts": (ROUTE, None, dict(columns=3)),
    "rows of row scales": (QUERIES, None, dict(row_base=TINY.rows - 1)),
    "rows of softmax's table": (WEIGHTED, None, dict(rows=TINY.tokens + 1, scale=Scale.SOFTMAX, stream_stride=0)),
    "in a body": (BODY, None, dict(destination_base=TINY.activation_words)),
}
REFUSED = {name: (*case, ErrorCode.ILLEGAL_INSTRUCTION) for name, case in ILLEGAL.items()}
REFUSED |= {name: (*case, ErrorCode.CAPACITY) for name, case in CAPACITY.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_instructions(rig: Rig, name: str) -> None:
    """Before it begins, at exactly this instruction; the emulator says the same."""
    (_, which), opcode, fields, code = REFUSED[name]
    index = first(rig.program, which)
    program = changed(rig.program, index, opcode, **fields)
    error = rig.fails(program)
    assert (error.code, error.instruction, error.address) == (code, index, 0)
    assert f"stopped with {code.name}" in str(error) and rig.program.labels[index] in str(error)
    with pytest.raises(DeviceError) as other:
        emulated(program, rig.images)
    assert (other.value.code, other.value.instruction, other.value.address) == (code, index, 0)
    rig.works()


@pytest.mark.parametrize("which", [LOAD, WEIGHTED, IMAGE, BODY], ids=lambda w: w[0])
def test_reading_outside_the_memory(rig: Rig, which: tuple) -> None:
    """The memory answers with an error; what had begun ends without it."""
    index = first(rig.program, which[1])
    outside = rig.device.memory.size
    error = rig.fails(changed(rig.program, index, address=outside, expert_stride=0))
    assert error.code == ErrorCode.READ_BUS and error.address == outside
    assert error.instruction >= index  # weights are fetched ahead of the array, and the sequencer is ahead of both
    rig.works()


def test_a_program_outside_the_memory(rig: Rig) -> None:
    outside = rig.device.memory.size
    error = rig.fails(replace(rig.program, program=outside))
    assert (error.code, error.instruction) == (ErrorCode.READ_BUS, 0) and error.address == outside
    device = EmulatorDevice(TINY, rig.program.memory_size)
    opened = Driver(device, TINY)
    opened.load(rig.program)
    with pytest.raises(DeviceError) as other:
        opened.run(replace(rig.program, program=device.memory.size), rig.images)
    assert (other.value.code, other.value.instruction) == (ErrorCode.READ_BUS, 0)
    rig.works()


def test_writing_outside_the_memory(rig: Rig) -> None:
    index, outside = first(rig.program, STORE[1]), rig.device.memory.size
    program = changed(rig.program, index, address=outside)
    error = rig.fails(program)
    assert error.code == ErrorCode.WRITE_BUS and error.address == outside
    assert error.instruction >= index  # the sequencer is ahead
    with pytest.raises(DeviceError) as other:
        emulated(program, rig.images)
    assert (other.value.code, other.value.instruction) == (ErrorCode.WRITE_BUS, index)
    rig.works()


@pytest.mark.parametrize("beat", [0, 1, 7, 50, 333, 700, 1000])
def test_a_read_that_fails(rig: Rig, beat: int) -> None:
    """The very first beats are instructions, then come constants, the image and weights."""
    error = rig.fails(rig.program, lambda: rig.device.fail_read(beat))
    rig.device.fail_read(response=0)
    assert error.code == ErrorCode.READ_BUS
    assert (error.address < 64 * len(rig.program.instructions)) or beat > 7
    rig.works()


@pytest.mark.parametrize("beat", [0, 5])
def test_a_write_that_fails(rig: Rig, beat: int) -> None:
    error = rig.fails(rig.program, lambda: rig.device.fail_write(beat))
    rig.device.fail_write(response=0)
    assert error.code == ErrorCode.WRITE_BUS
    stores = [i for i in rig.program.instructions if i.opcode == Opcode.STORE]
    assert any(i.address <= error.address < i.address + 64 * i.rows for i in stores)
    rig.works()


@pytest.mark.parametrize(
    "beats", [dict(read_beats=0), dict(read_beats=100), dict(read_beats=777), dict(write_beats=3)], ids=str
)
def test_a_silent_bus(rig: Rig, beats: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog ends the run; as long as beats are owed the core stays busy, and the driver says so;
    then it works.
    """
    monkeypatch.setattr(driver, "WATCHDOG_CYCLES", 3000)
    expected = fill(rig.device, rig.program, rig.images)
    rig.device.silence(**beats)
    with pytest.raises(DeviceError) as stop:
        rig.driver.run(rig.program, rig.images)
    assert stop.value.code == ErrorCode.WATCHDOG
    with pytest.raises(EdgemoeError, match="is busy"):
        rig.driver.run(rig.program, rig.images)
    rig.device.silence()
    rig.settle()
    check_guards(rig.device, rig.program, expected)
    rig.works()


def test_the_watchdog_can_be_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory that is silent for long, and no watchdog: the run ends as soon as the memory answers."""
    monkeypatch.setattr(driver, "WATCHDOG_CYCLES", 0)
    with interrupted(rig, 20_000, silent=100):
        rig.device.silence()
        rig.device.wait(cycles=200_000)
    assert rig.driver.read("ERROR_CODE") == 0
    monkeypatch.undo()
    rig.works()


class interrupted:
    """A run given up by the host after so many cycles (a device time-out); inside the block it is still going on."""

    def __init__(self, rig: Rig, cycles: int, silent: int | None = None) -> None:
        self.rig, self.cycles, self.silent = rig, cycles, silent

    def __enter__(self) -> None:
        rig, device = self.rig, self.rig.device
        self.expected = fill(device, rig.program, rig.images)
        if self.silent is not None:
            device.silence(read_beats=self.silent)
        waits = type(device).wait
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(device, "wait", lambda progress=None: waits(device, cycles=self.cycles, progress=progress))
            with pytest.raises(DeviceTimeout, match=f"did not finish within {self.cycles} cycles"):
                rig.driver.run(rig.program, rig.images)

    def __exit__(self, *_: object) -> None:
        check_guards(self.rig.device, self.rig.program, self.expected)


@pytest.mark.parametrize("cycles", [1, 60, 200, 1000, 3000, 7000, 11000])
def test_soft_reset_in_the_middle(rig: Rig, cycles: int) -> None:
    """After a time-out of the host: the core drains its bus, forgets the run and reports nothing."""
    with interrupted(rig, cycles):
        assert not rig.driver.read("CTRL") & IDLE
        rig.driver.soft_reset()
        rig.settle()
        assert not rig.device.interrupt and rig.device.outstanding == 0
        assert rig.driver.read("ERROR_CODE") == 0
    rig.works()


@pytest.mark.parametrize("cycles", [50, 500, 5000])
def test_a_start_while_busy_is_ignored(rig: Rig, cycles: int) -> None:
    """Nor does a new program address reach the run that is on its way."""
    with interrupted(rig, cycles):
        rig.driver.write_long("PROGRAM", 4096)
        rig.driver.write("CTRL", START)
        rig.device.wait(cycles=200_000)
        assert rig.driver.read("ERROR_CODE") == 0
        assert rig.driver.read_long("CYCLES") == rig.cycles
    result = rig.program.results[0].tokens
    assert result is not None
    tokens = result.values(rig.device.memory.read(rig.device.memory.base + result.offset, result.size))
    assert np.array_equal(tokens, rig.reference.tokens[0])  # type: ignore[arg-type]
    rig.works()


def test_errors_in_a_hostile_memory() -> None:
    """Bursts in flight in every state when the run stops: twenty faults at random places."""
    random = np.random.default_rng(3)
    program, images = good(), images_of(NANO, 1)
    reference = emulated(program, images)
    with core(TINY, program.memory_size, Dram.hostile(seed=9)) as (device, opened):
        expected = fill(device, program, images)
        for turn in range(20):
            if turn % 4 == 3:
                device.fail_write(int(random.integers(0, 30)))
            else:
                device.fail_read(int(random.integers(0, 1100)))
            with pytest.raises(DeviceError) as stop:
                opened.run(program, images)
            assert stop.value.code in (ErrorCode.READ_BUS, ErrorCode.WRITE_BUS)
            device.fail_read(response=0)
            device.fail_write(response=0)
            device.step(2000)
            check_guards(device, program, expected)
            check_equal(reference, opened.run(program, images))


def test_a_program_for_other_hardware_is_refused(rig: Rig) -> None:
    other = compiler.compile(quantised(NANO), [(0, 0)], preset("base"))
    with pytest.raises(
        EdgemoeError, match=r"compiled for hardware 'base' \(0x[0-9a-f]{8}\), the device has 'tiny' .*compile it again"
    ):
        rig.driver.load(other)
    with pytest.raises(EdgemoeError, match="was built for other sizes than hardware 'base': CONFIG_HASH is"):
        Driver(rig.device, preset("base"))
    with pytest.raises(EdgemoeError, match="bytes of device memory"):
        rig.driver.load(replace(rig.program, memory_size=1 << 30))
    rig.works()


def test_unused_fields_are_ignored(rig: Rig) -> None:
    """What an instruction does not use is not checked: all ones in END's other fields."""
    index = len(rig.program.instructions) - 1
    fields = dict(
        rows=LARGE, row_base=LARGE, chunks=1023, stream_base=(1 << 20) - 1, scale=Scale.EXPERT, address=(1 << 40) - 64
    )
    program = changed(rig.program, index, **fields)
    expected = fill(rig.device, program, rig.images)
    check_equal(rig.reference, rig.driver.run(program, rig.images))
    check_guards(rig.device, program, expected)
    check_equal(rig.reference, emulated(program, rig.images))
