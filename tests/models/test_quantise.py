# SPDX-License-Identifier: Apache-2.0
"""Folding, rounding and calibration; the accuracy of whole programs is in tests/sim/test_emulator.py."""

import dataclasses
import json

import numpy as np
import pytest
from edgemoe.models.config import NORM_KINDS, TaskConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.graph import graph
from edgemoe.models.keys import Key, Role
from edgemoe.models.numbers import activation, calibrate, error_aware, forward, quantise
from edgemoe.models.numbers.calibration import Calibration, Rounding
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.linear import Shifts
from edgemoe.models.operations.attention import QuantisedAttention
from edgemoe.models.operations.layer_norm import LayerNorm
from edgemoe.models.operations.norm import norm_bits
from edgemoe.models.operations.rms_norm import RmsNorm

from .support import ODD, PLAIN, random_checkpoint


@pytest.mark.parametrize("function", activation.ACTIVATIONS)
def test_float_activations(function):
    torch = pytest.importorskip("torch")
    from edgemoe.models.golden import ACTIVATIONS

    x = np.concatenate([np.linspace(-12, 12, 5001), [-1e4, 1e4]])
    found = activation.FUNCTIONS[function](x)
    assert np.abs(found - ACTIVATIONS[function](torch.from_numpy(x)).numpy()).max() < 1e-9
    assert activation.FUNCTIONS[function](x.astype(np.float32)).dtype == np.float32


OTHER = dataclasses.replace(
    ODD, name="other", gate="top-k", gate_bias=True, pre_norm=True, activation="quick-gelu",
    tasks=(*ODD.tasks[:1], TaskConfig(name="projected", kind="features", channels=7)),
)  # fmt: skip


@pytest.mark.parametrize("config", [ODD, OTHER], ids=lambda c: c.name)
@pytest.mark.parametrize("norm", NORM_KINDS)
def test_float_model_is_the_golden_model(norm, config):
    torch = pytest.importorskip("torch")
    from edgemoe.models.golden import Golden

    checkpoint = random_checkpoint(dataclasses.replace(config, norm=norm), calibrated=False)
    images = calibrate.default_images(ODD, 2)
    for task in (0, 1):
        mine = forward.forward(checkpoint, images, task)
        with torch.no_grad():
            theirs = Golden(checkpoint).double()(images, task)
        assert np.abs(mine.tokens - theirs.tokens.numpy()).max() < 1e-9
        assert np.abs(mine.head - theirs.head.numpy()).max() < 1e-9
        assert all((mine.routes[n] == theirs.routing[n].numpy()).all() for n in ODD.moe_layers)


def test_rmsnorm_is_folded_exactly():
    rng = np.random.default_rng(1)
    n = 40
    weight, bias, gamma = rng.normal(size=(7, n)), rng.normal(size=7), rng.normal(1, 0.3, n)
    x = rng.normal(3, 2, (5, n))
    folded = RmsNorm(PLAIN, "norm", Key(Role.NORM_1, 0), n).fold({"norm.weight": gamma}, weight, bias)
    row_scale = 1 / np.sqrt(n * (x**2).sum(1))  # what the hardware has
    got = x @ folded.weight.T * row_scale[:, None] * (1 << norm_bits(n)) + folded.bias
    np.testing.assert_allclose(got, x / np.sqrt((x**2).mean(1, keepdims=True)) * gamma @ weight.T + bias, atol=1e-9)


def test_layernorm_is_folded_exactly():
    rng = np.random.default_rng(0)
    n = 40
    weight, bias, gamma, beta = rng.normal(size=(7, n)), rng.normal(size=7), rng.normal(1, 0.3, n), rng.normal(size=n)
    x = rng.normal(3, 2, (5, n))
    normal = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) * gamma + beta
    norm = LayerNorm(PLAIN, "norm", Key(Role.NORM_1, 0), n)
    folded = norm.fold({"norm.weight": gamma, "norm.bias": beta}, weight, bias)
    row_scale = 1 / np.sqrt(n * (x**2).sum(1) - x.sum(1) ** 2)  # what the hardware has
    got = x @ folded.weight.T * row_scale[:, None] * (1 << norm_bits(n)) + folded.bias
    np.testing.assert_allclose(got, normal @ weight.T + bias, atol=1e-9)


@pytest.mark.parametrize("config", [ODD, PLAIN, OTHER], ids=lambda c: c.name)
@pytest.mark.parametrize("weight_bits", list(WeightFormat))
def test_integers_fit_their_fields(config, weight_bits):
    model = quantise.quantise(random_checkpoint(config), weight_bits)
    assert model.saturated == 0
    for a in (operation for operation in model.trunk if isinstance(operation, QuantisedAttention)):
        assert a.score_accumulator_shift >= 0 and 0 <= a.exponent_shift < 16 and 0 <= a.value_output_shift < 16
    assert len({linear.key for linear in model.linears()}) == len(list(model.linears()))
    back = {Key(Role.BACK)} if model.weight_bits.fast else set()
    assert {linear.key for linear in model.linears()} - back == {matrix.key for _, matrix in graph(config).matrices()}
    for _, matrix in graph(config).matrices():
        assert model.linear(matrix.key).weights.shape[-2:] == (matrix.inputs, matrix.outputs)
    for linear in model.linears():
        limit = 1 << linear.bits - 1
        assert np.abs(linear.weights.astype(int)).max() < limit
        assert np.abs(linear.bias).max() < 1 << 26
        assert 0 < linear.multiplier.min() and linear.multiplier.max() < 1 << 16
        assert (
            0 <= linear.output_shift < 16 and 0 <= linear.residual_shift <= 11 and -64 <= linear.accumulator_shift < 64
        )
        if linear.bits == 16:  # powers of two
            assert (linear.multiplier & (linear.multiplier - 1) == 0).all()


def test_mixed_is_eight_bits_for_experts_only():
    model = quantise.quantise(random_checkpoint(ODD), "mixed")
    experts = {(Role.FIRST, layer) for layer in ODD.moe_layers} | {(Role.SECOND, layer) for layer in ODD.moe_layers}
    assert all(
        linear.bits == (8 if (linear.key.role, linear.key.layer) in experts else 16) for linear in model.linears()
    )


def test_error_aware_rounding_beats_plain_rounding():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(500, 64)) @ rng.normal(size=(64, 64)) * rng.uniform(0.1, 3, 64)
    weights = rng.uniform(-100, 100, (1, 30, 64))
    rounded = error_aware.error_aware_rounding(weights, (x.T @ x / len(x))[None], 127)
    assert (rounded == np.round(rounded)).all() and np.abs(rounded).max() <= 127

    def error(w):
        return np.square(x @ (w - weights)[0].T).mean()

    assert error(rounded) < 0.5 * error(np.round(weights))


def test_calibration_is_json_and_is_used():
    checkpoint = random_checkpoint(ODD)
    before = quantise.quantise(checkpoint, "mixed")
    checkpoint.calibration = Calibration.from_json(json.loads(json.dumps(checkpoint.calibration.to_json())))
    after = quantise.quantise(checkpoint, "mixed")
    assert before.exponents == after.exponents
    first = Key(Role.FIRST, 1)
    assert (before.linear(first).weights == after.linear(first).weights).all()
    checkpoint.calibration.rounding = {}
    assert (quantise.quantise(checkpoint, "mixed").linear(first).weights != after.linear(first).weights).any()


def test_rounding_survives_encoding():
    delta = np.random.default_rng(0).integers(-3, 4, (3, 5, 7)).astype(np.int8)
    stored = Rounding(error_aware.encode_rounding(delta), error_aware.encode_floats(np.arange(15.0).reshape(3, 5)))
    found = error_aware.decode_rounding(Key(Role.PATCH), stored, delta.shape)
    assert (found.delta == delta).all() and (found.bias.ravel() == np.arange(15)).all()
    assert (found.growth == 1).all() and found.halved.shape == (3, 7) and not found.halved.any()


def test_bad_input():
    checkpoint = random_checkpoint(PLAIN, calibrated=False)
    with pytest.raises(EdgemoeError, match="weight bits are '12', expected one of 16, 8, mixed"):
        quantise.quantise(checkpoint, "12")
    with pytest.raises(EdgemoeError, match=r"calibration images are uint8 \[3, 4, 4\], expected uint8 \[3, 16, 16\]"):
        calibrate.calibrate(checkpoint, np.zeros((1, 3, 4, 4), np.uint8))


@pytest.mark.parametrize("config", [ODD, PLAIN, OTHER], ids=lambda c: c.name)
def test_keys_are_what_files_have(config):
    """Text and back, for every matrix and every tensor of a calibration."""
    checkpoint = random_checkpoint(config)
    stored = json.loads(json.dumps(checkpoint.calibration.to_json()))
    names = [*stored["ranges"], *stored["clipped"], *(name.removesuffix(".sigma") for name in stored["smallest"])]
    keys = [Key.parse(name) for name in names]
    assert [str(key) for key in keys] == names and len(set(keys)) >= len(stored["ranges"])
    for _, matrix in graph(config).matrices():
        assert Key.parse(str(matrix.key)) == matrix.key
    assert Calibration.from_json(stored).to_json() == stored
    for wrong in ("blocks.1", "blocks.x.query", "heads", "patches", "blocks.1.query.first", ""):
        with pytest.raises(EdgemoeError, match="names no tensor of a model"):
            Key.parse(wrong)


def test_shifts_of_the_worked_example():
    """As in the docstring of `Shifts`; then one guard bit after the other until too large a result fits no more."""
    step = np.full(3, 2.0**-15)
    shifts = Shifts.choose(step, 16, 10, np.asarray(17), 9.0, 0)
    assert (shifts.shift, shifts.multiplier.tolist(), shifts.fits()) == (8, [2.0**15] * 3, True)
    assert shifts.largest == 9 * 2**17
    assert not Shifts.choose(step, 16, 10, np.asarray(17), 513.0, 0).fits()  # fine would reach 2^26
    assert not Shifts.choose(step, 16, 10, np.asarray(17), 9.0, -9).fits()  # a quiet row would shift left
    quiet = Shifts.choose(np.array([2.0**-15, 2.0**-27]), 16, 10, np.asarray(17), 9.0, 0)
    assert quiet.low.tolist() == [False, True] and not quiet.fits()
    coarser, multiplier = quiet.coarser(np.array([2.0**-15, 2.0**-27]), 16, 10)
    assert coarser[0] == 2.0**-15 and coarser[1] > 2.0**-27 and multiplier.min() >= quiet.least
