# SPDX-License-Identifier: Apache-2.0
"""What is known of a model's tensors from running it on pictures: a value, and its form in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgemoeError, brief
from ..keys import Key
from .formats import WeightFormat

SIGMA = ".sigma"  # in files, behind the name of a norm


@dataclass
class Channels:
    """Of one layer's attention, per channel [width].

    Largest magnitudes of queries (in base 2), centred keys, values and results; means of keys and values.
    """

    query: NDArray[np.float64]
    key: NDArray[np.float64]
    value: NDArray[np.float64]
    attention: NDArray[np.float64]
    mean_key: NDArray[np.float64]
    mean_value: NDArray[np.float64]


@dataclass
class Tail:
    """Of a residual tensor: the number of its values, and k -> sum of squares of what lies beyond 2^k."""

    count: float = 0.0
    beyond: dict[int, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> Tail:
        powers = {k: value for k, value in values.items() if k != "count"}
        if not all(k.removeprefix("-").isdecimal() for k in powers):
            raise EdgemoeError(
                f"the calibration has a limit of 2^{brief(next(iter(powers)))}; calibrate and save again"
            )
        return cls(values["count"], {int(k): value for k, value in powers.items()})


@dataclass
class Rounding:
    """How the error-aware rounding of a matrix differs from plain rounding (zlib, base64), and the correction of its
    bias (base64). growth: how much larger steps are than 8 bits need them, so that packed sums cannot overflow
    (base64); halved: how often its inputs are before they are rounded (zlib, base64); empty: not at all.
    """

    delta: str
    bias: str
    growth: str = ""
    halved: str = ""

    @classmethod
    def from_json(cls, name: str, stored: Any) -> Rounding:
        parts = {"growth": "", "halved": ""} | stored if isinstance(stored, dict) else {}
        if not all(isinstance(parts.get(part.name), str) for part in fields(cls)):
            raise EdgemoeError(f"the calibration's rounding of {brief(name)} cannot be read; calibrate and save again")
        return cls(**{part.name: parts[part.name] for part in fields(cls)})


@dataclass
class Calibration:
    """What `quantise` needs to know.

    images    how many pictures it was made of; pictures: what tells each from every other, if that is known
    ranges    tensor -> largest magnitude
    smallest  norm -> smallest sigma
    clipped   residual tensor -> its tail
    reaches   norm -> largest magnitude of each channel that it reads, in units of sigma [width]; for packed products
    channels  layer -> what attention's channels reach
    rotated   the same of the rotated model (`rotation`), for formats whose products are packed; there, of the tokens as
              they are without rotation, too
    rounding  format -> matrix -> rounding. It is stored, as the second moments that it needs are far larger, and as
              compiling then needs neither images nor the float model.
    """

    images: int
    pictures: list[str] | None = None
    ranges: dict[Key, float] = field(default_factory=dict)
    smallest: dict[Key, float] = field(default_factory=dict)
    clipped: dict[Key, Tail] = field(default_factory=dict)
    channels: dict[int, Channels] = field(default_factory=dict)
    rounding: dict[WeightFormat, dict[Key, Rounding]] = field(default_factory=dict)
    reaches: dict[Key, NDArray[np.float64]] = field(default_factory=dict)
    rotated: Calibration | None = None

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold, as checkpoints have it."""
        return {
            "images": self.images,
            **({} if self.pictures is None else {"pictures": self.pictures}),
            "ranges": {str(key): value for key, value in self.ranges.items()},
            "smallest": {f"{key}{SIGMA}": value for key, value in self.smallest.items()},
            "clipped": {
                str(key): {"count": t.count, **{str(k): v for k, v in t.beyond.items()}}
                for key, t in self.clipped.items()
            },
            "channels": {
                f"blocks.{n}": {name: x.tolist() for name, x in vars(c).items()} for n, c in self.channels.items()
            },
            **({"reaches": {str(key): x.tolist() for key, x in self.reaches.items()}} if self.reaches else {}),
            **({"rotated": self.rotated.to_json()} if self.rotated else {}),
            "rounding": {
                str(f): {str(key): dict(vars(r)) for key, r in found.items()} for f, found in self.rounding.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json` (of what `calibrated.check_calibration` accepts).

        EdgemoeError for names that no model has.
        """
        return cls(
            images=data.get("images", 0),
            pictures=data.get("pictures"),
            ranges={Key.parse(name): value for name, value in data["ranges"].items()},
            smallest={Key.parse(name.removesuffix(SIGMA)): value for name, value in data["smallest"].items()},
            clipped={Key.parse(name): Tail.from_json(values) for name, values in data["clipped"].items()},
            channels={
                int(name.removeprefix("blocks.")): Channels(
                    **{f.name: np.array(values[f.name], np.float64) for f in fields(Channels)}
                )
                for name, values in data["channels"].items()
            },
            reaches={Key.parse(name): np.array(x, np.float64) for name, x in data.get("reaches", {}).items()},
            rotated=cls.from_json(data["rotated"]) if "rotated" in data else None,
            rounding={
                WeightFormat.of(name): {
                    Key.parse(key): Rounding.from_json(key, stored) for key, stored in found.items()
                }
                for name, found in data.get("rounding", {}).items()
            },
        )
