# SPDX-License-Identifier: Apache-2.0
"""The simulated device and the harness behind it, proven with a core that only copies memory."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from edgemoe.hw.contract.striped_memory import GRANULE, DeviceTimeout, StripedMemory
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim.build import build_library
from edgemoe.sim.device import DECERR, SLVERR, Dram, ProtocolError, VerilatorDevice

from tests.sim.dummy_core import dummy_core

SIZE = 1 << 20
GUARD = 64


def library(masters: int = 1, data_bits: int = 128) -> Path:
    return build_library(
        dummy_core(masters, data_bits), defines={"EDGEMOE_MASTERS": masters, "EDGEMOE_DATA_BITS": data_bits}
    )


def start(device: VerilatorDevice, source: int, target: int, bursts: int, beats: int, breaking: int = 0) -> None:
    """Program a copy inside each bank; the addresses are offsets into the banks."""
    base = device.memory.bank_addresses[0]
    for offset, value in ((0x10, base + source), (0x18, base + target)):
        device.write_register(offset, value & 0xFFFFFFFF)
        device.write_register(offset + 4, value >> 32)
    for offset, value in ((0x20, bursts), (0x24, beats - 1), (0x28, breaking), (0x0C, 1), (0x00, 1)):
        device.write_register(offset, value)


def status(device: VerilatorDevice) -> int:
    return device.read_register(0x04)


@pytest.mark.parametrize("masters, data_bits", [(1, 128), (2, 128), (4, 128), (1, 64), (1, 256)])
def test_copies(masters: int, data_bits: int) -> None:
    """Data survive every stall pattern, nothing beside the target changes, and the counters add up."""
    beat = data_bits // 8
    for hostile, beats in product((False, True), (1, 16)):
        dram = Dram.hostile(seed=beats) if hostile else Dram(latency=20)
        with VerilatorDevice(library(masters, data_bits), memory_size=SIZE * masters, dram=dram) as device:
            generator = np.random.default_rng(beats)
            image = generator.integers(0, 256, SIZE * masters, np.uint8)
            device.memory.write(device.memory.base, image)
            bursts, source, target = 5, 4096, 65536
            start(device, source, target, bursts, beats)
            device.wait(cycles=20_000)
            assert device.interrupt and status(device) == 1
            size = bursts * beats * beat
            expected = image.copy()
            copied = image[source * masters : (source + size) * masters]
            expected[target * masters : (target + size) * masters] = copied
            assert np.array_equal(device.memory.read(device.memory.base, SIZE * masters), expected)
            for counters in device.counters():
                assert (counters.read_bursts, counters.write_bursts) == (bursts, bursts)
                assert (counters.read_beats, counters.write_beats) == (bursts * beats, bursts * beats)
                assert (counters.read_bytes, counters.write_bytes) == (size, size)
                assert counters.violations == counters.address_errors == 0
            assert device.outstanding == 0


def test_latency() -> None:
    """One more cycle of latency costs one cycle a burst."""

    def cycles(latency: int) -> int:
        with VerilatorDevice(library(), memory_size=SIZE, dram=Dram(latency=latency, write_latency=1)) as device:
            start(device, 0, 65536, 10, 4)
            return device.run(10_000)

    assert cycles(50) - cycles(20) == 10 * 30


def test_bandwidth() -> None:
    """Half a beat a cycle makes a read of 256 beats take 512 cycles; the core copies in turns."""
    with VerilatorDevice(library(), memory_size=SIZE, dram=Dram(latency=1, bandwidth=0.5)) as device:
        start(device, 0, 65536, 1, 256)
        assert 1020 <= device.run(10_000) <= 1060


def test_same_seed_same_cycles() -> None:
    def cycles(seed: int) -> int:
        with VerilatorDevice(library(), memory_size=SIZE, dram=Dram.hostile(seed)) as device:
            start(device, 0, 65536, 20, 16)
            return device.run(100_000)

    assert cycles(1) == cycles(1) != cycles(2)


def test_two_instances_are_independent() -> None:
    with VerilatorDevice(library(), memory_size=SIZE) as one, VerilatorDevice(library(), memory_size=SIZE) as two:
        one.memory.write(one.memory.base, b"one")
        start(one, 0, 4096, 1, 1)
        one.wait(cycles=1000)
        assert not two.interrupt and two.memory.read(two.memory.base + 4096, 3).tobytes() == b"\0\0\0"
        assert one.memory.read(one.memory.base + 4096, 3).tobytes() == b"one"


@pytest.mark.parametrize("response", [SLVERR, DECERR])
@pytest.mark.parametrize("kind", ["fail_read", "fail_write"])
def test_injected_errors_reach_the_core(kind: str, response: int) -> None:
    with VerilatorDevice(library(), memory_size=SIZE) as device:
        getattr(device, kind)(7, response=response)
        for expected in (3, 1):  # the fault comes once
            start(device, 0, 65536, 4, 4)
            device.wait(cycles=5_000)
            assert status(device) == expected


def test_address_outside_the_memory() -> None:
    with VerilatorDevice(library(), memory_size=SIZE) as device:
        start(device, SIZE - 64, 4096, 2, 4)
        device.wait(cycles=5_000)
        assert status(device) == 3
        assert device.counters()[0].address_errors == 1 and device.counters()[0].violations == 0
        assert "AR 0x140100000: 4 beats outside the memory 0x140000000..0x140100000" in device.messages[0]


@pytest.mark.parametrize("which", ["read_beats", "write_beats"])
def test_a_silent_memory_is_a_time_out(which: str) -> None:
    with VerilatorDevice(library(), memory_size=SIZE) as device:
        device.silence(**{which: 6})
        start(device, 0, 65536, 4, 4)
        calls: list[int] = []
        with pytest.raises(DeviceTimeout, match="did not finish within 5000 cycles"):
            device.wait(cycles=5_000, progress=lambda seen: calls.append(status(seen)))
        assert calls and set(calls) == {0}
        device.silence()
        device.wait(cycles=5_000)
        assert status(device) == 1
        with pytest.raises(DeviceTimeout, match="within 0 s"):
            device.write_register(0x0C, 1)
            device.wait(seconds=0)


@pytest.mark.parametrize(
    "source, beats, breaking, dram, message",
    [
        (4096 - 32, 4, 0, Dram(), "burst of 4 beats crosses 4 KiB"),
        (8, 1, 0, Dram(), "not aligned to 16 bytes"),
        (0, 17, 0, Dram(longest_burst=16), "burst of 17 beats, limit 16"),
        (0, 4, 1, Dram(), "size 3, but the bus is 16 bytes wide"),
        (0, 4, 2, Dram(), "WLAST is 0 at beat 4 of 4"),
        (0, 4, 3, Dram(stall_ar=0.9), "AR changed before ARREADY"),
    ],
)
def test_violations_are_found(source: int, beats: int, breaking: int, dram: Dram, message: str) -> None:
    with VerilatorDevice(library(), memory_size=SIZE, dram=dram, strict=False) as device:
        start(device, source, 65536, 1, beats, breaking)
        device.wait(cycles=5_000)
        assert device.counters()[0].violations and any(message in line for line in device.messages)
        device.strict = True
        with pytest.raises(ProtocolError, match=message):
            device.step(1)
        device.strict = False


def test_registers_answer_errors() -> None:
    with VerilatorDevice(library(), memory_size=SIZE) as device:
        device.write_register(0x10, 0xDEADBEEF)
        assert device.read_register(0x10) == 0xDEADBEEF
        with pytest.raises(EdgemoeError, match="register write at 0x100: the core answered DECERR"):
            device.write_register(0x100, 0)
        with pytest.raises(EdgemoeError, match="register read at 0x100: the core answered DECERR"):
            device.read_register(0x100)


def test_reset_forgets_bursts_in_flight() -> None:
    with VerilatorDevice(library(), memory_size=SIZE, dram=Dram(latency=200)) as device:
        start(device, 0, 65536, 4, 4)
        device.step(20)
        assert device.outstanding == 1
        device.reset()
        assert device.outstanding == 0
        start(device, 0, 65536, 1, 4)
        device.wait(cycles=5_000)
        assert status(device) == 1


def test_closed_device_says_so() -> None:
    device = VerilatorDevice(library(), memory_size=SIZE)
    device.close()
    device.close()
    with pytest.raises(RuntimeError, match="closed"):
        device.step(1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_striped_memory(count: int) -> None:
    """Random ranges through the stripes equal the same ranges of a plain array; granule g lies in bank g % M."""
    size = 64 * GRANULE
    banks = [np.zeros(size, np.uint8) for _ in range(count)]
    memory = StripedMemory(banks, [0x1000 * (index + 1) for index in range(count)], base=0x500)
    plain = np.zeros(size * count, np.uint8)
    generator = np.random.default_rng(count)
    for _ in range(300):
        begin = int(generator.integers(0, plain.size))
        length = int(generator.integers(0, min(200, plain.size - begin) + 1))
        data = generator.integers(0, 256, length, np.uint8)
        memory.write(0x500 + begin, data if length % 2 else data.tobytes())
        plain[begin : begin + length] = data
        begin = int(generator.integers(0, plain.size - length + 1))
        assert np.array_equal(memory.read(0x500 + begin, length), plain[begin : begin + length])
    for granule in range(memory.size // GRANULE):
        offset = GRANULE * (granule // count)
        assert np.array_equal(
            banks[granule % count][offset : offset + GRANULE], plain[granule * GRANULE : (granule + 1) * GRANULE]
        )
    with pytest.raises(EdgemoeError, match="outside the device memory 0x500 to"):
        memory.write(0x500 + memory.size - 1, b"ab")
    with pytest.raises(EdgemoeError, match="outside the device memory"):
        memory.read(0x4FF, 1)
