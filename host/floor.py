# SPDX-License-Identifier: Apache-2.0
"""How few cycles a model can take: the bound that a run is measured against, and that none can beat."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from edgemoe.hw.config import HardwareConfig
from edgemoe.models.config import ModelConfig

Block = tuple[float, float]  # rows that stream past it; cycles that its weights need on the bus


def blocks(
    config: ModelConfig,
    hardware: HardwareConfig,
    weight_bits: str = "16",
    queue_lengths: Mapping[int, Sequence[int]] | None = None,
    streams: int = 1,
    shared: bool = False,
    images: int = 1,
) -> Iterator[Block]:
    """Every block that the array must hold, in the order of the model; arguments as of `floor`."""
    lanes, c = hardware.lanes, config

    def load(expert: bool) -> float:
        bits = 16 if weight_bits == "16" or (weight_bits == "mixed" and not expert) else 8
        return lanes * lanes * bits / 8 / hardware.bus_bytes

    def linear(rows: float, inputs: int, outputs: int, expert: bool = False) -> Iterator[Block]:
        if rows:
            yield from [(rows, load(expert))] * (hardware.words(inputs) * hardware.words(outputs))

    first = c.moe_layers[0] if c.moe_layers else c.layers
    owners = images if shared else streams
    yield from linear(owners * c.patches, c.patch_size_words, c.width)
    heads_width = c.heads * hardware.words(c.head_width) * lanes
    for layer in range(c.layers):
        attending = owners if layer <= first else streams
        after = owners if layer < first else streams
        yield from linear(attending * c.tokens, c.width, 3 * heads_width)
        scores = c.heads * 2 * hardware.words(c.tokens) * hardware.words(c.head_width)  # keys and values come from on-chip memory
        yield from [(c.tokens, 0.0)] * (attending * scores)
        yield from linear(attending * c.tokens, heads_width, c.width)
        if c.is_moe(layer):
            yield from [block for _ in range(streams) for block in linear(c.tokens, c.width, c.experts)]
            balanced = [streams * c.tokens * c.top_k / c.experts] * c.experts
            for length in (queue_lengths or {}).get(layer, balanced):
                yield from linear(length, c.width, c.expert_hidden, True)
                yield from linear(length, c.expert_hidden, c.width, True)
        else:
            yield from linear(after * c.tokens, c.width, c.hidden)
            yield from linear(after * c.tokens, c.hidden, c.width)


def floor(
    config: ModelConfig,
    hardware: HardwareConfig,
    weight_bits: str = "16",
    queue_lengths: Mapping[int, Sequence[int]] | None = None,
    streams: int = 1,
    shared: bool = False,
    images: int = 1,
) -> float:
    """Cycles below which no program gets that runs the model's matrices in their order, for a pass of `streams` streams of `images` images.

    queue_lengths: MoE layer -> tokens of each expert over all streams; balanced queues if it is not given. shared: what the streams of an
    image have in common (up to the first router) runs once for it.

    The array takes a row a cycle and holds one block of weights while the next one stands in its shadow registers; the bus brings its full
    width in every cycle, in the order of use, at most `ahead` beats (prefetch memory and two blocks) before they are used. So, for block j
    with r_j rows and l_j cycles on the bus, at the earliest

        bus_j   = max(bus_{j-1} + l_j, start_k + beats beyond `ahead`)     k: the oldest block that must make room for j
        start_j = max(start_{j-1} + r_{j-1}, bus_j)

    and the floor is start + r of the last one. Nothing else counts: no filling and draining of the array, no latency, no stall, no image,
    no parameter words, no LayerNorm (which costs no pass over the data here), no router, no task head.
    """
    ahead = hardware.prefetch_beats + 2 * hardware.lanes**2 * 2 / hardware.bus_bytes
    waiting: deque[Block] = deque()  # (start, beats) of blocks whose weights may still take up room
    buffered = bus = end = 0.0
    for rows, load in blocks(config, hardware, weight_bits, queue_lengths, streams, shared, images):
        if not load:
            end += rows
            continue
        bus, buffered = bus + load, buffered + load
        while buffered > ahead:
            start, beats = waiting.popleft()
            bus, buffered = max(bus, start + buffered - ahead), buffered - beats
        start = max(end, bus)
        waiting.append((start, load))
        end = start + rows
    return end
