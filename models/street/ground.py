# SPDX-License-Identifier: Apache-2.0
"""What lies around everything else: sky, the far line of trees, carriageway, pavement, grass, and shadows on them."""

from __future__ import annotations

import numpy as np
from edgemoe.models.street.canvas import HEIGHT, MAX_DEPTH, ROAD, VEGETATION, WIDTH, Canvas, Light, corners, noise, rgb
from edgemoe.models.street.layout import Building, Street


def draw_background(canvas: Canvas, light: Light, haze: np.ndarray) -> None:
    """The sky with clouds, and far behind everything a line of trees."""
    rng = canvas.rng
    elevation = np.clip(-canvas.yc * canvas.camera.focal / 70, 0, 1)[:, None]
    grey = rng.random()
    zenith = haze * rgb(0.42 + 0.54 * grey, 0.62 + 0.35 * grey, 0.88 + 0.11 * grey)
    sky = haze * (1 - elevation[..., None]) + zenith * elevation[..., None]
    # Clouds lie in a plane overhead, so they shrink towards the horizon.
    height = np.maximum(-canvas.yc, 0.03)[:, None]
    spread = rng.uniform(6, 16)
    clouds = noise(canvas.xc[None, :] / height * spread + rng.integers(256), spread * 1.6 / height + rng.integers(256))
    clouds = (
        clouds + np.roll(clouds, 1, 1) + np.roll(clouds, -1, 1) + np.roll(clouds, 2, 1) + np.roll(clouds, -2, 1)
    ) / 5
    clouds = np.clip((clouds - rng.uniform(0.35, 0.8)) * 2.5, 0, 1) * np.clip(-canvas.yc * 6, 0, 1)[:, None]
    sky = sky + (rgb(1, 1, 1) - sky) * (clouds * rng.uniform(0.2, 0.8))[..., None]
    canvas.colour[:] = sky
    line = rng.uniform(2, 9) + 6 * noise(
        np.arange(WIDTH) * rng.uniform(0.3, 0.9) + rng.integers(256), np.full(WIDTH, rng.integers(256))
    )
    line = np.convolve(np.pad(line, 3, mode="edge"), np.full(7, 1 / 7, np.float32), "valid")
    top = (
        canvas.camera.height
        - canvas.yc[:, None] * 95
        + 1.2 * noise(np.arange(HEIGHT)[:, None] * 7.0, np.arange(WIDTH)[None, :] * 7.0)
    )
    trees = (top < line[None, :]) & (top > 0)
    shade = 0.5 + 0.7 * noise(np.arange(HEIGHT)[:, None] * 3.0, np.arange(WIDTH)[None, :] * 3.0)
    colour = rgb(0.22, 0.30, 0.16) * shade[..., None] * light.on(0, 0.7, -0.7)
    canvas.put((slice(0, HEIGHT), slice(0, WIDTH)), trees, np.float32(95), colour, VEGETATION)


def draw_ground(canvas: Canvas, light: Light, street: Street, buildings: list[Building]) -> None:
    """Carriageway with markings, pavement, grass, and the shadow that the houses throw."""
    rng = canvas.rng
    top = int(np.argmax(canvas.yc > 1e-4))
    window = (slice(top, HEIGHT), slice(0, WIDTH))
    t = canvas.camera.height / canvas.yc[top:, None]
    x = canvas.camera.x + t * canvas.rx[None, :]
    z = t * canvas.rz[None, :]
    t = np.broadcast_to(t, x.shape)
    footprint = t / canvas.camera.focal  # metres a pixel, sideways
    deep = footprint * t / canvas.camera.height  # metres a pixel, ahead
    fade = np.clip(1.3 - deep / 1.2, 0, 1)

    def line(distance: np.ndarray, width: float) -> np.ndarray:
        """Coverage 0..1 of a line whose middle is `distance` away."""
        return np.clip((width / 2 - np.abs(distance)) / footprint + 0.5, 0, 1)

    across = np.abs(x)
    in_crossing = np.zeros(x.shape, bool)
    if street.crossing:
        in_crossing = (z > street.crossing[0]) & (z < street.crossing[1])
    carriageway = (across < street.half) | in_crossing
    grain = 0.5 + fade * (noise(x * 14 + 40, z * 14) - 0.5)
    patches = noise(x * 1.6 + rng.integers(256), z * 0.7 + rng.integers(256)) - 0.5
    tone = rng.uniform(0.24, 0.44)
    asphalt = (tone + 0.09 * (grain - 0.5) + 0.07 * patches)[..., None] * rgb(1.0, 1.0, rng.uniform(0.98, 1.07))
    # Wheel tracks are a little smoother and lighter.
    asphalt = asphalt * (1 + 0.06 * np.cos(x * (2 * np.pi / street.half)))[..., None]
    stone = rng.uniform(0.45, 0.66) * rgb(1.0, rng.uniform(0.94, 1.0), rng.uniform(0.86, 0.98))
    joints = np.maximum((x % 0.8 < 0.06), (z % 0.8 < 0.06)) * np.clip(1.2 - deep / 0.3, 0, 1)
    paving = stone * (1 - 0.22 * joints + 0.14 * (grain - 0.5) + 0.10 * patches)[..., None]
    colour = np.where(carriageway[..., None], asphalt, paving)
    kerb = line(across - street.half, 0.22) * ~in_crossing
    colour = colour + (rgb(0.62, 0.61, 0.58) - colour) * (0.8 * kerb)[..., None]
    dash, gap, phase = rng.uniform(2.0, 4.0), rng.uniform(3.0, 6.0), rng.uniform(0, 9)
    dashes = np.clip(0.5 + (dash / 2 - np.abs((z + phase) % (dash + gap) - dash / 2)) / np.maximum(deep, 0.05), 0, 1)
    markings = np.zeros_like(x)
    if street.lanes == 2:
        solid = rng.random() < 0.25
        markings = line(x, 0.16) * (1.0 if solid else dashes)
    elif street.lanes == 4:
        markings = np.maximum(line(across - 0.12, 0.12), line(across - street.half / 2, 0.15) * dashes)
    if rng.random() < 0.5:
        markings = np.maximum(markings, line(across - street.half + 0.45, 0.12))
    markings = markings * ~in_crossing
    if street.zebra is not None:
        on_zebra = (z > street.zebra) & (z < street.zebra + 3.2) & (across < street.half - 0.2)
        stripes = np.clip(0.5 + (0.25 - np.abs(x % 1.0 - 0.5)) / np.maximum(footprint, 0.02), 0, 1)
        markings = np.where(on_zebra, stripes, markings)
        stop_line = (z > street.zebra - 1.4) & (z < street.zebra - 1.0) & (x > 0) & (x < street.half - 0.3)
        markings = np.maximum(markings, stop_line)
    worn = 0.65 + 0.3 * grain
    colour = (
        colour + (rgb(0.86, 0.86, 0.83) - colour) * (markings * carriageway * worn * rng.uniform(0.75, 1.0))[..., None]
    )
    label_grass = np.zeros(x.shape, bool)
    if street.grass:
        label_grass = (across > street.half + street.pavement) & ~in_crossing
        blades = 0.6 + 0.6 * noise(x * 20, z * 12)
        grass = rgb(*rng.uniform((0.22, 0.34, 0.10), (0.38, 0.46, 0.18))) * (blades + 0.4 * patches)[..., None]
        colour = np.where(label_grass[..., None], grass, colour)

    # The shadow of the row of buildings that stands between a point and the sun.
    sun = light.sun
    lit = np.ones_like(x)
    for b in buildings:
        if b.side * sun[0] <= 0.02:
            continue
        reach = (b.front - x) / sun[0]  # along the sun's direction, where the ray passes over the facade's line
        above, ahead = reach * sun[1], z + reach * sun[2]
        blocked = (reach > 0) & (ahead > b.near) & (ahead < b.far)
        lit = np.where(blocked, np.minimum(lit, np.clip((above - b.height) / 0.6 + 0.5, 0, 1)), lit)
    shade = light.ambient + light.direct * (sun[1] * lit)[..., None]
    canvas.put(window, np.ones(x.shape, bool), t, colour * shade, ROAD)
    grass_labels = canvas.labels[window]
    grass_labels[label_grass & (t < MAX_DEPTH)] = VEGETATION


def ground_shadow(canvas: Canvas, x: float, z: float, half_x: float, half_z: float, strength: float) -> None:
    """Darkens the ground, softly, under and beside a thing."""
    window = canvas.window(corners(x - 1.6 * half_x, x + 1.6 * half_x, 0, 0, z - 1.6 * half_z, z + 1.6 * half_z))
    rows = slice(max(window[0].start, int(np.argmax(canvas.yc > 1e-3))), window[0].stop)
    window = (rows, window[1])
    if rows.start >= rows.stop or window[1].start >= window[1].stop:
        return
    t = canvas.camera.height / canvas.yc[rows, None]
    dx = (canvas.camera.x + t * canvas.rx[None, window[1]] - x) / half_x
    dz = (t * canvas.rz[None, window[1]] - z) / half_z
    distance = np.maximum(np.abs(dx), np.abs(dz))
    dark = np.clip((1.45 - distance) / 0.6, 0, 1) * strength
    ground = np.isclose(canvas.depth[window], np.minimum(t, MAX_DEPTH), rtol=1e-4)
    canvas.colour[window] *= (1 - dark * ground)[..., None]
