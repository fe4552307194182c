# SPDX-License-Identifier: Apache-2.0
"""How a model that is larger than the chip is cut: token rows in tiles, heads in groups, keys in parts.

What belongs to a row needs no other row, but for attention. So the layers between two attentions run over a tile of
rows, whose residual comes from memory and goes back there; and attention over the heads whose keys and values are on
chip together, for as many queries at once as there is room for their scores. Nothing is rounded that would not be
rounded on a larger chip: every sum is formed in one piece. What it costs is that the weights are fetched once a tile
(which hides behind the array as long as a tile has as many rows as a block of weights takes cycles on the bus), and
that residual, queries, keys, values and attention's results cross the bus twice a layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, gcd, lcm

from edgemoe.host.compiler.capacities import Need, Shortage
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.weight_stream import ALIGNMENT
from edgemoe.models.config import ModelConfig


@dataclass(frozen=True)
class Split:
    """tokens   rows of a stream
    rows     of a tile, which begins at a multiple of 64 bytes whatever a row's words; the last one may have fewer
    heads    of a group
    queries  rows of scores at once
    keys     on chip at once
    columns  words of a head's values on chip at once; if not all, they come when the keys have gone
    why      what is short in one piece
    """

    tokens: int
    rows: int
    heads: int
    queries: int
    keys: int
    columns: int
    parted: bool
    why: tuple[Need, ...] = ()

    @property
    def tiles(self) -> list[range]:
        return list(pieces(range(self.tokens), self.rows))

    def needs(self, config: ModelConfig, hardware: HardwareConfig) -> Iterator[Need]:
        """Of the capacities, what it takes; activation words are `allocate`'s matter."""
        c, h = config, hardware
        head = h.words(c.head_width)
        yield Need("token rows of a tile", self.rows, h.rows)
        yield Need("residual words of a tile", self.rows * h.words(c.width), h.residual_words)
        held = max(self.keys * head, self.tokens * self.columns) if self.parted else 2 * self.tokens * self.heads * head
        yield Need("key/value words", max(held, 2 * self.rows * c.heads * head), h.key_value_words)
        yield Need("score words", self.queries * h.words(c.tokens), h.score_words)

    def groups(self, heads: int) -> list[range]:
        """Heads whose keys and values are on chip together."""
        return list(pieces(range(heads), self.heads))

    def smaller(self, hardware: HardwareConfig) -> Split | None:
        """With fewer rows a tile, if that goes."""
        step = unit(hardware, self.parted)
        rows = max(1, self.rows * 7 // 8) // step * step
        return replace(self, rows=rows, queries=min(self.queries, rows)) if rows else None

    def __str__(self) -> str:
        """What people are told."""
        tiles = self.tiles
        text = f"{len(tiles)} tile{'s' if len(tiles) > 1 else ''} of {self.rows} token rows, keys and values of "
        text += f"{self.heads} head{'s' if self.heads > 1 else ''} at a time, {self.queries} rows of scores at once"
        return text + (f", {self.keys} keys and {self.columns} words of values at once" if self.parted else "")


def pieces(whole: range, size: int) -> Iterator[range]:
    """A range, `size` at a time."""
    for start in range(whole.start, whole.stop, size):
        yield range(start, min(start + size, whole.stop))


def row_unit(hardware: HardwareConfig, words: int) -> int:
    """Rows of `words` begin at whole 64 bytes in memory every so many rows."""
    return ALIGNMENT // gcd(ALIGNMENT, words * hardware.word_bytes)


def unit(hardware: HardwareConfig, parted: bool) -> int:
    """Tiles begin at multiples of so many rows: at whole 64 bytes in memory, whatever a row has; with keys in parts, at
    whole words of scores.
    """
    return lcm(row_unit(hardware, 1), hardware.lanes) if parted else row_unit(hardware, 1)


def _wider(hardware: HardwareConfig, words: int) -> dict[str, int]:
    """The remedy for so many words of activations at once."""
    return dict(hidden=max(1, -(-words // hardware.wide_rows) - hardware.words(hardware.width)) * hardware.lanes)


def even(total: int, most: int, step: int = 1) -> int:
    """Size of as few, equally large pieces of at most `most` as there can be, in steps."""
    return ceil(ceil(total / ceil(total / most)) / step) * step


def split(config: ModelConfig, hardware: HardwareConfig, why: list[Need]) -> Split:
    """The largest tiles and groups that fit; Shortage if none do. why: what is short in one piece."""
    c, h = config, hardware
    width, head = h.words(c.width), h.words(c.head_width)
    attended = c.heads * head
    heads = min(c.heads, h.key_value_words // (2 * c.tokens * head))
    parted = heads == 0
    step = unit(h, parted)
    widest = max(attended, h.words(c.hidden), width + h.words(c.expert_hidden) if c.moe_layers else 0)
    completed = 2 * attended if c.attention == "rela" else 0  # results that come in and those of them
    a_row = max(width + max(widest, completed), 2 * attended)  # words of activation memory
    # Beside a tile's residual there must be room for a patch, and for some rows of a head's results.
    outputs = [h.words(task.head_outputs) for task in c.tasks]
    beside = max((c.prefix + 1) * h.words(c.patch_size_words), *(words * row_unit(h, words) for words in outputs))
    most = min(h.rows, h.residual_words // width, h.key_value_words // (2 * attended), h.activation_words // a_row)
    most = min(most, max(0, h.activation_words - beside) // width)
    if c.moe_layers:
        most = min(most, h.tokens, h.score_words // h.words(c.experts))
    queries = min(h.tokens, h.score_words // h.words(c.tokens))
    inside, ends = step * a_row, step * width + beside
    found = [
        Need("token rows of a tile", step, h.rows, dict(rows=step)),
        Need("words of a tile's activations", inside, h.activation_words, _wider(h, inside)),
        Need("words of a tile and its ends", ends, h.activation_words, _wider(h, ends)),
        Need("words of a tile's residual", step * width, h.residual_words, dict(width=c.width)),
        Need("words of a tile's keys and values", 2 * step * attended, h.key_value_words, dict(width=c.width)),
        Need("words of a row of scores", h.words(c.tokens), h.score_words, dict(tokens=c.tokens)),
    ]
    if parted:
        found.append(Need("words of a column of values", c.tokens, h.key_value_words, dict(width=c.width)))
    if c.moe_layers:
        found.append(Need("words of a tile's logits", step * h.words(c.experts), h.score_words, dict(tokens=step)))
    if any(need.short for need in found):
        raise Shortage(c.name, h, found)
    rows = min(even(c.tokens, most // step * step, step), most // step * step)
    keys = min(c.tokens, h.key_value_words // head // rows * rows) if parted else c.tokens
    columns = even(head, min(head, h.key_value_words // c.tokens)) if parted else head
    heads = even(c.heads, max(1, heads))
    return Split(c.tokens, rows, heads, min(rows, queries), keys, columns, parted, tuple(why))
