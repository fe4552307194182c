# SPDX-License-Identifier: Apache-2.0
"""Camera, light and canvas: rays that meet planes, solids and upright figures, the nearest of which is seen.

Every pixel is a ray through a pinhole camera that stands `camera_height` above a flat street. With row v, column u
(centres at + 0.5), focal length f in pixels and the principal point (cx, cy), the point at depth t of a pixel is, in
the street's frame,

    x = camera_x + t * (xc * cos(yaw) + sin(yaw))    right,   xc = (u + 0.5 - cx) / f
    z = t * (cos(yaw) - xc * sin(yaw))               ahead
    e = camera_height - t * yc                       above ground,   yc = (v + 0.5 - cy) / f

so a pixel that shows the ground has depth t = camera_height / yc = f * camera_height / (v + 0.5 - cy). Buildings and
cars are convex solids, people, trees and poles stand upright and face the camera at one depth. Depth is along the
optical axis, in metres, at most MAX_DEPTH, which is also the sky's.
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
    """Pinhole camera: focal length and principal point in pixels, height and sideways position in metres, yaw in
    radians.
    """

    focal: float
    cx: float
    cy: float
    height: float
    x: float
    yaw: float

    def ground_depth(self, row: int | np.ndarray) -> float | np.ndarray:
        """Depth in metres of the ground in a row below the horizon."""
        return self.focal * self.height / (row + 0.5 - self.cy)


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


def noise(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Fractal noise 0..1 at whole coordinates; repeats every 256."""
    return _NOISE[a.astype(np.int32) & 255, b.astype(np.int32) & 255]


def hashed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """White noise 0..1 at whole coordinates; repeats every 256."""
    return _HASH[a.astype(np.int32) & 255, b.astype(np.int32) & 255]


def rgb(*values: float) -> np.ndarray:
    """A colour, 0..1."""
    return np.array(values, np.float32)


# A solid is a list of half-spaces (nx, ne, nz, d): nx * x + ne * e + nz * z <= d.
Planes = list[tuple[float, float, float, float]]


class Canvas:
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

    def hit(self, planes: Planes, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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

    def put(
        self, window: tuple[slice, slice], mask: np.ndarray, t: np.ndarray | np.floating, colour: np.ndarray, label: int
    ) -> None:
        """Draws where nothing nearer is. `colour` is one colour, or one per pixel of the window."""
        depth = self.depth[window]
        t = np.minimum(t, MAX_DEPTH)
        mask = mask & (t <= depth)
        np.copyto(depth, t, where=mask)
        np.copyto(self.labels[window], np.uint8(label), where=mask)
        np.copyto(self.colour[window], colour, where=mask[..., None])

    def plane_at(
        self, x: float, z: float, half: float, height: float
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, float] | None:
        """An upright plane facing the camera: window, metres to the right of its foot [1, columns], metres above ground
        [rows, 1], depth. None if it cannot be seen."""
        side, t = self.camera_frame(x, z)
        camera = self.camera
        if t < 2.0 or t >= MAX_DEPTH:
            return None
        scale = camera.focal / t
        left, right = np.clip(
            [camera.cx + scale * (side - half) - 1, camera.cx + scale * (side + half) + 1], 0, WIDTH
        ).astype(int)
        top, bottom = np.clip(
            [camera.cy + scale * (camera.height - height) - 1, camera.cy + scale * camera.height + 1], 0, HEIGHT
        ).astype(int)
        if left >= right or top >= bottom:
            return None
        a = (self.xc[left:right] * t - side)[None, :]
        b = (camera.height - self.yc[top:bottom] * t)[:, None]
        return (slice(top, bottom), slice(left, right)), a, b, float(t)


@dataclass
class Light:
    """Sun direction (x, e, z; unit), colour of sun and of sky light, strength of shadows 0..1."""

    sun: np.ndarray
    direct: np.ndarray
    ambient: np.ndarray

    def on(self, nx: float, ne: float, nz: float) -> np.ndarray:
        """Colour of the light on a surface with this unit normal."""
        facing = max(0.0, float(nx * self.sun[0] + ne * self.sun[1] + nz * self.sun[2]))
        return self.ambient * (0.75 + 0.25 * ne) + self.direct * facing


def box(x0: float, x1: float, e0: float, e1: float, z0: float, z1: float) -> Planes:
    """The solid between two corners."""
    return [(-1, 0, 0, -x0), (1, 0, 0, x1), (0, -1, 0, -e0), (0, 1, 0, e1), (0, 0, -1, -z0), (0, 0, 1, z1)]


def corners(x0: float, x1: float, e0: float, e1: float, z0: float, z1: float) -> list[tuple[float, float, float]]:
    """Its eight corners (x, e, z)."""
    return [(x, e, z) for x in (x0, x1) for e in (e0, e1) for z in (z0, z1)]
