# SPDX-License-Identifier: Apache-2.0
"""The machine that `semantics` programs: its memories, tables and registers, and its arithmetic, number by number."""

from __future__ import annotations

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Activation, ErrorCode, Memory
from edgemoe.models.numbers import arithmetic


class Refused(Exception):
    """A run ended with this error."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


class Machine:
    """All that a program can change.

    memory    memory[m][address] is a word, a list of `lanes` 16-bit numbers
    dram      bytes, from the memory base on
    sums, squares   of each residual row: the sum of its numbers, and of their squares
    sigma     1/sigma of each row: (mantissa, exponent), as all scales are: mantissa x 2^-16 x 2^-exponent; `head_sigma`
              that of heads
    codes     of each table of maxima, row by row: how large the row's largest number is
    maximum   of each row of scores; of TWO_PASS E, and `running` M: the row's sum of 2^score is M 2^E
    total     of each row of scores of SOFTPLUS, their sum
    softmax   1/sum of each row's weights
    queues    of each expert: entries (row, score)
    """

    def __init__(self, config: HardwareConfig, dram: bytearray) -> None:
        self.config, self.lanes, self.dram = config, config.lanes, dram
        depths = {
            Memory.ACTIVATION: config.activation_words,
            Memory.KEY_VALUE: config.key_value_words,
            Memory.RESIDUAL: config.residual_words,
            Memory.SCORE: config.score_words,
        }
        self.memory = {memory: [[0] * config.lanes for _ in range(depth)] for memory, depth in depths.items()}
        self.sums, self.squares = [0] * config.rows, [0] * config.rows
        self.sigma, self.head_sigma = [(0, 0)] * config.rows, [(0, 0)] * config.rows
        self.codes = [[0] * config.table_rows for _ in range(4)]
        self.maximum = [0] * config.tokens
        self.running, self.total = [0] * config.tokens, [0] * config.tokens
        self.softmax = [(0, 0)] * config.tokens
        self.queues: list[list[tuple[int, int]]] = [[] for _ in range(config.experts)]

    def row(self, memory: int, start: int, words: int) -> list[int]:
        """The numbers of `words` words."""
        return [number for word in self.memory[Memory(memory)][start : start + words] for number in word]

    def write_row(self, memory: int, start: int, numbers: list[int]) -> None:
        for n in range(0, len(numbers), self.lanes):
            self.memory[Memory(memory)][start + n // self.lanes] = numbers[n : n + self.lanes]

    def number(self, address: int, size: int, signed: bool = True) -> int:
        """The number in `size` bytes of DRAM."""
        return int.from_bytes(self.dram[address : address + size], "little", signed=signed)


# ---------------------------------------------------------------------------------------------------- arithmetic


def round_shift(x: int, shift: int) -> int:
    """x / 2^shift, rounded to the nearest integer, halves up."""
    return (x + (1 << shift >> 1)) >> shift


def saturate(x: int, bits: int) -> int:
    """The signed number of `bits` bits that is nearest to x."""
    return min(max(x, -(1 << bits - 1)), (1 << bits - 1) - 1)


def wrap(x: int, bits: int) -> int:
    """The signed number that the low `bits` bits are."""
    return (x + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def exp2(distance: int, shift: int) -> int:
    """2^(-distance x 2^shift / 2^12) in units of 2^-18, from a table."""
    return int(arithmetic.exp2_fine(distance, shift))


def whole_exponent(score: int, shift: int) -> int:
    """`score`, or the next one above it that is a whole number of octaves."""
    octave = 1 << max(0, 12 - shift)
    return -(-score // octave) * octave


def reweighted(score: int, largest: int, total: int, keys: int) -> int:
    """(max(keys x score - total, 0) / (keys x largest - total))^15 in units of 2^-18, from tables."""
    return int(arithmetic.reweighted_fine(score, largest, total, keys))


def position_factor(token: int, step: int, shift: int, cosine: bool) -> int:
    """Sine or cosine of token * step * 2^-(14 + shift) quarter turns, in units of 2^-16; step: 2^14 plus 14 bits."""
    return int(arithmetic.position_factor(token, step, shift, cosine))


def sigmoid(x: int, shift: int) -> int:
    """1 / (1 + exp(-x 2^shift / 2^12)) in units of 2^-18, from a table."""
    return int(arithmetic.sigmoid_fine(x, shift))


def reciprocal(x: int) -> tuple[int, int]:
    """1 / x = mantissa x 2^-16 x 2^-exponent, from a table."""
    mantissa, exponent = arithmetic.reciprocal(x)
    return int(mantissa), int(exponent)


def rsqrt(x: int) -> tuple[int, int]:
    """1 / sqrt(x) = mantissa x 2^-16 x 2^-exponent, from a table."""
    mantissa, exponent = arithmetic.rsqrt(x)
    return int(mantissa), int(exponent)


def gated(number: int, value: int) -> int:
    """number / (1 + exp(-value x 2^-11)), from a table."""
    return int(arithmetic.gated(number, value))


def activated(x: int, kind: int) -> int:
    """x, or the function of it that `kind` names; argument and value in units of 2^-16, from a table."""
    return int(arithmetic.activation(x, Activation(kind).function)) if kind else x
