# SPDX-License-Identifier: Apache-2.0
"""The `fpga` device on a stand-in platform: the code that a board runs, against files behind which the simulated core runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from edgemoe.host import fpga, loopback
from edgemoe.host.driver import Driver
from edgemoe.host.inference import infer
from edgemoe.hw.config import HardwareConfig, preset
from edgemoe.models import checkpoint, scenes
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import simulator
from edgemoe.sim.device import VerilatorDevice
from edgemoe.sim.memory import DeviceTimeout

ROOT = Path(__file__).resolve().parents[2]
TINY = preset("tiny")
STRIPED = replace(TINY, name="striped", masters=2, data_bits=64)
BANK = 1 << 16


@contextmanager
def platform(root: Path, hardware: HardwareConfig, bank_bytes: int = BANK, *flags: str) -> Iterator[Path]:
    """The platform in a process of its own; ends with the block."""
    command = [sys.executable, "-m", "tests.host.fake_platform", root, simulator.library(hardware), bank_bytes, *flags]
    with subprocess.Popen(list(map(str, command)), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
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
    """By interrupt, by looking where the interrupt never comes, and where there is none; with one memory bank and with two."""
    with platform(tmp_path, hardware, BANK, *flags) as root, device(root) as opened:
        driver = Driver(opened, hardware)
        for seed in range(4):
            loopback.loop_back(driver, seed)
        assert opened._interrupts == (flags != ("--no-interrupt",))
        for i in range(hardware.masters):
            log = (root / f"sys/class/u-dma-buf/edgemoe-memory{i}/sync_for_cpu").read_text().split()
            assert log and all(re.fullmatch(r"0x[0-9A-F]{16}", line) and int(line, 16) & 15 == 2 << 2 | 1 for line in log)


def test_a_cache_that_is_not_cleaned_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with platform(tmp_path, TINY) as root, device(root) as opened:
        driver = Driver(opened, TINY)
        loopback.loop_back(driver)
        sync = fpga.UdmaBuf._sync
        monkeypatch.setattr(
            fpga.UdmaBuf, "_sync", lambda self, what, offset, size, way: offset < 4096 and sync(self, what, offset, size, way)
        )
        with pytest.raises(EdgemoeError, match="a pattern came back from its memory with .* wrong"):
            loopback.loop_back(driver, seed=1)


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
    with platform(tmp_path / "b", TINY) as root, device(root) as opened, pytest.raises(EdgemoeError, match="LANES is 4 instead of 16"):
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
        with pytest.raises(EdgemoeError, match=r"the program needs \d+ bytes of device memory, 262144 are there"):
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
        for a, b in zip((*ours.traces, *ours.heads, *ours.tokens), (*theirs.traces, *theirs.heads, *theirs.tokens), strict=True):
            mismatches += not np.array_equal(a, b)  # type: ignore[arg-type]
    assert mismatches == 0


def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    """`edgemoe infer --device fpga`, as it is typed on a board."""
    np.save(tmp_path / "street.npy", scenes.scene(3).image.transpose(1, 2, 0))
    command = [sys.executable, "-m", "edgemoe.host.cli", "infer", "street.npy", "--task", "depth", "--device", "fpga", "--json"]
    with platform(tmp_path / "root", preset("base"), 8 << 20) as root:
        environment = {**os.environ, "EDGEMOE_SYSROOT": str(root), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        wrong = subprocess.run(
            [*command, "--hardware", "zcu102"], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
        )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["device"] == "fpga" and summary["cycles"] > 0 and (tmp_path / "out" / "street-depth.npy").exists()
    assert wrong.returncode == 2 and "was built for other sizes than hardware 'zcu102'" in wrong.stderr


# ----------------------------------------------------------------------------------------------------------------- PYNQ


class Buffer(np.ndarray):
    """As pynq.allocate returns it: the core sees it only after flush()."""

    device_address: int
    bank: np.ndarray

    def flush(self) -> None:
        self.bank[: self.size] = self

    def invalidate(self) -> None:
        self[:] = self.bank[: self.size]

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
            def __init__(self, path: str) -> None:
                assert path.endswith(".bit")
                self.ip_dict = {"core": {"type": kind, "phys_addr": 0xA0000000, "addr_range": 4096}}

        def allocate(shape: tuple[int, ...], dtype: Any) -> Buffer:
            if not banks or shape[0] > BANK:
                raise RuntimeError("Failed to allocate Memory!")
            bank, address = banks.pop(0)
            buffer = np.zeros(shape, dtype).view(Buffer)
            buffer.bank, buffer.device_address = bank.reshape(-1), address
            return buffer

        module = ModuleType("pynq")
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
    opened = fpga.open_fpga(hardware, 40_000, tmp_path / "x.bit")  # loops a pattern back
    assert isinstance(opened, fpga.PynqDevice) and opened.memory.size >= 40_000
    with pytest.raises(EdgemoeError, match="in use by another process"):
        fpga.PynqDevice(opened._mmio)
    loopback.loop_back(Driver(opened, hardware), 5)
    opened.close()


def test_pynq_mistakes(pynq: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgemoeError, match=r"no such file .*y\.bit"):
        fpga.open_fpga(TINY, 1, tmp_path / "y.bit")
    with pytest.raises(EdgemoeError, match="which is not installed here"):
        monkeypatch.setitem(sys.modules, "pynq", None)
        fpga.open_fpga(TINY, 1, tmp_path / "x.bit")
    pynq(TINY, "xilinx.com:ip:axi_gpio:2.0")
    with pytest.raises(EdgemoeError, match="there is no edgemoe core in .*: it holds core"):
        fpga.open_fpga(TINY, 1, tmp_path / "x.bit")
    pynq(TINY)
    with pytest.raises(EdgemoeError, match="PYNQ has no 1 MiB of contiguous memory"):
        fpga.open_fpga(TINY, 1 << 20, tmp_path / "x.bit")
    with pytest.raises(EdgemoeError, match="--bitstream is for --device fpga"):
        infer(checkpoint.load("m3vit-micro"), [scenes.scene(1).image], device="emulator", hardware=preset("base"), bitstream=tmp_path)
