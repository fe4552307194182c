# SPDX-License-Identifier: Apache-2.0
"""A Linux platform with the core in it, made of ordinary files: run as a process of its own, `python -m
tests.host.fake_platform ROOT ...`.

ROOT/sys/class/uio and ROOT/sys/class/u-dma-buf hold what the kernel would show; ROOT/dev/uio0 and
ROOT/dev/edgemoe-memory* are files that the driver maps. Behind them runs the simulated core. A pseudo-terminal
(ROOT/dev/uio0.events) is the other half of the UIO device: 4-byte writes enable the interrupt, 4-byte reads are events.
Memory is not coherent: the core sees only what `sync_for_device` was asked for.

How a file can stand for registers: this process looks for words that differ from what it last put there. ISR shows a
bit 31 that the core does not have, so that a write to it is always a difference. CTRL is written last by any driver, so
everything else is taken before it.
"""

from __future__ import annotations

import argparse
import mmap
import os
import pty
import select
import sys
import time
import tty
from pathlib import Path

import numpy as np
from edgemoe.hw.contract import registers
from edgemoe.sim.device import VerilatorDevice

CTRL, ISR = registers.offset("CTRL"), registers.offset("ISR")
WRITABLE = [
    r.offset for r in registers.REGISTERS if r.access is not registers.Access.READ_ONLY and r.offset not in (CTRL, ISR)
]
READ_ONLY = [r.offset for r in registers.REGISTERS if r.access is registers.Access.READ_ONLY]
START, IDLE, SOFT_RESET, MARK = 1, 1 << 2, 1 << 8, 1 << 31
SLICE = 20_000  # cycles


class Platform:
    """mute: events never come. no_interrupt: the UIO device has none. foreign: another core's identity.

    hang: a run never ends by itself. undrained: nor by a soft reset, for the memory no longer answers. ROOT/history: a
    line a start and a line a soft reset.
    """

    def __init__(
        self,
        root: Path,
        library: Path,
        bank_bytes: int,
        *,
        mute: bool = False,
        no_interrupt: bool = False,
        foreign: bool = False,
        hang: bool = False,
        undrained: bool = False,
    ) -> None:
        self.hang, self.undrained, self.history = hang or undrained, undrained, root / "history"
        self.device = VerilatorDevice(library, memory_size=bank_bytes * self._masters(library))
        self.root, self.mute, self.no_interrupt, self.foreign = root, mute, no_interrupt, foreign
        uio = root / "sys/class/uio/uio0"
        (uio / "maps/map0").mkdir(parents=True)
        (root / "dev").mkdir()
        (uio / "name").write_text("edgemoe\n")
        (uio / "maps/map0/size").write_text("0x0000000000001000\n")
        (uio / "maps/map0/addr").write_text("0x00000000a0000000\n")
        other = root / "sys/class/uio/uio1"
        other.mkdir()
        (other / "name").write_text("axi-pmon\n")
        self.words = self._mapped(root / "dev/uio0", 4096).view(np.uint32)
        self.files, self.logs, self.taken = [], [], []
        for i, address in enumerate(self.device.memory.bank_addresses):
            folder = root / f"sys/class/u-dma-buf/edgemoe-memory{i}"
            folder.mkdir(parents=True)
            (folder / "phys_addr").write_text(f"0x{address:016x}\n")
            (folder / "size").write_text(f"{bank_bytes}\n")
            for name in ("sync_for_cpu", "sync_for_device"):
                (folder / name).write_text("")
            self.files.append(self._mapped(root / f"dev/edgemoe-memory{i}", bank_bytes))
            self.logs.append(folder / "sync_for_device")
            self.taken.append(0)
        self.banks = [bank.reshape(-1) for bank in self.device.memory._banks]
        self.shown: dict[int, int] = {}
        self.enabled = self.running = False
        self.events = 0
        for offset in (CTRL, ISR, *WRITABLE, *READ_ONLY):
            self._show(offset)
        self.terminal: int | None = None
        if not no_interrupt:
            self.terminal, self._kept = pty.openpty()
            tty.setraw(self._kept)
            (root / "dev/uio0.events").symlink_to(os.ttyname(self._kept))

    @staticmethod
    def _masters(library: Path) -> int:
        probe = VerilatorDevice(library, memory_size=8192)
        masters = probe.masters
        probe.close()
        return masters

    @staticmethod
    def _mapped(path: Path, size: int) -> np.ndarray:
        with open(path, "w+b") as handle:
            handle.truncate(size)
            return np.frombuffer(mmap.mmap(handle.fileno(), size), np.uint8)

    def _show(self, offset: int) -> None:
        value = self.device.read_register(offset) | (MARK if offset == ISR else 0)
        if self.foreign and offset == registers.offset("MAGIC"):
            value = 0xFFFFFFFF
        self.shown[offset] = value
        self.words[offset >> 2] = value

    def _take(self) -> bool:
        """Carry out what the driver wrote; whether it wrote anything."""
        control = int(self.words[CTRL >> 2])
        written = False
        for offset in (*WRITABLE, ISR):
            value = int(self.words[offset >> 2])
            if value != self.shown[offset]:
                self.device.write_register(offset, value & ~(MARK if offset == ISR else 0) & 0xFFFFFFFF)
                written = True
                if offset == ISR:
                    self._show(ISR)
                else:
                    self.shown[offset] = value  # a register that can be written holds what was written
        if control != self.shown[CTRL]:
            if control & START:
                self._clean_caches()
                self.running = True
            self.device.write_register(CTRL, control)
            self._show(CTRL)
            if control & SOFT_RESET and not self.undrained:
                while not self.device.read_register(CTRL) & IDLE:
                    self.device.step(100)
                self.running = False
                self._show(CTRL)
            with self.history.open("a") as history:
                history.write("start\n" if control & START else "reset\n")
            written = True
        return written

    def _clean_caches(self) -> None:
        """The ranges that `sync_for_device` named since the last start become visible to the core."""
        for i, log in enumerate(self.logs):
            commands = log.read_text().split()
            for command in commands[self.taken[i] :]:
                value = int(command, 16)
                offset, size = value >> 32, value & 0xFFFFFFF0
                assert value & 0xF == 1 << 2 | 1, f"sync_for_device: {command}"
                self.banks[i][offset : offset + size] = self.files[i][offset : offset + size]
            self.taken[i] = len(commands)

    def serve(self) -> None:
        print("ready", flush=True)
        while True:
            busy = self._take()
            if self.running and not self.hang:
                self.device.run(SLICE)
                self._show(registers.offset("INSTRUCTION"))
                if self.device.interrupt:
                    self.running = False
                    for bank, file in zip(self.banks, self.files, strict=True):
                        file[:] = bank
                    for offset in (*READ_ONLY, ISR, CTRL):
                        self._show(offset)
            if self.terminal is not None:
                if select.select([self.terminal], [], [], 0)[0]:
                    assert set(os.read(self.terminal, 4096)[::4]) == {1}
                    self.enabled = True
                    continue  # what was written before comes first
                if self.enabled and self.device.interrupt and not self.running and not self.mute:
                    self.enabled = False
                    self.events += 1
                    os.write(self.terminal, self.events.to_bytes(4, "little"))
            if not busy and not self.running:
                if select.select([sys.stdin], [], [], 0)[0]:  # the test has ended
                    return
                time.sleep(0.0002)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("library", type=Path)
    parser.add_argument("bank_bytes", type=int)
    for flag in ("--mute", "--no-interrupt", "--foreign", "--hang", "--undrained"):
        parser.add_argument(flag, action="store_true")
    options = vars(parser.parse_args())
    Platform(**options).serve()


if __name__ == "__main__":
    main()
