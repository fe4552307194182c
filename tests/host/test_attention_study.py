# SPDX-License-Identifier: Apache-2.0
"""The kinds of attention side by side: their errors are within bounds in every case, and the command shows all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from edgemoe.host.studies import attention
from edgemoe.host.studies.plan import plan
from edgemoe.hw.contract.config import preset
from edgemoe.models.config import PRESETS
from edgemoe.models.numbers.sketch import sketch
from edgemoe.models.operations.feature_maps import MAPS
from edgemoe.models.operations.weighing import KINDS
from PIL import Image

from .conftest import Command, refused

FAMILY = preset("family")
# Of a weight; biases are as coarse as scores are.
MOST = {
    "softmax": 1e-4,
    "sigmoid": 3e-4,
    "relu": 0.0,
    "two-pass": 1e-4,
    "softplus": 5e-4,
    "rela": 2.5e-3,
    "performer": 3e-3,
    "cosformer": 2e-4,
    "soft": 1e-4,
}
NORMALISED = {"softmax": 1.0, "two-pass": 1 + 2.0**-15}  # the largest weight: softmax's is below 1 before 1/sum rounds


@pytest.mark.parametrize("kind", MOST)
def test_errors(kind: str) -> None:
    errors = attention.errors(kind)
    assert len(errors) == 15 and max(errors.values()) <= MOST[kind]
    assert errors["a masked row"] == 0
    if kind in MAPS or kind in ("rela", "soft"):
        return
    for name, scores in attention.cases():
        got, exact = attention.weights(KINDS[kind](scores.shape[1]), scores)
        assert np.isfinite(got).all() and got.min() >= 0, name
        if kind in NORMALISED:
            assert got.max() <= NORMALISED[kind] and abs(got.sum(axis=1) - 1).max() <= 0.02, name
        assert (got.argmax(axis=1) == exact.argmax(axis=1)).all() or "sigma 8" in name or "500" in name, name


def test_what_norms_of_heads_cost() -> None:
    """As the document says."""
    text = (Path(attention.__file__).parents[2] / "hw" / "ATTENTION.md").read_text()
    micro = PRESETS["m3vit-micro"]
    plain, normed = (plan(sketch(replace(micro, qk_norm=kind)), FAMILY, tasks=[0]).cycles for kind in ("", "layer"))
    assert f"{normed:,} cycles instead of {plain:,}" in " ".join(text.split())


def test_every_kind_has_its_place() -> None:
    assert set(attention.PARTS) == set(MOST) == {*KINDS, *MAPS, "soft"} == set(attention.kinds_of("all", FAMILY))


def test_table_plot_and_json(tmp_path: Path, edgemoe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the simulation gives stands in for it."""
    monkeypatch.setattr(attention, "run", lambda kind, hardware: (0, 1234, 56789))
    monkeypatch.setattr(attention, "resources", lambda hardware: {"sigmoid": {"lut": 700.5, "dsp": 8, "bram": 4}})
    code, shown, _ = edgemoe("bench", "--attention", "all", "--plot", tmp_path / "kinds.png")
    assert code == 0 and all(text in shown for text in ("sigmoid", "1,234", "56,789", "701", "not counted", "a masked"))
    with Image.open(tmp_path / "kinds.png") as picture:
        assert picture.width > 600
    code, text, _ = edgemoe("bench", "--attention", "relu", "--json")
    found = json.loads(text)
    assert found["hardware"] == "family" and [entry["kind"] for entry in found["kinds"]] == ["relu"]
    assert {"mismatches", "cycles", "max_error", "lut", "dsp"} <= found["kinds"][0].keys()


def test_what_is_refused(edgemoe: Command) -> None:
    refused(
        edgemoe("bench", "--attention", "hardmax"), "no 'hardmax' attention: choose all, or one of softmax, sigmoid"
    )
    refused(edgemoe("bench", "--attention", "all", "--stalls", ".1"), "--attention has a model of its own")


@pytest.mark.full
def test_on_rtl() -> None:
    """Real figures, on a small build; the same model takes the same time whatever weighs it."""
    hardware = replace(preset("tiny"), rows=136, tokens=129, width=64, hidden=768, attention=FAMILY.attention)
    found = attention.study(list(MOST), hardware, note=lambda text: None)
    assert [f.mismatches for f in found] == [0] * len(MOST)
    assert len({f.cycles for f in found if f.kind in KINDS}) == 1 and found[0].cycles < found[0].pass_cycles
