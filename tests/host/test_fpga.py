# SPDX-License-Identifier: Apache-2.0
"""The `fpga` device on a stand-in platform: the code that a board runs, against files behind which the simulated core
runs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from edgemoe.host import inference
from edgemoe.host.inference import infer, open_device
from edgemoe.host.runtime import board_device, fpga, loopback
from edgemoe.host.runtime.driver import Driver
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.striped_memory import DeviceTimeout
from edgemoe.models import checkpoint, scenes
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import simulator
from edgemoe.sim.device import VerilatorDevice

ROOT = Path(__file__).resolve().parents[2]
TINY = preset("tiny")
STRIPED = replace(TINY, name="striped", masters=2, data_bits=64)
BANK = 1 << 16


@contextmanager
def platform(root: Path, hardware: HardwareConfig, bank_bytes: int = BANK, *flags: str) -> Iterator[Path]:
    """The platform in a process of its own; ends with the block."""
    command = [sys.executable, "-m", "tests.host.fake_platform", root, simulator.library(hardware), bank_bytes, *flags]
    with subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield root
            assert process.poll() is None, "the platform has died"
        finally:
            process.kill()


@contextmanager
def device(root: Path) -> Iterator[fpga.UioDevice]:
    opened = fpga.UioDevice(root)
    opened.timeout = 60
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("hardware", [TINY, STRIPED], ids=lambda h: h.name)
@pytest.mark.parametrize("flags", [(), ("--mute",), ("--no-interrupt",)], ids=lambda f: f[0][2:] if f else "interrupt")
def test_pattern_through_the_core(tmp_path: Path, hardware: HardwareConfig, flags: tuple[str, ...]) -> None:
    """By interrupt, by looking where the interrupt never comes, and where there is none;
    with one memory bank and with two.
    """
    with platform(tmp_path, hardware, BANK, *flags) as root, device(root) as opened:
        driver = Driver(opened, hardware)
        for seed in range(4):
            loopback.loop_back(driver, seed)
        assert opened._interrupts == (flags != ("--no-interrupt",))
        for i in range(hardware.masters):
            log = (root / f"sys/class/u-dma-buf/edgemoe-memory{i}/sync_for_cpu").read_text().split()
            assert log and all(
                re.fullmatch(r"0x[0-9A-F]{16}", line) and int(line, 16) & 15 == 2 << 2 | 1 for line in log
            )


def test_a_cache_that_is_not_cleaned_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with platform(tmp_path, TINY) as root, device(root) as opened:
        driver = Driver(opened, TINY)
        loopback.loop_back(driver)
        sync = fpga.UdmaBuf._sync
        monkeypatch.setattr(
            fpga.UdmaBuf,
            "_sync",
            lambda self, what, offset, size, way: offset < 4096 and sync(self, what, offset, size, way),
        )
        with pytest.raises(EdgemoeError, match="a pattern came back from its memory with .* wrong"):
            loopback.loop_back(driver, seed=1)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def command(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command of edgemoe in a process of its own, on the platform at `root`."""
    environment = {**os.environ, "EDGEMOE_SYSROOT": str(root), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "edgemoe.host.cli", *arguments]
    return subprocess.Popen(words, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def control(root: Path) -> int:
    return int(np.fromfile(root / "dev/uio0", np.uint32, 1)[0])


INFER = ("infer", "street.npy", "--hardware", "base", "--device", "fpga")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_ended_from_outside_stops_the_core(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, kill, a connection that breaks: the core is idle before its memory is anybody else's.
    kill -9 leaves it busy: `reset`.
    """
    with platform(tmp_path, preset("base"), 8 << 20, "--hang") as root:
        np.save(root / "street.npy", scenes.scene(3).image.transpose(1, 2, 0))
        with command(root, *INFER) as process:
            until(lambda: (root / "history").exists())
            assert control(root) & 4 == 0
            process.send_signal(number)
            stderr = process.communicate()[1]
        assert process.returncode == (130 if number == signal.SIGINT else 128 + number), stderr
        assert (
            (root / "history").read_text().split() == ["start", "reset"]
            and control(root) == 4
            and "Traceback" not in stderr
        )

        with command(root, *INFER) as process:
            until(lambda: (root / "history").read_text().split()[2:] == ["start"])
            process.kill()
        with command(root, *INFER) as process:
            stderr = process.communicate()[1]
        assert (
            process.returncode == 2
            and "is busy: an earlier process left it running; stop it: edgemoe reset --device fpga\n" in stderr
        )
        with command(root, "reset", "--device", "fpga") as process:
            stdout, stderr = process.communicate()
        assert (process.returncode, stdout, stderr) == (0, "fpga: the core is idle\n", "") and control(root) == 4


def test_a_core_that_does_not_drain_keeps_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board_device, "DRAIN", 0.2)
    monkeypatch.setattr(inference, "DRAIN", 0.2)
    with platform(tmp_path, STRIPED, BANK, "--undrained") as root:
        opened = fpga.UioDevice(root)
        opened.timeout = 0.1
        kept = len(fpga._KEPT)
        with pytest.raises(DeviceTimeout):
            loopback.loop_back(Driver(opened, STRIPED))
        assert (root / "history").read_text().split() == ["start", "reset"]
        opened.close()
        told = capsys.readouterr().err
        assert len(fpga._KEPT) == kept + 2 and fpga._KEPT[-1].data.size == BANK
        assert (
            len(told.splitlines()) == 1
            and "the memory that it may still write is kept" in told
            and "edgemoe reset --device fpga" in told
        )
        while len(fpga._KEPT) > kept:
            fpga._KEPT.pop().close()
        monkeypatch.setenv("EDGEMOE_SYSROOT", str(root))
        with pytest.raises(EdgemoeError, match="did not come to rest within .* load the bitstream again"):
            inference.reset("fpga")


def test_two_cores_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with platform(tmp_path, TINY) as root:
        monkeypatch.setenv("EDGEMOE_SYSROOT", str(root))
        for number in (1, 10):
            (root / f"sys/class/uio/uio{number}").mkdir(exist_ok=True)
            (root / f"sys/class/uio/uio{number}/name").write_text("edgemoe\n")
        with pytest.raises(
            EdgemoeError, match="3 UIO devices are named 'edgemoe': uio0, uio1, uio10; choose one with --uio uio0"
        ):
            fpga.UioDevice(root)
        for name in ("uio0", "/dev/uio0"):
            opened = open_device("fpga", TINY, 1, uio=name)
            assert (
                isinstance(opened, fpga.UioDevice)
                and opened.reset_command == f"edgemoe reset --device fpga --uio {name}"
            )
            opened.close()
        (root / "sys/class/uio/uio1/name").write_text("axi-pmon\n")
        with pytest.raises(
            EdgemoeError, match="UIO device uio1 is named 'axi-pmon'; those named 'edgemoe' are: uio0, uio10"
        ):
            fpga.UioDevice(root, uio="uio1")
        with pytest.raises(EdgemoeError, match="UIO device uio7 does not exist"):
            fpga.UioDevice(root, uio="uio7")
        with pytest.raises(EdgemoeError, match="not both"):
            open_device("fpga", TINY, 1, uio="uio0", bitstream=tmp_path)
        with pytest.raises(EdgemoeError, match="--uio is for --device fpga, not emulator"):
            open_device("emulator", TINY, 1, uio="uio0")


def test_one_process_has_a_buffer(tmp_path: Path) -> None:
    """Two cores with one buffer would overwrite each other's data."""
    with (
        platform(tmp_path, TINY) as root,
        device(root),
        pytest.raises(EdgemoeError, match="DMA buffer edgemoe-memory0 is in use by another"),
    ):
        fpga.UdmaBuf(root, "edgemoe-memory0")


@pytest.mark.parametrize("name", ["emulator", "verilator"])
def test_there_is_nothing_to_reset_in_a_simulation(name: str) -> None:
    with pytest.raises(
        EdgemoeError, match=f"reset is for --device fpga and serial: {name} runs inside its own process"
    ):
        inference.reset(name)


def test_one_process_drives_a_core(tmp_path: Path) -> None:
    with platform(tmp_path, TINY) as root:
        with device(root), pytest.raises(EdgemoeError, match="dev/uio0 is in use by another process"):
            fpga.UioDevice(root)
        with device(root):
            pass


def test_a_run_that_does_not_end_times_out(tmp_path: Path) -> None:
    with platform(tmp_path, TINY) as root, device(root) as opened:
        with pytest.raises(DeviceTimeout, match=r"did not finish within 0\.2 s"):
            opened.wait(seconds=0.2)
        seen: list[Any] = []
        with pytest.raises(DeviceTimeout):
            opened.wait(seconds=0.35, progress=seen.append)
        assert seen and seen[0] is opened


def test_another_core_and_other_sizes_are_refused(tmp_path: Path) -> None:
    with (
        platform(tmp_path / "a", TINY, BANK, "--foreign") as root,
        pytest.raises(EdgemoeError, match="no edgemoe core answers.*0xffffffff"),
    ):
        fpga.UioDevice(root)
    with (
        platform(tmp_path / "b", TINY) as root,
        device(root) as opened,
        pytest.raises(EdgemoeError, match="LANES is 4 instead of 16"),
    ):
        Driver(opened, preset("base"))


def test_missing_things_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgemoeError, match="no UIO device named 'edgemoe'.*there is none at all"):
        fpga.UioDevice(tmp_path / "empty")
    with platform(tmp_path / "a", TINY) as root:
        buffer = root / "sys/class/u-dma-buf/edgemoe-memory0"
        buffer.rename(root / "away")
        with pytest.raises(EdgemoeError, match="no DMA buffer .*edgemoe-memory0: load the module u-dma-buf"):
            fpga.UioDevice(root)
        (root / "away").rename(buffer)
        (root / "sys/class/uio/uio0/name").write_text("other\n")
        with pytest.raises(EdgemoeError, match="found other, axi-pmon"):
            fpga.UioDevice(root)
        (root / "sys/class/uio/uio0/name").write_text("edgemoe\n")
        (root / "sys/class/uio/uio0/maps/map0/size").write_text("256\n")
        with pytest.raises(EdgemoeError, match="maps 256 bytes of registers"):
            fpga.UioDevice(root)

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    (tmp_path / "sys/class/uio/uio0").mkdir(parents=True)
    (tmp_path / "sys/class/uio/uio0/name").write_text("edgemoe\n")
    with pytest.raises(EdgemoeError, match="may not open .*dev/uio0: run as root"):
        fpga.UioDevice(tmp_path)


def test_memory_too_small_for_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = preset("base")
    with platform(tmp_path, hardware, 1 << 18) as root:
        monkeypatch.setenv("EDGEMOE_SYSROOT", str(root))
        with pytest.raises(
            EdgemoeError, match=r"DMA buffer edgemoe-memory0 is too small: it has 262144 bytes, \d{7} are needed; raise"
        ):
            infer(checkpoint.load("m3vit-micro"), [scenes.scene(1).image], tasks=[0], device="fpga", hardware=hardware)


def test_micro_as_the_emulator_computes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trained model, both tasks, through files, interrupts and caches: not one bit differs."""
    hardware, model = preset("base"), checkpoint.load("m3vit-micro")
    image = scenes.scene(7).image
    with platform(tmp_path, hardware, 8 << 20) as root:
        monkeypatch.setenv("EDGEMOE_SYSROOT", str(root))
        found = infer(model, [image], device="fpga", hardware=hardware, save_tokens=True, trace=True)
    expected = infer(model, [image], device="emulator", hardware=hardware, save_tokens=True, trace=True)
    mismatches = 0
    for ours, theirs in zip(found.runs, expected.runs, strict=True):
        assert ours.cycles > 0
        for a, b in zip(
            (*ours.traces, *ours.heads, *ours.tokens), (*theirs.traces, *theirs.heads, *theirs.tokens), strict=True
        ):
            mismatches += not np.array_equal(a, b)  # type: ignore[arg-type]
    assert mismatches == 0


def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    """`edgemoe infer --device fpga`, as it is typed on a board."""
    np.save(tmp_path / "street.npy", scenes.scene(3).image.transpose(1, 2, 0))
    command = [
        sys.executable,
        "-m",
        "edgemoe.host.cli",
        "infer",
        "street.npy",
        "--task",
        "depth",
        "--device",
        "fpga",
        "--json",
    ]
    with platform(tmp_path / "root", preset("base"), 8 << 20) as root:
        environment = {**os.environ, "EDGEMOE_SYSROOT": str(root), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        wrong = subprocess.run(
            [*command, "--hardware", "zcu102"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["device"] == "fpga" and summary["cycles"] > 0 and (tmp_path / "out" / "street-depth.npy").exists()
    assert wrong.returncode == 2 and "was built for other sizes than hardware 'zcu102'" in wrong.stderr


# ----------------------------------------------------------------------------------------------------------------- PYNQ


class Buffer(np.ndarray):
    """As pynq.allocate returns it: the core sees it only after flush().
    A slice knows where it lies, and flushes itself only.
    """

    device_address: int
    bank: np.ndarray
    start: int
    ranges: list[tuple[str, int, int]]  # what was flushed or invalidated: (how, first byte, bytes)

    def __array_finalize__(self, whole: Any) -> None:
        if isinstance(whole, Buffer) and hasattr(whole, "ranges"):
            self.start = whole.start + self.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            self.bank, self.ranges, self.device_address = whole.bank, whole.ranges, whole.device_address

    def flush(self) -> None:
        self.ranges.append(("flush", self.start, self.size))
        self.bank[self.start : self.start + self.size] = self

    def invalidate(self) -> None:
        self.ranges.append(("invalidate", self.start, self.size))
        self[:] = self.bank[self.start : self.start + self.size]

    def freebuffer(self) -> None: ...


@pytest.fixture
def pynq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[HardwareConfig], None]]:
    """PYNQ as far as we use it, with the simulated core in the overlay."""
    opened: list[VerilatorDevice] = []

    def install(hardware: HardwareConfig, kind: str = "edgemoe:accelerator:edgemoe_ip:1.0") -> None:
        device = VerilatorDevice(simulator.library(hardware), memory_size=BANK * hardware.masters)
        opened.append(device)
        banks = list(zip(device.memory._banks, device.memory.bank_addresses, strict=True))

        class Mmio:
            def __init__(self, address: int, size: int) -> None:
                assert (address, size) == (0xA0000000, 4096)

            def read(self, offset: int) -> int:
                device.run(2000)  # time passes while we look
                return device.read_register(offset)

            write = staticmethod(device.write_register)

        class Overlay:
            def __init__(self, path: str, download: bool = True) -> None:
                assert path.endswith(".bit")
                loads.append(download)
                self.ip_dict = {"core": {"type": kind, "phys_addr": 0xA0000000, "addr_range": 4096}}

        def allocate(shape: tuple[int, ...], dtype: Any) -> Buffer:
            if not banks or shape[0] > BANK:
                raise RuntimeError("Failed to allocate Memory!")
            bank, address = banks.pop(0)
            buffer = np.zeros(shape, dtype).view(Buffer)
            buffer.bank, buffer.device_address, buffer.start, buffer.ranges = bank.reshape(-1), address, 0, []
            return buffer

        module = ModuleType("pynq")
        module.loads = loads = []  # type: ignore[attr-defined]
        module.MMIO, module.Overlay, module.allocate = Mmio, Overlay, allocate  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pynq", module)

    (tmp_path / "run/lock").mkdir(parents=True)
    monkeypatch.setenv("EDGEMOE_SYSROOT", str(tmp_path))
    (tmp_path / "x.bit").write_text("")
    (tmp_path / "x.hwh").write_text("")
    yield install
    for device in opened:
        device.close()


@pytest.mark.parametrize("hardware", [TINY, STRIPED], ids=lambda h: h.name)
def test_pynq(pynq: Callable[..., None], tmp_path: Path, hardware: HardwareConfig) -> None:
    pynq(hardware)
    opened = open_device("fpga", hardware, 40_000, bitstream=tmp_path / "x.bit")  # loops a pattern back
    assert isinstance(opened, fpga.PynqDevice) and opened.memory.size >= 40_000
    with pytest.raises(EdgemoeError, match="in use by another process"):
        fpga.PynqDevice(opened._mmio)
    loopback.loop_back(Driver(opened, hardware), 5)
    opened.close()


def test_pynq_cleans_and_invalidates_what_is_touched(pynq: Callable[..., None], tmp_path: Path) -> None:
    """A write cleans its cache lines and merges with what the core left at their ends; a read invalidates its own;
    nothing else moves.
    """
    pynq(STRIPED)
    opened = open_device("fpga", STRIPED, 2 * BANK, bitstream=tmp_path / "x.bit")
    assert isinstance(opened, fpga.PynqDevice)
    line, masters = fpga.CACHE_LINE, STRIPED.masters
    for address, size in [(0, 1), (4096 * masters, 300), (12345, 777), (masters * BANK - 5, 5)]:
        ranges = [bank._buffer.ranges for bank in opened._banks]  # type: ignore[attr-defined]
        for found in ranges:
            found.clear()
        opened.memory.write(address, bytes(range(5)) * (size // 5) + bytes(size % 5))
        assert all([how for how, _, _ in found] == ["invalidate", "invalidate", "flush"] for found in ranges)
        opened.memory.read(address, size)
        first, last = address // masters, -(-(address + size) // masters)
        for found in ranges:
            assert [how for how, _, _ in found[3:]] == ["invalidate"]
            for _, start, length in found:
                assert start % line == 0 == length % line and length > 0
                assert first - line - 8 < start and start + length < last + line + 8, "more than what was touched"
    opened.close()


def test_pynq_reset_leaves_the_loaded_bitstream(pynq: Callable[..., None], tmp_path: Path) -> None:
    pynq(TINY)
    inference.reset("fpga", bitstream=tmp_path / "x.bit")
    assert sys.modules["pynq"].loads == [False]


def test_pynq_mistakes(pynq: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgemoeError, match=r"no such file .*y\.bit"):
        open_device("fpga", TINY, 1, bitstream=tmp_path / "y.bit")
    with pytest.raises(EdgemoeError, match="which is not installed here"):
        monkeypatch.setitem(sys.modules, "pynq", None)
        open_device("fpga", TINY, 1, bitstream=tmp_path / "x.bit")
    pynq(TINY, "xilinx.com:ip:axi_gpio:2.0")
    with pytest.raises(EdgemoeError, match="there is no edgemoe core in .*: it holds core"):
        open_device("fpga", TINY, 1, bitstream=tmp_path / "x.bit")
    pynq(TINY)
    with pytest.raises(EdgemoeError, match="PYNQ has no 1 MiB of contiguous memory"):
        open_device("fpga", TINY, 1 << 20, bitstream=tmp_path / "x.bit")
    with pytest.raises(EdgemoeError, match="--bitstream is for --device fpga"):
        infer(
            checkpoint.load("m3vit-micro"),
            [scenes.scene(1).image],
            device="emulator",
            hardware=preset("base"),
            bitstream=tmp_path,
        )
