# SPDX-License-Identifier: Apache-2.0
"""What comes along by name, for `edgemoe list`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemoe.boards.facts import BOARDS
from edgemoe.hw.contract.config import PRESETS as HARDWARE
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.config import PRESETS as MODELS
from edgemoe.models.config import ModelConfig
from edgemoe.models.console import show_table

Entries = Sequence[Mapping[str, Any]]


def catalogue() -> dict[str, Entries]:
    """presets: of --hardware; boards: of --board; models: of --model; checkpoints: of --checkpoint. By entry its name
    and what tells it from the others.
    """
    return {
        "presets": [
            {
                "name": name,
                "array": h.array,
                "bus_bits": h.masters * h.data_bits,
                "rows": h.rows,
                "tokens": h.tokens,
                "width": h.width,
                "hidden": h.hidden,
                "experts": h.experts,
            }
            for name, h in HARDWARE.items()
        ],
        "boards": [
            {
                "name": name,
                "title": board.title,
                "part": board.part,
                "hardware": board.hardware.name,
                "clock_mhz": board.clock_mhz,
                "checkpoint": board.checkpoint,
            }
            for name, board in BOARDS.items()
        ],
        "models": [_sizes(config) for config in MODELS.values()],
        "checkpoints": [_sizes(checkpoints.load(name).config) for name in checkpoints.known()],
    }


def _sizes(config: ModelConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "picture": f"{config.image_channels} x {config.image_height} x {config.image_width}",
        "tokens": config.tokens,
        "width": config.width,
        "layers": config.layers,
        "experts": config.experts,
        "tasks": [task.name for task in config.tasks],
    }


def show(found: Mapping[str, Entries]) -> None:
    """Tables on standard output."""
    for title, entries in found.items():
        rows = [
            tuple(", ".join(value) if isinstance(value, list) else str(value) for value in entry.values())
            for entry in entries
        ]
        show_table(title, rows, tuple(name.replace("_", " ") for name in entries[0]))
