# SPDX-License-Identifier: Apache-2.0
"""Who looked at whom: the weights of attention, from the scores that the core itself computed."""

from __future__ import annotations

import re

import numpy as np
from edgemoe.host.runtime.driver import Run
from edgemoe.hw.contract.isa import Instruction, Opcode, Stationary
from edgemoe.models.numbers import twins
from numpy.typing import NDArray

PLACE = re.compile(r"layer (\d+) head (\d+)")  # in the labels of both products of attention


def attention(run: Run) -> dict[tuple[int, int], NDArray[np.float64]]:
    """(stream, layer) -> shares of each query's weights [heads, queries, keys], of a run with traces and one picture:
    softmax's probabilities; where rows are not normalised, what they would be.

    Before the first router its streams are one, that of slot 0, and have the same.
    """
    program, config = run.program, run.program.config
    products: dict[int, Instruction] = {}  # of each layer, one of those with values
    rows: dict[tuple[int, int, int], list[NDArray[np.int64]]] = {}  # slot, layer, head -> scores of its tiles
    for i in program.instructions:
        if i.opcode == Opcode.MATMUL and i.probabilities:
            products[_place(i.label)[0]] = i
    for trace, data in zip(program.traces, run.traces, strict=True):
        i = program.instructions[trace.instruction]
        if i.stationary != Stationary.KEYS:
            continue
        slot = (program.origins[trace.instruction] + i.stationary_base // i.stationary_stride) // config.tokens
        size = i.rows * i.columns * program.hardware.word_bytes
        part = data[:size].view("<i2").astype(np.int64).reshape(i.rows, -1)[:, : i.keys]
        tiles = rows.setdefault((slot, *_place(trace.label)), [])
        if i.append:  # the same queries, more keys
            tiles[-1] = np.concatenate([tiles[-1], part], axis=1)
        else:
            tiles.append(part)

    def of(slot: int, layer: int) -> NDArray[np.float64]:
        heads, i = [], products[layer]
        kind = program.hardware.weighs(i.attention).kind
        for head in range(config.heads):
            score = np.concatenate(rows[slot, layer, head])
            p = twins.weights(kind, score, score.max(axis=1), i.exponent_shift, i.score_bias)
            heads.append(p / np.maximum(p.sum(axis=1, keepdims=True), 1))
        return np.stack(heads)

    return {
        (stream, layer): of(slot if (slot, layer, 0) in rows else 0, layer)
        for stream, slot in enumerate(program.slots)
        for layer in range(config.layers)
    }


def _place(label: str) -> tuple[int, int]:
    found = PLACE.search(label)
    assert found, label
    return int(found[1]), int(found[2])
