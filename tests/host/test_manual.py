# SPDX-License-Identifier: Apache-2.0
"""The programmer's manual: it is what its generator writes, and says of each instruction all that the instruction
reads.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
from edgemoe.host import manual
from edgemoe.hw.contract.isa import FIELDS, INSTRUCTION_BYTES, Instruction, Opcode
from edgemoe.hw.contract.rules import RULES
from edgemoe.sim.emulator import Emulator
from numpy.typing import NDArray

from ..random.test_corrupted import TINY, corrupted, small_program

TEXT = manual.DOCUMENT.read_text()
ANYWHERE = {"opcode", "residual", "gather", "scatter", "queued"}  # rules about these hold for every opcode


def test_it_is_what_its_generator_writes() -> None:
    assert TEXT == manual.manual(), "write it anew: python -m edgemoe.host.manual"


def test_lines_and_links() -> None:
    assert not [line for line in TEXT.splitlines() if len(line) > 120 and not line.startswith("|")]
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", TEXT, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        else:
            assert (manual.DOCUMENT.parent / target).is_file(), target


@pytest.mark.parametrize("opcode", Opcode)
def test_a_page_for_each_opcode(opcode: Opcode) -> None:
    page = TEXT.split(f"### {opcode.name} ({int(opcode)})\n")[1].split("\n### ")[0]
    for field in manual.fields_of(opcode):
        assert f"| {field.name} |" in page
    flat = " ".join(page.split())
    assert all(rule.text in flat for rule in RULES if opcode in rule.opcodes and rule.name != "opcode")
    assert "**Waits.**" in page and "**Cycles.**" in page


def test_every_field_is_on_a_page() -> None:
    named = {field.name for opcode in Opcode for field in manual.fields_of(opcode)}
    assert named == {field.name for field in FIELDS} - {"opcode"}
    assert all(field.doc for field in FIELDS)


@cache
def program() -> tuple[NDArray[np.uint8], list[Instruction], NDArray[np.uint8]]:
    """(memory before, instructions, memory after) of a model that has every kind of instruction."""
    memory, instructions, _ = small_program()
    after = memory.copy()
    Emulator(TINY).run(after)
    return memory, instructions, after


@pytest.mark.parametrize("opcode", Opcode)
def test_what_is_not_on_the_page_does_not_matter(opcode: Opcode) -> None:
    """All ones in any other field of such an instruction: the program ends as before."""
    before, instructions, after = program()
    pages = {field.name for field in manual.fields_of(opcode)} | ANYWHERE
    others = [field for field in FIELDS if field.name not in pages]
    assert others or opcode == Opcode.MATMUL
    index = next(n for n, i in enumerate(instructions) if i.opcode == opcode)
    place = slice(index * INSTRUCTION_BYTES, (index + 1) * INSTRUCTION_BYTES)
    for field in others:
        memory, expected = before.copy(), after.copy()
        word = corrupted(memory[place].tobytes(), field.name, (1 << field.bits) - 1)
        memory[place] = expected[place] = np.frombuffer(word, np.uint8)
        result = Emulator(TINY).run(memory)
        assert not result.error_code and np.array_equal(memory, expected), field.name
