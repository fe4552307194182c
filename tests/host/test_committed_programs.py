# SPDX-License-Identifier: Apache-2.0
"""The instructions that m3vit-micro compiles to are committed, as digests: a change of the compiler that moves one of
them says so.

`python -m tests.host.test_committed_programs` writes them anew.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

import pytest
from edgemoe.host import compiler
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.quantise import QuantisedModel, quantise

DIGESTS = Path(__file__).with_name("programs.json")
STREAMS = {"one task": [(0, 0)], "both tasks": [(0, 0), (0, 1)], "two images": [(0, 1), (1, 0)]}
CASES = [
    (h, f, s)
    for h in ("base", "zcu102", "ulx3s")
    for f in WeightFormat
    for s in STREAMS
    if (h != "ulx3s" or s == "one task") and (preset(h).packed or not f.fast)
]


@cache
def model(weight_format: WeightFormat) -> QuantisedModel:
    return quantise(checkpoint.load("m3vit-micro"), weight_format)


def digest(hardware: str, weight_format: WeightFormat, streams: str) -> str:
    """How many instructions, and what they are: opcodes, shifts, addresses, waits.

    Not the weights, whose last bit is the processor's.
    """
    program = compiler.compile(model(weight_format), STREAMS[streams], preset(hardware), trace=streams == "both tasks")
    code = b"".join(i.encode() for i in program.instructions)
    return f"{len(program.instructions)} instructions, {hashlib.sha256(code).hexdigest()[:16]}"


@pytest.mark.parametrize("hardware, weight_format, streams", CASES)
def test_instructions_are_the_committed_ones(hardware: str, weight_format: WeightFormat, streams: str) -> None:
    committed = json.loads(DIGESTS.read_text())
    assert digest(hardware, weight_format, streams) == committed[f"{hardware}, {weight_format}, {streams}"], (
        "if this is meant, say why and run python -m tests.host.test_committed_programs"
    )


def test_nothing_else_is_committed() -> None:
    assert set(json.loads(DIGESTS.read_text())) == {", ".join(case) for case in CASES}


if __name__ == "__main__":
    DIGESTS.write_text(json.dumps({", ".join(case): digest(*case) for case in CASES}, indent=2) + "\n")
