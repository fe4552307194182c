# SPDX-License-Identifier: Apache-2.0
"""Folding, rounding and calibration; the accuracy of whole programs is in tests/sim/test_emulator.py."""

import json

import numpy as np
import pytest
from edgemoe.models import calibration, folding, forward, quantise, rounding
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.formats import WeightFormat

from .support import ODD, PLAIN, random_checkpoint


def test_float_gelu():
    from math import erfc, sqrt

    x = np.linspace(-12, 12, 5001)
    assert np.abs(forward.float_gelu(x) - x * np.array([0.5 * erfc(-v / sqrt(2)) for v in x])).max() < 1e-9


def test_float_model_is_the_golden_model():
    torch = pytest.importorskip("torch")
    from edgemoe.models.golden import Golden

    checkpoint = random_checkpoint(ODD, calibrated=False)
    images = calibration.default_images(ODD, 2)
    for task in (0, 1):
        mine = forward.forward(checkpoint, images, task)
        with torch.no_grad():
            theirs = Golden(checkpoint).double()(images, task)
        assert np.abs(mine.tokens - theirs.tokens.numpy()).max() < 1e-9
        assert np.abs(mine.head - theirs.head.numpy()).max() < 1e-9
        assert all((mine.routes[n] == theirs.routing[n].numpy()).all() for n in ODD.moe_layers)


def test_layernorm_is_folded_exactly():
    rng = np.random.default_rng(0)
    n = 40
    weight, bias, gamma, beta = rng.normal(size=(7, n)), rng.normal(size=7), rng.normal(1, 0.3, n), rng.normal(size=n)
    x = rng.normal(3, 2, (5, n))
    normal = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) * gamma + beta
    folded = folding.fold_norm(weight, bias, gamma, beta)
    row_scale = 1 / np.sqrt(n * (x**2).sum(1) - x.sum(1) ** 2)  # what the hardware has
    got = x @ folded.weight.T * row_scale[:, None] * (1 << folding.norm_bits(n)) + folded.bias
    np.testing.assert_allclose(got, normal @ weight.T + bias, atol=1e-9)


@pytest.mark.parametrize("config", [ODD, PLAIN], ids=lambda c: c.name)
@pytest.mark.parametrize("weight_bits", list(WeightFormat))
def test_integers_fit_their_fields(config, weight_bits):
    model = quantise.quantise(random_checkpoint(config), weight_bits)
    assert model.saturated == 0
    linears = [model.patch, *(head.linear for head in model.heads.values())]
    for layer in model.layers:
        linears += [layer.query, layer.key_value, layer.projection, layer.first, layer.second, *(r.linear for r in layer.routers)]
        a = layer.attention
        assert a.score_accumulator_shift >= 0 and 0 <= a.exponent_shift < 16 and 0 <= a.value_output_shift < 16
    for linear in linears:
        limit = 1 << linear.bits - 1
        assert np.abs(linear.weights.astype(int)).max() < limit
        assert np.abs(linear.bias).max() < 1 << 26
        assert 0 < linear.multiplier.min() and linear.multiplier.max() < 1 << 16
        assert 0 <= linear.output_shift < 16 and 0 <= linear.residual_shift <= 11 and -64 <= linear.accumulator_shift < 64
        if linear.bits == 16:  # powers of two
            assert (linear.multiplier & (linear.multiplier - 1) == 0).all()


def test_mixed_is_eight_bits_for_experts_only():
    model = quantise.quantise(random_checkpoint(ODD), "mixed")
    assert {layer.first.bits for layer in model.layers if layer.routers} == {8}
    assert {layer.first.bits for layer in model.layers if not layer.routers} == {16}
    assert model.patch.bits == 16


def test_error_aware_rounding_beats_plain_rounding():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(500, 64)) @ rng.normal(size=(64, 64)) * rng.uniform(0.1, 3, 64)
    weights = rng.uniform(-100, 100, (1, 30, 64))
    rounded = rounding.error_aware_rounding(weights, (x.T @ x / len(x))[None], 127)
    assert (rounded == np.round(rounded)).all() and np.abs(rounded).max() <= 127

    def error(w):
        return np.square(x @ (w - weights)[0].T).mean()

    assert error(rounded) < 0.5 * error(np.round(weights))


def test_calibration_is_json_and_is_used():
    checkpoint = random_checkpoint(ODD)
    before = quantise.quantise(checkpoint, "mixed")
    checkpoint.calibration = json.loads(json.dumps(checkpoint.calibration))
    after = quantise.quantise(checkpoint, "mixed")
    assert before.exponents == after.exponents
    assert (before.layers[1].first.weights == after.layers[1].first.weights).all()
    plain = {**checkpoint.calibration, "rounding": {}}
    checkpoint.calibration = plain
    assert (quantise.quantise(checkpoint, "mixed").layers[1].first.weights != after.layers[1].first.weights).any()


def test_rounding_survives_encoding():
    delta = np.random.default_rng(0).integers(-3, 4, (3, 5, 7)).astype(np.int8)
    stored = {"delta": rounding.encode_rounding(delta), "bias": rounding.encode_bias(np.arange(15.0).reshape(3, 5))}
    found, bias = rounding.decode_rounding("x", stored, delta.shape, (3, 5))
    assert (found == delta).all() and (bias.ravel() == np.arange(15)).all()


def test_bad_input():
    checkpoint = random_checkpoint(PLAIN, calibrated=False)
    with pytest.raises(EdgemoeError, match="weight bits are '12', expected one of 16, 8, mixed"):
        quantise.quantise(checkpoint, "12")
    with pytest.raises(EdgemoeError, match=r"calibration images are uint8 \[3, 4, 4\], expected uint8 \[3, 16, 16\]"):
        calibration.calibrate(checkpoint, np.zeros((1, 3, 4, 4), np.uint8))
