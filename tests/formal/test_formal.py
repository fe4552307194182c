# SPDX-License-Identifier: Apache-2.0
"""Every proof holds, reaches its covers, and catches its mutants."""

import importlib
import inspect
import pkgutil
import subprocess

import pytest
from amaranth.lib import stream, wiring
from edgemoe import hw

from ..mutants import mutated
from . import (
    attention,
    blocks,
    bus,
    compute,
    control_plane,
    deep_blocks,
    memory_system,
    runner,
    sdram,
    serial,
    slices,
    streams,
    sweeps,
)
from .runner import Proof, Property, prove

MODULES = (
    memory_system,
    bus,
    control_plane,
    compute,
    attention,
    slices,
    blocks,
    deep_blocks,
    sweeps,
    streams,
    sdram,
    serial,
)
PROOFS: list[Proof] = [proof for module in MODULES for proof in module.PROOFS]


def parameters(values):
    return [
        pytest.param(*value, id="-".join(map(str, (value[0].name, *value[1:]))), marks=_marks(value[0]))
        for value in values
    ]


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


@pytest.mark.parametrize("proof", [pytest.param(proof, id=proof.name) for proof in PROOFS])
def test_mutants_apply(proof: Proof):
    """Their texts still stand in the source, once, also those of the long tier."""
    for fault in proof.mutants.values():
        assert fault.old != fault.new and mutated(fault.of or proof.unit, fault)


def test_only_verdicts_are_kept(tmp_path, monkeypatch):
    """A solver that ran out of time, on a busy machine perhaps, is asked again; one that decided is not."""
    monkeypatch.setenv("EDGEMOE_CACHE", str(tmp_path))
    answers = iter(("TIMEOUT, rc=8", "PASS, rc=0"))
    monkeypatch.setattr(
        runner.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, f"DONE ({next(answers)})", "")
    )
    assert [prove(PROOFS[0]).status for _ in range(3)] == ["TIMEOUT", "PASS", "PASS"]


def test_every_proof_has_a_mutant_and_its_own_name():
    assert all(proof.mutants for proof in PROOFS)
    assert len({proof.name for proof in PROOFS}) == len(PROOFS)


def stream_ports(unit: object, signature: wiring.Signature, path: str = "") -> dict[str, object]:
    """Path -> interface of every stream port."""
    found: dict[str, object] = {}
    for name, member in signature.members.items():
        if member.is_signature and not member.dimensions:
            port, inner = getattr(unit, name), member.signature
            plain = inner.flip() if isinstance(inner, wiring.FlippedSignature) else inner
            found |= (
                {path + name: port}
                if isinstance(plain, stream.Signature)
                else stream_ports(port, inner, f"{path}{name}.")
            )
    return found


def test_every_stream_port_of_every_unit_is_proven():
    """A unit with a stream has a proof, and some proof of it applies the stream rules to each of its streams."""
    unproven: dict[str, set[str]] = {}
    for proof in PROOFS:
        description = Property()
        proof.build(description, proof.unit)
        for unit in description.units:
            ports = stream_ports(unit, unit.signature)
            without = {
                name for name, port in ports.items() if not any(port == checked for checked in description.streams)
            }
            unproven[type(unit).__name__] = unproven.get(type(unit).__name__, without) & without
    assert not {name: ports for name, ports in unproven.items() if ports}
    modules = [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(hw.__path__, f"{hw.__name__}.")
        if info.name.count(".") == 3  # the rooms' units; what only creates and connects lies above them
    ]
    classes = {
        c for module in modules for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__
    }
    streaming = {
        c.__name__
        for c in classes
        if issubclass(c, wiring.Component) and "stream.Signature" in inspect.getsource(c.__init__)
    }
    assert not streaming - set(unproven)
