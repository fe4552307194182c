# SPDX-License-Identifier: Apache-2.0
"""What stands or moves in a street: cars, people, trees, poles."""

from __future__ import annotations

import numpy as np
from edgemoe.models.street.canvas import CAR, PERSON, POLE, VEGETATION, Canvas, Light, Planes, box, corners, noise, rgb
from edgemoe.models.street.ground import ground_shadow

_CARS = (
    rgb(0.75, 0.76, 0.78), rgb(0.12, 0.12, 0.13), rgb(0.90, 0.90, 0.90), rgb(0.45, 0.47, 0.50), rgb(0.50, 0.08, 0.08),
    rgb(0.10, 0.16, 0.38), rgb(0.30, 0.33, 0.36), rgb(0.80, 0.65, 0.12), rgb(0.10, 0.25, 0.18), rgb(0.25, 0.40, 0.55),
)  # fmt: skip
_CLOTHES = (
    rgb(0.10, 0.10, 0.14), rgb(0.22, 0.26, 0.40), rgb(0.55, 0.12, 0.14), rgb(0.70, 0.68, 0.62), rgb(0.25, 0.22, 0.20),
    rgb(0.80, 0.80, 0.82), rgb(0.15, 0.32, 0.28), rgb(0.75, 0.45, 0.15), rgb(0.35, 0.20, 0.35), rgb(0.12, 0.20, 0.45),
)  # fmt: skip
_SKINS = (rgb(0.85, 0.66, 0.55), rgb(0.70, 0.50, 0.38), rgb(0.45, 0.30, 0.22))


def draw_car(canvas: Canvas, light: Light, x: float, z: float, direction: int, crosswise: bool) -> None:
    """A car at (x, z), its middle. direction +1: its rear faces the camera (or it drives to the right, if
    crosswise).
    """
    rng = canvas.rng
    paint = _CARS[rng.integers(len(_CARS))] * rng.uniform(0.85, 1.1)
    van = rng.random() < 0.15
    long, wide = (rng.uniform(4.8, 5.8), 2.0) if van else (rng.uniform(3.7, 4.7), rng.uniform(1.68, 1.85))
    waist, roof = (1.15, rng.uniform(2.1, 2.5)) if van else (rng.uniform(0.82, 0.95), rng.uniform(1.40, 1.60))
    half_long, half_wide = long / 2, wide / 2
    extent_x, extent_z = (half_long, half_wide) if crosswise else (half_wide, half_long)
    if canvas.camera_frame(x, z - extent_z)[1] < 2.5:
        return
    ground_shadow(canvas, x, z, extent_x, extent_z, 0.75)

    def planes(local: Planes) -> Planes:
        """From the car's frame (side, e, forward; origin on the ground in its middle) to the street's."""
        result = []
        for ns, ne, nf, d in local:
            nx, nz = (nf * direction, -ns * direction) if crosswise else (ns * direction, nf * direction)
            result.append((nx, ne, nz, d + nx * x + nz * z))
        return result

    def draw(solid: Planes, skin) -> None:
        window = canvas.window(corners(x - extent_x, x + extent_x, 0, roof, z - extent_z, z + extent_z))
        if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
            return
        world = planes(solid)
        mask, t, face = canvas.hit(world, window)
        if not mask.any():
            return
        px = canvas.camera.x + t * canvas.rx[None, window[1]] - x
        pz = t * canvas.rz[None, window[1]] - z
        e = canvas.camera.height - t * canvas.yc[window[0], None]
        side, ahead = (-pz, px) if crosswise else (px, pz)
        side, ahead = side * direction, ahead * direction
        lights = np.stack([light.on(*np.array(p[:3]) / np.linalg.norm(p[:3])) for p in world])
        colour = skin(face, side, e, ahead) * lights[np.maximum(face, 0)]
        canvas.put(window, mask, t, colour, CAR)

    glass = rgb(0.10, 0.12, 0.14) * rng.uniform(0.7, 2.0)
    lamp_rear, lamp_front, dark = rgb(0.75, 0.06, 0.05), rgb(0.95, 0.95, 0.88), rgb(0.05, 0.05, 0.055)
    plate = rgb(0.9, 0.9, 0.85)
    wheel_at = half_long * 0.62

    def body_skin(face, side, e, ahead):
        colour = np.empty((*face.shape, 3), np.float32)
        colour[:] = paint
        colour *= (0.80 + 0.25 * np.clip(e / waist, 0, 1))[..., None]
        colour[e < 0.34] = dark * 2
        ends = (face == 4) | (face == 5)
        lamps = ends & (np.abs(side) > half_wide * 0.62) & (e > waist * 0.62) & (e < waist * 0.92)
        colour[lamps & (ahead < 0)] = lamp_rear
        colour[lamps & (ahead > 0)] = lamp_front
        colour[ends & (ahead > 0) & (np.abs(side) < half_wide * 0.5) & (e > 0.42) & (e < 0.62)] = dark
        colour[ends & (np.abs(side) < 0.27) & (np.abs(e - (0.68 if not van else 0.5)) < 0.07)] = plate
        sides = (face == 0) | (face == 1)
        hub = np.minimum((ahead - wheel_at) ** 2, (ahead + wheel_at) ** 2) + (e - 0.32) ** 2
        colour[sides & (hub < 0.36**2)] = dark
        colour[sides & (hub < 0.18**2)] = rgb(0.36, 0.36, 0.38)
        return colour

    def cabin_skin(face, side, e, ahead):
        colour = np.empty((*face.shape, 3), np.float32)
        colour[:] = paint
        pane = (e > waist + 0.06) & (e < roof - 0.1)
        if van:
            pane &= (ahead > half_long * 0.35) | (face >= 4)
        pillars = (np.abs(ahead + 0.15) < 0.05) & ((face == 0) | (face == 1))
        colour[pane & (face != 3) & ~pillars] = glass
        shine = pane & (face >= 4) & (e > roof - 0.28)
        colour[shine] = glass + 0.18
        return colour

    def wheel_skin(face, side, e, ahead):
        return np.broadcast_to(dark, (*face.shape, 3))

    body = box(-half_wide, half_wide, 0.24, waist, -half_long, half_long)
    rise = roof - waist
    front_lean, rear_lean = (0.5, 0.1) if van else (rng.uniform(0.9, 1.3), rng.uniform(0.3, 0.9))
    front_base, rear_base = (
        (half_long * 0.85, -half_long * 0.98) if van else (half_long * 0.45, -half_long * rng.uniform(0.75, 0.95))
    )
    lean = 0.12
    cabin = [
        (-rise, lean, 0, rise * (half_wide - 0.04) + lean * waist),
        (rise, lean, 0, rise * (half_wide - 0.04) + lean * waist),
        (0, -1, 0, -waist),
        (0, 1, 0, roof),
        (0, rear_lean, -rise, -rise * rear_base + rear_lean * waist),
        (0, front_lean, rise, rise * front_base + front_lean * waist),
    ]
    draw(cabin, cabin_skin)
    draw(body, body_skin)
    for sign_side in (-1, 1):
        for sign_end in (-1, 1):
            middle, s0 = sign_end * wheel_at, sign_side * (half_wide - 0.11)
            draw(
                [
                    (-1, 0, 0, 0.1 - s0), (1, 0, 0, 0.1 + s0), (0, -1, 0, 0), (0, 1, 0, 0.4),
                    (0, -0.7, -0.7, 0.7 * (0.13 - middle)), (0, -0.7, 0.7, 0.7 * (0.13 + middle)),
                    (0, 0, -1, 0.31 - middle), (0, 0, 1, 0.31 + middle),
                ],
                wheel_skin,
            )  # fmt: skip


def _capsule(a: np.ndarray, b: np.ndarray, a0: float, b0: float, a1: float, b1: float, radius: float) -> np.ndarray:
    """Mask of the points nearer than radius to the segment (a0, b0)-(a1, b1)."""
    da, db = a1 - a0, b1 - b0
    along = np.clip(((a - a0) * da + (b - b0) * db) / (da * da + db * db), 0, 1)
    return (a - a0 - along * da) ** 2 + (b - b0 - along * db) ** 2 < radius * radius


def draw_person(canvas: Canvas, light: Light, x: float, z: float) -> None:
    """A person who stands or walks, about 1.75 m tall, facing the camera."""
    rng = canvas.rng
    height = rng.uniform(1.55, 1.92)
    place = canvas.plane_at(x, z, 0.6, height)
    if place is None:
        return
    ground_shadow(canvas, x, z, 0.32, 0.22, 0.55)
    window, a, b, t = place
    s = height / 1.75
    a, b = a / s, b / s
    step, swing = rng.uniform(0.0, 0.28), rng.uniform(-0.18, 0.18)
    coat, trousers = _CLOTHES[rng.integers(len(_CLOTHES))], _CLOTHES[rng.integers(len(_CLOTHES))] * 0.8
    skin, hair = _SKINS[rng.integers(3)], rng.uniform(0.1, 0.5) * rgb(0.5, 0.38, 0.28)
    shape = (b.shape[0], a.shape[1])
    colour = np.zeros((*shape, 3), np.float32)
    mask = np.zeros(shape, bool)
    bulk = rng.uniform(0.17, 0.23)
    parts = [
        (_capsule(a, b, 0.06, 0.85, 0.05 + step, 0.07, 0.085), trousers),
        (_capsule(a, b, -0.06, 0.85, -0.05 - step * 0.9, 0.07, 0.085), trousers * 0.85),
        (_capsule(a, b, bulk + 0.04, 1.36, bulk + 0.07 + swing, 0.85, 0.06), coat * 0.85),
        (_capsule(a, b, -bulk - 0.04, 1.36, -bulk - 0.07 - swing, 0.85, 0.06), coat * 0.9),
        (_capsule(a, b, 0, 1.28, 0, rng.choice((0.6, 0.9)), bulk), coat),
        (_capsule(a, b, 0, 1.5, 0, 1.6, 0.10), skin),
        ((a**2 + (b - 1.64) ** 2 < 0.11**2) & (b > 1.63), hair),
    ]
    if rng.random() < 0.35:
        parts.insert(
            0, (_capsule(a, b, bulk + 0.16, 0.78, bulk + 0.16, 0.62, 0.13), _CLOTHES[rng.integers(len(_CLOTHES))])
        )
    for part, part_colour in parts:
        mask |= part
        colour[part] = part_colour
    shade = (
        light.ambient * 0.9
        + light.direct * (0.35 + 0.5 * np.clip(a / 0.3 * np.sign(light.sun[0]) + 0.5, 0, 1))[..., None]
    )
    canvas.put(window, mask, np.float32(t), colour * shade * (0.8 + 0.2 * np.clip(b, 0, 1))[..., None], PERSON)


def draw_tree(canvas: Canvas, light: Light, x: float, z: float, bush: bool) -> None:
    """A tree, or a bush, facing the camera."""
    rng = canvas.rng
    if bush:
        trunk, up, across = 0.0, rng.uniform(0.5, 1.1), rng.uniform(0.7, 1.6)
    else:
        trunk, up, across = rng.uniform(1.8, 3.5), rng.uniform(1.4, 3.6), rng.uniform(1.2, 3.0)
    place = canvas.plane_at(x, z, across * 1.35, trunk + 2.6 * up)
    if place is None:
        return
    ground_shadow(canvas, x, z, across * 0.8, across * 0.7, 0.4)
    window, a, b, t = place
    centre = trunk + up
    tilt = rng.uniform(-0.03, 0.03)
    thick = 0.05 * up + 0.05
    stem = (np.abs(a - tilt * b) < thick * (1.25 - 0.1 * b)) & (b > 0) & (b < centre)
    offset = rng.integers(0, 256, 4)
    coarse = noise(a * 5 + offset[0] + 0 * b, b * 5 + offset[1] + 0 * a)
    fine = noise(a * 26 + offset[2] + 0 * b, b * 26 + offset[3] + 0 * a)
    r = (a / across) ** 2 + ((b - centre) / up) ** 2
    crown = (r < 0.55 + 0.75 * coarse + 0.3 * (fine - 0.5)) & (b > 0)
    leaf = rgb(*rng.uniform((0.16, 0.27, 0.06), (0.34, 0.44, 0.16)))
    if rng.random() < 0.12:
        leaf = rgb(*rng.uniform((0.45, 0.30, 0.08), (0.60, 0.42, 0.14)))
    towards_sun = np.clip(0.5 + 0.4 * a / across * np.sign(light.sun[0]) + 0.4 * (b - centre) / up, 0, 1)
    shade = (0.35 + 0.9 * fine) * (0.55 + 0.5 * coarse)
    colour = leaf * shade[..., None] * (light.ambient + light.direct * (0.8 * towards_sun)[..., None]) * 1.35
    bark = rgb(0.26, 0.21, 0.17) * (0.7 + 0.5 * fine)[..., None] * (light.ambient + light.direct * 0.3)
    canvas.put(window, stem, np.float32(t), bark, VEGETATION)
    canvas.put(window, crown, np.float32(t), colour, VEGETATION)


def draw_pole(canvas: Canvas, light: Light, x: float, z: float) -> None:
    """A lamp, traffic light, sign or bollard, never thinner than a pixel."""
    rng = canvas.rng
    kind = rng.choice(("lamp", "signal", "sign", "bollard"), p=(0.4, 0.25, 0.25, 0.1))
    height = {
        "lamp": rng.uniform(5.5, 8.5),
        "signal": rng.uniform(3.2, 4.0),
        "sign": rng.uniform(2.4, 3.0),
        "bollard": 1.0,
    }[str(kind)]
    reach = 1.7
    place = canvas.plane_at(x, z, reach, height + 0.4)
    if place is None:
        return
    window, a, b, t = place
    inward = -1.0 if x > 0 else 1.0
    # never thinner than a pixel, so that it can be seen
    radius = max(rng.uniform(0.06, 0.11), 0.45 * t / canvas.camera.focal)
    shaft = (np.abs(a) < radius) & (b > 0) & (b < height)
    tone = rng.uniform(0.18, 0.55) * rgb(1, 1, rng.uniform(0.95, 1.05))
    shape = shaft.shape
    colour = np.empty((*shape, 3), np.float32)
    colour[:] = tone
    colour *= (0.85 + 0.35 * np.clip(a / radius * np.sign(light.sun[0]), -1, 1))[..., None]
    mask = shaft
    if kind == "lamp":
        arm = _capsule(a, b, 0, height - 0.1, inward * 1.3, height + 0.05, max(0.05, radius * 0.8))
        head = (np.abs(a - inward * 1.35) < 0.3) & (np.abs(b - height - 0.02) < 0.11)
        colour[head] = rgb(0.75, 0.75, 0.72)
        mask = mask | arm | head
    elif kind == "signal":
        case = (np.abs(a) < 0.17) & (b > height - 0.95) & (b < height)
        colour[case] = rgb(0.05, 0.05, 0.05)
        on = rng.integers(3)
        for index, lamp in enumerate((rgb(0.1, 0.95, 0.4), rgb(1.0, 0.7, 0.1), rgb(1.0, 0.12, 0.08))):
            disc = a**2 + (b - height + 0.78 - 0.3 * index) ** 2 < 0.11**2
            colour[disc] = lamp * (1.2 if index == on else 0.2)
        mask = mask | case
    elif kind == "sign":
        plates = (rgb(0.75, 0.08, 0.08), rgb(0.1, 0.25, 0.65), rgb(0.9, 0.75, 0.1), rgb(0.85, 0.85, 0.85))
        plate = (
            (a**2 + (b - height + 0.3) ** 2 < 0.31**2)
            if rng.random() < 0.6
            else (np.maximum(abs(a), abs(b - height + 0.3)) < 0.28)
        )
        inner = (a**2 + (b - height + 0.3) ** 2) < 0.19**2
        colour[plate] = plates[rng.integers(4)]
        colour[plate & inner] = rgb(0.9, 0.9, 0.88)
        mask = mask | plate
    canvas.put(window, mask, np.float32(t), colour * (light.ambient + light.direct * 0.45), POLE)
