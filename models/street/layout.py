# SPDX-License-Identifier: Apache-2.0
"""The plan of a street: how wide its parts are and where its buildings stand. Metres, in the street's frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from edgemoe.models.street.canvas import rgb

_WALLS = (
    rgb(0.83, 0.78, 0.66), rgb(0.72, 0.70, 0.67), rgb(0.62, 0.42, 0.34), rgb(0.87, 0.86, 0.82), rgb(0.78, 0.66, 0.48),
    rgb(0.55, 0.52, 0.50), rgb(0.70, 0.55, 0.45), rgb(0.66, 0.70, 0.70), rgb(0.80, 0.72, 0.70), rgb(0.48, 0.40, 0.36),
)  # fmt: skip


@dataclass
class Street:
    """half: of the carriageway's width; pavement: beside it; crossing: from and to where a side street crosses; zebra:
    where one begins.
    """

    half: float
    pavement: float
    crossing: tuple[float, float] | None
    zebra: float | None
    grass: bool
    lanes: int


@dataclass
class Building:
    """A house. side: -1 left, 1 right; near, far: along the street; front: x of its facade; pitch, floor: of its
    windows; opening: their share of these.
    """

    side: int
    near: float
    far: float
    front: float
    height: float
    wall: np.ndarray
    glass: np.ndarray
    frame: np.ndarray
    pitch: float
    floor: float
    opening: tuple[float, float]
    shop: bool
    seed: int


def plan_buildings(rng: np.random.Generator, street: Street, suburb: bool, end: float) -> list[Building]:
    """Both rows of houses, up to `end` metres ahead; they leave the side street free."""
    buildings = []
    tall = rng.uniform(4, 7) if suburb else rng.uniform(9, 20)
    for side in (-1, 1):
        z = -8.0
        setback = rng.uniform(3, 9) if suburb else rng.uniform(0, 0.6)
        while z < end:
            length = rng.uniform(8, 14) if suburb else rng.uniform(9, 22)
            near, far = z, z + length
            z = far + (rng.uniform(3, 12) if suburb else (rng.uniform(3, 8) if rng.random() < 0.15 else 0.0))
            if rng.random() < (0.2 if suburb else 0.06):
                continue
            if street.crossing and near < street.crossing[1] + 2.5 and far > street.crossing[0] - 2.5:
                # Keep the side street free: shorten what is before it, go on behind it.
                if near < street.crossing[0] - 8:
                    far = street.crossing[0] - 2.5
                else:
                    z = max(street.crossing[1] + 2.5, near + 1)
                    continue
            wall = _WALLS[rng.integers(len(_WALLS))] * rng.uniform(0.85, 1.1)
            buildings.append(
                Building(
                    side=side,
                    near=near,
                    far=far,
                    front=side * (street.half + street.pavement + setback + rng.uniform(0, 0.5)),
                    height=tall * rng.uniform(0.75, 1.3),
                    wall=wall,
                    glass=rgb(0.16, 0.19, 0.22) * rng.uniform(0.7, 1.7),
                    frame=(
                        rgb(*(rng.uniform(0.2, 0.75) + rng.uniform(-0.15, 0.15, 3)))
                        if rng.random() < 0.4
                        else wall * rng.choice((0.6, 1.2))
                    ),
                    pitch=rng.uniform(1.8, 3.4),
                    floor=rng.uniform(2.8, 3.7),
                    opening=(rng.uniform(0.35, 0.65), rng.uniform(0.42, 0.58)),
                    shop=bool(rng.random() < (0.05 if suburb else 0.4)),
                    seed=int(rng.integers(256)),
                )
            )
    return buildings
