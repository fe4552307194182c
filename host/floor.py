# SPDX-License-Identifier: Apache-2.0
"""How few cycles a model can take: the bound that a run is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgemoe.hw.config import HardwareConfig
from edgemoe.models.config import ModelConfig


def floor(
    config: ModelConfig,
    hardware: HardwareConfig,
    weight_bits: str = "16",
    queue_lengths: Mapping[int, Sequence[int]] | None = None,
    streams: int = 1,
    shared: bool = False,
    images: int = 1,
) -> float:
    """Cycles below which no schedule of this array gets, for a pass of `streams` streams of `images` images.

    For each block of weights, max(rows that stream past, cycles that its weights need on the bus); attention's operands come from on-chip
    memory; LayerNorm takes rows x chunks; nothing else is counted. queue_lengths: MoE layer -> tokens of each expert over all streams;
    balanced queues if it is not given. shared: what the streams of an image have in common (up to the first router) runs once for it.
    """
    lanes, c = hardware.lanes, config
    rows = streams * c.tokens

    def load(expert: bool) -> float:
        bits = 16 if weight_bits == "16" or (weight_bits == "mixed" and not expert) else 8
        return lanes * lanes * bits / 8 / hardware.bus_bytes

    def blocks(inputs: int, outputs: int) -> int:
        return hardware.words(inputs) * hardware.words(outputs)

    def linear(count: float, inputs: int, outputs: int, expert: bool = False) -> float:
        return blocks(inputs, outputs) * max(count, load(expert)) if count else 0.0

    first = c.moe_layers[0] if c.moe_layers else c.layers
    trunk = images * c.tokens if shared else rows
    cycles = linear(trunk // c.tokens * c.patches, c.patch_size_words, c.width)
    heads_width = c.heads * hardware.words(c.head_width) * lanes
    for layer in range(c.layers):
        count = trunk if layer <= first else rows
        after = trunk if layer < first else rows
        cycles += (count + after) * hardware.words(c.width)  # two LayerNorms
        cycles += linear(count, c.width, 3 * heads_width)
        cycles += count * c.heads * 2 * hardware.words(c.tokens) * hardware.words(c.head_width)
        cycles += linear(after, heads_width, c.width)
        if c.is_moe(layer):
            balanced = rows * c.top_k / c.experts
            cycles += streams * linear(c.tokens, c.width, c.experts)
            for length in (queue_lengths or {}).get(layer, [balanced] * c.experts):
                cycles += linear(length, c.width, c.expert_hidden, True) + linear(length, c.expert_hidden, c.width, True)
        else:
            cycles += linear(after, c.width, c.hidden) + linear(after, c.hidden, c.width)
    return cycles
