# SPDX-License-Identifier: Apache-2.0
"""Modules that people's scripts import to drive a board, under the names that they had before there were rooms.

Each import of a former name gives the module that is there now, and a DeprecationWarning that says where.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

NOW = {
    "edgemoe.host.board_device": "edgemoe.host.runtime.board_device",
    "edgemoe.host.device": "edgemoe.host.runtime.device",
    "edgemoe.host.driver": "edgemoe.host.runtime.driver",
    "edgemoe.host.fpga": "edgemoe.host.runtime.fpga",
    "edgemoe.host.loopback": "edgemoe.host.runtime.loopback",
    "edgemoe.host.program": "edgemoe.host.runtime.program",
    "edgemoe.host.serial_link": "edgemoe.host.runtime.serial_link",
    "edgemoe.hw.config": "edgemoe.hw.contract.config",
    "edgemoe.hw.isa": "edgemoe.hw.contract.isa",
    "edgemoe.hw.registers": "edgemoe.hw.contract.registers",
    "edgemoe.sim.memory": "edgemoe.hw.contract.striped_memory",
}


class FormerNames(MetaPathFinder, Loader):
    """Is asked last, when no file has the name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in NOW else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(f"{name} is now {NOW[name]}", DeprecationWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(NOW[name])  # which the import statement then takes
