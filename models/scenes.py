# SPDX-License-Identifier: Apache-2.0
"""A seeded generator of street scenes with exact labels and depth: the data of the published checkpoints. NumPy only.

The geometry is that of `edgemoe.models.street.canvas`: depth is along the optical axis, in metres, at most MAX_DEPTH,
which is also the sky's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from edgemoe.models.street.buildings import draw_building
from edgemoe.models.street.canvas import CLASSES, HEIGHT, MAX_DEPTH, ROAD, SKY, WIDTH, Camera, Canvas, Light, rgb
from edgemoe.models.street.ground import draw_background, draw_ground
from edgemoe.models.street.layout import Street, plan_buildings
from edgemoe.models.street.things import draw_car, draw_person, draw_pole, draw_tree

__all__ = ["CLASSES", "HEIGHT", "MAX_DEPTH", "ROAD", "SKY", "WIDTH", "Camera", "Scene", "cut", "scene"]

#: Rows and columns of a model's picture -> (first row, first column) in the scene: whole patches, with the road and its
#: middle in view.
WINDOWS = {(HEIGHT, WIDTH): (0, 0), (112, 112): (16, 64)}


@dataclass(frozen=True)
class Scene:
    """image uint8 [3, 128, 256]; labels uint8 [128, 256] (index into CLASSES); depth float32 [128, 256] in metres;
    the camera.
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    camera: Camera


def cut(found: Scene, height: int, width: int) -> Scene:
    """The window of that size, one of WINDOWS: image, labels and depth [.., height, width].
    The camera stays that of the whole scene.
    """
    row, column = WINDOWS[height, width]
    there = (..., slice(row, row + height), slice(column, column + width))
    return replace(
        found, image=np.ascontiguousarray(found.image[there]), labels=found.labels[there], depth=found.depth[there]
    )


def _finish(canvas: Canvas, haze: np.ndarray, reach: float) -> np.ndarray:
    """Haze, lens, sensor: the 8-bit picture."""
    rng = canvas.rng
    clear = np.exp(-canvas.depth / reach)
    clear[canvas.labels == SKY] = 1
    picture = haze + (canvas.colour - haze) * clear[..., None]
    # The lens spreads a point over its neighbours, which also softens the edges of single-sample rendering.
    blur = rng.uniform(0.10, 0.22)
    for axis in (0, 1):
        edge = np.concatenate([picture.take([0], axis), picture, picture.take([-1], axis)], axis)
        n = picture.shape[axis]
        before, after = edge.take(range(n), axis), edge.take(range(2, n + 2), axis)
        picture = (1 - 2 * blur) * picture + blur * (before + after)
    v, u = np.linspace(-1, 1, HEIGHT, dtype=np.float32), np.linspace(-1, 1, WIDTH, dtype=np.float32)
    picture *= (1 - rng.uniform(0, 0.12) * (v[:, None] ** 2 + u[None, :] ** 2))[..., None]
    warmth = rng.uniform(-0.05, 0.05)
    picture *= rng.uniform(0.78, 1.22) * rgb(1 + warmth, rng.uniform(0.99, 1.02), 1 - warmth)
    picture = np.maximum(picture, 0) ** np.float32(rng.uniform(0.72, 0.95))
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(0.004, 0.016))
    return np.ascontiguousarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1))


def scene(seed: int) -> Scene:
    """The street scene of a seed (any integer of at least 0); the same seed always gives the same scene."""
    rng = np.random.default_rng(seed)
    suburb = rng.random() < 0.35
    half = rng.uniform(3.2, 7.0)
    crossing = None
    if rng.random() < 0.4:
        start = rng.uniform(8, 45)
        crossing = (start, start + rng.uniform(7, 12))
    zebra = None
    if crossing and rng.random() < 0.6:
        zebra = crossing[0] - 4.5
    elif rng.random() < 0.15:
        zebra = rng.uniform(7, 25)
    street = Street(half, rng.uniform(1.6, 4.0), crossing, zebra, suburb, 4 if half > 5.8 else 2)
    camera = Camera(
        focal=rng.uniform(190, 250),
        cx=WIDTH / 2 + rng.uniform(-6, 6),
        cy=rng.uniform(50, 66),
        height=rng.uniform(1.2, 1.7),
        x=rng.uniform(0.15, 0.6) * half,
        yaw=rng.normal(0, 0.07),
    )
    canvas = Canvas(camera, rng)
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.35, 1.1)
    sun = rgb(np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation))
    sunny = rng.uniform(0.0, 1.0)
    warm = rgb(1.0, rng.uniform(0.90, 1.0), rng.uniform(0.78, 0.98))
    light = Light(sun, warm * (0.15 + 0.85 * sunny), rgb(0.92, 0.96, 1.03) * (0.78 - 0.36 * sunny))
    haze = rgb(*rng.uniform((0.78, 0.84, 0.88), (0.93, 0.96, 1.0)))
    draw_background(canvas, light, haze)
    end = rng.uniform(45, 130)
    buildings = plan_buildings(rng, street, suburb, end)
    draw_ground(canvas, light, street, buildings)
    if rng.random() < 0.45 and end < 95:  # the street ends at a house
        spread = rng.uniform(15, 40)
        first = plan_buildings(rng, street, suburb, 0.0)
        for b in first[:1]:
            b.side, b.front, b.near, b.far = 1, -spread, end + 12, end + 26
            draw_building(canvas, light, b)
    for b in buildings:
        draw_building(canvas, light, b)

    kerb = half + 0.5
    blocked: list[tuple[float, float]] = []  # where the lanes are taken

    def free(x: float, z: float, room: float) -> bool:
        if any(abs(x - ox) < 2.3 and abs(z - oz) < room for ox, oz in blocked):
            return False
        blocked.append((x, z))
        return True

    def in_side_street(z: float, margin: float = 0.0) -> bool:
        return crossing is not None and crossing[0] - margin < z < crossing[1] + margin

    for side in (-1, 1):  # parked cars
        if half > 4.2 and rng.random() < 0.75:
            z, density = rng.uniform(1, 9), rng.uniform(0.4, 0.95)
            while z < 70:
                if rng.random() < density and not in_side_street(z, 5) and (zebra is None or abs(z - zebra - 1.6) > 5):
                    x = side * (half - 1.05)
                    if free(x, z, 5.0):
                        draw_car(canvas, light, x, z, side, False)
                z += rng.uniform(5.6, 7.0)
    for _ in range(rng.poisson(2.0)):  # moving cars
        z = float(np.exp(rng.uniform(np.log(8), np.log(80))))
        if rng.random() < 0.5:
            x, direction = camera.x + rng.uniform(-0.4, 0.4), 1
        else:
            x, direction = -camera.x + rng.uniform(-0.4, 0.4), -1
        if free(x, z, 7.0):
            draw_car(canvas, light, x, z, direction, False)
    if crossing and rng.random() < 0.5:
        draw_car(
            canvas,
            light,
            rng.uniform(-9, 9),
            rng.uniform(crossing[0] + 2, crossing[1] - 2),
            int(rng.choice((-1, 1))),
            True,
        )
    for side in (-1, 1):  # trees along the kerb, and in front gardens
        if rng.random() < (0.7 if suburb else 0.35):
            z, gap = rng.uniform(5, 15), rng.uniform(6, 14)
            x = side * (kerb + (street.pavement + rng.uniform(0.5, 2.5) if suburb else rng.uniform(0.3, 0.8)))
            while z < 75:
                if not in_side_street(z, 1.5) and rng.random() < 0.85:
                    draw_tree(canvas, light, x + rng.uniform(-0.3, 0.3), z, bush=False)
                z += gap * rng.uniform(0.8, 1.3)
        if suburb:
            for _ in range(rng.poisson(3)):
                z = rng.uniform(6, 50)
                if not in_side_street(z, 1.5):
                    draw_tree(canvas, light, side * (kerb + street.pavement + rng.uniform(0.3, 2.0)), z, bush=True)
    for _ in range(rng.poisson(3.0)):  # poles
        z = float(np.exp(rng.uniform(np.log(6), np.log(45))))
        if not in_side_street(z):
            draw_pole(canvas, light, rng.choice((-1, 1)) * (kerb + rng.uniform(0, 0.4)), z)
    people = rng.poisson(3.5)
    while people > 0:  # people, often in pairs
        z = float(np.exp(rng.uniform(np.log(5), np.log(45))))
        group = min(people, int(rng.integers(1, 4)))
        if zebra is not None and rng.random() < 0.35:
            x, z = rng.uniform(-half, half), zebra + rng.uniform(0.4, 2.8)
        else:
            x = rng.choice((-1, 1)) * (kerb + rng.uniform(0.2, max(0.4, street.pavement - 0.8)))
        for _ in range(group):
            draw_person(canvas, light, x + rng.uniform(-0.9, 0.9), z + rng.uniform(-0.5, 0.5))
        people -= group
    image = _finish(canvas, haze, rng.uniform(120, 600))
    return Scene(image, canvas.labels, canvas.depth, camera)
