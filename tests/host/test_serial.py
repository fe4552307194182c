# SPDX-License-Identifier: Apache-2.0
"""The `serial` device on a simulated board in another process:
the code that a real board runs, over every pin of the serial line.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgemoe.host import images
from edgemoe.host.runtime import loopback
from edgemoe.host.runtime.device import DeviceTimeout
from edgemoe.host.runtime.driver import Driver
from edgemoe.host.runtime.serial_link import SerialDevice
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.frames import Command
from edgemoe.models import scenes
from edgemoe.models.errors import EdgemoeError

from tests.top.support import NANO, check_equal, compiler, emulated, images_of, quantised

pytest.importorskip("serial", reason="needs pyserial (pip install 'edgemoe[serial]')")

ROOT = Path(__file__).resolve().parents[2]
TINY = replace(preset("tiny"), data_bits=64)
MEMORY = 32 << 20


@dataclass
class Board:
    """The simulation's process, and its end of the line."""

    process: Any
    port: str

    def tell(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def state(self) -> dict[str, int]:
        self.tell("state")
        return json.loads(self.process.stdout.readline())


@contextmanager
def board(hardware: str) -> Iterator[Board]:
    """A board in a process of its own; it must still be well when the block ends."""
    command = [sys.executable, "-m", "edgemoe.sim.serial_board", "--hardware", hardware]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdin and process.stderr
        try:
            ready = process.stdout.readline().split()
            assert ready[:1] == ["ready"], process.stderr.read()
            yield Board(process, ready[1])
            process.stdin.close()
            assert process.wait(60) == 0, process.stderr.read()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def tiny() -> Iterator[Board]:
    with board("tiny") as there:
        yield there


@contextmanager
def device(there: Board, **options: Any) -> Iterator[SerialDevice]:
    # A machine that does other things beside simulates slowly.
    opened = SerialDevice(there.port, **{"silence": 30.0, "pause": 0.6, **options})
    try:
        yield opened
    finally:
        opened.close()


def test_pattern_through_the_core(tiny: Board) -> None:
    with device(tiny) as opened:
        assert opened.memory.size == MEMORY
        driver = Driver(opened, TINY)
        loopback.loop_back(driver)
        assert not opened.failures


def test_nano_as_the_emulator_computes_it(tiny: Board) -> None:
    """Program, weights and pictures through the line, both tasks, every matrix product: not one bit differs."""
    program = compiler.compile(quantised(NANO), [(0, 0), (0, 1)], TINY, trace=True, save_tokens=True)
    pictures = images_of(NANO, 1)
    with device(tiny) as opened:
        driver = Driver(opened, TINY)
        driver.load(program)
        run = driver.run(program, pictures)
        assert not opened.failures
    check_equal(emulated(program, pictures), run)
    assert run.cycles > 0 and tiny.state()["violations"] == 0


@pytest.mark.parametrize("direction", ["to", "from"])
@pytest.mark.parametrize("kind", ["flip", "drop"])
def test_a_damaged_line(tiny: Board, direction: str, kind: str) -> None:
    """A byte is wrong or lost, in a header, in the data, in the midst of a run:
    frames are sent again until everything is right.
    """
    data = np.random.default_rng(1).integers(0, 256, 4096 + 77, np.uint8)
    with device(tiny, silence=3.0) as opened:
        driver = Driver(opened, TINY)
        faults = tiny.state()["faults"]
        for offset in (0, 5, 200):
            tiny.tell(f"{kind} {direction} {offset}")
            opened.memory.write(100, data)
            assert np.array_equal(opened.memory.read(100, data.size), data)
        tiny.tell(f"{kind} {direction} 3333")
        loopback.loop_back(driver)
        tiny.tell(f"heal {direction}")
        found = tiny.state()["faults"] - faults
        assert 3 <= found <= 4 and opened.failures, (found, opened.failures)


@pytest.mark.parametrize("direction", ["to", "from"])
def test_a_line_that_stays_damaged(tiny: Board, direction: str) -> None:
    """An error says what was tried and what to look at; afterwards the same board works again."""
    with device(tiny, silence=1.0) as opened:
        tiny.tell(f"flip {direction} 0 7")
        try:
            with pytest.raises(EdgemoeError) as told:
                opened.memory.write(0, bytes(4096))
            with pytest.raises(EdgemoeError, match="is the bitstream loaded"):
                opened._ask(Command.HELLO, unheard="is the bitstream loaded")
        finally:
            tiny.tell(f"heal {direction}")
    assert f"{tiny.port} could not be reached at 3000000 baud in 4 attempts (WRITE_MEMORY at 0x0: " in str(told.value)
    assert re.search(
        "a damaged request|no answer|a damaged answer came back", str(told.value)
    ) and "check the cable" in str(told.value)
    with device(tiny) as opened:
        loopback.loop_back(Driver(opened, TINY))


def test_writes_leave_their_neighbours_alone(tiny: Board) -> None:
    """Any address and length; the last byte of the memory; nothing beyond."""
    generator = np.random.default_rng(2)
    with device(tiny) as opened:
        memory = opened.memory
        expected = generator.integers(0, 256, 512, np.uint8)
        memory.write(MEMORY - 512, expected)
        for start, end in [(0, 1), (63, 65), (64, 128), (60, 200), (511, 512), (130, 130), (1, 511)]:
            part = generator.integers(0, 256, end - start, np.uint8)
            memory.write(MEMORY - 512 + start, part)
            expected[start:end] = part
            assert np.array_equal(memory.read(MEMORY - 512, 512), expected)
            assert np.array_equal(memory.read(MEMORY - 512 + start, end - start), part)
        for address, size in [(MEMORY - 1, 2), (-1, 1), (MEMORY, 1)]:
            with pytest.raises(EdgemoeError, match=f"outside the device memory 0x0 to {MEMORY:#x}"):
                memory.read(address, size)
            with pytest.raises(EdgemoeError, match="outside the device memory"):
                memory.write(address, bytes(size))


def test_registers(tiny: Board) -> None:
    with device(tiny) as opened:
        opened.write_register(registers.offset("PROGRAM_LO"), 0x12345640)
        assert opened.read_register(registers.offset("PROGRAM_LO")) == 0x12345640
        with pytest.raises(EdgemoeError, match="answered a register access at 0xffc with an error"):
            opened.read_register(0xFFC)
        opened.write_register(registers.offset("ISR"), 3)
        with pytest.raises(DeviceTimeout, match=r"did not finish within 0\.2 s"):
            opened.wait(seconds=0.2)
        with pytest.raises(
            EdgemoeError, match="was built for other sizes than hardware 'base': .*LANES is 4 instead of 16"
        ):
            Driver(opened, preset("base"))


def test_an_interrupted_run(tiny: Board) -> None:
    """Ctrl-C while an answer is on its way: the core is idle afterwards, the next run is whole.
    A core left busy is stopped by a reset.
    """
    with device(tiny) as opened:
        driver, asked, receive = Driver(opened, TINY), 0, opened._receive

        def interrupted(count: int) -> bytes:
            nonlocal asked
            asked += opened._running
            if asked == 4:
                asked = 1 << 30
                raise KeyboardInterrupt
            return receive(count)

        opened._receive = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            loopback.loop_back(driver)
        assert asked > 4 and not opened._running and opened.read_register(registers.offset("CTRL")) & 4
        loopback.loop_back(driver)
    with device(tiny) as opened:
        assert opened.stop() and opened.reset_command == f"edgemoe reset --device serial --port {tiny.port}"
    slower = SerialDevice.__new__(SerialDevice)
    with pytest.raises(EdgemoeError, match="cannot open"):
        slower.__init__("/nowhere", 115200)  # type: ignore[misc]
    assert slower.reset_command == "edgemoe reset --device serial --port /nowhere --baud 115200"


def test_one_process_drives_a_board(tiny: Board) -> None:
    with device(tiny), pytest.raises(EdgemoeError, match=f"serial port {tiny.port} is in use by another process"):
        SerialDevice(tiny.port)


def test_a_port_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgemoeError, match=r"cannot open serial port .*/ttyUSB7 \(there are: "):
        SerialDevice(str(tmp_path / "ttyUSB7"))


def test_nobody_answers() -> None:
    """A port without a board behind it."""
    master, kept = os.openpty()
    tty.setraw(kept)
    try:
        with pytest.raises(EdgemoeError, match=r"\(HELLO at 0x0: no answer for 0\.1 s\); is the bitstream loaded"):
            SerialDevice(os.ttyname(kept), silence=0.1, pause=0.05)
    finally:
        os.close(master)
        os.close(kept)


def test_a_board_that_is_unplugged() -> None:
    with board("tiny") as there, device(there) as opened:
        there.process.kill()
        there.process.wait()
        with pytest.raises(
            EdgemoeError, match=f"serial port {there.port} no longer works .*unplugged|could not be reached"
        ):
            opened.read_register(0)
        there.process.returncode = 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--device", "serial"], "--device serial needs --port"),
        (["--device", "emulator", "--port", "/dev/null"], "--port and --baud are for --device serial, not emulator"),
        (["--baud", "115200"], "--baud is for --port"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "street.png").write_bytes(images.png(scenes.scene(1).image.transpose(1, 2, 0)))
    command = [sys.executable, "-m", "edgemoe.host.cli", "infer", "street.png", "--hardware", "ulx3s", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr.splitlines()[-1]


@pytest.mark.full
def test_micro_by_the_command_line(tmp_path: Path) -> None:
    """The trained model on the ULX3S's hardware, as its user would start it; every value is the emulator's."""
    (tmp_path / "street.png").write_bytes(images.png(scenes.scene(7).image.transpose(1, 2, 0)))
    command = [
        sys.executable,
        "-m",
        "edgemoe.host.cli",
        "infer",
        "street.png",
        "--hardware",
        "ulx3s",
        "--weight-bits",
        "8",
        "--json",
    ]
    command += ["--task", "segmentation"]
    with board("ulx3s") as there:
        for where, options in (
            ("board", ["--device", "serial", "--port", there.port]),
            ("emulator", ["--device", "emulator"]),
        ):
            parts = [*command, *options, "--out", where, "--save-tokens", f"{where}.npy"]
            done = subprocess.run(parts, capture_output=True, text=True, check=False, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
            summary = json.loads(done.stdout)
            assert (summary["cycles"] > 0) == (where == "board")
        assert there.state()["violations"] == 0
    assert np.array_equal(np.load(tmp_path / "board.npy"), np.load(tmp_path / "emulator.npy"))
    for name in sorted(path.name for path in (tmp_path / "emulator").iterdir()):
        assert (tmp_path / "board" / name).read_bytes() == (tmp_path / "emulator" / name).read_bytes(), name
