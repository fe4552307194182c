# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as others write them: other float types, prefixes of wrappers, weights that stand out, metadata of any
kind.
"""

from __future__ import annotations

import copy
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgemoe.hw.contract import isa
from edgemoe.models.checkpoint import Checkpoint, load, save
from edgemoe.models.errors import EdgemoeError, brief, listing
from edgemoe.models.keys import Key, Role
from edgemoe.models.numbers import calibrated, quantise
from edgemoe.models.numbers.calibrate import calibrate, default_images
from edgemoe.models.numbers.calibration import Calibration
from edgemoe.models.numbers.formats import WeightFormat

from .support import ODD, TINY, random_checkpoint

BITS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


def write(path: Path, tensors: dict[str, np.ndarray], metadata: Any, kind: str = "F32") -> Path:
    """A safetensors file from the format's description: length of the header, header as JSON, data."""
    header: dict[str, Any] = {"__metadata__": metadata}
    data = b""
    for name, tensor in tensors.items():
        block = tensor.astype(BITS[kind]).tobytes()
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(block)]}
        data += block
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def metadata_of(checkpoint: Checkpoint) -> dict[str, str]:
    return {"config": checkpoint.config.to_json()} | (
        {"calibration": json.dumps(checkpoint.calibration.to_json())} if checkpoint.calibration is not None else {}
    )


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return random_checkpoint(TINY)


@pytest.mark.parametrize("kind", ["BF16", "F16", "F64"])
def test_other_float_types(model: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """bfloat16 and float16 are taken exactly, float64 is rounded with a notice."""
    given = {n: t if kind != "BF16" else (t.view("<u4") & 0xFFFF0000).view("<f4") for n, t in model.tensors.items()}
    expected = {n: t.astype(np.float16).astype(np.float32) if kind == "F16" else t for n, t in given.items()}
    stored = {n: t.view("<u4") >> 16 for n, t in given.items()} if kind == "BF16" else given
    found = load(write(tmp_path / "m.safetensors", stored, metadata_of(model), kind))
    assert all(t.dtype == np.float32 and np.array_equal(t, expected[n]) for n, t in found.tensors.items())
    told = capsys.readouterr().err
    assert ("tensors are float64 and were rounded to float32" in told) == (kind == "F64") and (told == "") == (
        kind != "F64"
    )


def test_integers_are_no_weights(model: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(EdgemoeError, match=r"\w is I64, expected F32 \(or F16, BF16, F64\)"):
        load(write(tmp_path / "m.safetensors", model.tensors, metadata_of(model), "I64"))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "net.encoder."])
def test_a_common_prefix_comes_off(
    model: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], prefix: str
) -> None:
    found = load(
        write(tmp_path / "m.safetensors", {prefix + n: t for n, t in model.tensors.items()}, metadata_of(model))
    )
    assert all(np.array_equal(found.tensors[n], t) for n, t in model.tensors.items())
    assert f"{prefix!r} taken off the names of all tensors" in capsys.readouterr().err


def with_value(model: Checkpoint, name: str, value: float) -> Checkpoint:
    tensors = {n: t.copy() for n, t in model.tensors.items()}
    tensors[name].reshape(-1)[0] = value
    return Checkpoint(model.config, tensors)


@pytest.mark.parametrize("value", [1e9, 1e20, 3e38])
@pytest.mark.parametrize(
    "name",
    [
        "blocks.0.attn.proj.weight",
        "blocks.1.attn.qkv.weight",
        "blocks.0.mlp.fc2.weight",
        "blocks.1.mlp.experts.h4toh.weight",
        "blocks.1.mlp.experts.htoh4.bias",
        "pos_embed",
        "patch_embed.proj.weight",
        "heads.seg.proj.weight",
        "blocks.1.mlp.gate.0.w_gate",
    ],
)
def test_an_outlier_names_its_tensor(model: Checkpoint, name: str, value: float) -> None:
    """Whatever it does to the ranges: one line, in the format of the message, or weights that can be run."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EdgemoeError) as error:
            quantise.quantise(with_value(model, name, value), "16")
    assert name in str(error.value) and len(str(error.value)) < 400


def test_an_outlier_that_can_be_run_is_told(model: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    calibrate(with_value(model, "blocks.0.mlp.fc2.weight", 1e3), default_images(TINY, 1), error_aware=())
    assert "blocks.0.mlp.fc2.weight reaches 1e+03, where such tensors usually hold" in capsys.readouterr().err


def test_an_outlier_beside_a_calibration_of_other_weights(model: Checkpoint) -> None:
    """The calibration says that all is well; the integers' shifts say that it is not."""
    broken = with_value(model, "blocks.0.attn.qkv.weight", 1e30)
    broken.calibration = model.calibration
    for bits in WeightFormat:
        with pytest.raises(EdgemoeError, match="Among the weights, blocks.0.attn.qkv.weight reaches 1e.30"):
            quantise.quantise(broken, bits)


def test_the_fields_are_those_of_the_instructions() -> None:
    for name, (low, high) in quantise.FIELDS.items():
        field = isa.BY_NAME[name]
        assert (low, high) == (
            (-(1 << field.bits - 1), (1 << field.bits - 1) - 1) if field.signed else (0, (1 << field.bits) - 1)
        )


def test_expected_ranges_are_what_calibration_gives() -> None:
    for config in (ODD, TINY):
        found = random_checkpoint(config).calibration
        assert found is not None
        stored = found.to_json()
        assert set(stored["ranges"]) == set(calibrated.expected_ranges(config))
        assert set(stored["smallest"]) == set(calibrated.expected_norms(config))


def test_a_calibration_knows_its_pictures(model: Checkpoint) -> None:
    images = default_images(TINY, 3)
    assert calibrated.seen(model.calibration, [images[2], images[1] ^ 1, images[0]]) == [0, 2]
    assert calibrated.seen(None, images) is None and calibrated.seen(Calibration(3), images) is None


NOTHING = object()
VALUES = (
    None,
    3,
    -1,
    1e300,
    1e30,
    float("nan"),
    float("inf"),
    "3",
    "",
    [],
    [1],
    {},
    True,
    "x" * 5000,
    [[]] * 50,
    10**400,
    NOTHING,
)


def mutate(value: Any, rng: np.random.Generator) -> Any:
    """Somewhere in a JSON value, something else, or nothing."""
    place, key = None, None
    inner = value
    while isinstance(inner, dict | list) and len(inner) and (place is None or rng.random() < 0.8):
        place, key = (
            inner,
            (list(inner)[int(rng.integers(len(inner)))] if isinstance(inner, dict) else int(rng.integers(len(inner)))),
        )
        inner = place[key]
    other = VALUES[int(rng.integers(len(VALUES)))]
    if place is None:
        return None if other is NOTHING else other
    if other is NOTHING:
        del place[key]
    else:
        place[key] = copy.deepcopy(other)
    return value


def attempt(path: Path) -> str:
    """What loading and quantising a file says; empty if it can be run.
    Anything but an EdgemoeError, and any warning, fails the test.
    """
    try:
        quantise.quantise(load(path), "mixed")
    except EdgemoeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(4))
def test_metadata_of_any_kind_is_taken_or_refused_in_one_line(model: Checkpoint, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    refused = 0
    config = json.loads(TINY.to_json())
    for _ in range(60):
        metadata: Any = metadata_of(model)
        if rng.random() < 0.6:
            metadata["calibration"] = json.dumps(mutate(copy.deepcopy(model.calibration.to_json()), rng))
        else:
            metadata["config"] = json.dumps(mutate(copy.deepcopy(config), rng))
        said = attempt(write(tmp_path / "m.safetensors", model.tensors, metadata))
        refused += bool(said)
        assert len(said) < 400 and "\n" not in said, said
    assert refused > 20


@pytest.mark.parametrize("seed", range(4))
def test_files_of_any_kind_are_taken_or_refused_in_one_line(model: Checkpoint, tmp_path: Path, seed: int) -> None:
    """Bytes of the header and of the data, lengths, texts that are no JSON."""
    rng = np.random.default_rng(seed)
    whole = bytearray(write(tmp_path / "whole.safetensors", model.tensors, metadata_of(model)).read_bytes())
    length = struct.unpack("<Q", whole[:8])[0]
    path = tmp_path / "m.safetensors"
    for turn in range(60):
        blob = whole.copy()
        if turn % 4 == 0:
            blob = blob[: int(rng.integers(len(blob)))]
        for _ in range(int(rng.integers(1, 4))):
            end = len(blob) if turn % 2 else min(len(blob), 8 + length)
            if end:
                blob[int(rng.integers(end))] = int(rng.integers(256))
        path.write_bytes(blob)
        said = attempt(path)
        assert len(said) < 400 and "\n" not in said, said


@pytest.mark.parametrize(
    "text, part",
    [
        ("3", "is 3, expected a JSON object"),
        ("[]", "expected a JSON object"),
        ("null", ""),
        ("{", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ("{}", "ranges is missing; smallest is missing; clipped is missing; channels is missing"),
    ],
)
def test_calibrations_that_are_none(model: Checkpoint, tmp_path: Path, text: str, part: str) -> None:
    metadata = metadata_of(model) | {"calibration": text}
    said = attempt(write(tmp_path / "m.safetensors", model.tensors, metadata))
    assert part in said and (bool(said) == bool(part)) and len(said) < 400


@pytest.mark.parametrize("value", [1e300, -1.0, float("nan"), None, "3", 10**400])
@pytest.mark.parametrize("name", ["patch.output", "blocks.1.scores", "heads.dep.output"])
def test_absurd_ranges(model: Checkpoint, tmp_path: Path, name: str, value: Any) -> None:
    assert model.calibration is not None
    stored = model.calibration.to_json()
    calibration = stored | {"ranges": stored["ranges"] | {name: value}}
    metadata = metadata_of(model) | {"calibration": json.dumps(calibration)}
    said = attempt(write(tmp_path / "m.safetensors", model.tensors, metadata))
    assert f"ranges: {name} is" in said and "m.safetensors" in said and len(said) < 400


def test_a_rounding_that_is_none(model: Checkpoint, tmp_path: Path) -> None:
    assert model.calibration is not None
    for broken in ("eJw=", "?", 3, None):
        calibration = copy.deepcopy(model.calibration)
        calibration.rounding[WeightFormat.MIXED][Key(Role.FIRST, 1)].delta = broken
        path = save(Checkpoint(TINY, model.tensors, calibration), tmp_path / "m.safetensors")
        assert "rounding of blocks.1.first cannot be read" in attempt(path)


def test_lists_and_values_stay_short() -> None:
    assert listing(["a", "b"]) == "a, b" and listing([str(i) for i in range(9)]) == "0, 1, 2, 3, 4 and 4 more"
    assert len(listing(["x" * 1000] * 9)) < 300
    assert brief("a\n b") == "a b" and len(brief("x" * 1000)) == 60 and brief("x" * 1000).startswith("x")


def test_calibration_runs_without_a_word(model: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(Checkpoint(TINY, model.tensors), default_images(TINY, 1), error_aware=())
    assert capsys.readouterr().err == ""
