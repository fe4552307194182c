# SPDX-License-Identifier: Apache-2.0
"""People's checkpoints, made by the libraries themselves, against the outputs of these libraries.

The float model of what was imported must agree up to float32's rounding; the emulator up to that of the hardware's 16
bits.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgemoe.host import inference
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.golden import Golden
from edgemoe.models.heads import class_logits
from edgemoe.models.importers import layouts, sources
from edgemoe.models.importers.positions import resized
from edgemoe.models.importers.vit import Options
from edgemoe.models.numbers.calibrate import calibrate
from edgemoe.models.numbers.forward import forward
from safetensors.torch import save_file

from ..models.small import SMALL, random_checkpoint, random_images
from ..models.support import sqnr
from .libraries import libraries, output, picture, scaled, shaken

SIDE = 64
HARDWARE = HardwareConfig.from_fields(
    {"tokens": 40, "rows": 40, "width": 96, "hidden": 384, "head_norms": 1}, preset("tiny")
)
SMALL_VIT: dict[str, Any] = dict(img_size=SIDE, patch_size=16, embed_dim=96, num_heads=3, depth=2, num_classes=10)
TIMM: dict[str, dict[str, Any]] = {
    "plain": {},
    "width 192": dict(embed_dim=192),
    "no CLS token": dict(class_token=False, global_pool="avg", fc_norm=False),
    "mean, then a norm": dict(global_pool="avg"),
    "LayerScale": dict(init_values=0.5),
    "patch 32": dict(patch_size=32),
    "no bias of queries, keys, values": dict(qkv_bias=False),
    "registers without positions": dict(reg_tokens=4, no_embed_class=True),
    "registers with positions": dict(reg_tokens=4),
    "without a head": dict(num_classes=0),
    "without a head, mean": dict(num_classes=0, global_pool="avg"),
    "norms of queries and keys": dict(qk_norm=True),
    "RMSNorms": dict(norm_layer="rmsnorm"),
    "RMSNorms, of queries and keys, too": dict(norm_layer="rmsnorm", qk_norm=True, num_heads=2),
}


def imported(path: Path, **options: Any) -> tuple[Checkpoint, list[str]]:
    """A file or folder, its layout recognised; and what was remarked."""
    source = sources.read(path)
    model = layouts.recognise(source)[0].convert(source)
    return model.to_checkpoint(Options(**options)), model.notes


def result(checkpoint: Checkpoint, head: np.ndarray) -> np.ndarray:
    """Logits or features from a head's values."""
    task = checkpoint.config.tasks[0]
    return class_logits(head, checkpoint.config, task) if task.kind == "classification" else head


def agrees(
    checkpoint: Checkpoint, model: torch.nn.Module, image: np.ndarray, values: torch.Tensor | None = None
) -> None:
    """The float model, and the emulator with 16 bits, give what the library does."""
    want = output(model, scaled(image) if values is None else values)
    found = forward(checkpoint, image[None])
    head = found.tokens if found.head is None else found.head
    assert sqnr(want, result(checkpoint, head[0])) > 100
    others = np.stack([picture(image.shape[-1], seed) for seed in range(1, 5)])
    calibrated = replace(checkpoint, calibration=calibrate(checkpoint, others, error_aware=()))
    c = checkpoint.config
    fields = dict(tokens=c.tokens, rows=c.tokens, width=c.width, hidden=max(c.hidden, c.patch_size_words))
    hardware = HardwareConfig.from_fields(fields, HARDWARE)
    ran = inference.infer(calibrated, [image], hardware=hardware, device="emulator")
    task = c.tasks[0]
    if task.kind in ("features", "tokens"):
        got = ran.map(0) if task.kind == "features" else ran.tokens[0]
    elif ran.heads[0] is not None:
        got = class_logits(ran.heads[0], c, task)
    else:
        predicted = ran.map(0)
        assert predicted is not None
        got = np.log(np.maximum(predicted, 1e-9))  # up to a constant
        want = want - want.mean()
        got = got - got.mean()
    assert got is not None and sqnr(want, got) > 38


def test_queries_that_are_keys(tmp_path: Path) -> None:
    """Two parts of three are what SOFT has, and no other kind."""
    state = shaken(libraries().Vit(**SMALL_VIT)).state_dict()
    width = SMALL_VIT["embed_dim"]
    both = {name: tensor[: 2 * width] if ".qkv." in name else tensor for name, tensor in state.items()}
    torch.save(both, tmp_path / "soft.pth")
    checkpoint, _ = imported(tmp_path / "soft.pth", heads=3, attention="soft")
    assert checkpoint.config.attention == "soft"
    assert np.array_equal(checkpoint.tensors["blocks.0.attn.qkv.weight"], both["blocks.0.attn.qkv.weight"].numpy())
    torch.save(state, tmp_path / "three.pth")
    for file, kind, shape in (("soft", "softmax", f"{3 * width} x"), ("three", "soft", f"{2 * width} x")):
        with pytest.raises(EdgemoeError, match=rf"blocks\.0\.attn\.qkv\.weight has shape .*, expected {shape}"):
            imported(tmp_path / f"{file}.pth", heads=3, attention=kind)


@pytest.mark.parametrize("kind", TIMM)
def test_timm(kind: str, tmp_path: Path) -> None:
    model = shaken(libraries().Vit(**SMALL_VIT | TIMM[kind]))
    torch.save({"model": model.state_dict()}, tmp_path / "vit.pth")
    heads = TIMM[kind].get("num_heads", 3)
    checkpoint, notes = imported(tmp_path / "vit.pth", heads=heads)
    assert any("ImageNet's mean and std" in note for note in notes)
    agrees(checkpoint, model, picture(SIDE))


def test_gated_norms(tmp_path: Path) -> None:
    """Gains and gates of ReLA come along with its kind of attention, which asks for them."""
    state = shaken(libraries().Vit(**SMALL_VIT)).state_dict()
    torch.save(state, tmp_path / "none.pth")
    with pytest.raises(EdgemoeError, match=r"blocks\.0\.attn\.norm\.weight"):
        imported(tmp_path / "none.pth", heads=3, attention="rela")
    width, layers = SMALL_VIT["embed_dim"], SMALL_VIT["depth"]
    own = {
        f"blocks.{layer}.attn.norm.{part}": torch.randn(width) for layer in range(layers) for part in ("weight", "gate")
    }
    torch.save(state | own, tmp_path / "rela.pth")
    checkpoint, _ = imported(tmp_path / "rela.pth", heads=3, attention="rela")
    assert checkpoint.config.attention == "rela"
    assert all(np.array_equal(checkpoint.tensors[name], tensor.numpy()) for name, tensor in own.items())
    with pytest.raises(EdgemoeError, match="attn.norm"):
        imported(tmp_path / "rela.pth", heads=3)


@pytest.mark.parametrize("watched", [False, True], ids=["learned", "only watched"])
def test_sigma_reparam(watched: bool, tmp_path: Path) -> None:
    """Layers that keep direction and size apart, the patches' as a matrix: the model is that of the folded weights."""
    plain = shaken(libraries().Vit(**SMALL_VIT)).state_dict()
    parted = dict(plain)
    for name in [n.removesuffix(".weight") for n, t in plain.items() if n.endswith("weight") and t.ndim in (2, 4)]:
        weight = plain[f"{name}.weight"].flatten(1)
        _, values, rows = torch.linalg.svd(weight, full_matrices=False)
        factor = 1.0 if watched else 3.0
        parted[f"{name}.weight"] = parted[f"{name}.spectral_normed_weight.weight"] = factor * weight
        parted[f"{name}.spectral_normed_weight.u"] = rows[0].contiguous()
        parted[f"{name}.spectral_normed_weight.spectral_norm"] = factor * values[:1].clone()
        parted[f"{name}.effective_spectral_norm"] = values[:1].clone()
        if not watched:
            parted[f"{name}.sigma"] = values[:1].clone()
    torch.save(plain, tmp_path / "plain.pth")
    torch.save(parted, tmp_path / "parted.pth")
    (expected, _), (found, notes) = (imported(tmp_path / f"{name}.pth", heads=3) for name in ("plain", "parted"))
    assert found.config == expected.config and any("sigmaReparam" in note for note in notes)
    for name, tensor in expected.tensors.items():
        np.testing.assert_allclose(found.tensors[name], tensor, rtol=1e-4, atol=1e-6)


def test_distilled(tmp_path: Path) -> None:
    """DeiT's second head: logits are averaged."""
    model = shaken(libraries().Distilled(**SMALL_VIT))
    torch.save(model.state_dict(), tmp_path / "deit.pt")
    checkpoint, _ = imported(tmp_path / "deit.pt", heads=3)
    assert (checkpoint.config.prefix, checkpoint.config.tasks[0].pool) == (2, "distilled")
    agrees(checkpoint, model, picture(SIDE))


def test_another_picture_size(tmp_path: Path) -> None:
    """Positions are interpolated as timm does when it loads weights of another size."""
    lib = libraries()
    small, large = shaken(lib.Vit(**SMALL_VIT)), lib.Vit(**SMALL_VIT | {"img_size": 96})
    large.load_state_dict(lib.resize(small.state_dict(), large))
    torch.save(small.state_dict(), tmp_path / "vit.pth")
    checkpoint, notes = imported(tmp_path / "vit.pth", heads=3, image_size=(96, 96))
    assert any("interpolated from 4 x 4 to 6 x 6" in note for note in notes)
    agrees(checkpoint, large.eval(), picture(96))


def test_torchvision(tmp_path: Path) -> None:
    model = shaken(libraries().Torchvision(SIDE, 16, 2, 3, 96, 192, num_classes=10))
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    checkpoint, _ = imported(tmp_path / "vit.pth", heads=3)
    agrees(checkpoint, model, picture(SIDE))


@pytest.mark.parametrize(
    "kind",
    [
        "ViTForImageClassification",
        "ViTModel",
        "DeiTForImageClassificationWithTeacher",
        "Dinov2Model",
        "Dinov2ForImageClassification",
        "Dinov2WithRegistersModel",
    ],
)
def test_huggingface(kind: str, tmp_path: Path) -> None:
    """Heads, eps, labels and the pixels' scale come from the folder's files."""
    import transformers

    family = kind.removesuffix("Model").partition("For")[0]
    fields: dict[str, Any] = dict(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=SIDE, patch_size=16, num_labels=4
    )
    if not family.startswith("Dinov2"):
        fields |= dict(intermediate_size=192)
    config = getattr(transformers, f"{family}Config")(**fields)
    model = shaken(getattr(transformers, kind)(config))
    model.save_pretrained(tmp_path)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    size = {"height": SIDE, "width": SIDE}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": size, "image_mean": mean, "image_std": std, "rescale_factor": 1 / 255})
    )
    checkpoint, notes = imported(tmp_path)
    assert notes == [] and checkpoint.config.heads == 3 and checkpoint.config.eps == config.layer_norm_eps
    if "Classification" in kind:
        assert checkpoint.config.tasks[0].labels == tuple(f"LABEL_{n}" for n in range(4))
    image = picture(SIDE)
    agrees(checkpoint, model, image, scaled(image, mean, std))


@pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel"])
def test_clip(kind: str, tmp_path: Path) -> None:
    """QuickGELU, a norm before the blocks and one behind them; its projection, if there is one, is the features'."""
    import transformers

    fields: dict[str, Any] = dict(hidden_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=SIDE)
    fields |= dict(patch_size=16, intermediate_size=192, projection_dim=24)
    config = transformers.CLIPVisionConfig(**fields)
    if kind == "CLIPModel":
        text = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=99)
        config = transformers.CLIPConfig(text_config=text, vision_config=fields, projection_dim=24)
    model = shaken(getattr(transformers, kind)(config))
    model.save_pretrained(tmp_path)
    mean, std = (0.48, 0.45, 0.4), (0.27, 0.26, 0.28)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"crop_size": SIDE, "image_mean": mean, "image_std": std, "rescale_factor": 1 / 255})
    )
    checkpoint, notes = imported(tmp_path)
    c = checkpoint.config
    assert c.pre_norm and (c.activation, c.eps, c.heads) == ("quick-gelu", 1e-5, 3)
    assert any("outside the vision tower" in note for note in notes) == (kind == "CLIPModel")
    assert c.tasks[0].channels == (0 if kind == "CLIPVisionModel" else 24)

    class Features(torch.nn.Module):
        """Of every token, what the library gives of the first."""

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            tower = getattr(model, "vision_model", model)
            last = tower.post_layernorm(tower(values).last_hidden_state)
            return model.visual_projection(last) if c.tasks[0].channels else last

    image = picture(SIDE)
    values = scaled(image, mean, std)
    with torch.no_grad():
        if kind == "CLIPVisionModel":
            first = model(values).pooler_output
        elif kind == "CLIPModel":
            first = model.get_image_features(values)
            first = getattr(first, "pooler_output", first)
        else:
            first = model(values).image_embeds
        assert torch.allclose(Features()(values)[:, 0], first, atol=1e-5)
    agrees(checkpoint, Features(), image, values)


def test_timm_with_a_norm_before_the_blocks(tmp_path: Path) -> None:
    model = shaken(libraries().Vit(**SMALL_VIT, pre_norm=True))
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    checkpoint, _ = imported(tmp_path / "vit.pth", heads=3)
    assert checkpoint.config.pre_norm
    agrees(checkpoint, model, picture(SIDE))


ACTIVATION_NAMES = {"gelu-tanh": "gelu_pytorch_tanh", "quick-gelu": "quick_gelu", "silu": "silu", "relu": "relu"}


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_other_activations(activation: str, tmp_path: Path) -> None:
    """Hugging Face's configuration names them; timm's files do not, the user does."""
    import transformers

    fields: dict[str, Any] = dict(hidden_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=SIDE)
    fields |= dict(patch_size=16, num_labels=4, intermediate_size=192, hidden_act=ACTIVATION_NAMES[activation])
    model = shaken(transformers.ViTForImageClassification(transformers.ViTConfig(**fields)), spread=0.1)
    model.save_pretrained(tmp_path)
    checkpoint, _ = imported(tmp_path)
    assert checkpoint.config.activation == activation
    agrees(checkpoint, model, picture(SIDE))
    layer = {"gelu-tanh": "gelu_tanh", "quick-gelu": "quick_gelu"}.get(activation, activation)
    model = shaken(libraries().Vit(**SMALL_VIT, act_layer=layer), spread=0.1)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    (tmp_path / "config.json").unlink()
    checkpoint, _ = imported(tmp_path / "vit.pth", heads=3, activation=activation)
    agrees(checkpoint, model, picture(SIDE))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("torchscript", [True, False], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_activations_in_graphs(activation: str, torchscript: bool, tmp_path: Path) -> None:
    import transformers

    fields: dict[str, Any] = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=3, image_size=32)
    fields |= dict(patch_size=16, intermediate_size=48, hidden_act=ACTIVATION_NAMES[activation])
    model = shaken(transformers.ViTModel(transformers.ViTConfig(**fields), add_pooling_layer=False))
    path = tmp_path / "model.onnx"
    values = scaled(picture(32))
    torch.onnx.export(model, (values,), path, dynamo=not torchscript, input_names=["pixels"], verbose=False)
    assert imported(path)[0].config.activation == activation


@pytest.mark.filterwarnings("ignore")  # what exporting warns of is PyTorch's matter
@pytest.mark.parametrize("torchscript", [True, False], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", ["Dinov2Model", "ViTForImageClassification"])
def test_onnx(kind: str, torchscript: bool, tmp_path: Path) -> None:
    """As both of PyTorch's exporters write it: matrices without names, norms whole or apart, positions resized."""
    import transformers

    family = kind.removesuffix("Model").partition("For")[0]
    fields: dict[str, Any] = dict(hidden_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=SIDE)
    fields |= dict(patch_size=16) if family == "Dinov2" else dict(patch_size=16, intermediate_size=192)
    model = shaken(getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**fields)))
    image = picture(SIDE)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (scaled(image),), path, dynamo=not torchscript, input_names=["pixels"], verbose=False)
    checkpoint, notes = imported(path)
    assert checkpoint.config.heads == 3 and any("ImageNet's mean and std" in note for note in notes)
    assert checkpoint.config.eps == pytest.approx(model.config.layer_norm_eps)
    agrees(checkpoint, model, image)


class TestM3vit:
    """A training's file in the forms that M3ViT's scripts write, made of a golden model."""

    source = random_checkpoint(SMALL)

    @pytest.fixture
    def state(self) -> dict[str, torch.Tensor]:
        tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in self.source.tensors.items()}
        trunk = {f"module.backbone.{name}": tensor for name, tensor in tensors.items() if not name.startswith("heads.")}
        rows = trunk["module.backbone.pos_embed"]
        # The CLS token and its position are two tensors there.
        token = torch.full((1, 1, rows.shape[1]), 0.25)
        trunk["module.backbone.cls_token"] = token
        trunk["module.backbone.pos_embed"] = torch.cat([rows[:1] - token[0], rows[1:]])[None]
        trunk["module.backbone.blocks.0.mlp.gate.0.w_gate_aux"] = torch.zeros(3)
        trunk["module.decoders.semseg.conv_0.weight"] = torch.zeros(4, 16, 3, 3)
        return trunk

    def check(self, path: Path, **options: Any) -> list[str]:
        checkpoint, notes = imported(path, heads=2, image_size=(8, 12), top_k=2, **options)
        images = random_images(SMALL, 2)
        golden = Golden(self.source).double()
        for task in range(len(SMALL.tasks)):
            with torch.no_grad():
                want = golden(images, task).tokens.numpy()
            assert sqnr(want, forward(checkpoint, images, task).tokens) > 100
        assert [t.name for t in checkpoint.config.tasks] == list(options.get("tasks", ("task0", "task1", "task2")))
        return notes

    def test_one_file(self, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
        """With NumPy's scalars beside the tensors, as `best_result` holds them."""
        stored = {"epoch": 3, "state_dict": state, "best_result": {"rmse": np.float64(0.1), "n": np.int64(4)}}
        torch.save(stored, tmp_path / "best_model.pth.tar")
        notes = self.check(tmp_path / "best_model.pth.tar", tasks=("a", "b", "c"))
        assert any("pixels are divided by 256" in note for note in notes)
        assert any("module.decoders.semseg.conv_0.weight" in note for note in notes)

    def test_ranks(self, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
        """A folder of rank files, each with its part of the experts."""
        experts = {name: tensor for name, tensor in state.items() if ".experts." in name}
        first = {name: tensor[:2] for name, tensor in experts.items()}
        torch.save({"state_dict": state | first}, tmp_path / "0.pth")
        torch.save({"state_dict": {name: tensor[2:] for name, tensor in experts.items()}}, tmp_path / "1.pth")
        self.check(tmp_path)
        (tmp_path / "1.pth").rename(tmp_path / "2.pth")
        with pytest.raises(EdgemoeError, match=r"rank file 1\.pth is missing"):
            sources.read(tmp_path)


@pytest.mark.parametrize("size", [(16, 16), (40, 24), (37, 20)])
@pytest.mark.parametrize("antialias", [True, False])
def test_positions(size: tuple[int, int], antialias: bool) -> None:
    """As PyTorch's interpolate, which the libraries call."""
    grid = np.random.default_rng(0).normal(size=(37, 37, 5)).astype(np.float32)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(grid).permute(2, 0, 1)[None], size, mode="bicubic", antialias=antialias, align_corners=False
    )
    assert np.allclose(resized(grid, *size, antialias=antialias), want[0].permute(1, 2, 0).numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_float_formats(kind: str, tmp_path: Path) -> None:
    state = libraries().Vit(**SMALL_VIT).state_dict()
    save_file({name: tensor.to(getattr(torch, kind)) for name, tensor in state.items()}, tmp_path / "vit.safetensors")
    checkpoint, _ = imported(tmp_path / "vit.safetensors", heads=3)
    assert np.array_equal(
        checkpoint.tensors["blocks.1.mlp.fc1.weight"], state["blocks.1.mlp.fc1.weight"].to(getattr(torch, kind)).float()
    )


class TestRefused:
    """One line that names the tensor that shows it, or what to say."""

    state = libraries().Vit(**SMALL_VIT).state_dict()

    def refusal(self, folder: Path, state: dict[str, torch.Tensor], **options: Any) -> str:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "vit.safetensors")
        with pytest.raises(EdgemoeError) as error:
            imported(folder / "vit.safetensors", **{"heads": 3, **options})
        assert "\n" not in str(error.value)
        return str(error.value)

    @pytest.mark.parametrize(
        "name, what",
        [
            ("blocks.0.attn.rel_pos_h", "relative positions"),
            ("rope.freqs", "rotary positions"),
            ("blocks.0.mlp.w12.weight", "SwiGLU"),
            ("patch_embed.backbone.stem.weight", "convolution stem"),
        ],
    )
    def test_another_architecture(self, name: str, what: str, tmp_path: Path) -> None:
        text = self.refusal(tmp_path, self.state | {name: torch.zeros(4)})
        assert name in text and what in text

    def test_strange_tensor(self, tmp_path: Path) -> None:
        assert "blocks.0.extra have no place" in self.refusal(tmp_path, self.state | {"blocks.0.extra": torch.zeros(4)})

    @pytest.mark.parametrize(
        "extra, told",
        [
            ({"blocks.0.attn.q_norm.weight": 96}, "blocks.0.attn.q_norm.weight has shape [96], expected 32"),
            ({"blocks.0.attn.q_norm.weight": 32}, "blocks.0.attn.k_norm.weight is missing"),
        ],
        ids=["over all heads", "of queries alone"],
    )
    def test_norms_of_queries_and_keys(self, extra: dict[str, int], told: str, tmp_path: Path) -> None:
        assert told in self.refusal(tmp_path, self.state | {name: torch.ones(size) for name, size in extra.items()})

    def test_missing_tensor(self, tmp_path: Path) -> None:
        state = {name: tensor for name, tensor in self.state.items() if name != "blocks.1.mlp.fc2.weight"}
        assert "blocks.1.mlp.fc2.weight is missing" in self.refusal(tmp_path, state)

    def test_heads(self, tmp_path: Path) -> None:
        assert "5 heads do not divide its width 96" in self.refusal(tmp_path, self.state, heads=5)
        assert "give --heads N" in self.refusal(tmp_path, self.state, heads=None)

    def test_picture_size(self, tmp_path: Path) -> None:
        assert "70 x 64 are no multiple of its patches of 16" in self.refusal(tmp_path, self.state, image_size=(70, 64))

    def test_positions_that_may_be_of_another_shape(self, tmp_path: Path) -> None:
        """25 rows are 5 x 5 patches, or a CLS token and 4 x 6: without --image-size the first is taken, and said."""
        model = libraries().Vit(**SMALL_VIT | {"img_size": (64, 96)})
        torch.save(model.state_dict(), tmp_path / "vit.pth")
        checkpoint, notes = imported(tmp_path / "vit.pth", heads=3)
        assert checkpoint.config.tokens == 26 and any("taken as 5 x 5 patches" in note for note in notes)
        checkpoint, notes = imported(tmp_path / "vit.pth", heads=3, image_size=(64, 96))
        assert checkpoint.config.tokens == 25 and not any("taken as" in note for note in notes)

    def test_activation(self, tmp_path: Path) -> None:
        import transformers

        config = transformers.ViTConfig(
            hidden_size=24, num_hidden_layers=1, num_attention_heads=3, image_size=32, hidden_act="mish"
        )
        transformers.ViTModel(config).save_pretrained(tmp_path)
        with pytest.raises(EdgemoeError, match=r"its activation is 'mish' \(hidden_act\), which is not run here"):
            imported(tmp_path)
        assert "activation is 'mish', expected one of gelu, gelu-tanh" in self.refusal(
            tmp_path, self.state, activation="mish"
        )

    def test_labels(self, tmp_path: Path) -> None:
        assert "2 labels for 10 classes" in self.refusal(tmp_path, self.state, labels=("a", "b"))

    def test_pixels(self, tmp_path: Path) -> None:
        assert "std has 2 values for 3 channels" in self.refusal(tmp_path, self.state, std=(1.0, 1.0))
        assert "expected positive numbers" in self.refusal(tmp_path, self.state, std=(1.0, 0.0, 1.0))

    def test_a_checkpoint_of_ours(self, tmp_path: Path) -> None:
        checkpoints.save(random_checkpoint(SMALL), tmp_path / "ours.safetensors")
        with pytest.raises(EdgemoeError, match="is a checkpoint of edgemoe already"):
            imported(tmp_path / "ours.safetensors")

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".onnx", ".tar"])
    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", bytes(200)])
    def test_damaged_files(self, suffix: str, data: bytes, tmp_path: Path) -> None:
        path = tmp_path / f"model{suffix}"
        path.write_bytes(data)
        with pytest.raises(EdgemoeError) as error:
            imported(path)
        assert "\n" not in str(error.value) and "model" in str(error.value)

    def test_a_program_in_a_pickle(self, tmp_path: Path) -> None:
        """Nothing that a file names is called."""
        marker = tmp_path / "ran"

        class Hostile:
            def __reduce__(self) -> Any:
                return (Path.touch, (marker,))

        torch.save({"state_dict": {"x": torch.zeros(1)}, "y": Hostile()}, tmp_path / "model.pth")
        with pytest.raises(
            EdgemoeError,
            match=r"model\.pth holds objects.*only tensors and plain numbers are read: save model\.state_dict\(\)",
        ):
            imported(tmp_path / "model.pth")
        assert not marker.exists()
