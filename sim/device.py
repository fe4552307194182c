# SPDX-License-Identifier: Apache-2.0
"""The core's Verilog as a device of this process: a library of :func:`edgemoe.sim.build.build_library`, called through
ctypes.

Time passes only inside a call: a register access costs the cycles of its AXI4-Lite handshakes,
:meth:`VerilatorDevice.wait` runs until the
interrupt.  The memory is the harness's own, seen through NumPy without a copy.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from edgemoe.hw.contract.striped_memory import DeviceTimeout, StripedMemory
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import build

_FOREVER = 2**64 - 1
_REGISTER_LIMIT = 10_000  # cycles; a register file that has not answered by then never will

OKAY, SLVERR, DECERR = 0, 2, 3
MOST_MASTERS = 4  # as harness.cpp


class ProtocolError(RuntimeError):
    """The core broke a rule of AXI4: a fault of the hardware description, not of the user."""


@dataclass(frozen=True)
class Dram:
    """Behaviour of the DRAM model, the same for each master.

    ``latency``: cycles from the acceptance of a read's address to its first beat; ``write_latency``: from the last beat
    of a write to its response (default: as ``latency``).  ``stall_*``: fraction of cycles in which that channel holds
    back, at random from ``seed``.
    ``bandwidth``: beats a cycle, reads and writes together (0: one a cycle in each direction).
    """

    latency: int = 64
    write_latency: int | None = None
    outstanding: int = 16
    longest_burst: int = 256
    stall_ar: float = 0.0
    stall_r: float = 0.0
    stall_aw: float = 0.0
    stall_w: float = 0.0
    stall_b: float = 0.0
    bandwidth: float = 0.0
    seed: int = 1

    @classmethod
    def hostile(cls, seed: int = 1, *, stalls: float = 0.3, latency: int = 7) -> Dram:
        """Random stalls on every channel, for tests."""
        return cls(
            latency=latency, stall_ar=stalls, stall_r=stalls, stall_aw=stalls, stall_w=stalls, stall_b=stalls, seed=seed
        )


@dataclass(frozen=True)
class Counters:
    """What one master has done since the device was made.  See ``struct Counters`` in harness.cpp for each meaning."""

    cycles: int
    read_bursts: int
    write_bursts: int
    read_beats: int
    write_beats: int
    read_bytes: int
    write_bytes: int
    read_refused: int
    write_refused: int
    read_waiting: int
    stalled: int
    address_errors: int
    violations: int


class _Config(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint64),
        ("base", ctypes.c_uint64 * MOST_MASTERS),
        ("seed", ctypes.c_uint64),
        ("latency", ctypes.c_uint32),
        ("write_latency", ctypes.c_uint32),
        ("outstanding", ctypes.c_uint32),
        ("longest_burst", ctypes.c_uint32),
        *((f"stall_{channel}", ctypes.c_double) for channel in ("ar", "r", "aw", "w", "b")),
        ("bandwidth", ctypes.c_double),
    ]


class _Counters(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in Counters.__dataclass_fields__]


def _load(path: Path) -> ctypes.CDLL:
    library = build.load(path)
    handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    signatures: dict[str, tuple[object, list[object]]] = {
        "config_size": (u32, []),
        "counters_size": (u32, []),
        "masters": (u32, []),
        "beat_bytes": (u32, []),
        "create": (handle, [ctypes.POINTER(_Config)]),
        "destroy": (None, [handle]),
        "reset": (None, [handle, u64]),
        "run": (u64, [handle, u64]),
        "step": (u64, [handle, u64]),
        "interrupt": (ctypes.c_int, [handle]),
        "write": (ctypes.c_int, [handle, u32, u32, u64]),
        "read": (ctypes.c_int, [handle, u32, ctypes.POINTER(u32), u64]),
        "memory": (handle, [handle, u32]),
        "counters": (None, [handle, u32, ctypes.POINTER(_Counters)]),
        "outstanding": (u64, [handle, u32]),
        "messages": (ctypes.c_char_p, [handle, u32]),
        "fault_read": (None, [handle, u32, u64, ctypes.c_uint8]),
        "fault_write": (None, [handle, u32, u64, ctypes.c_uint8]),
        "silence": (None, [handle, u32, u64, u64]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"edgemoe_{name}")
        function.restype, function.argtypes = result, arguments
    sizes = (library.edgemoe_config_size(), library.edgemoe_counters_size())
    if sizes != (ctypes.sizeof(_Config), ctypes.sizeof(_Counters)):
        raise RuntimeError(f"{path} was built from another harness.cpp: structure sizes {sizes}")
    return library


class VerilatorDevice:
    """A simulated core with its DRAM (fulfils :class:`edgemoe.host.runtime.device.Device`).

    ``memory_size``: bytes, all banks together.  ``bank_addresses``: the first bus address of each master's region;
    deliberately not zero by default, so that a core which forgets to add its base register is found out.  ``strict``:
    raise :class:`ProtocolError` as soon as :meth:`wait`, :meth:`run` or :meth:`close` finds that the core broke a rule
    of the bus.
    """

    name = "verilator"
    memory: StripedMemory

    def __init__(
        self,
        library: Path,
        *,
        memory_size: int = 256 << 20,
        bank_addresses: tuple[int, ...] = (0x1_4000_0000, 0x2_8000_0000, 0x3_C000_0000, 0x5_0000_0000),
        dram: Dram | None = None,
        strict: bool = True,
        reset_cycles: int = 8,
    ):
        self._library = _load(library)
        self.dram = dram or Dram()
        self.strict = strict
        self.masters = int(self._library.edgemoe_masters())
        self.beat_bytes = int(self._library.edgemoe_beat_bytes())
        page = 4096
        if memory_size <= 0 or memory_size % (self.masters * page):
            raise ValueError(f"memory size {memory_size} is not a positive multiple of {self.masters * page}")
        bank_size = memory_size // self.masters
        bases = tuple(bank_addresses[: self.masters])
        latencies = (
            self.dram.latency,
            self.dram.write_latency if self.dram.write_latency is not None else self.dram.latency,
        )
        stalls = (self.dram.stall_ar, self.dram.stall_r, self.dram.stall_aw, self.dram.stall_w, self.dram.stall_b)
        all_bases = (ctypes.c_uint64 * MOST_MASTERS)(*bases)
        config = _Config(
            bank_size,
            all_bases,
            self.dram.seed,
            *latencies,
            self.dram.outstanding,
            self.dram.longest_burst,
            *stalls,
            self.dram.bandwidth,
        )
        self._handle = self._library.edgemoe_create(ctypes.byref(config))
        if not self._handle:
            raise EdgemoeError(f"not enough memory for a simulated device memory of {memory_size >> 20} MiB")
        banks = []
        for master in range(self.masters):
            pointer = self._library.edgemoe_memory(self._handle, master)
            banks.append(np.ctypeslib.as_array((ctypes.c_uint8 * bank_size).from_address(pointer)))
        self.memory = StripedMemory(banks, bases, granule=self.beat_bytes)
        self.reset(reset_cycles)

    def __enter__(self) -> VerilatorDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------ the device
    # contract

    def read_register(self, offset: int) -> int:
        """The register at a byte offset."""
        value = ctypes.c_uint32()
        response = self._library.edgemoe_read(self._open(), offset, ctypes.byref(value), _REGISTER_LIMIT)
        self._check_response("read", offset, response)
        return value.value

    def write_register(self, offset: int, value: int) -> None:
        """Set the register at a byte offset."""
        if not 0 <= value < 2**32:
            raise ValueError(f"register value {value:#x} does not fit 32 bits")
        self._check_response("write", offset, self._library.edgemoe_write(self._open(), offset, value, _REGISTER_LIMIT))

    def wait(
        self,
        *,
        seconds: float | None = None,
        cycles: int | None = None,
        progress: Callable[[VerilatorDevice], None] | None = None,
    ) -> None:
        """Run until the interrupt is high; DeviceTimeout after ``cycles`` simulated or ``seconds`` real."""
        begun = time.monotonic()
        first = self.cycles
        slice_cycles = 2_000
        while not self.interrupt:
            left = cycles - (self.cycles - first) if cycles is not None else slice_cycles
            if left <= 0:
                raise DeviceTimeout(f"the core did not finish within {cycles} cycles")
            if seconds is not None and time.monotonic() - begun > seconds:
                raise DeviceTimeout(
                    f"the core did not finish within {seconds:g} s ({self.cycles - first} cycles simulated)"
                )
            slice_begun = time.monotonic()
            self.run(min(left, slice_cycles))
            # About a tenth of a second a slice: smooth progress, no cost.
            took = max(time.monotonic() - slice_begun, 1e-6)
            slice_cycles = int(min(max(slice_cycles * min(0.1 / took, 4), 500), 10_000_000))
            if progress is not None:
                progress(self)

    def close(self) -> None:
        """Free the simulation; arrays of its memory must not be used afterwards."""
        if self._handle:
            try:
                self.check()
            finally:
                del self.memory  # its arrays point into what is freed now
                self._library.edgemoe_destroy(self._handle)
                self._handle = None

    # ------------------------------------------------------------------------------------------------ what only a
    # simulation can

    def reset(self, cycles: int = 8) -> None:
        """Hold ``aresetn`` low; the memory keeps its contents and forgets its bursts."""
        self._library.edgemoe_reset(self._open(), cycles)
        self.check()

    def run(self, cycles: int) -> int:
        """Run until the interrupt is high, at most ``cycles``; return the cycles run."""
        done = int(self._library.edgemoe_run(self._open(), cycles))
        self.check()
        return done

    def step(self, cycles: int) -> None:
        """Run that many cycles, interrupt or not."""
        self._library.edgemoe_step(self._open(), cycles)
        self.check()

    @property
    def interrupt(self) -> bool:
        """The interrupt pin."""
        return bool(self._library.edgemoe_interrupt(self._open()))

    @property
    def cycles(self) -> int:
        """Cycles simulated since the device was made, resets and register accesses included."""
        return self.counters()[0].cycles

    def counters(self) -> tuple[Counters, ...]:
        """Counters of each master."""
        result = []
        for master in range(self.masters):
            raw = _Counters()
            self._library.edgemoe_counters(self._open(), master, ctypes.byref(raw))
            result.append(Counters(*(int(getattr(raw, name)) for name in Counters.__dataclass_fields__)))
        return tuple(result)

    @property
    def outstanding(self) -> int:
        """Bursts accepted and not fully answered, all masters together."""
        return sum(int(self._library.edgemoe_outstanding(self._open(), master)) for master in range(self.masters))

    @property
    def messages(self) -> list[str]:
        """The first violations and address errors, in words."""
        lines: list[str] = []
        for master in range(self.masters):
            text = self._library.edgemoe_messages(self._open(), master).decode()
            lines += [f"master {master}, {line}" for line in text.splitlines()]
        return lines

    def check(self) -> None:
        """Raise :class:`ProtocolError` if a rule of the bus was broken and the device is strict."""
        if self.strict and any(counters.violations for counters in self.counters()):
            raise ProtocolError("the core broke a rule of AXI4:\n" + "\n".join(self.messages))

    def fail_read(self, beat: int = 0, *, response: int = SLVERR, master: int = 0) -> None:
        """Answer the ``beat``-th read beat from now with an error (OKAY: withdraw)."""
        self._library.edgemoe_fault_read(self._open(), master, beat, response)

    def fail_write(self, beat: int = 0, *, response: int = SLVERR, master: int = 0) -> None:
        """Answer the burst that holds the ``beat``-th write beat from now with an error (OKAY: withdraw)."""
        self._library.edgemoe_fault_write(self._open(), master, beat, response)

    def silence(self, *, read_beats: int | None = None, write_beats: int | None = None, master: int = 0) -> None:
        """Stop answering after that many more beats; None: (again) answer for ever."""
        limits = (_FOREVER if beats is None else beats for beats in (read_beats, write_beats))
        self._library.edgemoe_silence(self._open(), master, *limits)

    # ------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        if not self._handle:
            raise RuntimeError("the device is closed")
        return int(self._handle)

    @staticmethod
    def _check_response(what: str, offset: int, response: int) -> None:
        if response < 0:
            raise EdgemoeError(
                f"register {what} at {offset:#05x}: the core did not answer within {_REGISTER_LIMIT} cycles"
            )
        if response != OKAY:
            raise EdgemoeError(
                f"register {what} at {offset:#05x}: the core answered "
                f"{({2: 'SLVERR', 3: 'DECERR'}).get(response, response)}"
            )
