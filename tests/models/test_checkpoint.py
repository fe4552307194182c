# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files: round trip, and one clear line for each way in which a file can be broken."""

import numpy as np
import pytest
from edgemoe.models.checkpoint import Checkpoint, expected_tensors, load, save
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.calibrate import calibrate, default_images
from safetensors.numpy import save_file

from .small import PLAIN, SMALL, random_checkpoint
from .support import small_disk


def write(path, tensors, config=SMALL):
    save_file(tensors, path, {"config": config.to_json()})
    return path


@pytest.mark.parametrize("config", [SMALL, PLAIN], ids=lambda config: config.name)
@pytest.mark.parametrize("calibrated", [False, True])
def test_round_trip(tmp_path, config, calibrated):
    given = random_checkpoint(config)
    given.calibration = calibrate(given, default_images(config, 1)) if calibrated else None
    found = load(save(given, tmp_path / "deep" / "model.safetensors"))
    assert found.config == config
    assert (found.calibration and found.calibration.to_json()) == (given.calibration and given.calibration.to_json())
    assert found.tensors.keys() == given.tensors.keys()
    assert all(np.array_equal(found.tensors[name], given.tensors[name]) for name in given.tensors)


def test_a_transposed_view_is_saved_as_it_reads(tmp_path):
    given = random_checkpoint(SMALL)
    name = "blocks.0.mlp.gate.1.w_gate"
    given.tensors[name] = np.ascontiguousarray(given.tensors[name].T).T
    assert np.array_equal(load(save(given, tmp_path / "m.safetensors")).tensors[name], given.tensors[name])


def test_names_and_shapes():
    shapes = expected_tensors(SMALL)
    assert shapes["patch_embed.proj.weight"] == (16, 3, 4, 4)
    assert shapes["pos_embed"] == (7, 16)
    assert shapes["blocks.0.mlp.gate.2.w_gate"] == (16, 5)
    assert shapes["blocks.0.mlp.experts.h4toh.weight"] == (5, 16, 12)
    assert shapes["blocks.1.mlp.fc1.weight"] == (24, 16)
    assert shapes["heads.segmentation.proj.weight"] == (28, 16)
    assert not any("heads.bare" in name for name in shapes)


def test_broken_tensors_are_named_in_one_line(tmp_path):
    tensors = random_checkpoint(SMALL).tensors
    del tensors["pos_embed"]
    tensors["extra"] = np.zeros(3, np.float32)
    tensors["blocks.1.mlp.fc1.bias"] = np.zeros(23, np.float32)
    tensors["blocks.1.norm1.bias"] = np.full(16, 1e39)
    tensors["blocks.2.norm1.bias"][3] = np.nan
    tensors["blocks.2.norm2.bias"][4] = np.inf
    with pytest.raises(EdgemoeError) as error:
        load(write(tmp_path / "m.safetensors", tensors))
    for part in (
        "pos_embed is missing",
        "extra does not belong to the model",
        "blocks.1.norm1.bias has 16 values that are NaN or infinite",  # beyond float32
        "blocks.1.mlp.fc1.bias has shape [23], expected [24]",
        "and 1 more",
        "m.safetensors",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_many_broken_tensors_are_five_names_and_a_count(tmp_path):
    tensors = {f"trunk.{name}": tensor for name, tensor in random_checkpoint(SMALL).tensors.items()} | {
        "x": np.zeros(1, np.float32)
    }
    with pytest.raises(EdgemoeError) as error:
        load(write(tmp_path / "m.safetensors", tensors))
    text, count = str(error.value), len(expected_tensors(SMALL))
    assert (
        text.count("is missing") + text.count("does not belong") == 5
        and "is missing" in text
        and "does not belong" in text
    )
    assert f"and {2 * count + 1 - 5} more" in text and len(text) < 400


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_truncated(tmp_path, keep):
    path = save(random_checkpoint(SMALL), tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EdgemoeError, match="is no readable safetensors file"):
        load(path)


def test_without_or_with_a_broken_config(tmp_path):
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(EdgemoeError, match="has no 'config' in its metadata"):
        load(tmp_path / "a.safetensors")
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "b.safetensors", {"config": "{"})
    with pytest.raises(EdgemoeError, match=r"b\.safetensors: model configuration is no valid JSON"):
        load(tmp_path / "b.safetensors")
    given = random_checkpoint(SMALL)
    save_file(given.tensors, tmp_path / "c.safetensors", {"config": SMALL.to_json(), "calibration": "{"})
    with pytest.raises(EdgemoeError, match="its calibration is no valid JSON"):
        load(tmp_path / "c.safetensors")


def test_unknown_names_and_paths(tmp_path):
    with pytest.raises(EdgemoeError, match="no checkpoint named 'nonsense'; known are .*m3vit-micro"):
        load("nonsense")
    with pytest.raises(EdgemoeError, match="no checkpoint file"):
        load(tmp_path / "none.safetensors")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    given = random_checkpoint(SMALL)
    path = save(given, tmp_path / "m.safetensors")
    before = path.read_bytes()
    broken = Checkpoint(SMALL, {**given.tensors, "pos_embed": np.full((7, 16), np.nan, np.float32)})
    with pytest.raises(EdgemoeError, match="pos_embed has 112 values that are NaN"):
        save(broken, path)

    with small_disk(1000), pytest.raises(EdgemoeError, match="cannot write .*m.safetensors: File too large"):
        save(given, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]
