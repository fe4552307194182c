# SPDX-License-Identifier: Apache-2.0
"""Formats with packed products: no sum can overflow, smoothing is undone by the weights, and what a build must have."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.hw.contract.config import preset
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.graph import graph
from edgemoe.models.keys import Role
from edgemoe.models.numbers.arithmetic import raised
from edgemoe.models.numbers.calibrate import calibrate, default_images
from edgemoe.models.numbers.calibration import Calibration
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.linear import overfull
from edgemoe.models.numbers.orthogonal import orthogonal
from edgemoe.models.numbers.quantise import Quantiser, quantise
from edgemoe.models.numbers.words import ACTIVATION_FRACTION, SCALE_FRACTION
from numpy.testing import assert_allclose

from .support import TINY, random_checkpoint

FAST = ("fast", "fast-trunk")
SMOOTHED = replace(TINY, pre_norm=True)  # its residual cannot be rotated


def calibrated(config: ModelConfig = TINY) -> Checkpoint:
    """With channels that reach far."""
    checkpoint = random_checkpoint(config, calibrated=False)
    for name in ("blocks.0.attn.proj.weight", "blocks.0.attn.proj.bias"):
        checkpoint.tensors[name][3] *= 60
    for name in ("blocks.0.mlp.fc1.weight", "blocks.1.mlp.experts.htoh4.weight"):
        checkpoint.tensors[name][..., 5, :] *= 20
    images = default_images(config, 2)
    return replace(checkpoint, calibration=calibrate(checkpoint, images, error_aware=("8", "fast")))


def test_which_matrices_are_packed() -> None:
    checkpoint = random_checkpoint(TINY)
    for name in FAST:
        for linear in quantise(checkpoint, name).linears():
            wide, expert = linear.key.role in (Role.ROUTER, Role.BACK), linear.weights.ndim == 3
            assert linear.bits == (16 if wide else 8)
            assert linear.packed == (not wide and not (expert and name == "fast-trunk"))


def test_no_sum_can_overflow() -> None:
    """Weights that are all as large as 8 bits hold them when they are rotated: steps grow until sums fit, and only in
    those channels.
    """
    checkpoint, turn = random_checkpoint(TINY), orthogonal(TINY.width)
    weight = turn @ checkpoint.tensors["blocks.0.mlp.fc2.weight"]
    weight[:5] = np.where(weight[:5] < 0, -1, 1) * np.abs(weight[:5]).max()
    checkpoint.tensors["blocks.0.mlp.fc2.weight"][:] = turn @ weight
    model = quantise(checkpoint, "fast")
    for linear in model.linears():
        if linear.packed:
            full = overfull(np.moveaxis(linear.weights, -1, -2), linear.input_groups, linear.unsigned)
            assert (full <= 1).all()
            if linear.key.role is Role.SECOND and linear.weights.ndim == 2:
                assert linear.unsigned and (full[:5] > 0.9).all()
    assert model.coarsened >= 5
    assert quantise(checkpoint, "8").coarsened == 0


def test_smoothing_changes_no_product() -> None:
    """Channels that are halved have weights twice as large; the channel that reaches far is halved most."""
    checkpoint = calibrated(SMOOTHED)
    assert checkpoint.calibration
    plain = Quantiser(checkpoint, WeightFormat.EIGHT, checkpoint.calibration)
    smooth = Quantiser(checkpoint, WeightFormat.FAST, checkpoint.calibration)
    assert smooth.smoothing and not plain.smoothing
    x = np.random.default_rng(0).standard_normal((5, TINY.width))
    for before, operation in list(pairwise(graph(SMOOTHED).trunk))[2:]:
        halved = smooth.smoothing[before.result]
        assert operation.norm and halved.min() >= 0 and halved.max() < 8
        for matrix in operation.matrices():
            if matrix.sees == operation.norm.key:
                mine, other = smooth.folded[matrix.key].weight, plain.folded[matrix.key].weight
                assert_allclose((x * 0.5**halved) @ np.moveaxis(mine, -1, -2), x @ np.moveaxis(other, -1, -2))
    after = graph(SMOOTHED).trunk[2].result
    assert smooth.smoothing[after][3] == smooth.smoothing[after].max() > 0
    model = quantise(checkpoint, "fast")
    written = [linear for linear in model.linears() if linear.smoothing is not None and linear.bias_first]
    assert len(written) == len(smooth.smoothing)


def test_reaches_are_kept_in_files() -> None:
    calibration = calibrated(SMOOTHED).calibration
    assert calibration and calibration.reaches
    again = Calibration.from_json(calibration.to_json())
    assert {key: x.tolist() for key, x in again.reaches.items()} == {
        key: x.tolist() for key, x in calibration.reaches.items()
    }


@pytest.mark.parametrize("name", FAST)
def test_what_a_build_must_have(name: str) -> None:
    model = quantise(random_checkpoint(TINY), name)
    with pytest.raises(EdgemoeError, match="packed products .*'kv260-fast' has them.*--set packed=1"):
        compiler.compile(model, [(0, 0)], preset("tiny"))
    packed = replace(preset("tiny"), packed=1)
    for kind in ("performer", "soft"):
        features = quantise(random_checkpoint(replace(TINY, attention=kind)), name)
        with pytest.raises(EdgemoeError, match=f"{kind} attention of packed products, which is not built in"):
            compiler.compile(features, [(0, 0)], replace(packed, attention="softmax,performer"))
    assert any(map(packed.packs, compiler.compile(model, [(0, 0)], packed).instructions))
    with pytest.raises(EdgemoeError, match="does not fit"):  # in pieces rows would come back from memory
        compiler.compile(model, [(0, 0)], replace(packed, rows=20, tokens=10))


def test_what_is_raised_comes_back() -> None:
    """The matrix behind an activation function gives the same of raised and halved values as of plain ones."""
    checkpoint = calibrated()
    fast, plain = quantise(checkpoint, "fast"), quantise(checkpoint, "8")
    above, rng = raised(TINY.activation) * 2.0**-ACTIVATION_FRACTION, np.random.default_rng(0)
    for operation in graph(TINY).trunk:
        for matrix in operation.matrices():
            if matrix.sees.role is not Role.HIDDEN:
                continue
            first, second = fast.linear(replace(matrix.key, role=Role.FIRST)), fast.linear(matrix.key)
            assert first.raised and second.unsigned and not plain.linear(matrix.key).unsigned
            assert first.smoothing is not None and first.smoothing.max() > 0
            assert first.smoothing.shape == second.weights.shape[:-1]
            x, results = np.abs(rng.standard_normal((50, matrix.inputs))), []
            for model, seen, finer in ((fast, (x + above) * 0.5 ** first.smoothing[..., None, :], 4), (plain, x, 0)):
                linear = model.linear(matrix.key)
                sums = (seen * 2.0 ** (model.exponents[matrix.sees] + finer)) @ linear.weights.astype(float)
                sums += (linear.bias * 2.0**linear.bias_shift)[..., None, :]
                shift = linear.accumulator_shift + linear.output_shift + SCALE_FRACTION
                results.append(
                    sums * linear.multiplier[..., None, :] * 2.0 ** -(shift + model.exponents[operation.result])
                )
            results[0] = results[0] @ orthogonal(TINY.width)
            assert_allclose(results[0], results[1], atol=0.03 * np.abs(results[1]).max())
