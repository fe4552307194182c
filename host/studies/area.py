# SPDX-License-Identifier: Apache-2.0
"""What a configuration will take of an UltraScale+ device, in no time and without Yosys.

LUTs and flip-flops are linear in the array's lanes, whose cells are in DSP slices, and what packed products add to them
is a multiple of the lanes, and of the rows that the array has beyond these. DSP slices grow with the multipliers, block
RAM with what the banks of the memories ask for: least squares over configurations in hw/resources.json. `error` says
how far the predictions are from the counts of configurations that no fit has seen. (A wider bus with its masters costs
up to 5 % more LUTs, which is within the error, and is left out.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from edgemoe.boards.facts import Board, Family, ZynqBoard, in_ultra_ram, ultra_ram_blocks
from edgemoe.hw.contract.banks import banks_of
from edgemoe.hw.contract.config import ACCUMULATOR_BITS, HardwareConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.activation import GATE
from numpy.typing import NDArray

LINEAR = ("lut", "ff", "dsp")
_HALF_BLOCKS = ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))  # words and bits of 18 kbit
# Of an entry of the experts' queues: ROW_BITS + SCORE_BITS of the layouts, which need Amaranth; a test compares.
QUEUE_BITS = 29
_SEGMENTS, _SEGMENT_BITS = 512, 32  # of an activation function's table
_IN_LUTS = 64  # words of memories that are no matter of block RAM
# What `edgemoe bench --attention all --json` counts of the units of a kind beside softmax's, a lane.
_WEIGHING: Mapping[str, Mapping[str, float]] = {
    "softmax": {},
    "sigmoid": {"lut": 143, "ff": 128, "dsp": 1, "bram": 0.5},
    "relu": {"lut": 116, "ff": 15},
    "two-pass": {"lut": 451, "ff": 181, "dsp": 1, "bram": 0.125},
    "softplus": {"lut": 382, "ff": 288, "dsp": 3.25, "bram": 0.125},
    "rela": {"lut": 250, "ff": 177, "dsp": 2, "bram": 0.5},  # with ReLU's, too
    "performer": {"lut": 164, "ff": 48},  # with ReLU's, of which they and cosFormer's make use
    "cosformer": {"lut": 387, "ff": 165, "dsp": 2.5},
}


@cache
def counted(kind: str) -> Mapping[str, Mapping[str, Any]]:
    """ "sizes" and "total" of the configurations that were counted, by name; kind: fitted or held_out."""
    return json.loads((files("edgemoe.hw") / "resources.json").read_text())[kind]


def configuration(name: str, counts: Mapping[str, Any]) -> HardwareConfig:
    """What was counted, which may be a preset of another day."""
    return HardwareConfig(name, **counts["sizes"])


def _features(hardware: HardwareConfig, kind: str) -> list[float]:
    if kind == "bram":
        return [sum(_blocks(*memory) for memory in _memories(hardware)) + hardware.bus_bytes / 8]
    own = [hardware.multipliers] if kind == "dsp" else []
    # For each row beyond the columns: an exponential, a rounding and a place in the stream's multiplexers.
    packed = [hardware.packed * hardware.lanes, hardware.packed * (hardware.inputs - hardware.lanes)]
    return [1.0, hardware.lanes, *packed, *own]


@cache
def _coefficients(kind: str) -> NDArray[np.float64]:
    known = counted("fitted")
    counts = np.array([found["total"][kind] for found in known.values()], np.float64)
    features = np.array([_features(configuration(name, found), kind) for name, found in known.items()])
    # Of block RAM the large counts matter: a small configuration has most memories in LUTs.
    weights = np.ones(len(counts)) if kind == "bram" else 1 / counts
    return np.asarray(np.linalg.lstsq(features * weights[:, None], counts * weights, rcond=None)[0], np.float64)


def _memories(hardware: HardwareConfig) -> Iterator[tuple[int, int]]:
    """(words, bits of a word) of the memories that are large."""
    word = 8 * hardware.word_bytes
    for words in (
        hardware.activation_words,
        hardware.key_value_words,
        hardware.residual_words,
        hardware.score_words,
    ):
        yield from ((depth, word) for depth in banks_of(words))
    yield hardware.rows, hardware.lanes * ACCUMULATOR_BITS
    yield hardware.experts * hardware.rows, QUEUE_BITS
    yield hardware.prefetch_beats // hardware.beats_per_word, 8 * hardware.bus_bytes * hardware.beats_per_word
    # A table of the activation functions for each two lanes; ReLU needs none, and the gate has its own.
    tables = max(1, sum(function not in ("relu", GATE) for function in hardware.functions))
    yield from [(_SEGMENTS * tables, _SEGMENT_BITS)] * (hardware.lanes // 2)


def _blocks(words: int, bits: int) -> float:
    """BRAM36 of a memory; there are halves."""
    if words <= _IN_LUTS:
        return 0.0
    return min(math.ceil(words / deep) * math.ceil(bits / wide) for deep, wide in _HALF_BLOCKS) / 2


def _weighing(hardware: HardwareConfig, kind: str) -> float:
    """What kinds of attention beside softmax add."""
    if unknown := [name for name in hardware.weighings if name not in _WEIGHING]:
        raise EdgemoeError(
            f"resources of {unknown[0]} attention are not predicted: count them with edgemoe report, or choose "
            f"{', '.join(_WEIGHING)}"
        )
    return hardware.lanes * sum(_WEIGHING[name].get(kind, 0) for name in hardware.weighings)


def predicted(hardware: HardwareConfig, board: Board | None = None) -> dict[str, int]:
    """lut, ff, dsp, bram and uram of the core, as `edgemoe report` counts them."""
    if board is not None and board.family is not Family.ZYNQ_ULTRASCALE_PLUS:
        raise EdgemoeError(
            f"resources are predicted for UltraScale+ alone, board {board.name} has {board.part}: expected another "
            f"board, as zcu102"
        )
    found = {
        kind: round(float(_coefficients(kind) @ _features(hardware, kind)) + _weighing(hardware, kind))
        for kind in LINEAR
    }
    moves = isinstance(board, ZynqBoard) and board.ultra_ram
    deep = [memory for memory in _memories(hardware) if moves and in_ultra_ram(*memory)]
    [blocks], [factor] = _features(hardware, "bram"), _coefficients("bram")
    in_blocks = blocks - sum(_blocks(*memory) for memory in deep)
    found["bram"] = math.ceil(factor * in_blocks + _weighing(hardware, "bram"))
    return found | {"uram": sum(ultra_ram_blocks(*memory) for memory in deep)}


@cache
def error() -> dict[str, float]:
    """By kind, the largest distance from a count that the fit has not seen, as a share of that count."""
    unseen = counted("held_out").items()
    return {
        kind: max(abs(predicted(configuration(name, found))[kind] / found["total"][kind] - 1) for name, found in unseen)
        for kind in (*LINEAR, "bram")
    }
