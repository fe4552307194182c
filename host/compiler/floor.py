# SPDX-License-Identifier: Apache-2.0
"""How few cycles a model can take: the bound that a run is measured against, and that none can beat."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.config import ModelConfig
from edgemoe.models.graph import graph
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.operations.operation import Over, Work

Block = tuple[float, float]  # rows that stream past it; cycles that its weights need on the bus


def blocks(
    config: ModelConfig,
    hardware: HardwareConfig,
    weight_bits: str = WeightFormat.SIXTEEN,
    queue_lengths: Mapping[int, Sequence[int]] | None = None,
    streams: int = 1,
    shared: bool = False,
    images: int = 1,
    bandwidth: float = 0.0,
) -> Iterator[Block]:
    """Every block that the array must hold, in the order of the model; arguments as of `floor`."""
    weight_format, c, words = WeightFormat.of(weight_bits), config, hardware.words
    rate = min(bandwidth or hardware.bus_bytes, hardware.bus_bytes)

    def product(work: Work, rows: float) -> Iterator[Block]:
        """The blocks of a matrix, or of operands that come from on-chip memory, if there are rows for them."""
        bits = weight_format.bits(work.expert, work.unpacked)
        together = 2 if work.weights and weight_format.packed(work.expert, work.unpacked) else 1
        load = together * hardware.lanes**2 * bits / 8 / rate if work.weights else 0.0  # of a chunk
        chunks = work.input_groups * words(work.inputs // work.input_groups)
        columns = work.groups * words(work.outputs // work.groups)
        whole, rest = divmod(chunks, hardware.words_at_once)
        column = [(rows, hardware.words_at_once * load)] * whole + [(rows, rest * load)] * bool(rest)
        yield from column * (work.count * -(-columns // together) if rows else 0)

    # what goes through an operation: pictures until streams part, then streams
    together = images if shared else streams
    for operation in graph(c).trunk:
        if operation.routed:
            together = streams
        for work in operation.work():
            if work.over is Over.STREAM:
                yield from [block for _ in range(together) for block in product(work, work.rows or c.tokens)]
            elif work.over is not Over.QUEUE:
                yield from product(work, together * (c.tokens if work.over is Over.TOKENS else c.patches))
        experts = [work for work in operation.work() if work.over is Over.QUEUE]
        if experts:
            balanced = [streams * c.tokens * c.top_k / c.experts] * c.experts
            given = [lengths for layer, lengths in (queue_lengths or {}).items() if layer == operation.result.layer]
            for length in given[0] if given else balanced:
                yield from [block for work in experts for block in product(work, length)]


def floor(
    config: ModelConfig,
    hardware: HardwareConfig,
    weight_bits: str = WeightFormat.SIXTEEN,
    queue_lengths: Mapping[int, Sequence[int]] | None = None,
    streams: int = 1,
    shared: bool = False,
    images: int = 1,
    bandwidth: float = 0.0,
) -> float:
    """Cycles below which no program gets that runs the model's matrices in their order, for a pass of `streams` streams
    of `images` images.

    queue_lengths: MoE layer -> tokens of each expert over all streams; balanced queues if it is not given. shared: what
    the streams of an image have in common (up to the first router) runs once for it. bandwidth: bytes a cycle that the
    memory gives; 0: as many as the bus takes.

    Where two products share a multiplier, a block is of two output words. The array takes a row a cycle and holds one
    block of weights while the next one stands in its shadow registers; the memory gives all its bandwidth in every
    cycle, in the order of use, at most `ahead` beats (prefetch memory and two blocks) before they are used. So, for
    block j with r_j rows and l_j cycles on the bus, at the earliest

        bus_j   = max(bus_{j-1} + l_j, start_k + what is beyond `ahead`)    k: the oldest block that makes room for j
        start_j = max(start_{j-1} + r_{j-1}, bus_j)

    and the floor is start + r of the last one. Nothing else counts: no filling and draining of the array, no latency,
    no stall, no image, no parameter words, no LayerNorm (which costs no pass over the data here), no router, no task
    head.
    """
    rate = min(bandwidth or hardware.bus_bytes, hardware.bus_bytes)
    ahead = hardware.prefetch_beats * hardware.bus_bytes / rate + 2 * hardware.multipliers * 2 / rate
    waiting: deque[Block] = deque()  # (start, load) of blocks whose weights may still take up room
    buffered = bus = end = 0.0
    for rows, load in blocks(config, hardware, weight_bits, queue_lengths, streams, shared, images, bandwidth):
        if not load:
            end += rows
            continue
        bus, buffered = bus + load, buffered + load
        while buffered > ahead:
            start, gone = waiting.popleft()
            bus, buffered = max(bus, start + buffered - ahead), buffered - gone
        start = max(end, bus)
        waiting.append((start, load))
        end = start + rows
    return end
