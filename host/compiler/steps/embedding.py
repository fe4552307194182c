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
    taller = next(height for height in heights if height == 1 or (c.prefix + height * per_row) * pixels <= free)
    image = Room("a row of patches", c.prefix + taller * per_row, pixels)
    position = pad(step.position, 1, 1, h.lanes).astype("<i2")
    position_region = Region(position.nbytes, position.view(np.uint8).reshape(-1))
    walk.out.constants.append(position_region)
    walk.out.images = [[] for _ in range(max(s.image for s in walk.out.streams) + 1)]
    if c.prefix:
        # These tokens have no patch: rows of zeros leave their positions as they are.
        zeros = np.zeros(c.prefix * pixels * h.word_bytes, np.uint8)
        zero_region = Region(zeros.size, zeros)
        walk.out.constants.append(zero_region)
        absent = "no pixels for the CLS token" if c.prefix == 1 else "no pixels for the tokens before the patches"
        walk.transfer(
            Opcode.LOAD, absent, Memory.ACTIVATION, At(image), c.prefix, pixels, zero_region,
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
            patches, prefix = height * per_row, c.prefix if start == 0 else 0
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
                destination_base=At(image, c.prefix * pixels),
                destination_stride=pixels,
                across=per_row,
                down=height,
                channels=c.image_channels,
                patch=c.patch,
            )
            walk.draft(Opcode.IMAGE, part, fields, region=region, rooms=[walk.copy, image], writes=[image])
            fields = dict(
                rows=prefix + patches,
                stream_base=At(image, (c.prefix - prefix) * pixels),
                stream_stride=pixels,
                **walk.into_residual(first + c.prefix - prefix + start * per_row, walk.copy),
            )
            walk.matmul(
                f"{label}, {part}",
                step.linear,
                fields,
                patches,
                [image, Operand.RESIDUAL],
                [Operand.RESIDUAL, walk.copy],
            )
