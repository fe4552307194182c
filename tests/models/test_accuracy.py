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


def activation(function: str) -> NDArray[np.float64]:
    """Over -8..8; where |x| is halved before it is looked up, over -16..16."""
    shift = words.ACTIVATION_FRACTION - 12 + arithmetic.CORRECTIONS[function].halvings
    x = SIGNED << shift
    delta = np.array([arithmetic.CORRECTIONS[function].delta(v) for v in np.abs(x) / 2.0**words.ACTIVATION_FRACTION])
    exact = np.maximum(x / 2.0**words.ACTIVATION_FRACTION, 0) - delta
    return np.abs(arithmetic.activation(x, function) / 2.0**words.ACTIVATION_FRACTION - exact)


def exponential() -> NDArray[np.float64]:
    distance = np.arange(65536)  # 0..16
    return np.abs(arithmetic.exp2_fine(distance, 0) / 2.0**words.FINE_PROBABILITY_BITS - np.exp2(-distance / 4096))


def probability() -> NDArray[np.float64]:
    distance = np.arange(65536)
    return np.abs(
        arithmetic.probability(arithmetic.exp2_fine(distance, 0)) / 2.0**words.PROBABILITY_BITS
        - np.exp2(-distance / 4096)
    )


def sigmoid() -> NDArray[np.float64]:
    exact = 1 / (1 + np.exp(-SIGNED / 2048))  # -16..16
    return np.abs(arithmetic.sigmoid_fine(SIGNED, 1) / 2.0**words.FINE_PROBABILITY_BITS - exact)


def reciprocal() -> NDArray[np.float64]:
    mantissa, exponent = arithmetic.reciprocal(POSITIVE)
    return np.abs(mantissa * np.exp2(-16.0 - exponent) * POSITIVE - 1)


def rsqrt() -> NDArray[np.float64]:
    mantissa, exponent = arithmetic.rsqrt(POSITIVE)
    return np.abs(mantissa * np.exp2(-16.0 - exponent) * np.sqrt(POSITIVE) - 1)


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
    "exponential, as it is added up": ("2^-x", "x = i / 4096, i = 0..65535", "absolute", exponential, 1e-5),
    "exponential, as it is multiplied": ("2^-x", "x = i / 4096, i = 0..65535", "absolute", probability, 3.2e-5),
    "sigmoid, as it is added up": ("1 / (1 + exp(-x))", "x = i / 2048, i = -32768..32767", "absolute", sigmoid, 1e-5),
    "reciprocal": ("1 / x", "x = 1..65535", "relative", reciprocal, 3e-5),
    "rsqrt": ("1 / sqrt(x)", "x = 1..65535", "relative", rsqrt, 3e-5),
}


def document() -> str:
    lines = [
        "# Accuracy of the functions that come from tables",
        "",
        "Over every 16-bit input, against the exact function; the hardware gives these values to the last bit. Written "
        "and held by",
        "`tests/models/test_accuracy.py` (`python -m tests.models.test_accuracy`).",
        "",
        "| unit | function | inputs | error | largest | mean |",
        "|---|---|---|---|---|---|",
    ]
    for unit, (function, inputs, kind, errors, _) in FUNCTIONS.items():
        error = errors()
        lines.append(f"| {unit} | {function} | {inputs} | {kind} | {error.max():.2e} | {error.mean():.2e} |")
    return "\n".join(lines) + "\n"


def test_errors_are_bounded() -> None:
    for unit, (_, _, _, errors, limit) in FUNCTIONS.items():
        assert errors().max() <= limit, unit


def test_the_document_says_what_is_measured() -> None:
    assert DOCUMENT.read_text() == document(), "write it anew: python -m tests.models.test_accuracy"


if __name__ == "__main__":
    DOCUMENT.write_text(document())
