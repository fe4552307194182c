# SPDX-License-Identifier: Apache-2.0
"""The reordering as a film: the router sends every patch to the queues of its experts, then each expert runs once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from edgemoe.host.studies.demo import Demo
from edgemoe.host.studies.demo_picture import INK, QUIET, rgb, tinted
from edgemoe.host.studies.drawing import COLOURS
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

THUMB, LANE, EDGE = 9, 36, 12  # pixels: side of a patch in a queue, height of an expert's lane, margin
TOGETHER = 8  # patches that move between two frames
STEP, RUN, REST = 60, 420, 2200  # milliseconds of a frame: while queues fill, of an expert's run, at the end


@dataclass(frozen=True)
class Entry:
    """A patch in a queue."""

    task: int
    patch: int
    expert: int


def entries(demo: Demo, layer: int) -> list[Entry]:
    """In the order in which the hardware fills its queues: task by task, all first choices before the second ones."""
    return [
        Entry(task, patch, int(expert))
        for task in range(len(demo.config.tasks))
        for choice in demo.routes[layer, task].T
        for patch, expert in enumerate(choice)
    ]


class Stage:
    """Draws one frame from what stands in the queues."""

    def __init__(self, demo: Demo, layer: int) -> None:
        config = demo.config
        self.demo, self.layer, self.patch = demo, layer, config.patch
        self.rows, self.columns = config.patches_per_column, config.patches_per_row
        self.street = demo.scene.image.transpose(1, 2, 0)
        grid = self.street.reshape(self.rows, self.patch, self.columns, self.patch, 3).swapaxes(1, 2)
        self.thumbs = [
            Image.fromarray(np.ascontiguousarray(x)).resize((THUMB - 1, THUMB - 1))
            for x in grid.reshape(-1, *grid.shape[2:])
        ]
        counts = [
            np.bincount(route.ravel(), minlength=config.experts).max()
            for (number, _), route in demo.routes.items()
            if number == layer
        ]
        self.x = EDGE + self.street.shape[1] + 2 * EDGE
        pictures = 62 + len(config.tasks) * (self.street.shape[0] + 34) - 34
        lanes = 40 + config.experts * LANE
        self.size = (self.x + 82 + int(max(counts)) * THUMB + EDGE, max(pictures, lanes) + EDGE)
        self.fonts = {size: ImageFont.load_default(size=size) for size in (13, 15)}

    def frame(self, waiting: list[Entry], shown: dict[int, NDArray[np.int64]], running: int, text: str) -> Image.Image:
        """waiting: what stands in the queues; shown: task -> expert of each patch that is coloured, -1 for none;
        running: the expert at work, -1 for none."""
        canvas = Image.new("RGB", self.size, "white")
        draw = ImageDraw.Draw(canvas)
        draw.text((EDGE, 10), text, fill=INK, font=self.fonts[15])
        for task, config in enumerate(self.demo.config.tasks):
            y = 62 + task * (self.street.shape[0] + 34)
            draw.text((EDGE, y - 19), config.name, fill=QUIET, font=self.fonts[13])
            canvas.paste(Image.fromarray(self._coloured(shown[task])), (EDGE, y))
        counts = np.bincount([entry.expert for entry in waiting], minlength=self.demo.config.experts)
        for expert, count in enumerate(counts):
            y = 40 + expert * LANE
            colour = COLOURS[expert % len(COLOURS)]
            if expert == running:
                draw.rectangle((self.x - 6, y - 2, self.size[0] - 4, y + LANE - 5), fill="#eaeef2")
            draw.rectangle((self.x, y + 3, self.x + 8, y + 2 * THUMB + 7), fill=colour)
            draw.text((self.x + 14, y + 1), f"expert {expert}", fill=INK, font=self.fonts[13])
            draw.text((self.x + 14, y + 15), f"{count} waiting", fill=QUIET, font=self.fonts[13])
        places: dict[tuple[int, int], int] = {}
        for entry in waiting:
            lane = entry.expert, entry.task
            place = places[lane] = places.get(lane, -1) + 1
            y = 40 + entry.expert * LANE + 4 + entry.task * (THUMB + 3)
            canvas.paste(self.thumbs[entry.patch], (self.x + 82 + place * THUMB, y))
        return canvas

    def _coloured(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        palette = np.array([rgb(colour) for colour in COLOURS])
        grid = chosen.reshape(self.rows, self.columns).repeat(self.patch, 0).repeat(self.patch, 1)
        return np.where(grid[..., None] < 0, self.street, tinted(self.street, palette[grid % len(COLOURS)], 0.62))


def frames(demo: Demo, layer: int) -> Iterator[tuple[Image.Image, int]]:
    """(frame, milliseconds) of the whole film."""
    stage, waiting = Stage(demo, layer), list[Entry]()
    none = {task: np.full(stage.rows * stage.columns, -1) for task in range(len(demo.config.tasks))}
    shown = {task: chosen.copy() for task, chosen in none.items()}
    order = entries(demo, layer)
    for first in range(0, len(order), TOGETHER):
        group = order[first : first + TOGETHER]
        for entry in group:
            waiting.append(entry)
            if shown[entry.task][entry.patch] < 0:  # the first choice
                shown[entry.task][entry.patch] = entry.expert
        name = demo.config.tasks[group[-1].task].name
        text = f"Layer {layer}: the router sends each patch to {demo.config.top_k} of {demo.config.experts} experts"
        yield stage.frame(waiting, shown, -1, f"{text} ({name})"), STEP
    yield stage.frame(waiting, shown, -1, "Every expert has its queue, of both tasks"), REST // 2
    for expert in range(demo.config.experts):
        mine = {task: chosen.copy() for task, chosen in none.items()}
        for entry in waiting:
            if entry.expert == expert:
                mine[entry.task][entry.patch] = expert
        text = f"Expert {expert}: its weights cross the bus once, its queue streams past them"
        yield stage.frame(waiting, mine, expert, text), RUN
        waiting = [entry for entry in waiting if entry.expert != expert]
        yield stage.frame(waiting, mine, expert, text), RUN
    yield stage.frame(waiting, none, -1, "Each result went back to its patch, times its score"), REST


def _palette(sample: Image.Image) -> Image.Image:
    """128 colours of a frame, the experts' own and white among them for sure."""
    strip = Image.new("RGB", (sample.width, sample.height + 16 * (len(COLOURS) + 1)), "white")
    strip.paste(sample, (0, 0))
    for number, colour in enumerate(COLOURS):
        strip.paste(colour, (0, sample.height + 16 * number, sample.width, sample.height + 16 * (number + 1)))
    return strip.quantize(128, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)


def film(demo: Demo) -> bytes:
    """The queues of the last layer with experts, as an animated GIF."""
    pictures, durations = zip(*frames(demo, demo.config.moe_layers[-1]), strict=True)
    palette = _palette(pictures[len(pictures) // 2])
    first, *others = (one.quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures)
    data = io.BytesIO()
    first.save(data, "GIF", save_all=True, append_images=others, duration=list(durations), loop=0, optimize=True)
    return data.getvalue()
