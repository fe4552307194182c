# SPDX-License-Identifier: Apache-2.0
"""edgemoe: multi-task Mixture-of-Experts vision transformers on an FPGA, on its simulator, or on the integer emulator.

This is the package's front; the rooms behind it (`edgemoe.models`, `hw`, `sim`, `host`, `boards`) lie in folders of
their own. What is here is imported when it is first asked for: a room that is imported by itself needs nothing of the
others.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .former import FormerNames

if TYPE_CHECKING:
    from edgemoe.host.session import PictureResult, Prediction, Session, load, open
    from edgemoe.hw.contract.config import HardwareConfig
    from edgemoe.models.checkpoint import Checkpoint
    from edgemoe.models.errors import EdgemoeError

    __version__: str

_HOMES = {
    "Checkpoint": "edgemoe.models.checkpoint",
    "EdgemoeError": "edgemoe.models.errors",
    "HardwareConfig": "edgemoe.hw.contract.config",
    **dict.fromkeys(("PictureResult", "Prediction", "Session", "load", "open"), "edgemoe.host.session"),
}

__all__ = [
    "Checkpoint",
    "EdgemoeError",
    "HardwareConfig",
    "PictureResult",
    "Prediction",
    "Session",
    "__version__",
    "load",
    "open",
]

sys.meta_path.append(FormerNames())


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from importlib.metadata import version

        return version("edgemoe")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'edgemoe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
