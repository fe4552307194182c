# SPDX-License-Identifier: Apache-2.0
"""Every proof holds, reaches its covers, and catches its mutants."""

import pytest

from . import blocks, bus, compute, control_plane, memory_system, streams
from .runner import Proof, prove

PROOFS: list[Proof] = [*memory_system.PROOFS, *bus.PROOFS, *control_plane.PROOFS, *compute.PROOFS, *blocks.PROOFS, *streams.PROOFS]


def parameters(values):
    return [pytest.param(*value, id="-".join(map(str, (value[0].name, *value[1:]))), marks=_marks(value[0])) for value in values]


def _marks(proof: Proof):
    return [pytest.mark.full] if proof.full else []


@pytest.mark.parametrize("proof", parameters((p,) for p in PROOFS))
def test_holds(proof: Proof):
    verdict = prove(proof)
    assert verdict.status == "PASS", f"{verdict.status} {verdict.places}\n{verdict.log[-3000:]}"


@pytest.mark.parametrize("proof", parameters((p,) for p in PROOFS))
def test_covers_are_reached(proof: Proof):
    verdict = prove(proof, cover=True)
    assert verdict.status == "PASS", f"{verdict.status} {verdict.places}\n{verdict.log[-3000:]}"
    assert "Reached cover statement" in verdict.log


@pytest.mark.parametrize("proof, mutant", parameters((p, name) for p in PROOFS for name in p.mutants))
def test_mutant_is_caught(proof: Proof, mutant: str):
    verdict = prove(proof, mutant)
    assert verdict.asserted, f"{verdict.status} {verdict.places}\n{verdict.log[-3000:]}"


def test_every_proof_has_a_mutant_and_its_own_name():
    assert all(proof.mutants for proof in PROOFS)
    assert len({proof.name for proof in PROOFS}) == len(PROOFS)
