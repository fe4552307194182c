# SPDX-License-Identifier: Apache-2.0
"""The core in an FPGA beside this processor, through plain Linux (UIO and u-dma-buf) or through PYNQ.

Both transports are a :class:`edgemoe.host.runtime.device.Device`; the driver's checks of identity, version and sizes
follow when it opens one. `EDGEMOE_SYSROOT` names another root than `/` for `/dev`, `/sys` and `/run`: a stand-in
platform, on which this code runs unchanged.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from edgemoe.host.runtime.board_device import BoardDevice
from edgemoe.hw.contract import names, registers
from edgemoe.hw.contract.config import NAME
from edgemoe.hw.contract.striped_memory import StripedMemory
from edgemoe.models.errors import EdgemoeError
from numpy.typing import NDArray

# As PYNQ lists the core: packaged, whatever its name, or as a module.
MODULE_NAMES = (f"{names.VENDOR}:{names.LIBRARY}:", f"xilinx.com:module_ref:{NAME}_ip:")
PAGE = 4096
CACHE_LINE = 64
OVERLAY = "the device-tree overlay (README.md of edgemoe build)"
TO_DEVICE, FROM_DEVICE = 1, 2


class Bank(Protocol):
    """Memory of one master."""

    data: NDArray[np.uint8]
    address: int  #: on the master's bus

    def to_device(self, offset: int, size: int) -> None:
        """Make what the processor wrote visible to the core."""

    def from_device(self, offset: int, size: int) -> None:
        """Make what the core wrote visible to the processor."""

    def close(self) -> None: ...


class BoardMemory(StripedMemory):
    """The banks as one memory; the processor's cache is cleaned after a write and invalidated before a read."""

    def __init__(self, banks: Sequence[Bank], granule: int) -> None:
        size = min(bank.data.size for bank in banks) // PAGE * PAGE
        # With one bank too, addresses are offsets: a 40-bit bus address says nothing to the user.
        super().__init__(
            [bank.data[:size] for bank in banks], [bank.address for bank in banks], base=0, granule=granule
        )
        self._parts = banks

    def _ranges(self, address: int, size: int) -> Iterator[tuple[Bank, int, int]]:
        """The cache lines of each bank in which a linear range lies."""
        row = self._granule * len(self._parts)
        offset = address - self.base
        first, last = offset // row * self._granule, -(-(offset + size) // row) * self._granule
        first, last = first // CACHE_LINE * CACHE_LINE, -(-last // CACHE_LINE) * CACHE_LINE
        for bank in self._parts:
            yield bank, first, last - first

    def write(self, address: int, data: bytes | NDArray[np.generic]) -> None:
        size = data.nbytes if isinstance(data, np.ndarray) else len(data)
        self._check(address, size)
        if size:
            for bank, first, length in self._ranges(
                address, size
            ):  # the lines at either end are merged with what lies there
                bank.from_device(first, CACHE_LINE)
                bank.from_device(first + length - CACHE_LINE, CACHE_LINE)
        super().write(address, data)
        if size:
            for bank, first, length in self._ranges(address, size):
                bank.to_device(first, length)

    def read(self, address: int, size: int) -> NDArray[np.uint8]:
        self._check(address, size)
        if size:
            for bank, first, length in self._ranges(address, size):
                bank.from_device(first, length)
        return super().read(address, size)


def _bank_size(memory_size: int, masters: int) -> int:
    """Bytes of each bank, whole pages, for so many bytes in all."""
    return -(-memory_size // masters // PAGE) * PAGE


class _Core(BoardDevice):
    """What both transports share: memory in this processor's DRAM, kept as long as the core may write it."""

    name = "fpga"
    memory: BoardMemory
    _banks: Sequence[Bank] = ()

    def _release(self, stopped: bool) -> None:
        if hasattr(self, "memory"):
            del self.memory
        while self._banks:
            *self._banks, bank = self._banks
            if stopped:
                bank.close()
            else:
                _KEPT.append(bank)

    def _layout(self) -> tuple[int, int]:
        """(masters, bytes of a beat) as the core states them."""
        magic, masters, bits = (
            self.read_register(registers.offset(name)) for name in ("MAGIC", "MASTERS", "DATA_BITS")
        )
        if magic != registers.MAGIC:
            raise EdgemoeError(
                f"no edgemoe core answers: its identity reads {magic:#010x}, expected {registers.MAGIC:#010x}; is the "
                f"bitstream loaded?"
            )
        return masters, bits // 8


_KEPT: list[Bank] = []  # what a core that did not stop may still write: never given back by this process


# ---------------------------------------------------------------------------------------------------------- plain Linux


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY)
    except PermissionError as error:
        raise EdgemoeError(
            f"may not open {path}: run as root, or give your user the group of 99-edgemoe.rules (edgemoe build)"
        ) from error
    except OSError as error:
        raise EdgemoeError(f"cannot open {path}: {error.strerror}") from error


def _lock(handle: int, what: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise EdgemoeError(f"{what} is in use by another process") from error


def _number(path: Path) -> int:
    try:
        return int(path.read_text().strip(), 0)
    except (OSError, ValueError) as error:
        raise EdgemoeError(f"cannot read a number from {path}: {error}") from error


class UdmaBuf:
    """One u-dma-buf device: a physically contiguous, cached buffer. needed: bytes, or less makes no sense."""

    def __init__(self, root: Path, name: str, needed: int = PAGE) -> None:
        self.folder = root / "sys/class/u-dma-buf" / name
        if not self.folder.is_dir():
            raise EdgemoeError(f"no DMA buffer {self.folder}: load the module u-dma-buf and {OVERLAY}")
        self.address, size = _number(self.folder / "phys_addr"), _number(self.folder / "size")
        if self.address % registers.BASE_ALIGNMENT:
            raise EdgemoeError(
                f"DMA buffer {name} begins at {self.address:#x}, which is no multiple of {registers.BASE_ALIGNMENT}"
            )
        if size < needed:
            raise EdgemoeError(
                f"DMA buffer {name} is too small: it has {size} bytes, {needed} are needed; raise its size in {OVERLAY}"
            )
        self._handle = _open(root / "dev" / name, os.O_RDWR)
        try:
            _lock(self._handle, f"DMA buffer {name}")
            self._map = mmap.mmap(self._handle, size)
        except (OSError, ValueError) as error:
            os.close(self._handle)
            raise EdgemoeError(f"cannot map {size} bytes of {root / 'dev' / name}: {error}") from error
        except BaseException:
            os.close(self._handle)
            raise
        self.data = np.frombuffer(self._map, np.uint8)

    def _sync(self, what: str, offset: int, size: int, direction: int) -> None:
        # One write holds offset, size (a multiple of 16), direction and the command.
        command = f"0x{offset:08X}{size & 0xFFFFFFF0 | direction << 2 | 1:08X}\n"
        handle = _open(self.folder / what, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(handle, command.encode())
        except OSError as error:
            raise EdgemoeError(f"cannot write {self.folder / what}: {error.strerror}") from error
        finally:
            os.close(handle)

    def to_device(self, offset: int, size: int) -> None:
        self._sync("sync_for_device", offset, size, TO_DEVICE)

    def from_device(self, offset: int, size: int) -> None:
        self._sync("sync_for_cpu", offset, size, FROM_DEVICE)

    def close(self) -> None:
        # Its pages are given back with the last array that looks at them.
        del self.data
        os.close(self._handle)


def find_uio(root: Path, chosen: str | None = None) -> str:
    """The UIO device of the core, as `uio0`: the one named as the device tree's node;
    `chosen` (uio1, or /dev/uio1) where there are several.
    """
    present: dict[str, str] = {}
    for folder in sorted((root / "sys/class/uio").glob("uio*"), key=lambda folder: (len(folder.name), folder.name)):
        try:
            present[folder.name] = (folder / "name").read_text().strip()
        except OSError:
            continue
    found = [device for device, name in present.items() if name == names.UIO]
    if chosen is not None:
        wanted = Path(chosen).name
        if wanted not in found:
            is_what = f"is named {present[wanted]!r}" if wanted in present else "does not exist"
            raise EdgemoeError(
                f"UIO device {wanted} {is_what}; those named {names.UIO!r} are: {', '.join(found) or 'none'}"
            )
        return wanted
    if not found:
        others = f"found {', '.join(dict.fromkeys(present.values()))}" if present else "there is none at all"
        raise EdgemoeError(
            f"no UIO device named {names.UIO!r} in {root / 'sys/class/uio'} ({others}): load uio_pdrv_genirq and "
            f"{OVERLAY}"
        )
    if len(found) > 1:
        raise EdgemoeError(
            f"{len(found)} UIO devices are named {names.UIO!r}: {', '.join(found)}; choose one with --uio {found[0]}"
        )
    return found[0]


class UioDevice(_Core):
    """A core that plain Linux shows through UIO, its memory through u-dma-buf.

    root: where dev and sys are. memory_size: bytes that are needed in all, if that is known. uio: which one, as
    `find_uio` takes it. Closing gives everything back; a second process that opens the same core is refused until then.
    """

    def __init__(self, root: Path | None = None, *, memory_size: int | None = None, uio: str | None = None) -> None:
        root = Path(os.environ.get("EDGEMOE_SYSROOT") or "/") if root is None else root
        self._events: int | None = None
        self.reset_command = "edgemoe reset --device fpga" + (f" --uio {uio}" if uio else "")
        uio = find_uio(root, uio)
        path = root / "dev" / uio
        self._handle: int | None = _open(path, os.O_RDWR)
        try:
            _lock(self._handle, f"the accelerator {path}")
            attributes = root / "sys/class/uio" / uio / "maps/map0"
            size = _number(attributes / "size")
            if size < 1 << registers.ADDRESS_BITS:
                raise EdgemoeError(f"{path} maps {size} bytes of registers, {1 << registers.ADDRESS_BITS} are needed")
            try:
                self._map = mmap.mmap(self._handle, size)
            except (OSError, ValueError) as error:
                raise EdgemoeError(f"cannot map the registers {path}: {error}") from error
            self._words = np.frombuffer(self._map, np.uint32)
            # An ordinary file cannot be read for events as a UIO device can: a stand-in root has a second one for them.
            events = path.with_name(f"{uio}.events")
            self._events = _open(events, os.O_RDWR) if events.exists() else os.dup(self._handle)
            self._interrupts = root == Path("/") or events.exists()
            masters, granule = self._layout()
            for i in range(masters):
                self._banks = (*self._banks, UdmaBuf(root, f"{names.MEMORY}{i}", _bank_size(memory_size or 1, masters)))
            self.memory = BoardMemory(self._banks, granule)
        except BaseException:
            self._release(stopped=True)
            raise

    def read_register(self, offset: int) -> int:
        return int(self._words[offset >> 2])

    def _write(self, offset: int, value: int) -> None:
        self._words[offset >> 2] = value

    def _expect_event(self) -> None:
        if self._interrupts and self._events is not None:
            try:
                os.write(self._events, (1).to_bytes(4, "little"))
            except OSError as error:
                if error.errno not in (errno.EIO, errno.ENOSYS, errno.EINVAL):
                    raise EdgemoeError(f"cannot enable the accelerator's interrupt: {error.strerror}") from error
                self._interrupts = False  # the device tree names none

    def _event(self, seconds: float) -> None:
        if not self._interrupts or self._events is None:
            super()._event(seconds)
            return
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        if poll.poll(seconds * 1000):
            os.read(self._events, 4)
            # Linux masks the interrupt when it delivers an event. If this was one of an earlier run, ours is still to
            # come.
            if not self._interrupt():
                self._expect_event()

    def _release(self, stopped: bool) -> None:
        super()._release(stopped)
        if hasattr(self, "_words"):
            del self._words
            self._map.close()
        for handle in (self._events, self._handle):
            if handle is not None:
                os.close(handle)
        self._events = self._handle = None


# ----------------------------------------------------------------------------------------------------------------- PYNQ


class PynqBuffer:
    """Memory from PYNQ's allocator: a slice of its arrays cleans, or invalidates, the cache lines of just that
    slice.
    """

    def __init__(self, size: int) -> None:
        import pynq

        try:
            self._buffer = pynq.allocate(shape=(size,), dtype=np.uint8)
        except (RuntimeError, MemoryError) as error:
            raise EdgemoeError(
                f"PYNQ has no {size >> 20} MiB of contiguous memory: boot with a larger cma= in the kernel's command "
                f"line"
            ) from error
        self.data, self.address = np.asarray(self._buffer), int(self._buffer.device_address)

    def to_device(self, offset: int, size: int) -> None:
        self._buffer[offset : offset + size].flush()

    def from_device(self, offset: int, size: int) -> None:
        self._buffer[offset : offset + size].invalidate()

    def close(self) -> None:
        del self.data
        self._buffer.freebuffer()


class PynqDevice(_Core):
    """A core in an overlay that PYNQ has loaded. mmio: what reads and writes its registers (`pynq.MMIO`). It has no
    interrupt controller.

    bank_bytes: memory behind each master; memory_size: bytes that are needed in all, if that is known; bitstream: where
    the core came from, for messages.
    """

    def __init__(
        self,
        mmio: Any,
        *,
        memory_size: int | None = None,
        bank_bytes: int = 64 << 20,
        bitstream: str | Path = "edgemoe.bit",
    ) -> None:
        self._mmio = mmio
        self.reset_command = f"edgemoe reset --device fpga --bitstream {bitstream}"
        folder = Path(os.environ.get("EDGEMOE_SYSROOT") or "/") / "run/lock"
        self._handle: int | None = _open(folder / "edgemoe-pynq.lock", os.O_RDWR | os.O_CREAT)
        try:
            _lock(self._handle, "the accelerator")
            masters, granule = self._layout()
            size = bank_bytes if memory_size is None else _bank_size(memory_size, masters)
            for _ in range(masters):
                self._banks = (*self._banks, PynqBuffer(size))
            self.memory = BoardMemory(self._banks, granule)
        except BaseException:
            self._release(stopped=True)
            raise

    def read_register(self, offset: int) -> int:
        return int(self._mmio.read(offset))

    def _write(self, offset: int, value: int) -> None:
        self._mmio.write(offset, value)

    def _release(self, stopped: bool) -> None:
        super()._release(stopped)  # the overlay stays loaded
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def open_pynq(bitstream: Path, memory_size: int, *, load: bool = True) -> PynqDevice:
    """Load a bitstream (its .hwh beside it), unless it is loaded already, and open the core in it."""
    for path in (bitstream, bitstream.with_suffix(".hwh")):
        if not path.is_file():
            raise EdgemoeError(f"no such file {path}: PYNQ needs the bitstream and, beside it, its .hwh")
    try:
        import pynq
    except ImportError as error:
        raise EdgemoeError(
            f"--bitstream needs PYNQ, which is not installed here ({error}); load the bitstream otherwise and leave it "
            f"out"
        ) from error
    overlay = pynq.Overlay(str(bitstream)) if load else pynq.Overlay(str(bitstream), download=False)
    for facts in overlay.ip_dict.values():
        if str(facts.get("type", "")).startswith(MODULE_NAMES):
            mmio = pynq.MMIO(facts["phys_addr"], facts["addr_range"])
            return PynqDevice(mmio, memory_size=memory_size, bitstream=bitstream)
    raise EdgemoeError(f"there is no edgemoe core in {bitstream}: it holds {', '.join(overlay.ip_dict) or 'nothing'}")
