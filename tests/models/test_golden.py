# SPDX-License-Identifier: Apache-2.0
"""The PyTorch model against a plain NumPy forward pass that was written from the formulas, in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
from edgemoe.models.checkpoint import Checkpoint, expected_tensors
from edgemoe.models.config import PRESETS
from edgemoe.models.errors import EdgemoeError

from .small import PLAIN, SMALL, random_checkpoint, random_images

torch = pytest.importorskip("torch")
Golden = pytest.importorskip("edgemoe.models.golden").Golden

erf = np.vectorize(math.erf)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def weighed(kind: str, scores: np.ndarray, q: np.ndarray, k: np.ndarray, vectors: np.ndarray | None) -> np.ndarray:
    """Weights of n values: of softmax's kin from their scores; of linear attention in its quadratic form."""
    if kind == "cosformer":
        i = np.arange(1, len(k) + 1)
        kernel = np.maximum(q, 0) @ np.maximum(k, 0).T * np.cos(math.pi / 2 * (i[:, None] - i) / len(k))
        return kernel / np.maximum(kernel.sum(axis=1, keepdims=True), 1e-6)
    if kind == "performer":
        assert vectors is not None
        kernel = sum(
            np.outer(np.maximum(q @ w / len(w) ** 0.25, 0) + 1e-3, np.maximum(k @ w / len(w) ** 0.25, 0) + 1e-3)
            for w in vectors
        )
        return kernel / kernel.sum(axis=1, keepdims=True)
    return {
        "softmax": softmax(scores),
        "two-pass": softmax(scores),
        "softplus": reweighted(scores),
        "sigmoid": 1 / (1 + np.exp(math.log(len(k)) - scores)),
        "relu": np.maximum(scores, 0) / len(k),
        "rela": np.maximum(scores, 0),
    }[kind]


def softened(q: np.ndarray, v: np.ndarray, config) -> np.ndarray:
    """Patch by patch: landmarks are means of 2 x 2."""
    across, down = config.patches_per_row, config.patches_per_column
    q = q / q.shape[1] ** 0.25
    marks = []
    for row in range(0, down - down % 2, 2):
        for column in range(0, across - across % 2, 2):
            four = [config.prefix + (row + i) * across + column + j for i in (0, 1) for j in (0, 1)]
            marks.append(q[four].mean(axis=0))

    def kernel(a, b):
        return np.array([[math.exp(-sum((x - y) ** 2) / 2) for y in b] for x in a])

    near = kernel(q, marks)
    return near @ np.linalg.inv(kernel(marks, marks) + 0.01 * np.eye(len(marks))) @ near.T @ v


def numpy_forward(checkpoint: Checkpoint, image: np.ndarray, task: int, held: dict[int, np.ndarray] | None = None):
    """Tokens, head and routes of one image, token by token and expert by expert."""
    config = checkpoint.config
    w = {name: tensor.astype(np.float64) for name, tensor in checkpoint.tensors.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.eps) * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    def gated(o, gain, gate):
        rows = [gain * row / math.sqrt(sum(row * row) / len(row) + config.eps) for row in o]
        return np.array(rows) / (1 + np.exp(-gate * o))

    def activated(x):
        return {"gelu": x * 0.5 * (1 + erf(x / math.sqrt(2))), "silu": x / (1 + np.exp(-x))}[config.activation]

    x = np.zeros((config.tokens, config.width))
    p = config.patch
    for row in range(config.image_height // p):
        for column in range(config.image_width // p):
            patch = image[:, row * p : row * p + p, column * p : column * p + p] / 256
            token = 1 + row * config.patches_per_row + column
            x[token] = np.einsum("ocij,cij->o", w["patch_embed.proj.weight"], patch) + w["patch_embed.proj.bias"]
    x += w["pos_embed"]
    if config.pre_norm:
        x = norm(x, "norm_pre")
    routes = {}
    for layer in range(config.layers):
        b = f"blocks.{layer}"
        y = norm(x, f"{b}.norm1") @ w[f"{b}.attn.qkv.weight"].T + w[f"{b}.attn.qkv.bias"]
        q, *keys, v = np.split(y, 2 if config.attention == "soft" else 3, axis=1)
        k = keys[0] if keys else q
        d = config.head_width
        parts = []
        for head in range(config.heads):
            s = slice(head * d, head * d + d)
            if config.attention == "soft":
                parts.append(softened(q[:, s], v[:, s], config))
                continue
            scores = q[:, s] @ k[:, s].T / math.sqrt(d)
            parts.append(weighed(config.attention, scores, q[:, s], k[:, s], w.get(f"{b}.attn.features")) @ v[:, s])
        if config.attention == "rela":
            parts = [gated(np.concatenate(parts, axis=1), w[f"{b}.attn.norm.weight"], w[f"{b}.attn.norm.gate"])]
        x = x + np.concatenate(parts, axis=1) @ w[f"{b}.attn.proj.weight"].T + w[f"{b}.attn.proj.bias"]
        y = norm(x, f"{b}.norm2")
        if config.is_moe(layer):
            probabilities = softmax(y @ w[f"{b}.mlp.gate.{task}.w_gate"] + w.get(f"{b}.mlp.gate.{task}.bias", 0))
            result = np.zeros_like(x)
            routes[layer] = []
            for token in range(config.tokens):
                ranking = sorted(range(config.experts), key=lambda e, t=token, p=probabilities: (-p[t, e], e))
                best = ranking[: config.top_k] if held is None else held[layer][token]
                routes[layer].append(best)
                share = probabilities[token, best].sum() if config.gate == "top-k" else 1
                for e in best:
                    inner = activated(
                        w[f"{b}.mlp.experts.htoh4.weight"][e] @ y[token] + w[f"{b}.mlp.experts.htoh4.bias"][e]
                    )
                    outer = w[f"{b}.mlp.experts.h4toh.weight"][e] @ inner + w[f"{b}.mlp.experts.h4toh.bias"][e]
                    result[token] += probabilities[token, e] / share * outer
            x = x + result
        else:
            hidden = activated(y @ w[f"{b}.mlp.fc1.weight"].T + w[f"{b}.mlp.fc1.bias"])
            x = x + hidden @ w[f"{b}.mlp.fc2.weight"].T + w[f"{b}.mlp.fc2.bias"]
    name = f"heads.{config.tasks[task].name}"
    head = (
        norm(x[1:], f"{name}.norm") @ w[f"{name}.proj.weight"].T + w[f"{name}.proj.bias"]
        if f"{name}.norm.weight" in w
        else None
    )
    return x, head, routes


def reweighted(scores):
    """As the formula has it, without care for overflow: rows of these tests are far from it."""
    a = np.log1p(np.exp(scores))
    power = np.maximum(len(scores) * a / a.sum(1, keepdims=True) - 1, 0) ** 15
    return power / power.sum(1, keepdims=True)


OTHER = replace(SMALL, gate="top-k", gate_bias=True, pre_norm=True, activation="silu")


@pytest.mark.parametrize(("config", "task"), [(SMALL, 0), (SMALL, 1), (SMALL, 2), (PLAIN, 0), (OTHER, 0), (OTHER, 1)])
def test_equals_plain_numpy(config, task):
    checkpoint = random_checkpoint(config)
    images = random_images(config, batch=2)
    output = Golden(checkpoint).double()(images, task, trace=True)
    assert output.tokens.dtype == torch.float64
    assert len(output.layers) == config.layers and torch.equal(output.layers[-1], output.tokens)
    for index, image in enumerate(images):
        tokens, head, routes = numpy_forward(checkpoint, image, task)
        np.testing.assert_allclose(output.tokens[index].detach().numpy(), tokens, rtol=0, atol=1e-9)
        assert (head is None) == (output.head is None)
        if head is not None:
            np.testing.assert_allclose(output.head[index].detach().numpy(), head, rtol=0, atol=1e-9)
        assert routes.keys() == output.routing.keys()
        for layer, chosen in routes.items():
            assert np.array_equal(output.routing[layer][index].numpy(), chosen)
            probabilities = output.probabilities[layer][index].detach().numpy()
            np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-12)
            scores = output.scores[layer][index].detach().numpy()
            wanted = np.take_along_axis(probabilities, np.array(chosen), 1)
            wanted = wanted / wanted.sum(-1, keepdims=True) if config.gate == "top-k" else wanted
            np.testing.assert_allclose(scores, wanted, rtol=1e-12)


def test_held_routing_keeps_the_models_own_weights():
    checkpoint = random_checkpoint(SMALL)
    image = random_images(SMALL, batch=1)[0]
    rng = np.random.default_rng(5)
    held = {layer: np.stack([rng.permutation(5)[:2] for _ in range(SMALL.tokens)]) for layer in SMALL.moe_layers}
    output = Golden(checkpoint).double()(image, "depth", routing=held)
    tokens, head, _ = numpy_forward(checkpoint, image, 1, held)
    np.testing.assert_allclose(output.tokens[0].detach().numpy(), tokens, atol=1e-9)
    np.testing.assert_allclose(output.head[0].detach().numpy(), head, atol=1e-9)
    model = Golden(checkpoint)
    free = model(image, "depth")
    assert torch.equal(model(image, "depth", routing=free.routing).tokens, free.tokens)


def test_ties_go_to_the_lowest_expert():
    checkpoint = random_checkpoint(SMALL)
    for name, tensor in checkpoint.tensors.items():
        if "w_gate" in name:
            tensor[:] = 0  # all logits are 0; equal columns would not do, as a BLAS may round them differently
    output = Golden(checkpoint)(random_images(SMALL, 2), 0)
    for layer in SMALL.moe_layers:
        assert torch.equal(output.routing[layer], torch.tensor([0, 1]).expand(2, SMALL.tokens, 2))
        assert torch.allclose(output.scores[layer], torch.tensor(0.2))


def test_names_are_the_checkpoints():
    for config in (SMALL, PLAIN, replace(SMALL, norm="rms"), replace(PRESETS["m3vit-micro"], name="other")):
        state = Golden(config).state_dict()
        assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected_tensors(config)
    given = random_checkpoint(SMALL)
    found = Golden(given).to_checkpoint()
    assert all(np.array_equal(given.tensors[name], found.tensors[name]) for name in given.tensors)


def test_only_the_router_depends_on_the_task():
    checkpoint = random_checkpoint(SMALL)
    for layer in SMALL.moe_layers:
        checkpoint.tensors[f"blocks.{layer}.mlp.gate.1.w_gate"] = checkpoint.tensors[
            f"blocks.{layer}.mlp.gate.0.w_gate"
        ]
    model, image = Golden(checkpoint), random_images(SMALL, 1)
    assert torch.equal(model(image, 0).tokens, model(image, 1).tokens)
    assert not torch.equal(model(image, 0).tokens, model(image, 2).tokens)


def test_refuses_other_images_and_models():
    model = Golden(SMALL)
    with pytest.raises(EdgemoeError, match=r"image is torch.uint8 \[1, 3, 8, 8\], expected uint8 3x8x12"):
        model(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(EdgemoeError, match="image is torch.float32"):
        model(np.zeros((3, 8, 12), np.float32))
    with pytest.raises(EdgemoeError, match="checkpoint is of model plain, expected the configuration of small"):
        model.load_checkpoint(random_checkpoint(PLAIN))
