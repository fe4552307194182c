# SPDX-License-Identifier: Apache-2.0
"""What a calibration must hold, so that one from a file can be trusted; and the pictures that it was made on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import ModelConfig
from ..errors import EdgemoeError, brief, listing
from ..graph import graph
from ..keys import Key, Role
from .calibration import SIGMA, Calibration, Channels

LARGEST = 2.0**23  # about 2^15 * 2^8: what 16 bits hold at the smallest exponent, -8


def expected_ranges(config: ModelConfig) -> list[str]:
    """Names of the tensors whose largest magnitude is needed, in the order of execution."""
    return [str(key) for operation in graph(config).operations for key in operation.ranges()]


def expected_norms(config: ModelConfig) -> list[str]:
    """Names of the norms whose smallest sigma is needed."""
    return [f"{norm.key}{SIGMA}" for operation in graph(config).operations for norm in operation.norms]


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300 and math.isfinite(value)
    )


def check_calibration(config: ModelConfig, calibration: Any, source: str, rotated: bool = False) -> None:
    """EdgemoeError if a calibration lacks something that `quantise` needs for this model, or holds what cannot be.

    Every range is 0 to LARGEST, every sigma and every sum of squares at least 0, every list has the model's width.
    """
    faults: list[str] = []

    def part(owner: Any, name: str, where: str) -> Mapping[str, Any]:
        value = owner.get(name)
        if not isinstance(value, dict):
            faults.append(
                f"{where}{name} is {'missing' if value is None else f'{brief(value, 30)}, expected an object'}"
            )
            return {}
        return value

    def number(owner: Mapping[str, Any], name: str, where: str, low: float, high: float) -> None:
        value = owner.get(name)
        if value is None:
            faults.append(f"{where}{name} is missing")
        elif not _is_number(value) or not low <= value <= high:
            faults.append(f"{where}{name} is {brief(value, 30)}, expected a number from {low:g} to {high:.3g}")

    if not isinstance(calibration, dict):
        raise EdgemoeError(
            f"{source}: its calibration is {brief(calibration, 30)}, expected a JSON object; calibrate and save it "
            f"again"
        )
    tables = {name: part(calibration, name, "") for name in ("ranges", "smallest", "clipped", "channels")}
    if not faults:
        tokens = [str(Key(Role.TOKENS))] if rotated else []
        for name in [*expected_ranges(config), *tokens]:
            number(tables["ranges"], name, "ranges: ", 0, LARGEST)
        for name in expected_norms(config):
            number(tables["smallest"], name, "smallest: ", 0, LARGEST)
        for name in [*(str(operation.result) for operation in graph(config).trunk), *tokens]:
            tail = part(tables["clipped"], name, "clipped: ")
            for key in ("count", *(key for key in tail if key != "count")):
                number(tail, key, f"clipped: {name}: ", 0, 1e30)
        for layer in range(config.layers):
            channel = part(tables["channels"], f"blocks.{layer}", "channels: ")
            for key in (f.name for f in fields(Channels)) if channel else ():
                values, low = channel.get(key), -LARGEST if key.startswith("mean") else 0.0
                if not isinstance(values, list) or len(values) != config.width:
                    faults.append(f"channels: blocks.{layer}.{key} is no list of {config.width} numbers")
                elif not all(_is_number(value) and low <= value <= LARGEST for value in values):
                    faults.append(
                        f"channels: blocks.{layer}.{key} holds what is no number from {low:g} to {LARGEST:.3g}"
                    )
    reaches = calibration.get("reaches", {})
    if not isinstance(reaches, dict):
        faults.append("reaches is no object")
    for name, values in reaches.items() if isinstance(reaches, dict) else ():
        if not isinstance(values, list) or len(values) != config.width or not all(map(_is_number, values)):
            faults.append(f"reaches: {brief(name, 30)} is no list of {config.width} numbers")
    rounding = calibration.get("rounding", {})
    if not isinstance(rounding, dict) or not all(isinstance(tensors, dict) for tensors in rounding.values()):
        faults.append("rounding is no object of objects")
    if not isinstance(calibration.get("pictures", []), list):
        faults.append("pictures is no list")
    if "rotated" in calibration:
        check_calibration(config, calibration["rotated"], f"{source}, of the rotated model", rotated=True)
    if faults:
        raise EdgemoeError(
            f"{source}: its calibration cannot be used: {listing(faults, '; ')}; calibrate and save it again"
        )


def digest(image: NDArray[np.uint8]) -> str:
    """What tells a picture, uint8 [C, H, W], from every other: 16 digits of the SHA-256 of its pixels."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16]


def seen(calibration: Calibration | None, images: Iterable[NDArray[np.uint8]]) -> list[int] | None:
    """Indices of the images on which a checkpoint was calibrated; None where its calibration does not say."""
    if calibration is None or calibration.pictures is None:
        return None
    return [index for index, image in enumerate(images) if digest(image) in calibration.pictures]
