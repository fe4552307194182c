# SPDX-License-Identifier: Apache-2.0
"""Every kind of attention: the float models agree with its formula, the integers with the float models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.studies.profile.attention import attention
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.hardware_option import changed
from edgemoe.hw.contract.isa import Attention, Stationary
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ATTENTION_KINDS, LANDMARK_KIND, LINEAR_KINDS, NORM_KINDS, ModelConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.keys import Key, Role
from edgemoe.models.numbers.calibrate import calibrate, default_images
from edgemoe.models.numbers.forward import forward
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.operations.attention import QuantisedAttention
from edgemoe.models.operations.feature_maps import MAPS
from edgemoe.models.operations.landmark_attention import RIDGE, kernel, means
from edgemoe.models.operations.operation import Observer
from edgemoe.models.operations.weighing import KINDS

from ..top.support import emulated, images_of
from .small import PLAIN, SMALL, random_checkpoint, random_images
from .support import random_checkpoint as calibrated
from .support import sqnr

torch = pytest.importorskip("torch")
FAMILY = preset("family")
# dB; heads of 4 channels, as here, leave cosFormer rows with next to no weights.
LEAST = {
    "softmax": 65.0,
    "sigmoid": 60.0,
    "relu": 65.0,
    "two-pass": 65.0,
    "softplus": 60.0,
    "rela": 60.0,
    "performer": 60.0,
    "cosformer": 44.0,
    "soft": 65.0,
}


NORMED = [(kind, norm) for kind in KINDS for norm in NORM_KINDS]


def of(kind: str, config: ModelConfig = PLAIN) -> ModelConfig:
    return replace(config, name=kind, attention=kind)


def test_every_kind_is_made() -> None:
    assert set(ATTENTION_KINDS) == {*KINDS, *MAPS, LANDMARK_KIND} == set(LEAST) and set(LINEAR_KINDS) == set(MAPS)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_float_models_agree(kind: str) -> None:
    golden = pytest.importorskip("edgemoe.models.golden").Golden
    from .test_golden import numpy_forward

    checkpoint, images = random_checkpoint(of(kind, SMALL)), random_images(SMALL, 1)
    expected = golden(checkpoint).double()(images, 1).tokens[0].detach().numpy()
    np.testing.assert_allclose(forward(checkpoint, images, 1).tokens[0], expected, atol=1e-8)
    np.testing.assert_allclose(numpy_forward(checkpoint, images[0], 1)[0], expected, atol=1e-8)


def test_formulas() -> None:
    """Against PyTorch's own functions, on rows of 129 and 1,201 scores, of equal ones, with one that is huge."""
    for count in (1, 129, 1201):
        scores = np.random.default_rng(count).normal(0, 2, (4, count))
        scores[1], scores[2, -1] = 3.0, 500.0
        rows = torch.from_numpy(scores)
        expected = {
            "softmax": torch.softmax(rows, 1),
            "sigmoid": torch.sigmoid(rows - np.log(count)),
            "relu": torch.relu(rows) / count,
            "two-pass": torch.softmax(rows, 1),
            "rela": torch.relu(rows),
        }
        positive = torch.nn.functional.softplus(rows)
        above = (positive / positive.mean(1, keepdim=True) - 1).relu()
        above[1] = 0  # of equal scores, but for rounding
        expected["softplus"] = torch.nn.functional.normalize(above**15, p=1, dim=1)
        for kind, weights in expected.items():
            np.testing.assert_allclose(KINDS[kind](count).weights(scores), weights, atol=1e-12)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_integers_are_near(kind: str) -> None:
    checkpoint = calibrated(of(kind))
    image = images_of(checkpoint.config, 1)[0]
    model = quantise(checkpoint, "16")
    program = compiler.compile(model, ((0, 0),), FAMILY, save_tokens=True)
    found = emulated(program, [image]).tokens[0]
    assert found is not None and model.saturated == 0
    assert sqnr(forward(checkpoint, image).tokens[0], found) >= LEAST[kind]
    unit = "softmax" if kind == LANDMARK_KIND else kind
    assert {i.attention for i in program.instructions if i.probabilities} == {Attention.of(unit)}


@pytest.mark.parametrize("kind, norm", NORMED)
def test_normalised_queries_and_keys(kind: str, norm: str) -> None:
    """Float models as each other; integers with 8 bits, too, as an 8-bit gain is exact."""
    config = replace(of(kind), qk_norm=norm)
    plain = random_checkpoint(config)
    image = random_images(config, 1)
    golden = pytest.importorskip("edgemoe.models.golden").Golden
    expected = golden(plain).double()(image, 0).tokens[0].detach().numpy()
    np.testing.assert_allclose(forward(plain, image).tokens[0], expected, atol=1e-8)
    checkpoint = calibrated(config)
    image = images_of(config, 3)[2]
    for bits, least in (("16", LEAST[kind]), ("8", 40.0 if kind != "softplus" else 25.0)):
        model = quantise(checkpoint, bits)
        found = emulated(compiler.compile(model, ((0, 0),), FAMILY, save_tokens=True), [image]).tokens[0]
        assert found is not None and model.saturated == 0
        assert sqnr(forward(checkpoint, image).tokens[0], found) >= least


@pytest.mark.parametrize("norm", ["", *NORM_KINDS])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "relu", "two-pass"])
def test_queries_and_keys_of_eight_bits(kind: str, norm: str) -> None:
    """They are within 8 bits, and some head of each layer uses them; heads of small scores lose no more than others."""
    config = replace(of(kind), qk_norm=norm)
    plain = random_8_bit_heads(config)
    model = quantise(plain, "sage")
    image = default_images(config, 3)[0]  # one of those that it was calibrated on
    run = emulated(compiler.compile(model, ((0, 0),), FAMILY, trace=True, save_tokens=True), [image])
    assert run.tokens[0] is not None and sqnr(forward(plain, image).tokens[0], run.tokens[0]) > 40
    size, heads = config.tokens * FAMILY.words(config.head_width) * FAMILY.lanes, config.heads  # of a head
    ends = ("queries", "keys", "keys and values")
    for layer, operation in enumerate(op for op in model.trunk if isinstance(op, QuantisedAttention)):
        assert norm or kind == "relu" or max(operation.finer) > 0
        reach = []
        for place, trace in zip(run.program.traces, run.traces, strict=True):
            if (
                not place.label.startswith(f"layer {layer} ")
                or not place.label.endswith(ends)
                or "plain" in place.label
            ):
                continue
            numbers = np.abs(trace.view("<i2").astype(int))
            groups = numbers[: len(numbers) // size * size].reshape(config.tokens, -1, size // config.tokens)
            reach += groups.max(axis=(0, 2))[:heads].tolist()
        assert len(reach) == 2 * heads and 80 < max(reach) <= 127 and min(reach) > 40


def random_8_bit_heads(config: ModelConfig) -> Checkpoint:
    """Heads whose queries reach differently far."""
    checkpoint = calibrated(config, calibrated=False)
    for layer in range(config.layers):
        rows = checkpoint.tensors[f"blocks.{layer}.attn.qkv.weight"].reshape(3, config.heads, config.head_width, -1)
        rows[0] *= np.array([1, 0.5, 0.25, 0.07], np.float32)[: config.heads, None, None]
        for name in ("q_norm", "k_norm") if config.qk_norm else ():
            checkpoint.tensors[f"blocks.{layer}.attn.{name}.weight"] *= np.float32(0.5)
    return replace(checkpoint, calibration=calibrate(checkpoint, default_images(config, 3), error_aware=()))


@pytest.mark.parametrize(
    "kind, why",
    [
        ("softplus", "too coarse for softplus"),
        ("performer", "has no scores"),
        ("soft", "queries of soft attention have 16"),
    ],
)
def test_eight_bits_are_too_few(kind: str, why: str) -> None:
    with pytest.raises(EdgemoeError, match=f"has no sage-bit form: .*{why}"):
        quantise(calibrated(of(kind)), "sage")


def test_norms_of_queries_and_keys_are_refused() -> None:
    config = replace(of("softmax"), qk_norm="layer")
    model = quantise(calibrated(config), "16")
    told = r"needs norms of queries and keys \(preset 'family' has them\), which is not built in"
    with pytest.raises(EdgemoeError, match=f"{told}; it fits with --set head_norms=1$"):
        compiler.compile(model, ((0, 0),), preset("tiny"))
    assert compiler.compile(model, ((0, 0),), changed(preset("tiny"), ["head_norms=1"]))
    with pytest.raises(EdgemoeError, match="qk_norm is 'batch', expected one of layer, rms, or nothing"):
        replace(config, qk_norm="batch")
    with pytest.raises(EdgemoeError, match="qk_norm is for attention with scores, not for performer"):
        replace(config, attention="performer")


SIZES = ([0.0], [1e-6], [-1e-6], [40.0], [-40.0, 1000.0], [0.0, 1e-4, -3.0, 100.0, -0.5])


@pytest.mark.parametrize("gates", SIZES, ids=str)
def test_gates_of_any_size(gates: list[float]) -> None:
    """Gates and gains that are zero, tiny, large, of either sign; a query of zeros, whose row of results is zero."""
    checkpoint = calibrated(of("rela"), calibrated=False)
    width = checkpoint.config.width
    for name, tensor in checkpoint.tensors.items():
        if name.endswith("attn.norm.gate"):
            tensor[:] = np.resize(gates, width)
        if name.endswith("attn.norm.weight"):
            tensor[:] = np.resize([1, -2, 1e-4, 0, 8], width)
    for part in ("weight", "bias"):
        checkpoint.tensors[f"blocks.1.attn.qkv.{part}"][:width] = 0
    checkpoint.calibration = calibrate(checkpoint, default_images(checkpoint.config, 3), error_aware=())
    model, image = quantise(checkpoint, "16"), images_of(checkpoint.config, 1)[0]
    found = emulated(compiler.compile(model, ((0, 0),), FAMILY, save_tokens=True), [image]).tokens[0]
    assert found is not None and model.saturated == 0
    assert sqnr(forward(checkpoint, image).tokens[0], found) >= LEAST["rela"]


def test_gated_results_in_every_format() -> None:
    """The two diagonals have 16 bits in all of them, and packed products see what comes of them."""
    checkpoint = calibrated(of("rela"), calibrated=False)
    images = default_images(checkpoint.config, 3)
    checkpoint.calibration = calibrate(checkpoint, images, error_aware=("8", "fast"))
    image, build = images_of(checkpoint.config, 1)[0], replace(FAMILY, packed=1)
    for bits, least in (("8", 45.0), ("fast", 30.0)):
        program = compiler.compile(quantise(checkpoint, bits), ((0, 0),), build, save_tokens=True)
        found = emulated(program, [image]).tokens[0]
        assert found is not None and sqnr(forward(checkpoint, image).tokens[0], found) >= least
        own = [i for i in program.instructions if " results " in i.label]
        assert len(own) == 2 * 2 * 3 and all(i.stationary == Stationary.WEIGHTS16 and not i.packed for i in own)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_profile_shows_its_weights(kind: str) -> None:
    """The shares of the first layer's weights that a profile shows are the formula's."""
    checkpoint = calibrated(of(kind))
    config, image = checkpoint.config, images_of(checkpoint.config, 1)[0]
    run = emulated(compiler.compile(quantise(checkpoint, "16"), ((0, 0),), FAMILY, trace=True), [image])
    seen: dict[Role, np.ndarray] = {}

    class Sees(Observer):
        def sample(self, key: Key, value: np.ndarray) -> None:
            if key.layer == 0:
                seen[key.role] = value[0]

    forward(checkpoint, image, observer=Sees())
    scores = seen[Role.QUERY] @ seen[Role.KEY].transpose(0, 2, 1) / np.sqrt(config.head_width)
    if kind in MAPS:
        features = MAPS[kind](config)
        vectors = features.vectors(checkpoint.tensors, "blocks.0.attn.features")
        query, key = (features(features.products(seen[role], vectors)) for role in (Role.QUERY, Role.KEY))
        expected = query @ key.transpose(0, 2, 1)
    elif kind == LANDMARK_KIND:
        points = seen[Role.QUERY] / config.head_width**0.25
        marks = means(config) @ points
        near = kernel(points, marks)
        expected = near @ np.linalg.solve(kernel(marks, marks) + RIDGE * np.eye(len(marks[0])), near.transpose(0, 2, 1))
    else:
        expected = KINDS[kind](config.tokens).weights(scores)
    expected /= np.maximum(expected.sum(axis=-1, keepdims=True), 1e-9)
    np.testing.assert_allclose(attention(run)[0, 0], expected, atol=0.01)


@pytest.mark.parametrize("kind", [kind for kind in ATTENTION_KINDS[1:] if kind != LANDMARK_KIND])
def test_a_build_without_it_refuses(kind: str) -> None:
    model = quantise(calibrated(of(kind)), "16")
    with pytest.raises(
        EdgemoeError, match=rf"needs {kind} attention \(preset 'family' has it\).* with --set attention=softmax,{kind}$"
    ):
        compiler.compile(model, ((0, 0),), preset("tiny"))
    assert compiler.compile(model, ((0, 0),), changed(preset("tiny"), [f"attention=softmax,{kind}"]))


def test_landmarks_of_any_picture() -> None:
    """Patches without a partner are in none; a picture without four of them has no landmarks."""
    config = replace(of("soft"), image_height=20, image_width=28)  # 5 x 7 patches, and a token before them
    weights = means(config)
    assert weights.shape == (6, 36) and (weights.sum(axis=1) == 1).all() and not weights[:, 0].any()
    assert set(np.flatnonzero(weights[4])) == {1 + row * 7 + column for row in (2, 3) for column in (2, 3)}
    with pytest.raises(EdgemoeError, match="soft attention needs at least 2 x 2 patches"):
        replace(config, image_height=4)
    with pytest.raises(EdgemoeError, match="qk_norm is for attention with scores, not for soft"):
        replace(config, qk_norm="rms")


def test_landmarks_need_no_unit_of_their_own() -> None:
    """Any build does it: one whose memory is too small says what would do, others that it must be in one piece."""
    config = replace(of("soft"), image_height=24, image_width=24, width=32, heads=4)
    checkpoint, tiny = calibrated(config), replace(preset("tiny"), tokens=40)
    image = images_of(config, 1)[0]
    model = quantise(checkpoint, "16")
    for build in (replace(preset("base"), lanes=16), preset("zcu102-large"), FAMILY):
        program = compiler.compile(model, ((0, 0),), build, save_tokens=True)
        found = emulated(program, [image]).tokens[0]
        assert found is not None and sqnr(forward(checkpoint, image).tokens[0], found) >= LEAST["soft"]
    with pytest.raises(EdgemoeError, match="key/value words, the limit is .* it fits with --set") as refused:
        compiler.compile(model, ((0, 0),), tiny)
    wanted = str(refused.value).split("it fits with ")[1].replace("--set ", "").split()
    assert compiler.compile(model, ((0, 0),), changed(tiny, wanted))


@pytest.mark.parametrize("factor", [0, 1e-3, 0.1, 3, 30])
def test_landmarks_near_and_far(factor: float) -> None:
    """All points the same, nearly the same, or each alone: no kernel is too near to singular."""
    config = replace(of("soft"), image_height=40, image_width=32, width=32, heads=2)
    checkpoint = calibrated(config, calibrated=False)
    for layer in range(config.layers):
        for tensor in ("weight", "bias"):
            checkpoint.tensors[f"blocks.{layer}.attn.qkv.{tensor}"][: config.width] *= np.float32(factor)
    images = default_images(config, 3)
    checkpoint = replace(checkpoint, calibration=calibrate(checkpoint, images, error_aware=()))
    program = compiler.compile(quantise(checkpoint, "16"), ((0, 0),), preset("base"), save_tokens=True)
    found = emulated(program, [images[1]]).tokens[0]
    assert found is not None and sqnr(forward(checkpoint, images[1]).tokens[0], found) >= 60


def test_what_landmarks_cannot_be() -> None:
    """Of queries that reach too far, or more of them than words of 16 bits invert."""
    checkpoint = calibrated(of("soft"), calibrated=False)
    for layer in range(checkpoint.config.layers):
        checkpoint.tensors[f"blocks.{layer}.attn.qkv.weight"] *= np.float32(300)
    with pytest.raises(EdgemoeError, match="queries of layer 0 are too coarse for soft attention"):
        quantise(replace(checkpoint, calibration=None))
    many = replace(of("soft"), image_height=64, image_width=72)
    with pytest.raises(EdgemoeError, match="it has 72 landmarks, words of 16 bits invert what 64 are to each other"):
        quantise(calibrated(many))


def test_builds() -> None:
    tiny = preset("tiny")
    with pytest.raises(EdgemoeError, match="attention must have softmax among its kinds, not 'relu' alone"):
        changed(tiny, ["attention=relu"])
    assert "attention" not in tiny.sizes, "softmax alone goes without saying"
    assert changed(tiny, ["attention=softmax,relu"]).hash != tiny.hash
    assert [tiny.weighs(code) for code in range(8)] == [Attention.SOFTMAX] * 8
    assert [FAMILY.weighs(code) for code in range(8)] == [code if code in {*Attention} else 0 for code in range(8)]
    assert all(Attention.of(kind.kind) is kind for kind in Attention)
