# SPDX-License-Identifier: Apache-2.0
"""Import of Edge-MoE's folder of raw files, from a folder that is made up here."""

import re

import numpy as np
import pytest
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.importers import edge_moe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole folder; written from the documented layout, independently of the importer's table of names."""
    folder = tmp_path_factory.mktemp("edge-moe")
    rng = np.random.default_rng(0)
    shapes = {"patch_embed_weight": (192, 3, 16, 16), "patch_embed_bias": (192,), "pos_embed": (129, 192)}
    for i in range(12):
        for n in ("norm1", "norm2"):
            shapes |= {f"l{i}_{n}_weight": (192,), f"l{i}_{n}_bias": (192,)}
        shapes |= {f"l{i}_qkv_weight": (576, 192), f"l{i}_qkv_bias": (576,)}
        shapes |= {f"l{i}_attn_proj_weight": (192, 192), f"l{i}_attn_proj_bias": (192,)}
        if i % 2 == 0:
            shapes |= {
                f"l{i}_fc1_weight": (768, 192),
                f"l{i}_fc1_bias": (768,),
                f"l{i}_fc2_weight": (192, 768),
                f"l{i}_fc2_bias": (192,),
            }
        else:
            shapes |= {f"l{i}_w_gate_T_task0": (16, 192), f"l{i}_w_gate_T_task1": (16, 192)}
            shapes |= {f"l{i}_htoh4_weight": (16, 384, 192), f"l{i}_htoh4_bias": (16, 384)}
            shapes |= {f"l{i}_h4toh_weight": (16, 192, 384), f"l{i}_h4toh_bias": (16, 192)}
    for name, shape in shapes.items():
        rng.standard_normal(shape, dtype=np.float32).tofile(folder / f"{name}.float32.bin")
    (rng.integers(0, 256, (3, 128, 256)) / 256).astype("<f4").tofile(folder / "image.float32.bin")
    return folder


def raw(folder, name):
    return np.fromfile(folder / f"{name}.float32.bin", "<f4")


def test_whole_folder(folder):
    checkpoint, filled = edge_moe.load_folder(folder)
    assert filled == []
    assert checkpoint.config.name == "m3vit-t"
    t = checkpoint.tensors
    assert np.array_equal(t["blocks.3.mlp.gate.1.w_gate"], raw(folder, "l3_w_gate_T_task1").reshape(16, 192).T)
    assert np.array_equal(t["blocks.10.attn.qkv.weight"].ravel(), raw(folder, "l10_qkv_weight"))
    assert np.array_equal(t["blocks.11.mlp.experts.h4toh.bias"].ravel(), raw(folder, "l11_h4toh_bias"))
    assert np.array_equal(t["blocks.0.mlp.fc2.weight"].ravel(), raw(folder, "l0_fc2_weight"))
    assert np.array_equal(t["pos_embed"].ravel(), raw(folder, "pos_embed"))


def test_image(folder):
    image = edge_moe.folder_image(folder)
    assert image.dtype == np.uint8
    assert np.array_equal(image.ravel() / np.float32(256), raw(folder, "image"))


def test_all_faults_in_one_error(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "l5_htoh4_weight.float32.bin").unlink()
    (tmp_path / "image.float32.bin").unlink()
    short = tmp_path / "l0_qkv_bias.float32.bin"
    short.unlink()
    short.write_bytes(bytes(576 * 4 - 1))
    nan = tmp_path / "l2_norm1_bias.float32.bin"
    nan.unlink()
    np.full(192, np.nan, "<f4").tofile(nan)
    with pytest.raises(EdgemoeError) as error:
        edge_moe.load_folder(tmp_path)
    text = str(error.value)
    assert "l5_htoh4_weight.float32.bin is missing" in text
    assert "l0_qkv_bias.float32.bin has 2303 bytes, expected 2304 for 576" in text
    assert "l2_norm1_bias.float32.bin has values that are NaN" in text
    assert len(re.findall("float32.bin", text)) == 3 and "\n" not in text
    with pytest.raises(EdgemoeError, match="image.float32.bin is missing"):
        edge_moe.folder_image(tmp_path)
    with pytest.raises(EdgemoeError, match="is no folder"):
        edge_moe.load_folder(tmp_path / "none")
    np.full((3, 128, 256), 0.3, "<f4").tofile(tmp_path / "image.float32.bin")
    with pytest.raises(EdgemoeError, match="no 8-bit image"):
        edge_moe.folder_image(tmp_path)


def without_experts(folder, path):
    """A folder as it is published."""
    for file in folder.iterdir():
        if not re.search(r"(htoh4|h4toh)_weight", file.name):
            (path / file.name).symlink_to(file)
    return path


def test_stand_ins_for_the_experts(folder, tmp_path):
    """Seeded, from the dense layer below, beside what the folder does hold; what they are made of."""
    bare = without_experts(folder, tmp_path)
    with pytest.raises(EdgemoeError, match="l1_htoh4_weight.float32.bin is missing.* and 7 more.*--fill-missing SEED"):
        edge_moe.load_folder(bare)
    (tmp_path / "l5_h4toh_weight.float32.bin").symlink_to(folder / "l5_h4toh_weight.float32.bin")
    (first, filled), (again, _), (other, _) = (edge_moe.load_folder(bare, seed) for seed in (7, 7, 8))
    assert len(filled) == 11 and list(first.tensors) == list(edge_moe.load_folder(folder)[0].tensors)
    for name in filled:
        assert np.array_equal(first.tensors[name], again.tensors[name]) and not np.array_equal(
            first.tensors[name], other.tensors[name]
        )
    assert np.array_equal(first.tensors["blocks.5.mlp.experts.h4toh.weight"].ravel(), raw(folder, "l5_h4toh_weight"))
    units = np.random.default_rng(7).permutation(768)[:384]
    dense = first.tensors["blocks.0.mlp.fc1.weight"][units]
    gain = first.tensors["blocks.1.mlp.experts.htoh4.weight"][0] / dense
    assert np.allclose(gain, gain[:, :1], rtol=1e-5) and 0.9 < gain[:, 0].mean() < 1.1 and 0.2 < gain[:, 0].std() < 0.3
    second = first.tensors["blocks.1.mlp.experts.h4toh.weight"][0]
    assert np.allclose(second, 1.6 * first.tensors["blocks.0.mlp.fc2.weight"][:, units], rtol=1e-6)
