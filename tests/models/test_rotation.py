# SPDX-License-Identifier: Apache-2.0
"""The rotated residual: the same model in floating point, of every kind; tokens that are turned back, and are more
exact; and where it is not rotated.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.studies.checking import check
from edgemoe.hw.contract.config import preset
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ATTENTION_KINDS, NORM_KINDS, ModelConfig, TaskConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.calibrate import calibrate, default_images, unseen_images
from edgemoe.models.numbers.calibrated import check_calibration
from edgemoe.models.numbers.calibration import Calibration
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.forward import forward
from edgemoe.models.numbers.orthogonal import orthogonal
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.numbers.rotation import rotatable, rotated
from edgemoe.models.numbers.sketch import sketch

from ..top.support import emulated
from .support import ODD, PLAIN, TINY, random_checkpoint, sqnr

CLASSES = (
    TaskConfig(name="class", kind="classification", channels=5, pool="cls+mean"),
    TaskConfig(name="bare", kind="tokens"),
)
FAMILIES = {kind: replace(ODD, attention=kind) for kind in ATTENTION_KINDS}
FAMILIES |= {f"{norm} norm": replace(TINY, norm=norm) for norm in NORM_KINDS}
FAMILIES |= {f"{norm} norm of heads": replace(TINY, norm="rms", qk_norm=norm) for norm in NORM_KINDS}
FAMILIES |= {
    "biased gates": replace(TINY, gate_bias=True, gate="top-k"),
    "no experts": PLAIN,
    "classes": replace(PLAIN, tasks=CLASSES),
}
PACKED = replace(preset("tiny"), packed=1, tokens=16, width=32)


@pytest.mark.parametrize("width", [1, 2, 10, 24, 40, 192])
def test_it_is_its_own_inverse_and_keeps_means(width: int) -> None:
    turn = orthogonal(width)
    np.testing.assert_allclose(turn @ turn, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(turn, turn.T, atol=1e-12)
    np.testing.assert_allclose(turn.sum(axis=0), 1, atol=1e-12)


@pytest.mark.parametrize("width", [24, 192, 768])
def test_no_channel_reaches_far(width: int) -> None:
    """What was all in one channel, and what no rotation had made even."""
    assert np.abs(orthogonal(width)).max() < 5 * width**-0.5


@pytest.mark.parametrize(
    ("width", "first"),
    [
        (24, (0.305688, 0.054086, 0.029263, 0.368499)),
        (64, (-0.004864, 0.017986, -0.002637, 0.064523)),
        (192, (0.109548, 0.166695, 0.183557, 0.019101)),
    ],
)
def test_it_stays_what_calibrations_were_made_with(width: int, first: tuple[float, ...]) -> None:
    """Another one fits no calibration that is kept: m3vit-t would lose ten decibels, and nothing would say so."""
    np.testing.assert_allclose(orthogonal(width)[0, 1:5], first, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_float_model_is_the_same(family: str) -> None:
    config = FAMILIES[family]
    checkpoint, image = random_checkpoint(config, calibrated=False), default_images(config, 1)
    turned = rotated(checkpoint)
    for task in range(len(config.tasks)):
        plain, other = forward(checkpoint, image, task), forward(turned, image, task)
        assert np.abs(plain.tokens - other.tokens).max() > 0.1
        np.testing.assert_allclose(other.tokens @ orthogonal(config.width), plain.tokens, atol=1e-5)
        for layer, routes in plain.routes.items():
            np.testing.assert_array_equal(routes, other.routes[layer])
        if plain.head is not None:
            assert other.head is not None
            np.testing.assert_allclose(other.head, plain.head, atol=1e-5)


def outlying(config: ModelConfig) -> Checkpoint:
    """A model whose residual reaches far in one channel, of which its norms take little."""
    checkpoint = random_checkpoint(config, calibrated=False)
    checkpoint.tensors["pos_embed"][:, 3] *= 30
    for name, tensor in checkpoint.tensors.items():
        if "norm" in name and name.endswith("weight"):
            tensor[3] /= 30
    return checkpoint


@pytest.mark.parametrize("weight_bits", ["fast", "fast-trunk"])
def test_tokens_are_turned_back_and_more_exact(weight_bits: str) -> None:
    """Than with rows as they are: every half of a layer, and above all the heads, which see nothing but a norm."""
    config = replace(TINY, width=96)
    checkpoint, image = outlying(config), unseen_images(config)[0]
    checkpoint.calibration = calibrate(checkpoint, default_images(config, 4))
    decibels = []
    for _ in range(2):
        found = check(
            checkpoint, [image], hardware=preset("zcu102"), weight_bits=weight_bits, rtl=False, quiet=True
        ).accuracy
        assert found
        decibels.append([one.db for one in found.layers])
        checkpoint.calibration.rotated = None
    print(decibels)
    assert all(one > other for one, other in zip(*decibels, strict=True)), decibels
    assert min(decibels[0][-2:]) > min(decibels[1][-2:]) + 3, decibels


@pytest.mark.parametrize("save_tokens", [False, True])
def test_heads_need_no_product_for_it(save_tokens: bool) -> None:
    """It is in their weights: only tokens that are stored are turned back, of all streams at once."""
    checkpoint, image = random_checkpoint(PLAIN), unseen_images(PLAIN)[0]
    model = quantise(checkpoint, "fast")
    program = compiler.compile(model, [(0, 0), (0, 1)], PACKED, save_tokens=save_tokens)
    assert sum("rotated back" in i.label for i in program.instructions) == save_tokens
    run = emulated(program, [image])
    for task, (tokens, head) in enumerate(zip(run.tokens, run.heads, strict=True)):
        exact = forward(checkpoint, image, task)
        assert head is not None and exact.head is not None and sqnr(exact.head[0], head) > 35
        assert (tokens is not None) == save_tokens
        assert tokens is None or sqnr(exact.tokens[0], tokens) > 35


def test_a_sketch_has_the_same_instructions() -> None:
    bare = replace(PLAIN, tasks=(TaskConfig(name="bare", kind="tokens"),))
    labels = []
    for model in (quantise(random_checkpoint(bare), "fast"), sketch(bare, "fast")):
        outline = compiler.outline(model, [(0, 0)], PACKED)
        labels.append([draft.label for draft in outline.lowered.drafts])
    assert labels[0] == labels[1] and any("rotated back" in label for label in labels[0])


def test_other_formats_see_nothing_of_it() -> None:
    checkpoint = random_checkpoint(TINY)
    assert checkpoint.calibration
    for weight_bits in (bits for bits in WeightFormat if not bits.fast):
        found = quantise(checkpoint, weight_bits)
        assert found.back is None
        without = replace(checkpoint, calibration=replace(checkpoint.calibration, rotated=None))
        for one, other in zip(found.linears(), quantise(without, weight_bits).linears(), strict=True):
            np.testing.assert_array_equal(one.weights, other.weights)


def test_older_calibrations_work_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = random_checkpoint(TINY)
    assert checkpoint.calibration
    assert quantise(checkpoint, "fast").back and not capsys.readouterr().err
    checkpoint.calibration.rotated = None
    assert quantise(checkpoint, "fast").back is None
    assert "knows no rotated residual" in capsys.readouterr().err
    quantise(checkpoint, "8")
    assert not capsys.readouterr().err


def test_a_norm_before_the_layers_is_not_rotated(capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(TINY, pre_norm=True)
    assert rotatable(TINY) and not rotatable(config)
    checkpoint = random_checkpoint(config)
    assert checkpoint.calibration and checkpoint.calibration.rotated is None and checkpoint.calibration.reaches
    assert quantise(checkpoint, "fast").back is None and sketch(config, "fast").back is None
    assert not capsys.readouterr().err
    with pytest.raises(NotImplementedError, match="norm before the layers does not rotate"):
        rotated(checkpoint)


def test_files_keep_it_and_it_is_checked() -> None:
    calibration = random_checkpoint(TINY).calibration
    assert calibration
    stored = calibration.to_json()
    check_calibration(TINY, stored, "x")
    assert Calibration.from_json(stored).to_json() == stored
    # what fast-trunk does not share with fast: the experts' second matrices, whose rows it does not halve
    assert [key.split(".")[-1] for key in stored["rotated"]["rounding"]["fast-trunk"]] == ["second"]
    del stored["rotated"]["clipped"]["tokens"]
    with pytest.raises(EdgemoeError, match="x, of the rotated model: .*tokens"):
        check_calibration(TINY, stored, "x")
