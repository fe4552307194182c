# SPDX-License-Identifier: Apache-2.0
"""Houses and their facades."""

from __future__ import annotations

import numpy as np
from edgemoe.models.street.canvas import BUILDING, Canvas, Light, box, corners, hashed, noise, rgb
from edgemoe.models.street.layout import Building


def _facade(b: Building, a: np.ndarray, e: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Colour [n, 3] of a facade at a metres along and e metres up; detail fades where a pixel covers too much of it."""
    column, row = np.floor(a / b.pitch), np.floor(e / b.floor)
    u, v = a / b.pitch - column, e / b.floor - row
    sharp = np.clip(1.25 - footprint / (0.4 * b.pitch), 0, 1)
    random = hashed(column + b.seed, row * 3 + b.seed)
    low: np.ndarray | float = (1 - b.opening[0]) / 2
    high: np.ndarray | float = (1 + b.opening[0]) / 2
    sill: np.ndarray | float = 0.28
    lintel: np.ndarray | float = 0.28 + b.opening[1]
    ground_floor = e < b.floor
    if b.shop:
        low, high = np.where(ground_floor, 0.06, low), np.where(ground_floor, 0.94, high)
        sill, lintel = np.where(ground_floor, 0.08, sill), np.where(ground_floor, 0.72, lintel)
    window = (u > low) & (u < high) & (v > sill) & (v < lintel)
    border = 0.05
    frame = (u > low - border) & (u < high + border) & (v > sill - border) & (v < lintel + border) & ~window
    window &= e < b.height - 0.8
    frame &= e < b.height - 0.8
    glass = b.glass * (0.55 + 0.9 * random)[:, None]
    curtain = (random > 0.72) & (v < lintel - 0.3 * (lintel - sill)) & ~ground_floor
    glass = np.where(curtain[:, None], rgb(0.72, 0.70, 0.64), glass)
    grain = 0.90 + 0.2 * noise(a * 9 + b.seed * 5, e * 9)
    wall = b.wall * (grain * (1 - 0.12 * ((e > b.height - 0.5) | ((v < 0.06) & (row > 0)))))[:, None]
    if b.shop:
        board = ground_floor & (v > 0.74) & (v < 0.97)
        wall = np.where(board[:, None], b.frame * (0.8 + 0.3 * hashed(column // 2, row + b.seed))[:, None], wall)
    else:
        wall = np.where((e < 0.8)[:, None], wall * 0.72, wall)
    cover = np.where(e < b.height - 0.8, b.opening[0] * b.opening[1], 0)
    amount = (sharp * window + (1 - sharp) * cover)[:, None]
    result = wall * (1 - amount) + glass * amount
    edge = (sharp * frame * 0.6)[:, None]
    return result * (1 - edge) + b.frame * edge


def draw_building(canvas: Canvas, light: Light, b: Building) -> None:
    """A house: its facade towards the street and its gable towards the camera."""
    x0, x1 = (b.front, b.front + 14) if b.side > 0 else (b.front - 14, b.front)
    window = canvas.window(corners(x0, x1, 0, b.height, b.near, b.far))
    if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
        return
    planes = box(x0, x1, -0.01, b.height, b.near, b.far)
    mask, t, face = canvas.hit(planes, window)
    mask &= t <= canvas.depth[window]
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return
    t1, f1 = t[rows, columns], face[rows, columns]
    rx, rz, ry = canvas.rx[window[1]][columns], canvas.rz[window[1]][columns], canvas.yc[window[0]][rows]
    e = canvas.camera.height - t1 * ry
    street_face = f1 <= 1
    along = np.where(street_face, t1 * rz, canvas.camera.x + t1 * rx)
    facing = np.where(street_face, np.abs(rx), np.abs(rz))
    footprint = t1 / (canvas.camera.focal * np.maximum(facing, 0.04))
    colour = _facade(b, along + b.seed, e, footprint)
    shade = np.where(street_face[:, None], light.on(-b.side, 0, 0), light.on(0, 0, -1))
    shade = shade * (0.72 + 0.28 * np.clip(e / 5, 0, 1))[:, None]  # less sky light reaches the foot of a wall
    full = np.zeros((*mask.shape, 3), np.float32)
    full[rows, columns] = colour * shade
    canvas.put(window, mask, t, full, BUILDING)
