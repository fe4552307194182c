# SPDX-License-Identifier: Apache-2.0
"""Pictures into the residual."""

from __future__ import annotations

import numpy as np
from edgemoe.host.compiler.draft import At, Operand, Region, Room
from edgemoe.host.compiler.packing import pad
from edgemoe.host.compiler.walk import Walk, lowers
from edgemoe.hw.contract.isa import Memory, Opcode
from edgemoe.models.steps import Embed


@lowers(Embed)
def embed(walk: Walk, step: Embed, label: str, slot: int | None) -> None:
    """Images -> residual rows of the leaders and their copy in activation memory."""
    c, h = walk.config, walk.hardware
    pixels = h.words(c.patch_size_words)
    per_row, patch_rows = c.patches_per_row, c.patches_per_column
    # A picture whose patches do not fit beside the residual comes in strips.
    free = h.activation_words - walk.copy.words
    heights = (-(-patch_rows // strips) for strips in range(1, patch_rows + 1))
    taller = next(height for height in heights if height == 1 or (1 + height * per_row) * pixels <= free)
    image = Room("a row of patches", 1 + taller * per_row, pixels)
    position = pad(step.position, 1, 1, h.lanes).astype("<i2")
    position_region = Region(position.nbytes, position.view(np.uint8).reshape(-1))
    zero_region = Region(pixels * h.word_bytes, np.zeros(pixels * h.word_bytes, np.uint8))
    walk.out.constants += [position_region, zero_region]
    walk.out.images = [[] for _ in range(max(s.image for s in walk.out.streams) + 1)]
    # The CLS token has no patch: its row of zeros leaves the position embedding's row 0 as it is.
    walk.transfer(
        Opcode.LOAD, "no pixels for the CLS token", Memory.ACTIVATION, At(image), 1, pixels, zero_region,
        rooms=[walk.copy, image], writes=[image],
    )  # fmt: skip
    for slot, number in enumerate(dict.fromkeys(stream.image for stream in walk.out.streams)):
        first = slot * c.tokens
        place = f"position embedding, image {number}"
        base = first * walk.width
        walk.transfer(
            Opcode.LOAD, place, Memory.RESIDUAL, base, c.tokens, walk.width, position_region, writes=[Operand.RESIDUAL]
        )
        for start in range(0, patch_rows, taller):
            height = min(taller, patch_rows - start)
            patches, cls = height * per_row, int(start == 0)
            region = Region(c.image_channels * height * c.patch * c.image_width)
            walk.out.images[number].append(region)
            part = (
                f"image {number}"
                if taller == patch_rows
                else f"image {number}, patch rows {start}..{start + height - 1}"
            )
            fields = dict(
                beats=-(-region.size // h.bus_bytes),
                rows=patches,
                columns=pixels,
                destination_base=At(image, pixels),
                destination_stride=pixels,
                across=per_row,
                down=height,
                channels=c.image_channels,
                patch=c.patch,
            )
            walk.draft(Opcode.IMAGE, part, fields, region=region, writes=[image])
            fields = dict(
                rows=cls + patches,
                stream_base=At(image, (1 - cls) * pixels),
                stream_stride=pixels,
                **walk.into_residual(first + 1 - cls + start * per_row, walk.copy),
            )
            walk.matmul(
                f"{label}, {part}",
                step.linear,
                fields,
                patches,
                [image, Operand.RESIDUAL],
                [Operand.RESIDUAL, walk.copy],
            )
