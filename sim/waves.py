# SPDX-License-Identifier: Apache-2.0
"""Waveforms of the whole core: an FST file of every signal, and files by which GTKWave and Surfer open it at the right
places.

A cycle of the core is 10 ns of the file.  Names that Yosys and Amaranth made up are left out.  A file can be held to a
window of instructions: it then has the cycles in which the instruction at the sequencer is one of them, and those in
which they may still be under way behind it (the sequencer issues ahead of the array).
"""

from __future__ import annotations

import ctypes
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgemoe.hw.contract.config import NAME, HardwareConfig
from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.files import whole, write_whole
from edgemoe.sim import build, modules, simulator
from edgemoe.sim.device import Dram, VerilatorDevice
from edgemoe.sim.recording import LAST, Recording

#: The number of the instruction at the sequencer: its module, its name there, its path in the core.
_INSTRUCTION = (f"{NAME}.top.control", "instruction", f"{NAME}__DOT__top__DOT__control__DOT__instruction")
# What Yosys and Amaranth made up: temporaries, and ports that a signal gets on its way through a module.
_MADE_UP = re.compile(r"\\(?=(?:port)?\$)")

_MASTER = "arvalid arready araddr rvalid rready rdata awvalid awaddr wvalid wdata bvalid".split()
#: Groups of signals in a viewer, by paths below the core; what a configuration lacks is left out.
VIEW = {
    "run": ["interrupt", "top.control.instruction", "top.registers.run__running", "top.sequencer.jobs__valid"],
    "registers": [f"s_axil_{name}" for name in ("awvalid", "awaddr", "wvalid", "wdata", "arvalid", "araddr", "rdata")],
    "memory": [
        f"{master}_{name}"
        for master in ("m_axi", "m_axi0", "m_axi1")
        for name in (
            "arvalid",
            "arready",
            "araddr",
            "rvalid",
            "rready",
            "rdata",
            "awvalid",
            "awaddr",
            "wvalid",
            "bvalid",
        )
    ],
    "weights": ["top.weights.rows__valid", "top.weights.rows__level", "top.engine.loader.waits_for_weights"],
    "streamer": [
        *("top.engine.streamer.issue", "top.engine.streamer.retired", "top.engine.streamer.completed"),
        *(f"top.engine.streamer.events__waits_for_{what}" for what in ("weights", "operands", "results")),
    ],
    "array": [
        *("top.engine.array.load__valid", "top.engine.array.load__index", "top.engine.array.stream__valid"),
        *("top.engine.array.stream__swap", "top.engine.array.stream__data", "top.engine.accumulator.out__valid"),
    ],
    "behind the array": [
        *("top.engine.epilogue.out__word", "top.engine.writeback.result__valid", "top.engine.writeback.result__word"),
        *("top.engine.softmax.score__valid", "top.engine.layernorm.command__start"),
    ],
    "experts": [
        *("top.engine.router.command__start", "top.engine.router.queues.push", "top.engine.router.queues.push_expert"),
        *("top.engine.router.queues.next_found", "top.engine.router.queues.next_expert"),
    ],
}


def readable(verilog: str) -> str:
    """The core's Verilog with its made-up names hidden from waveforms (Verilator keeps none that begins with an
    underscore), and with the instruction's number open to the harness.
    """
    text = _MADE_UP.sub(r"\\_", verilog)
    module, name, _ = _INSTRUCTION
    start = text.index(f"module \\{module} (")
    body, end, rest = text[start:].partition("endmodule")
    opened = re.sub(rf"^(  (?:wire|reg) \[31:0\] {name});", r"\1 /* verilator public_flat_rd */;", body, flags=re.M)
    assert opened != body
    return text[:start] + opened + end + rest


def library(config: HardwareConfig) -> Path:
    """The simulation library of a configuration that can keep waveforms."""
    build.verilator_root()
    defines = {
        "EDGEMOE_MASTERS": config.masters,
        "EDGEMOE_DATA_BITS": config.data_bits,
        "EDGEMOE_INSTRUCTION": _INSTRUCTION[2],
    }
    return build.build_library(readable(simulator.verilog(config)), NAME, defines=defines, waves=True)


# ------------------------------------------------------------------------------------------------------- for viewers


def found_in(verilog: str, paths: Iterable[str]) -> dict[str, str]:
    """Those of the paths that a core has -> as waveforms name them, with the range of a vector."""
    parts = modules.split(verilog)
    scopes = dict(modules.instances(parts))
    found = {}
    for path in paths:
        scope, _, name = path.rpartition(".")
        text = parts[scopes[scope]].text if scope in scopes else ""
        if declared := re.search(rf"^  (?:wire|reg) (\[\d+:0\] )?{name}(?:;| = )", text, re.M):
            found[path] = f"{NAME}.{path}{(declared[1] or '').strip()}"
    return found


def save_files(recording: Recording, verilog: str, labels: Sequence[str]) -> dict[Path, str]:
    """Path -> text: what GTKWave (`gtkwave FILE.gtkw`) and Surfer (`surfer --command-file FILE.sucl`) show of the
    waveforms, and the instructions' names for the former.
    """
    from vcd.gtkw import GTKWSave

    named, gtkw, sucl = (
        recording.companion(".instructions.txt"),
        io.StringIO(),
        [f"load_file {recording.path.resolve()}"],
    )
    save = GTKWSave(gtkw)
    save.dumpfile(str(recording.path))
    save.treeopen(f"{NAME}.top.engine")
    for group, paths in VIEW.items():
        found = found_in(verilog, paths)
        if not found:
            continue
        sucl.append(f"divider_add {group}")
        with save.group(group):
            for path, name in found.items():
                number = path.endswith(f".{_INSTRUCTION[1]}")
                save.trace(
                    name,
                    datafmt="dec" if number else "hex",
                    translate_filter_file=str(named.resolve()) if number else None,
                )
                sucl.append(f"variable_add {NAME}.{path}")
    sucl.append("zoom_fit")
    return {
        recording.companion(".gtkw"): gtkw.getvalue(),
        recording.companion(".sucl"): "\n".join(sucl) + "\n",
        named: "".join(f"{number} {number} {label}\n" for number, label in enumerate(labels)),
    }


# --------------------------------------------------------------------------------------------------------- compressors

_Lz4 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
_Zlib = ctypes.CFUNCTYPE(
    *(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_ulong), ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int)
)


def _compressors() -> tuple[Any, Any]:
    """LZ4 and zlib as the FST writer calls them."""
    try:
        from lz4 import block
    except ImportError as error:
        raise extras.missing("lz4", "writing waveforms", "sim") from error

    def lz4(source: int, result: int, size: int, room: int) -> int:
        data = block.compress(ctypes.string_at(source, size), store_size=False)
        assert len(data) <= room
        ctypes.memmove(result, data, len(data))
        return len(data)

    def deflate(result: int, room: Any, source: int, size: int, level: int) -> int:
        data = zlib.compress(ctypes.string_at(source, size), level)
        assert len(data) <= room[0]
        ctypes.memmove(result, data, len(data))
        room[0] = len(data)
        return 0

    return _Lz4(lz4), _Zlib(deflate)


# -------------------------------------------------------------------------------------------------------------- device


class RecordingDevice(VerilatorDevice):
    """A simulated core that keeps its waveforms. They are there when the device is closed, however it came to that."""

    def __init__(self, recording: Recording, config: HardwareConfig, **options: Any) -> None:
        self._files = ExitStack()
        compressors = _compressors()
        super().__init__(library(config), **options)
        from edgemoe.hw.top import QUEUED_JOBS

        self.recording, self._verilog = recording, simulator.verilog(config)
        self.kept = 0  #: cycles in the file, once the device is closed
        raw, u32 = self._library, ctypes.c_uint32
        raw.edgemoe_waves_compressors.argtypes = [_Lz4, _Zlib]
        raw.edgemoe_waves_open.argtypes = [ctypes.c_void_p, ctypes.c_char_p, u32, u32]
        raw.edgemoe_waves_close.argtypes, raw.edgemoe_waves_close.restype = [ctypes.c_void_p], ctypes.c_uint64
        self._compressors = compressors  # the library calls them as long as it lives
        raw.edgemoe_waves_compressors(*compressors)
        try:
            file = self._files.enter_context(whole(recording.path))
            # What is issued waits in a queue, streams, or drains; the next one stands at the sequencer.
            last = min(recording.last + QUEUED_JOBS + 3, LAST)
            if not raw.edgemoe_waves_open(self._open(), file.name.encode(), recording.first, last):
                raise EdgemoeError(f"cannot write {recording.path}: the simulator cannot open a file beside it")
        except BaseException:
            self.close()
            raise

    def describe(self, labels: Sequence[str]) -> None:
        """Write the files for viewers: `labels` are those of the instructions that will run."""
        for path, text in save_files(self.recording, self._verilog, labels).items():
            write_whole(path, text)

    def close(self) -> None:
        if self._handle:
            self.kept = int(self._library.edgemoe_waves_close(self._open()))
        with self._files:
            super().close()


def open_recording(
    recording: Recording, config: HardwareConfig, memory_size: int, dram: Dram | None = None
) -> RecordingDevice:
    """As `simulator.open_verilator`, of a core that keeps its waveforms."""
    page = 4096 * config.masters
    size = -(-memory_size // page) * page
    return RecordingDevice(recording, config, memory_size=size, dram=dram)
