# SPDX-License-Identifier: Apache-2.0
"""Configurations: what is derived, and what is refused with which words."""

from dataclasses import replace

import pytest
from edgemoe.models.config import NORM_KINDS, PRESETS, ModelConfig, TaskConfig, preset
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.operations.norms import NORMS

TINY = PRESETS["m3vit-t"]


def test_sizes_of_m3vit_t():
    assert (TINY.tokens, TINY.patches, TINY.patches_per_row, TINY.patch_size_words, TINY.head_width) == (
        129,
        128,
        16,
        768,
        64,
    )
    assert [layer for layer in range(TINY.layers) if TINY.is_moe(layer)] == [1, 3, 5, 7, 9, 11]
    assert TINY.task_index("task1") == TINY.task_index(1) == 1


def test_micro_fits_arrays_of_up_to_32():
    micro = preset("m3vit-micro")
    sizes = [micro.width, micro.hidden, micro.expert_hidden, micro.head_width] + [
        task.head_outputs for task in micro.tasks
    ]
    assert all(size % 32 == 0 for size in sizes)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    assert ModelConfig.from_json(PRESETS[name].to_json()) == PRESETS[name]


def test_plain_vision_transformer_is_valid():
    plain = replace(TINY, experts=0, expert_hidden=0, top_k=0, moe_layers=())
    assert not any(plain.is_moe(layer) for layer in range(plain.layers))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_width": 250}, "image_width is 250, expected a multiple of the patch side 16"),
        ({"width": 190}, "width is 190, expected a multiple of the 3 heads"),
        ({"layers": 0}, "layers is 0, expected an integer from 1 to 1048576"),
        ({"layers": 10**9}, "layers is 1000000000, expected an integer from 1"),
        ({"layers": 5000}, "layers is 5000, expected at most 1024"),
        (
            {"tasks": tuple(TaskConfig(name=f"t{i}", kind="tokens") for i in range(65))},
            "it has 65 tasks, expected at most 64",
        ),
        ({"heads": 3.0}, "heads is 3.0, expected an integer"),
        ({"top_k": 17}, "top_k is 17, expected 1 to the number of experts, 16"),
        ({"moe_layers": (1, 12)}, "moe_layers names layer 12, expected layers 0 to 11"),
        ({"moe_layers": (3, 1)}, "each layer once and in ascending order"),
        ({"moe_layers": ()}, "16 experts but no MoE layer"),
        ({"experts": 0}, "need experts and expert_hidden of at least 1, got 0 and 384"),
        ({"hidden": 0}, "hidden is 0, but some layers are no MoE layers"),
        ({"tasks": ()}, "no task"),
        ({"tasks": (TaskConfig(name="a", kind="tokens"),) * 2}, "task names are a, a: expected each name once"),
        (
            {"tasks": (TaskConfig(name="a", kind="depth", channels=1, grid=17),)},
            "grid is 17, expected at most the patch side 16",
        ),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"activation": "mish"}, "activation is 'mish', expected one of gelu, gelu-tanh, quick-gelu, silu, relu"),
        ({"gate": "some"}, "gate is 'some', expected one of all, top-k"),
        ({"gate_bias": 1}, "gate_bias is 1, expected true or false"),
        ({"pre_norm": None}, "pre_norm is None, expected true or false"),
    ],
)
def test_refused(change, message):
    with pytest.raises(EdgemoeError) as error:
        replace(TINY, **change)
    assert message in str(error.value)
    assert "m3vit-t" in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a.b", "kind": "tokens"}, "task name 'a.b'"),
        (
            {"name": "a", "kind": "boxes"},
            "kind is 'boxes', expected one of segmentation, depth, map, classification, features, tokens",
        ),
        ({"name": "a", "kind": "tokens", "channels": 3}, "has no head"),
        ({"name": "a", "kind": "features", "channels": 3, "grid": 1}, "needs grid 0"),
        ({"name": "a", "kind": "segmentation"}, "needs channels and grid of at least 1"),
        ({"name": "a", "kind": "depth", "channels": 2, "grid": 4}, "exactly 1 channel, got 2"),
    ],
)
def test_refused_task(fields, message):
    with pytest.raises(EdgemoeError) as error:
        TaskConfig(**fields)
    assert message in str(error.value)


def test_unknown_names_list_the_known():
    with pytest.raises(EdgemoeError, match="the presets are m3vit-t, m3vit-micro"):
        preset("m3vit-xl")
    with pytest.raises(EdgemoeError, match="has no task 'boxes'; its tasks are task0, task1"):
        TINY.task_index("boxes")
    with pytest.raises(EdgemoeError, match="has no task 2"):
        TINY.task_index(2)
    with pytest.raises(EdgemoeError, match="no valid JSON of a ModelConfig"):
        ModelConfig.from_json('{"name": "m"}')


def test_every_kind_of_norm_is_made():
    assert tuple(NORMS) == NORM_KINDS
    with pytest.raises(EdgemoeError, match="norm is 'batch', expected one of layer, rms"):
        replace(TINY, norm="batch")
