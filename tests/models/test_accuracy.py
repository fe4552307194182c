# SPDX-License-Identifier: Apache-2.0
"""How far the table functions are from the exact ones over every 16-bit input, and hw/ACCURACY.md, which says so.

The units equal these functions to the last bit (tests/hw). `python -m tests.models.test_accuracy` writes the document
anew.
"""

from functools import partial
from pathlib import Path

import numpy as np
from edgemoe.models.numbers import arithmetic, words
from numpy.typing import NDArray

DOCUMENT = Path(__file__).resolve().parents[2] / "hw" / "ACCURACY.md"
SIGNED, POSITIVE = np.arange(-32768, 32768), np.arange(1, 65536)


Errors = tuple[NDArray[np.float64], float | NDArray[np.float64]]  # errors, and what the last place of a result is worth


def activation(function: str) -> Errors:
    """Over -8..8; where |x| is halved before it is looked up, over -16..16."""
    shift = words.ACTIVATION_FRACTION - 12 + arithmetic.CORRECTIONS[function].halvings
    x = SIGNED << shift
    delta = np.array([arithmetic.CORRECTIONS[function].delta(v) for v in np.abs(x) / 2.0**words.ACTIVATION_FRACTION])
    exact = np.maximum(x / 2.0**words.ACTIVATION_FRACTION, 0) - delta
    place = 2.0**-words.ACTIVATION_FRACTION
    return np.abs(arithmetic.activation(x, function) * place - exact), place


def exponential() -> Errors:
    distance, place = np.arange(65536), 2.0**-words.FINE_PROBABILITY_BITS  # 0..16
    return np.abs(arithmetic.exp2_fine(distance, 0) * place - np.exp2(-distance / 4096)), place


def probability() -> Errors:
    distance, place = np.arange(65536), 2.0**-words.PROBABILITY_BITS
    found = arithmetic.probability(arithmetic.exp2_fine(distance, 0))
    return np.abs(found * place - np.exp2(-distance / 4096)), place


def sigmoid() -> Errors:
    exact, place = 1 / (1 + np.exp(-SIGNED / 2048)), 2.0**-words.FINE_PROBABILITY_BITS  # -16..16
    return np.abs(arithmetic.sigmoid_fine(SIGNED, 1) * place - exact), place


def logarithm() -> Errors:
    place = 2.0**-arithmetic.LOGARITHM_FRACTION
    return np.abs(arithmetic.log2_fine(POSITIVE) * place - np.log2(POSITIVE)), place


def reciprocal() -> Errors:
    mantissa, exponent = arithmetic.reciprocal(POSITIVE)
    place = np.exp2(-16.0 - exponent) * POSITIVE
    return np.abs(mantissa * place - 1), place


def rsqrt() -> Errors:
    mantissa, exponent = arithmetic.rsqrt(POSITIVE)
    place = np.exp2(-16.0 - exponent) * np.sqrt(POSITIVE)
    return np.abs(mantissa * place - 1), place


# Unit -> (function, inputs, kind of error, errors, largest one allowed).
FUNCTIONS = {
    "activation, gelu": ("GELU(x)", "x = i / 4096, i = -32768..32767", "absolute", partial(activation, "gelu"), 3.5e-5),
    "activation, gelu-tanh": (
        "GELU(x) by tanh",
        "x = i / 4096, i = -32768..32767",
        "absolute",
        partial(activation, "gelu-tanh"),
        3.5e-5,
    ),
    "activation, quick-gelu": (
        "x / (1 + exp(-1.702 x))",
        "x = i / 4096, i = -32768..32767",
        "absolute",
        partial(activation, "quick-gelu"),
        3.5e-5,
    ),
    "activation, silu": (
        "x / (1 + exp(-x))",
        "x = i / 2048, i = -32768..32767",
        "absolute",
        partial(activation, "silu"),
        8e-5,
    ),
    "activation, softplus": (
        "log(1 + exp(x))",
        "x = i / 2048, i = -32768..32767",
        "absolute",
        partial(activation, "softplus"),
        5e-5,
    ),
    "exponential, as it is added up": ("2^-x", "x = i / 4096, i = 0..65535", "absolute", exponential, 1e-5),
    "exponential, as it is multiplied": ("2^-x", "x = i / 4096, i = 0..65535", "absolute", probability, 3.2e-5),
    "sigmoid, as it is added up": ("1 / (1 + exp(-x))", "x = i / 2048, i = -32768..32767", "absolute", sigmoid, 1e-5),
    "logarithm": ("log2(x)", "x = 1..65535", "absolute", logarithm, 8e-6),
    "reciprocal": ("1 / x", "x = 1..65535", "relative", reciprocal, 3e-5),
    "rsqrt": ("1 / sqrt(x)", "x = 1..65535", "relative", rsqrt, 3e-5),
}
SCORES = 129  # of a row, as many as m3vit-t has tokens


def softmax() -> NDArray[np.float64]:
    """Errors of 4096 rows of probabilities, from scores that are normal with a standard deviation of 2 in base e."""
    scores = np.random.default_rng(0).normal(0, 2, (4096, SCORES)) / np.log(2)
    fixed = np.round(scores * 4096).astype(np.int64)
    fine = arithmetic.exp2_fine(fixed.max(1, keepdims=True) - fixed, 0)
    mantissa, exponent = arithmetic.reciprocal(fine.sum(1))
    exact = np.exp2(fixed / 4096)
    found = arithmetic.probability(fine) * (mantissa * np.exp2(-16.0 - exponent))[:, None]
    found *= 2.0 ** (words.FINE_PROBABILITY_BITS - words.PROBABILITY_BITS)
    return np.abs(found - exact / exact.sum(1, keepdims=True))


def document() -> str:
    lines = [
        "# Accuracy of the functions that come from tables",
        "",
        "Over every 16-bit input, against the exact function; the hardware gives these values to the last bit. A unit",
        "in the last place is what the lowest bit of a result is worth. Written and held by",
        "`tests/models/test_accuracy.py` (`python -m tests.models.test_accuracy`).",
        "",
        "| unit | function | inputs | error | largest | mean | largest, last places | mean, last places |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for unit, (function, inputs, kind, errors, _) in FUNCTIONS.items():
        error, place = errors()
        places = error / place
        lines.append(
            f"| {unit} | {function} | {inputs} | {kind} | {error.max():.2e} | {error.mean():.2e} "
            f"| {places.max():.2f} | {places.mean():.2f} |"
        )
    probabilities, (gelu, _) = softmax(), activation("gelu")
    lines += [
        "",
        "## Beside Edge-MoE's approximations",
        "",
        "Theirs as its C code gives them, in 32-bit fixed point with 22 fractional bits: GELU over -8..8, softmax on",
        f"rows of {SCORES} scores with a standard deviation of 2. Ours in the formats of the table, with half the",
        "bits; softmax on 4,096 such rows: exponentials, their sum, 1/sum; what follows rounds each output once more.",
        "",
        "| function | ours, largest | ours, mean | Edge-MoE, largest | Edge-MoE, mean |",
        "|---|---|---|---|---|",
        f"| GELU | {gelu.max():.1e} | {gelu.mean():.1e} | 9.8e-05 | |",
        f"| softmax | {probabilities.max():.1e} | {probabilities.mean():.1e} | 1.1e-05 | 1.4e-07 |",
    ]
    return "\n".join(lines) + "\n"


def test_errors_are_bounded() -> None:
    for unit, (_, _, _, errors, limit) in FUNCTIONS.items():
        error, place = errors()
        assert error.max() <= limit and (error / place).max() <= 6, unit
    assert softmax().max() <= 5e-5


def test_the_document_says_what_is_measured() -> None:
    assert DOCUMENT.read_text() == document(), "write it anew: python -m tests.models.test_accuracy"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
