# SPDX-License-Identifier: Apache-2.0
"""Pictures into the residual."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from edgemoe.host.compiler.draft import At, Operand, Piece, Region, Room
from edgemoe.host.compiler.packing import pad
from edgemoe.host.compiler.walk import Walk, lowers
from edgemoe.hw.contract.isa import Memory, Opcode
from edgemoe.models.steps import Embed


@dataclass(frozen=True)
class Rectangle:
    """Patches of a picture: `down` rows of `across`."""

    top: int
    left: int
    down: int
    across: int

    @property
    def patches(self) -> int:
        return self.down * self.across


def rectangles(patches: range, per_row: int, most: int) -> Iterator[Rectangle]:
    """All patches of a range, row by row of the picture, at most `most` at once."""
    first = patches.start
    while left := patches.stop - first:
        top, start = divmod(first, per_row)
        whole = min(left, most) // per_row if start == 0 else 0
        found = Rectangle(top, start, whole or 1, per_row if whole else min(per_row - start, left, most))
        yield found
        first += found.patches


@lowers(Embed)
def embed(walk: Walk, step: Embed, label: str, slot: int | None) -> None:
    """Images -> residual rows of the leaders and their copy in activation memory."""
    c, h = walk.config, walk.hardware
    # A picture whose patches do not fit beside the residual comes in strips.
    free = h.activation_words - walk.copy.words
    heights = (-(-c.patches_per_column // strips) for strips in range(1, c.patches_per_column + 1))
    most = next(
        height * c.patches_per_row
        for height in heights
        if height == 1 or (c.prefix + height * c.patches_per_row) * h.words(c.patch_size_words) <= free
    )
    pictures = list(dict.fromkeys(stream.image for stream in walk.out.streams))
    rows = range(c.tokens)
    embedding = Embedding(walk, step, rows, most, position_of(walk, step, rows))
    for slot, number in enumerate(pictures):
        embedding.picture(label, number, slot * c.tokens)


def position_of(walk: Walk, step: Embed, rows: range) -> Region:
    """The positions of some token rows, as the residual begins with them."""
    position = pad(step.position, 1, 1, walk.hardware.lanes).astype("<i2")[rows.start : rows.stop]
    region = Region(position.nbytes, np.ascontiguousarray(position).view(np.uint8).reshape(-1))
    walk.out.constants.append(region)
    return region


class Embedding:
    """Token rows of pictures, at most `most` patches at once in activation memory; of each picture the same rows."""

    def __init__(self, walk: Walk, step: Embed, rows: range, most: int, position: Region) -> None:
        c, h = walk.config, walk.hardware
        self.walk, self.step, self.rows, self.most, self.position = walk, step, rows, most, position
        self.pixels = h.words(c.patch_size_words)
        self.prefix = max(0, min(c.prefix, rows.stop) - rows.start)
        self.patches = range(max(rows.start, c.prefix) - c.prefix, max(rows.stop, c.prefix) - c.prefix)
        largest = max((r.patches for r in rectangles(self.patches, c.patches_per_row, most)), default=0)
        self.image = Room("a row of patches", self.prefix + largest, self.pixels)
        walk.out.images = walk.out.images or [[] for _ in range(max(s.image for s in walk.out.streams) + 1)]
        if self.prefix:
            self._no_pixels()

    def _no_pixels(self) -> None:
        """Some tokens have no patch: rows of zeros leave their positions as they are."""
        walk, prefix = self.walk, self.prefix
        zeros = np.zeros(prefix * self.pixels * walk.hardware.word_bytes, np.uint8)
        region = Region(zeros.size, zeros)
        walk.out.constants.append(region)
        absent = "no pixels for the CLS token" if prefix == 1 else "no pixels for the tokens before the patches"
        walk.transfer(
            Opcode.LOAD, absent, Memory.ACTIVATION, At(self.image), prefix, self.pixels, region,
            rooms=[walk.copy, self.image], writes=[self.image],
        )  # fmt: skip

    def picture(self, label: str, number: int, row: int) -> None:
        """The rows of a picture become those of the residual from `row` on."""
        walk, c = self.walk, self.walk.config
        place, base = f"position embedding, image {number}", row * walk.width
        walk.transfer(
            Opcode.LOAD, place, Memory.RESIDUAL, base, len(self.rows), walk.width, self.position,
            writes=[Operand.RESIDUAL],
        )  # fmt: skip
        prefix, done = self.prefix, 0
        parts: list[Rectangle | None] = list(rectangles(self.patches, c.patches_per_row, self.most))
        for part in parts or [None]:
            name = f"image {number}"
            if part and part.patches < c.patches:
                name += f", patch rows {part.top}..{part.top + part.down - 1}"
                if part.across < c.patches_per_row:
                    name += f" from patch {part.left}"
            self._part(label, name, number, part, prefix, row + done)
            done, prefix = done + prefix + (part.patches if part else 0), 0

    def _part(self, label: str, name: str, number: int, part: Rectangle | None, prefix: int, row: int) -> None:
        """`prefix` rows without pixels and the patches of a rectangle, if there is one."""
        walk, c, h, pixels = self.walk, self.walk.config, self.walk.hardware, self.pixels
        if part:
            region = Region(c.image_channels * part.patches * c.patch**2)
            side = c.patch
            piece = Piece(region, part.top * side, part.left * side, part.down * side, part.across * side)
            walk.out.images[number].append(piece)
            fields: dict[str, int | At] = dict(
                beats=-(-region.size // h.bus_bytes),
                rows=part.patches,
                columns=pixels,
                destination_base=At(self.image, self.prefix * pixels),
                destination_stride=pixels,
                across=part.across,
                down=part.down,
                channels=c.image_channels,
                patch=c.patch,
            )
            rooms = [walk.copy, self.image]
            walk.draft(Opcode.IMAGE, name, fields, region=region, rooms=rooms, writes=[self.image])
        patches = part.patches if part else 0
        fields = dict(
            rows=prefix + patches,
            stream_base=At(self.image, (self.prefix - prefix) * pixels),
            stream_stride=pixels,
            **walk.into_residual(row, walk.copy),
        )
        whole = f"{label}, {name}"
        reads: list[Room | Operand] = [self.image, Operand.RESIDUAL]
        walk.matmul(whole, self.step.linear, fields, patches, reads, [Operand.RESIDUAL, walk.copy])
