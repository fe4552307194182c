# SPDX-License-Identifier: Apache-2.0
"""Deliberate faults, which the proofs (`tests/formal`) and the benches (`tests/hw/test_mutants.py`) of a unit must
catch.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Unit = Callable[..., Any]  # a component's class, or a function that builds logic


@dataclass(frozen=True)
class Mutant:
    """A deliberate fault: one place in the source of a unit's module. `of`:
    the unit that has it, if it is a part of the one under test.
    """

    old: str
    new: str
    of: Unit | None = None


def mutated(unit: Unit, mutant: Mutant) -> Any:
    """The unit from a source with the fault in it. The text must occur exactly once:
    a mutant that no longer applies is an error.
    """
    module = sys.modules[unit.__module__]
    source = Path(str(module.__file__)).read_text()
    assert source.count(mutant.old) == 1, (
        f"{unit.__name__}: {mutant.old!r} occurs {source.count(mutant.old)} times in {module.__file__}"
    )
    copy = types.ModuleType(module.__name__)
    copy.__file__, copy.__package__ = module.__file__, module.__package__
    # Annotations are ports and fields to Amaranth: those of the source must not become texts, as they are in this file.
    code = compile(source.replace(mutant.old, mutant.new), str(module.__file__), "exec", dont_inherit=True)
    exec(code, copy.__dict__)
    return getattr(copy, unit.__name__)


@contextmanager
def planted(unit: Unit, mutant: Mutant) -> Iterator[Any]:
    """While it lasts, every module that imported the faulty unit has it with its fault.
    Yields the unit under test as it is then.
    """
    target = mutant.of or unit
    faulty = mutated(target, mutant)
    users = [module for module in list(sys.modules.values()) if vars(module).get(target.__name__) is target]
    for module in users:
        setattr(module, target.__name__, faulty)
    try:
        yield faulty if target is unit else unit
    finally:
        for module in users:
            setattr(module, target.__name__, target)
