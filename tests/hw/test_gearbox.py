# SPDX-License-Identifier: Apache-2.0
"""Beats to words and words to beats: the same bytes in the same order, whichever is wider, under every stall."""

from dataclasses import replace

import numpy as np
import pytest
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.memory.gearbox import BeatsToWords, WordsToBeats
from edgemoe.sim.rtl import rtl

STALLS = pytest.mark.parametrize("stalls", [0.0, 0.4])
WIDTHS = pytest.mark.parametrize("lanes, data_bits", [(4, 64), (4, 128), (16, 64)])  # a word of 1, 1/2 and 4 beats


def widths(lanes: int, data_bits: int) -> HardwareConfig:
    return replace(preset("tiny"), lanes=lanes, data_bits=data_bits, prefetch_beats=128)


def parts(data: bytes, size: int) -> list[int]:
    return [int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)]


@STALLS
@WIDTHS
def test_beats_to_words(lanes: int, data_bits: int, stalls: float) -> None:
    config, data = widths(lanes, data_bits), np.random.default_rng(1).bytes(3200)
    words = rtl(BeatsToWords(config), {"beats": parts(data, config.bus_bytes)}, stalls=stalls)["words"]
    assert list(words) == parts(data, config.word_bytes)


@STALLS
@WIDTHS
def test_words_to_beats(lanes: int, data_bits: int, stalls: float) -> None:
    """Transfers of 1 to 9 words: each one's last beat is filled up with zeros."""
    config, random = widths(lanes, data_bits), np.random.default_rng(2)
    transfers = [random.bytes(count * config.word_bytes) for count in [*range(1, 10), 4]]
    words = [parts(transfer, config.word_bytes) for transfer in transfers]
    last = [n == len(own) - 1 for own in words for n in range(len(own))]
    columns = {"word": sum(words, []), "last": last}
    beats = rtl(WordsToBeats(config), {"words": columns}, stalls=stalls)["beats"]
    padded = [transfer + bytes(-len(transfer) % config.bus_bytes) for transfer in transfers]
    assert list(beats) == parts(b"".join(padded), config.bus_bytes)
