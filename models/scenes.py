# SPDX-License-Identifier: Apache-2.0
"""A seeded generator of street scenes with exact labels and depth: the data on which m3vit-micro is trained. NumPy only.

Every pixel is a ray through a pinhole camera that stands `camera_height` above a flat street. With row v, column u (centres at
+ 0.5), focal length f in pixels and the principal point (cx, cy), the point at depth t of a pixel is, in the street's frame,

    x = camera_x + t * (xc * cos(yaw) + sin(yaw))    right,   xc = (u + 0.5 - cx) / f
    z = t * (cos(yaw) - xc * sin(yaw))               ahead
    e = camera_height - t * yc                       above ground,   yc = (v + 0.5 - cy) / f

so a pixel that shows the ground has depth t = camera_height / yc = f * camera_height / (v + 0.5 - cy). Buildings and cars are
convex solids, people, trees and poles stand upright and face the camera at one depth. Depth is along the optical axis, in metres,
at most MAX_DEPTH, which is also the sky's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HEIGHT, WIDTH = 128, 256
MAX_DEPTH = 100.0
CLASSES = ("sky", "road", "building", "car", "person", "vegetation", "pole")
SKY, ROAD, BUILDING, CAR, PERSON, VEGETATION, POLE = range(7)


@dataclass(frozen=True)
class Camera:
    """Pinhole camera: focal length and principal point in pixels, height and sideways position in metres, yaw in radians."""

    focal: float
    cx: float
    cy: float
    height: float
    x: float
    yaw: float

    def ground_depth(self, row: int | np.ndarray) -> float | np.ndarray:
        """Depth in metres of the ground in a row below the horizon."""
        return self.focal * self.height / (row + 0.5 - self.cy)


@dataclass(frozen=True)
class Scene:
    """image uint8 [3, 128, 256]; labels uint8 [128, 256] (index into CLASSES); depth float32 [128, 256] in metres; the camera."""

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    camera: Camera


def _make_noise(size: int = 256) -> np.ndarray:
    """A tileable table of fractal noise in 0..1; half its power is fine grain."""
    rng = np.random.default_rng(1)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / np.maximum(frequency, 2) ** 0.9
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (size, size))
    ranks = noise.ravel().argsort().argsort().reshape(size, size)
    return (ranks / (size * size - 1)).astype(np.float32)


_NOISE = _make_noise()
_HASH = np.random.default_rng(2).random((256, 256), dtype=np.float32)


def _noise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _NOISE[a.astype(np.int32) & 255, b.astype(np.int32) & 255]


def _hash(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _HASH[a.astype(np.int32) & 255, b.astype(np.int32) & 255]


def _rgb(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# A solid is a list of half-spaces (nx, ne, nz, d): nx * x + ne * e + nz * z <= d.
_Planes = list[tuple[float, float, float, float]]


class _Canvas:
    """Colour, label and depth of every pixel, and the nearest thing drawn so far."""

    def __init__(self, camera: Camera, rng: np.random.Generator) -> None:
        self.camera, self.rng = camera, rng
        xc = ((np.arange(WIDTH) + 0.5 - camera.cx) / camera.focal).astype(np.float32)
        self.yc = ((np.arange(HEIGHT) + 0.5 - camera.cy) / camera.focal).astype(np.float32)
        cosine, sine = np.float32(np.cos(camera.yaw)), np.float32(np.sin(camera.yaw))
        self.rx = xc * cosine + sine
        self.rz = cosine - xc * sine
        self.xc = xc
        self.colour = np.zeros((HEIGHT, WIDTH, 3), np.float32)
        self.labels = np.full((HEIGHT, WIDTH), SKY, np.uint8)
        self.depth = np.full((HEIGHT, WIDTH), MAX_DEPTH, np.float32)

    def camera_frame(self, x: float, z: float) -> tuple[float, float]:
        """Sideways position and depth of a ground point, seen from the camera."""
        cosine, sine = np.cos(self.camera.yaw), np.sin(self.camera.yaw)
        dx = x - self.camera.x
        return dx * cosine - z * sine, dx * sine + z * cosine

    def window(self, points: list[tuple[float, float, float]]) -> tuple[slice, slice]:
        """Rows and columns that hold the points (x, e, z); points behind the camera open the window wide."""
        camera = self.camera
        columns, rows = [], []
        for x, e, z in points:
            side, t = self.camera_frame(x, z)
            near = max(t, 0.05)
            columns.append(camera.cx + camera.focal * side / near)
            rows.append(camera.cy + camera.focal * (camera.height - e) / near)
        left, right = np.clip([min(columns) - 1, max(columns) + 2], 0, WIDTH).astype(int)
        top, bottom = np.clip([min(rows) - 1, max(rows) + 2], 0, HEIGHT).astype(int)
        return slice(top, bottom), slice(left, right)

    def hit(self, planes: _Planes, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mask, depth and index of the plane where the rays of a window enter a convex solid."""
        rows, columns = window
        rx, rz, ry = self.rx[columns], self.rz[columns], self.yc[rows]
        shape = (len(ry), len(rx))
        entry, leave = np.zeros(shape, np.float32), np.full(shape, 1e6, np.float32)
        face = np.full(shape, -1, np.int8)
        for index, (nx, ne, nz, d) in enumerate(planes):
            slope = (nx * rx + nz * rz)[None, :] - (ne * ry)[:, None]
            room = d - nx * self.camera.x - ne * self.camera.height
            slope = np.where(np.abs(slope) < 1e-6, np.float32(1e-6), slope)
            t = room / slope
            incoming = slope < 0
            nearer = incoming & (t > entry)
            entry = np.where(nearer, t, entry)
            face[nearer] = index
            leave = np.where(incoming, leave, np.minimum(leave, t))
        return (entry < leave) & (face >= 0), entry, face

    def put(self, window: tuple[slice, slice], mask: np.ndarray, t: np.ndarray | np.floating, colour: np.ndarray, label: int) -> None:
        """Draws where nothing nearer is. `colour` is one colour, or one per pixel of the window."""
        depth = self.depth[window]
        t = np.minimum(t, MAX_DEPTH)
        mask = mask & (t <= depth)
        np.copyto(depth, t, where=mask)
        np.copyto(self.labels[window], np.uint8(label), where=mask)
        np.copyto(self.colour[window], colour, where=mask[..., None])

    def plane_at(self, x: float, z: float, half: float, height: float) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, float] | None:
        """An upright plane facing the camera: window, metres to the right of its foot [1, columns], metres above ground
        [rows, 1], depth. None if it cannot be seen."""
        side, t = self.camera_frame(x, z)
        camera = self.camera
        if t < 2.0 or t >= MAX_DEPTH:
            return None
        scale = camera.focal / t
        left, right = np.clip([camera.cx + scale * (side - half) - 1, camera.cx + scale * (side + half) + 1], 0, WIDTH).astype(int)
        top, bottom = np.clip([camera.cy + scale * (camera.height - height) - 1, camera.cy + scale * camera.height + 1], 0, HEIGHT).astype(
            int
        )
        if left >= right or top >= bottom:
            return None
        a = (self.xc[left:right] * t - side)[None, :]
        b = (camera.height - self.yc[top:bottom] * t)[:, None]
        return (slice(top, bottom), slice(left, right)), a, b, float(t)


@dataclass
class _Light:
    """Sun direction (x, e, z; unit), colour of sun and of sky light, strength of shadows 0..1."""

    sun: np.ndarray
    direct: np.ndarray
    ambient: np.ndarray

    def on(self, nx: float, ne: float, nz: float) -> np.ndarray:
        facing = max(0.0, float(nx * self.sun[0] + ne * self.sun[1] + nz * self.sun[2]))
        return self.ambient * (0.75 + 0.25 * ne) + self.direct * facing


@dataclass
class _Building:
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


_WALLS = (
    _rgb(0.83, 0.78, 0.66), _rgb(0.72, 0.70, 0.67), _rgb(0.62, 0.42, 0.34), _rgb(0.87, 0.86, 0.82), _rgb(0.78, 0.66, 0.48),
    _rgb(0.55, 0.52, 0.50), _rgb(0.70, 0.55, 0.45), _rgb(0.66, 0.70, 0.70), _rgb(0.80, 0.72, 0.70), _rgb(0.48, 0.40, 0.36),
)  # fmt: skip
_CARS = (
    _rgb(0.75, 0.76, 0.78), _rgb(0.12, 0.12, 0.13), _rgb(0.90, 0.90, 0.90), _rgb(0.45, 0.47, 0.50), _rgb(0.50, 0.08, 0.08),
    _rgb(0.10, 0.16, 0.38), _rgb(0.30, 0.33, 0.36), _rgb(0.80, 0.65, 0.12), _rgb(0.10, 0.25, 0.18), _rgb(0.25, 0.40, 0.55),
)  # fmt: skip
_CLOTHES = (
    _rgb(0.10, 0.10, 0.14), _rgb(0.22, 0.26, 0.40), _rgb(0.55, 0.12, 0.14), _rgb(0.70, 0.68, 0.62), _rgb(0.25, 0.22, 0.20),
    _rgb(0.80, 0.80, 0.82), _rgb(0.15, 0.32, 0.28), _rgb(0.75, 0.45, 0.15), _rgb(0.35, 0.20, 0.35), _rgb(0.12, 0.20, 0.45),
)  # fmt: skip
_SKINS = (_rgb(0.85, 0.66, 0.55), _rgb(0.70, 0.50, 0.38), _rgb(0.45, 0.30, 0.22))


def _facade(b: _Building, a: np.ndarray, e: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Colour [n, 3] of a facade at a metres along and e metres up; detail fades where a pixel covers too much of it."""
    column, row = np.floor(a / b.pitch), np.floor(e / b.floor)
    u, v = a / b.pitch - column, e / b.floor - row
    sharp = np.clip(1.25 - footprint / (0.4 * b.pitch), 0, 1)
    random = _hash(column + b.seed, row * 3 + b.seed)
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
    glass = np.where(curtain[:, None], _rgb(0.72, 0.70, 0.64), glass)
    grain = 0.90 + 0.2 * _noise(a * 9 + b.seed * 5, e * 9)
    wall = b.wall * (grain * (1 - 0.12 * ((e > b.height - 0.5) | ((v < 0.06) & (row > 0)))))[:, None]
    if b.shop:
        board = ground_floor & (v > 0.74) & (v < 0.97)
        wall = np.where(board[:, None], b.frame * (0.8 + 0.3 * _hash(column // 2, row + b.seed))[:, None], wall)
    else:
        wall = np.where((e < 0.8)[:, None], wall * 0.72, wall)
    cover = np.where(e < b.height - 0.8, b.opening[0] * b.opening[1], 0)
    amount = (sharp * window + (1 - sharp) * cover)[:, None]
    result = wall * (1 - amount) + glass * amount
    edge = (sharp * frame * 0.6)[:, None]
    return result * (1 - edge) + b.frame * edge


def _box(x0: float, x1: float, e0: float, e1: float, z0: float, z1: float) -> _Planes:
    return [(-1, 0, 0, -x0), (1, 0, 0, x1), (0, -1, 0, -e0), (0, 1, 0, e1), (0, 0, -1, -z0), (0, 0, 1, z1)]


def _corners(x0: float, x1: float, e0: float, e1: float, z0: float, z1: float) -> list[tuple[float, float, float]]:
    return [(x, e, z) for x in (x0, x1) for e in (e0, e1) for z in (z0, z1)]


def _draw_building(canvas: _Canvas, light: _Light, b: _Building) -> None:
    x0, x1 = (b.front, b.front + 14) if b.side > 0 else (b.front - 14, b.front)
    window = canvas.window(_corners(x0, x1, 0, b.height, b.near, b.far))
    if window[0].start >= window[0].stop or window[1].start >= window[1].stop:
        return
    planes = _box(x0, x1, -0.01, b.height, b.near, b.far)
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


def _draw_background(canvas: _Canvas, light: _Light, haze: np.ndarray) -> None:
    """The sky with clouds, and far behind everything a line of trees."""
    rng = canvas.rng
    elevation = np.clip(-canvas.yc * canvas.camera.focal / 70, 0, 1)[:, None]
    grey = rng.random()
    zenith = haze * _rgb(0.42 + 0.54 * grey, 0.62 + 0.35 * grey, 0.88 + 0.11 * grey)
    sky = haze * (1 - elevation[..., None]) + zenith * elevation[..., None]
    # Clouds lie in a plane overhead, so they shrink towards the horizon.
    height = np.maximum(-canvas.yc, 0.03)[:, None]
    spread = rng.uniform(6, 16)
    clouds = _noise(canvas.xc[None, :] / height * spread + rng.integers(256), spread * 1.6 / height + rng.integers(256))
    clouds = (clouds + np.roll(clouds, 1, 1) + np.roll(clouds, -1, 1) + np.roll(clouds, 2, 1) + np.roll(clouds, -2, 1)) / 5
    clouds = np.clip((clouds - rng.uniform(0.35, 0.8)) * 2.5, 0, 1) * np.clip(-canvas.yc * 6, 0, 1)[:, None]
    sky = sky + (_rgb(1, 1, 1) - sky) * (clouds * rng.uniform(0.2, 0.8))[..., None]
    canvas.colour[:] = sky
    line = rng.uniform(2, 9) + 6 * _noise(np.arange(WIDTH) * rng.uniform(0.3, 0.9) + rng.integers(256), np.full(WIDTH, rng.integers(256)))
    line = np.convolve(np.pad(line, 3, mode="edge"), np.full(7, 1 / 7, np.float32), "valid")
    top = canvas.camera.height - canvas.yc[:, None] * 95 + 1.2 * _noise(np.arange(HEIGHT)[:, None] * 7.0, np.arange(WIDTH)[None, :] * 7.0)
    trees = (top < line[None, :]) & (top > 0)
    shade = 0.5 + 0.7 * _noise(np.arange(HEIGHT)[:, None] * 3.0, np.arange(WIDTH)[None, :] * 3.0)
    colour = _rgb(0.22, 0.30, 0.16) * shade[..., None] * light.on(0, 0.7, -0.7)
    canvas.put((slice(0, HEIGHT), slice(0, WIDTH)), trees, np.float32(95), colour, VEGETATION)


@dataclass
class _Street:
    half: float
    pavement: float
    crossing: tuple[float, float] | None
    zebra: float | None
    grass: bool
    lanes: int


def _draw_ground(canvas: _Canvas, light: _Light, street: _Street, buildings: list[_Building]) -> None:
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
    grain = 0.5 + fade * (_noise(x * 14 + 40, z * 14) - 0.5)
    patches = _noise(x * 1.6 + rng.integers(256), z * 0.7 + rng.integers(256)) - 0.5
    tone = rng.uniform(0.24, 0.44)
    asphalt = (tone + 0.09 * (grain - 0.5) + 0.07 * patches)[..., None] * _rgb(1.0, 1.0, rng.uniform(0.98, 1.07))
    # Wheel tracks are a little smoother and lighter.
    asphalt = asphalt * (1 + 0.06 * np.cos(x * (2 * np.pi / street.half)))[..., None]
    stone = rng.uniform(0.45, 0.66) * _rgb(1.0, rng.uniform(0.94, 1.0), rng.uniform(0.86, 0.98))
    joints = np.maximum((x % 0.8 < 0.06), (z % 0.8 < 0.06)) * np.clip(1.2 - deep / 0.3, 0, 1)
    paving = stone * (1 - 0.22 * joints + 0.14 * (grain - 0.5) + 0.10 * patches)[..., None]
    colour = np.where(carriageway[..., None], asphalt, paving)
    kerb = line(across - street.half, 0.22) * ~in_crossing
    colour = colour + (_rgb(0.62, 0.61, 0.58) - colour) * (0.8 * kerb)[..., None]
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
    colour = colour + (_rgb(0.86, 0.86, 0.83) - colour) * (markings * carriageway * worn * rng.uniform(0.75, 1.0))[..., None]
    label_grass = np.zeros(x.shape, bool)
    if street.grass:
        label_grass = (across > street.half + street.pavement) & ~in_crossing
        blades = 0.6 + 0.6 * _noise(x * 20, z * 12)
        grass = _rgb(*rng.uniform((0.22, 0.34, 0.10), (0.38, 0.46, 0.18))) * (blades + 0.4 * patches)[..., None]
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


def _ground_shadow(canvas: _Canvas, x: float, z: float, half_x: float, half_z: float, strength: float) -> None:
    """Darkens the ground, softly, under and beside a thing."""
    window = canvas.window(_corners(x - 1.6 * half_x, x + 1.6 * half_x, 0, 0, z - 1.6 * half_z, z + 1.6 * half_z))
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


def _draw_car(canvas: _Canvas, light: _Light, x: float, z: float, direction: int, crosswise: bool) -> None:
    """A car at (x, z), its middle. direction +1: its rear faces the camera (or it drives to the right, if crosswise)."""
    rng = canvas.rng
    paint = _CARS[rng.integers(len(_CARS))] * rng.uniform(0.85, 1.1)
    van = rng.random() < 0.15
    long, wide = (rng.uniform(4.8, 5.8), 2.0) if van else (rng.uniform(3.7, 4.7), rng.uniform(1.68, 1.85))
    waist, roof = (1.15, rng.uniform(2.1, 2.5)) if van else (rng.uniform(0.82, 0.95), rng.uniform(1.40, 1.60))
    half_long, half_wide = long / 2, wide / 2
    extent_x, extent_z = (half_long, half_wide) if crosswise else (half_wide, half_long)
    if canvas.camera_frame(x, z - extent_z)[1] < 2.5:
        return
    _ground_shadow(canvas, x, z, extent_x, extent_z, 0.75)

    def planes(local: _Planes) -> _Planes:
        """From the car's frame (side, e, forward; origin on the ground in its middle) to the street's."""
        result = []
        for ns, ne, nf, d in local:
            nx, nz = (nf * direction, -ns * direction) if crosswise else (ns * direction, nf * direction)
            result.append((nx, ne, nz, d + nx * x + nz * z))
        return result

    def draw(solid: _Planes, skin) -> None:
        window = canvas.window(_corners(x - extent_x, x + extent_x, 0, roof, z - extent_z, z + extent_z))
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

    glass = _rgb(0.10, 0.12, 0.14) * rng.uniform(0.7, 2.0)
    lamp_rear, lamp_front, dark = _rgb(0.75, 0.06, 0.05), _rgb(0.95, 0.95, 0.88), _rgb(0.05, 0.05, 0.055)
    plate = _rgb(0.9, 0.9, 0.85)
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
        colour[sides & (hub < 0.18**2)] = _rgb(0.36, 0.36, 0.38)
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

    body = _box(-half_wide, half_wide, 0.24, waist, -half_long, half_long)
    rise = roof - waist
    front_lean, rear_lean = (0.5, 0.1) if van else (rng.uniform(0.9, 1.3), rng.uniform(0.3, 0.9))
    front_base, rear_base = (half_long * 0.85, -half_long * 0.98) if van else (half_long * 0.45, -half_long * rng.uniform(0.75, 0.95))
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


def _draw_person(canvas: _Canvas, light: _Light, x: float, z: float) -> None:
    rng = canvas.rng
    height = rng.uniform(1.55, 1.92)
    place = canvas.plane_at(x, z, 0.6, height)
    if place is None:
        return
    _ground_shadow(canvas, x, z, 0.32, 0.22, 0.55)
    window, a, b, t = place
    s = height / 1.75
    a, b = a / s, b / s
    step, swing = rng.uniform(0.0, 0.28), rng.uniform(-0.18, 0.18)
    coat, trousers = _CLOTHES[rng.integers(len(_CLOTHES))], _CLOTHES[rng.integers(len(_CLOTHES))] * 0.8
    skin, hair = _SKINS[rng.integers(3)], rng.uniform(0.1, 0.5) * _rgb(0.5, 0.38, 0.28)
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
        parts.insert(0, (_capsule(a, b, bulk + 0.16, 0.78, bulk + 0.16, 0.62, 0.13), _CLOTHES[rng.integers(len(_CLOTHES))]))
    for part, part_colour in parts:
        mask |= part
        colour[part] = part_colour
    shade = light.ambient * 0.9 + light.direct * (0.35 + 0.5 * np.clip(a / 0.3 * np.sign(light.sun[0]) + 0.5, 0, 1))[..., None]
    canvas.put(window, mask, np.float32(t), colour * shade * (0.8 + 0.2 * np.clip(b, 0, 1))[..., None], PERSON)


def _draw_tree(canvas: _Canvas, light: _Light, x: float, z: float, bush: bool) -> None:
    rng = canvas.rng
    if bush:
        trunk, up, across = 0.0, rng.uniform(0.5, 1.1), rng.uniform(0.7, 1.6)
    else:
        trunk, up, across = rng.uniform(1.8, 3.5), rng.uniform(1.4, 3.6), rng.uniform(1.2, 3.0)
    place = canvas.plane_at(x, z, across * 1.35, trunk + 2.6 * up)
    if place is None:
        return
    _ground_shadow(canvas, x, z, across * 0.8, across * 0.7, 0.4)
    window, a, b, t = place
    centre = trunk + up
    tilt = rng.uniform(-0.03, 0.03)
    thick = 0.05 * up + 0.05
    stem = (np.abs(a - tilt * b) < thick * (1.25 - 0.1 * b)) & (b > 0) & (b < centre)
    offset = rng.integers(0, 256, 4)
    coarse = _noise(a * 5 + offset[0] + 0 * b, b * 5 + offset[1] + 0 * a)
    fine = _noise(a * 26 + offset[2] + 0 * b, b * 26 + offset[3] + 0 * a)
    r = (a / across) ** 2 + ((b - centre) / up) ** 2
    crown = (r < 0.55 + 0.75 * coarse + 0.3 * (fine - 0.5)) & (b > 0)
    leaf = _rgb(*rng.uniform((0.16, 0.27, 0.06), (0.34, 0.44, 0.16)))
    if rng.random() < 0.12:
        leaf = _rgb(*rng.uniform((0.45, 0.30, 0.08), (0.60, 0.42, 0.14)))
    towards_sun = np.clip(0.5 + 0.4 * a / across * np.sign(light.sun[0]) + 0.4 * (b - centre) / up, 0, 1)
    shade = (0.35 + 0.9 * fine) * (0.55 + 0.5 * coarse)
    colour = leaf * shade[..., None] * (light.ambient + light.direct * (0.8 * towards_sun)[..., None]) * 1.35
    bark = _rgb(0.26, 0.21, 0.17) * (0.7 + 0.5 * fine)[..., None] * (light.ambient + light.direct * 0.3)
    canvas.put(window, stem, np.float32(t), bark, VEGETATION)
    canvas.put(window, crown, np.float32(t), colour, VEGETATION)


def _draw_pole(canvas: _Canvas, light: _Light, x: float, z: float) -> None:
    rng = canvas.rng
    kind = rng.choice(("lamp", "signal", "sign", "bollard"), p=(0.4, 0.25, 0.25, 0.1))
    height = {"lamp": rng.uniform(5.5, 8.5), "signal": rng.uniform(3.2, 4.0), "sign": rng.uniform(2.4, 3.0), "bollard": 1.0}[str(kind)]
    reach = 1.7
    place = canvas.plane_at(x, z, reach, height + 0.4)
    if place is None:
        return
    window, a, b, t = place
    inward = -1.0 if x > 0 else 1.0
    radius = max(rng.uniform(0.06, 0.11), 0.45 * t / canvas.camera.focal)  # never thinner than a pixel, so that it can be seen
    shaft = (np.abs(a) < radius) & (b > 0) & (b < height)
    tone = rng.uniform(0.18, 0.55) * _rgb(1, 1, rng.uniform(0.95, 1.05))
    shape = shaft.shape
    colour = np.empty((*shape, 3), np.float32)
    colour[:] = tone
    colour *= (0.85 + 0.35 * np.clip(a / radius * np.sign(light.sun[0]), -1, 1))[..., None]
    mask = shaft
    if kind == "lamp":
        arm = _capsule(a, b, 0, height - 0.1, inward * 1.3, height + 0.05, max(0.05, radius * 0.8))
        head = (np.abs(a - inward * 1.35) < 0.3) & (np.abs(b - height - 0.02) < 0.11)
        colour[head] = _rgb(0.75, 0.75, 0.72)
        mask = mask | arm | head
    elif kind == "signal":
        case = (np.abs(a) < 0.17) & (b > height - 0.95) & (b < height)
        colour[case] = _rgb(0.05, 0.05, 0.05)
        on = rng.integers(3)
        for index, lamp in enumerate((_rgb(0.1, 0.95, 0.4), _rgb(1.0, 0.7, 0.1), _rgb(1.0, 0.12, 0.08))):
            disc = a**2 + (b - height + 0.78 - 0.3 * index) ** 2 < 0.11**2
            colour[disc] = lamp * (1.2 if index == on else 0.2)
        mask = mask | case
    elif kind == "sign":
        plates = (_rgb(0.75, 0.08, 0.08), _rgb(0.1, 0.25, 0.65), _rgb(0.9, 0.75, 0.1), _rgb(0.85, 0.85, 0.85))
        plate = (a**2 + (b - height + 0.3) ** 2 < 0.31**2) if rng.random() < 0.6 else (np.maximum(abs(a), abs(b - height + 0.3)) < 0.28)
        inner = (a**2 + (b - height + 0.3) ** 2) < 0.19**2
        colour[plate] = plates[rng.integers(4)]
        colour[plate & inner] = _rgb(0.9, 0.9, 0.88)
        mask = mask | plate
    canvas.put(window, mask, np.float32(t), colour * (light.ambient + light.direct * 0.45), POLE)


def _plan_buildings(rng: np.random.Generator, street: _Street, suburb: bool, end: float) -> list[_Building]:
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
                _Building(
                    side=side,
                    near=near,
                    far=far,
                    front=side * (street.half + street.pavement + setback + rng.uniform(0, 0.5)),
                    height=tall * rng.uniform(0.75, 1.3),
                    wall=wall,
                    glass=_rgb(0.16, 0.19, 0.22) * rng.uniform(0.7, 1.7),
                    frame=(
                        _rgb(*(rng.uniform(0.2, 0.75) + rng.uniform(-0.15, 0.15, 3)))
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


def _finish(canvas: _Canvas, haze: np.ndarray, reach: float) -> np.ndarray:
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
    picture *= rng.uniform(0.78, 1.22) * _rgb(1 + warmth, rng.uniform(0.99, 1.02), 1 - warmth)
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
    street = _Street(half, rng.uniform(1.6, 4.0), crossing, zebra, suburb, 4 if half > 5.8 else 2)
    camera = Camera(
        focal=rng.uniform(190, 250),
        cx=WIDTH / 2 + rng.uniform(-6, 6),
        cy=rng.uniform(50, 66),
        height=rng.uniform(1.2, 1.7),
        x=rng.uniform(0.15, 0.6) * half,
        yaw=rng.normal(0, 0.07),
    )
    canvas = _Canvas(camera, rng)
    azimuth, elevation = rng.uniform(-np.pi, np.pi), rng.uniform(0.35, 1.1)
    sun = _rgb(np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation))
    sunny = rng.uniform(0.0, 1.0)
    warm = _rgb(1.0, rng.uniform(0.90, 1.0), rng.uniform(0.78, 0.98))
    light = _Light(sun, warm * (0.15 + 0.85 * sunny), _rgb(0.92, 0.96, 1.03) * (0.78 - 0.36 * sunny))
    haze = _rgb(*rng.uniform((0.78, 0.84, 0.88), (0.93, 0.96, 1.0)))
    _draw_background(canvas, light, haze)
    end = rng.uniform(45, 130)
    buildings = _plan_buildings(rng, street, suburb, end)
    _draw_ground(canvas, light, street, buildings)
    if rng.random() < 0.45 and end < 95:  # the street ends at a house
        spread = rng.uniform(15, 40)
        first = _plan_buildings(rng, street, suburb, 0.0)
        for b in first[:1]:
            b.side, b.front, b.near, b.far = 1, -spread, end + 12, end + 26
            _draw_building(canvas, light, b)
    for b in buildings:
        _draw_building(canvas, light, b)

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
                        _draw_car(canvas, light, x, z, side, False)
                z += rng.uniform(5.6, 7.0)
    for _ in range(rng.poisson(2.0)):  # moving cars
        z = float(np.exp(rng.uniform(np.log(8), np.log(80))))
        if rng.random() < 0.5:
            x, direction = camera.x + rng.uniform(-0.4, 0.4), 1
        else:
            x, direction = -camera.x + rng.uniform(-0.4, 0.4), -1
        if free(x, z, 7.0):
            _draw_car(canvas, light, x, z, direction, False)
    if crossing and rng.random() < 0.5:
        _draw_car(canvas, light, rng.uniform(-9, 9), rng.uniform(crossing[0] + 2, crossing[1] - 2), int(rng.choice((-1, 1))), True)
    for side in (-1, 1):  # trees along the kerb, and in front gardens
        if rng.random() < (0.7 if suburb else 0.35):
            z, gap = rng.uniform(5, 15), rng.uniform(6, 14)
            x = side * (kerb + (street.pavement + rng.uniform(0.5, 2.5) if suburb else rng.uniform(0.3, 0.8)))
            while z < 75:
                if not in_side_street(z, 1.5) and rng.random() < 0.85:
                    _draw_tree(canvas, light, x + rng.uniform(-0.3, 0.3), z, bush=False)
                z += gap * rng.uniform(0.8, 1.3)
        if suburb:
            for _ in range(rng.poisson(3)):
                z = rng.uniform(6, 50)
                if not in_side_street(z, 1.5):
                    _draw_tree(canvas, light, side * (kerb + street.pavement + rng.uniform(0.3, 2.0)), z, bush=True)
    for _ in range(rng.poisson(3.0)):  # poles
        z = float(np.exp(rng.uniform(np.log(6), np.log(45))))
        if not in_side_street(z):
            _draw_pole(canvas, light, rng.choice((-1, 1)) * (kerb + rng.uniform(0, 0.4)), z)
    people = rng.poisson(3.5)
    while people > 0:  # people, often in pairs
        z = float(np.exp(rng.uniform(np.log(5), np.log(45))))
        group = min(people, int(rng.integers(1, 4)))
        if zebra is not None and rng.random() < 0.35:
            x, z = rng.uniform(-half, half), zebra + rng.uniform(0.4, 2.8)
        else:
            x = rng.choice((-1, 1)) * (kerb + rng.uniform(0.2, max(0.4, street.pavement - 0.8)))
        for _ in range(group):
            _draw_person(canvas, light, x + rng.uniform(-0.9, 0.9), z + rng.uniform(-0.5, 0.5))
        people -= group
    image = _finish(canvas, haze, rng.uniform(120, 600))
    return Scene(image, canvas.labels, canvas.depth, camera)
