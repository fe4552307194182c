# SPDX-License-Identifier: Apache-2.0
"""Who looked at whom: the weights of attention, from the scores or features that the core itself computed."""

from __future__ import annotations

import re

import numpy as np
from edgemoe.host.runtime.driver import Run
from edgemoe.hw.contract.isa import Instruction, Memory, Opcode, Stationary, Turn
from edgemoe.models.config import LANDMARK_KIND
from edgemoe.models.numbers import twins
from edgemoe.models.numbers.arithmetic import probability
from edgemoe.models.numbers.words import PROBABILITY_BITS
from edgemoe.models.operations.feature_maps import MAPS
from edgemoe.models.operations.landmark_attention import RIDGE
from numpy.typing import NDArray

PLACE = re.compile(r"layer (\d+) head (\d+)")  # in the labels of both products of attention
SLOT = re.compile(r" slot (\d+)")


def attention(run: Run) -> dict[tuple[int, int], NDArray[np.float64]]:
    """(stream, layer) -> shares of each query's weights [heads, queries, keys], of a run with traces and one picture:
    softmax's probabilities; where rows are not normalised, what they would be.

    Before the first router its streams are one, that of slot 0, and have the same.
    """
    program, config = run.program, run.program.config
    if config.attention in MAPS:
        return _by_features(run)
    if config.attention == LANDMARK_KIND:
        return _by_landmarks(run)
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
            kept = (score.max(axis=1), i.exponent_shift, i.score_bias, None, score.sum(axis=1), score.shape[1])
            p = twins.weights(kind, score, *kept)
            heads.append(p / np.maximum(p.sum(axis=1, keepdims=True), 1))
        return np.stack(heads)

    return {
        (stream, layer): of(slot if (slot, layer, 0) in rows else 0, layer)
        for stream, slot in enumerate(program.slots)
        for layer in range(config.layers)
    }


def _by_features(run: Run) -> dict[tuple[int, int], NDArray[np.float64]]:
    """The same of linear attention: products of the features of queries and keys."""
    program, config = run.program, run.program.config
    parts: dict[tuple[str, int, int, int], list[NDArray[np.int64]]] = {}  # side, slot, layer, head -> their products
    using: dict[tuple[str, int], Instruction] = {}  # side, layer -> what streams them
    for trace, data in zip(program.traces, run.traces, strict=True):
        i = program.instructions[trace.instruction]
        side = next((side for side in ("keys", "queries") if trace.label.endswith(f"features of {side}")), "")
        if side:
            layer, head = _place(trace.label)
            using[side, layer] = next(j for j in program.instructions[trace.instruction :] if j.probabilities)
            part = data[: i.rows * i.columns * program.hardware.word_bytes].view("<i2").astype(np.int64)
            found = parts.setdefault((side, slot_of(trace.label), layer, head), [])
            found.append(part.reshape(i.rows, -1)[:, : i.keys])
    kind = config.attention

    def features(side: str, slot: int, layer: int, head: int) -> NDArray[np.int64]:
        """[n, m] of a head."""
        i, products = using[side, layer], np.concatenate(parts[side, slot, layer, head])
        if side == "keys":  # a row for each vector; of two parts the second is only streamed another time
            products = np.tile(products.T, MAPS[kind](config).parts)
            columns = products.shape[1] // 2
        else:
            columns = (i.chunks >> 1) * program.hardware.lanes
            products = (
                products
                if MAPS[kind](config).parts == 1
                else np.delete(products, _padding(i, products, columns), axis=1)
            )
            columns = products.shape[1] // 2
        factors = twins.position_factors(
            Turn.ROWS,
            len(products),
            products.shape[1],
            i.score_bias,
            i.exponent_shift,
            half=columns,
        )
        return twins.weights(kind, products, products[:, 0], i.exponent_shift, i.score_bias, factors)

    def of(slot: int, layer: int) -> NDArray[np.float64]:
        heads = []
        for head in range(config.heads):
            p = features("queries", slot, layer, head) @ features("keys", slot, layer, head).T
            heads.append(p / np.maximum(p.sum(axis=1, keepdims=True), 1))
        return np.stack(heads)

    return {
        (stream, layer): of(slot if ("keys", slot, layer, 0) in parts else 0, layer)
        for stream, slot in enumerate(program.slots)
        for layer in range(config.layers)
    }


def _by_landmarks(run: Run) -> dict[tuple[int, int], NDArray[np.float64]]:
    """The same by landmarks: K1 (K2 + 0.01 I)^-1 K1^T, whose numbers may be below zero; a row adds up to 1."""
    program, config = run.program, run.program.config
    kernels: dict[tuple[str, int, int, int], NDArray] = {}  # what, slot, layer, head
    largest: dict[int, NDArray[np.int64]] = {}
    for trace, data in zip(program.traces, run.traces, strict=True):
        i = program.instructions[trace.instruction]
        if i.memory != Memory.SCORE or not trace.label.startswith("layer") or "router" in trace.label:
            continue
        part = data[: i.rows * i.columns * program.hardware.word_bytes].view("<i2").astype(np.int64)
        part = part.reshape(i.rows, -1)[:, : i.keys]
        layer = int(trace.label.split()[1])
        if "head" not in trace.label:
            largest[layer] = part[:, 0]
            continue
        kept = np.maximum(largest[layer][: i.rows], part.max(axis=1))
        kernels[trace.label.rsplit("scores", 1)[1], slot_of(trace.label), layer, _place(trace.label)[1]] = (
            probability(twins.weights("softmax", part, kept, i.exponent_shift, 0)) * 2.0**-PROBABILITY_BITS
        )

    def of(slot: int, layer: int) -> NDArray[np.float64]:
        heads = []
        for head in range(config.heads):
            points, marks = (kernels[what, slot, layer, head] for what in ("", " among landmarks"))
            p = points @ np.linalg.solve(marks + RIDGE * np.eye(len(marks)), points.T)
            heads.append(p / np.maximum(p.sum(axis=1, keepdims=True), 1e-9))
        return np.stack(heads)

    return {
        (stream, layer): of(slot if ("", slot, layer, 0) in kernels else 0, layer)
        for stream, slot in enumerate(program.slots)
        for layer in range(config.layers)
    }


def _padding(i: Instruction, products: NDArray, half: int) -> NDArray[np.int64]:
    """Columns that fill the words of the first of two parts."""
    return np.arange(products.shape[1] - half, half)


def slot_of(label: str) -> int:
    """Of an instruction for one stream; 0 where there is one alone."""
    found = SLOT.search(label)
    return int(found[1]) if found else 0


def _place(label: str) -> tuple[int, int]:
    found = PLACE.search(label)
    assert found, label
    return int(found[1]), int(found[2])
