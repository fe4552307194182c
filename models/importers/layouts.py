# SPDX-License-Identifier: Apache-2.0
"""The layouts that people's checkpoints have: what shows one, and what its tensors are called in timm's terms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import EdgemoeError, brief, listing
from ..numbers.activation import gelu
from . import reparam
from .decoders import is_pup
from .sources import Source, Tensors
from .vit import Scaling, Vit, foreign

PLAIN = Scaling((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1 / 256)  # M3ViT's pixels on Cityscapes
# Heads of timm's and torchvision's models, which their files do not say.
USUAL_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
# What configurations call activation functions, and their name here.
ACTIVATION_NAMES = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu-tanh"),
    **dict.fromkeys(("quick_gelu", "quickgelu"), "quick-gelu"),
    **dict.fromkeys(("silu", "swish"), "silu"),
    "relu": "relu",
}


@dataclass(frozen=True)
class Layout:
    """shows: the end of a name that only this layout has; convert: to timm's names."""

    name: str
    what: str
    shows: str
    convert: Callable[[Source], Vit]

    def evidence(self, names: Iterable[str]) -> str:
        """The tensor that shows it; empty if none does."""
        return next((name for name in names if re.search(self.shows, name)), "")


def _stripped(tensors: Tensors, anchor: str) -> tuple[str, Tensors, list[str]]:
    """(what stands before `anchor` in its name, tensors below it without that, names of all others)."""
    before = next(name for name in tensors if name.endswith(anchor))[: -len(anchor)]
    inside = {name[len(before) :]: tensor for name, tensor in tensors.items() if name.startswith(before)}
    return before, inside, sorted(name for name in tensors if not name.startswith(before))


def _renamed(tensors: Tensors, table: dict[str, str | None]) -> Tensors:
    """Names by a table of patterns, the first that matches from the start; None: not needed."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        for pattern, new in table.items():
            if match := re.match(pattern, name):
                if new is not None:
                    found[match.expand(new) + name[match.end() :]] = tensor
                break
        else:
            found[name] = tensor
    return found


def _usual_heads(vit: Vit, library: str) -> Vit:
    weight = vit.tensors.get("patch_embed.proj.weight")
    width = weight.shape[0] if weight is not None else 0
    if width in USUAL_HEADS:
        vit.heads = USUAL_HEADS[width]
        vit.assumed["heads"] = (
            f"{vit.heads} heads, which {library}'s models of width {width} have; no tensor shows it "
            "(--heads says otherwise)"
        )
    return vit


def _left_out(vit: Vit, names: list[str], what: str) -> None:
    if names:
        vit.notes.append(f"{len(names)} tensors {what} are left out: {listing(names)}")


def timm(source: Source) -> Vit:
    """timm's VisionTransformer, and DeiT's and DINOv2's own files, which have its names."""
    before, tensors, others = _stripped(source.tensors, "patch_embed.proj.weight")
    tensors = _renamed(tensors, {r"register_tokens$": "reg_token", r"mask_token$": None})
    reparametrised = reparam.is_reparametrised(tensors)
    vit = Vit("timm", reparam.folded(tensors) if reparametrised else tensors, graph=source.graph, before=before)
    if reparametrised:
        vit.notes.append("weights are sigma W / |W| (sigmaReparam): they are folded")
    if source.graph is not None and "hidden_act" in source.config:
        _activation(vit, source.config["hidden_act"])
    elif "quickgelu" in str(source.config.get("architecture", "")):  # as timm names such models
        vit.activation = "quick-gelu"
    _left_out(vit, [] if source.graph else others, "outside the model")
    return _usual_heads(vit, "timm")


TORCHVISION: dict[str, str | None] = {
    r"conv_proj\.": "patch_embed.proj.",
    r"class_token$": "cls_token",
    r"encoder\.pos_embedding$": "pos_embed",
    r"encoder\.layers\.encoder_layer_(\d+)\.ln_1\.": r"blocks.\1.norm1.",
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_": r"blocks.\1.attn.qkv.",
    r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.": r"blocks.\1.attn.proj.",
    r"encoder\.layers\.encoder_layer_(\d+)\.ln_2\.": r"blocks.\1.norm2.",
    r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(0|linear_1)\.": r"blocks.\1.mlp.fc1.",
    r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(3|linear_2)\.": r"blocks.\1.mlp.fc2.",
    r"encoder\.ln\.": "norm.",
    r"heads\.head\.": "head.",
}


def torchvision(source: Source) -> Vit:
    """torchvision's vit_*."""
    _, tensors, _ = _stripped(source.tensors, "conv_proj.weight")
    return _usual_heads(Vit("torchvision", _renamed(tensors, TORCHVISION), antialias=False), "torchvision")


_LAYER = r"(?:encoder\.)?layers?\.(\d+)\."
HUGGINGFACE: dict[str, str | None] = {
    r"embeddings\.cls_token$": "cls_token",
    r"embeddings\.distillation_token$": "dist_token",
    r"embeddings\.register_tokens$": "reg_token",
    r"embeddings\.mask_token$": None,
    r"embeddings\.position_embeddings$": "pos_embed",
    r"embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    _LAYER + r"attention\.attention\.(query|key|value)\.": r"blocks.\1.attn.\2.",
    _LAYER + r"attention\.q_proj\.": r"blocks.\1.attn.query.",
    _LAYER + r"attention\.k_proj\.": r"blocks.\1.attn.key.",
    _LAYER + r"attention\.v_proj\.": r"blocks.\1.attn.value.",
    _LAYER + r"attention\.(output\.dense|o_proj)\.": r"blocks.\1.attn.proj.",
    _LAYER + r"(layernorm_before|norm1)\.": r"blocks.\1.norm1.",
    _LAYER + r"(layernorm_after|norm2)\.": r"blocks.\1.norm2.",
    _LAYER + r"(intermediate\.dense|mlp\.fc1)\.": r"blocks.\1.mlp.fc1.",
    _LAYER + r"(output\.dense|mlp\.fc2)\.": r"blocks.\1.mlp.fc2.",
    _LAYER + r"layer_scale(\d)\.lambda1$": r"blocks.\1.ls\2.gamma",
    _LAYER + r"mlp\.weights_": r"blocks.\1.mlp.weights_",
    r"layernorm\.": "norm.",
    r"pooler\.": None,
}
HEADS: dict[str, str | None] = {
    r"(cls_)?classifier\.": "head.",
    r"distillation_classifier\.": "head_dist.",
}


def huggingface(source: Source) -> Vit:
    """Hugging Face's ViT, DeiT and DINOv2 (with registers or not), for features or with a classifier."""
    anchor = "embeddings.patch_embeddings.projection.weight"
    before, tensors, _ = _stripped(source.tensors, anchor)
    tensors = _renamed(tensors, HUGGINGFACE)
    others = {name: tensor for name, tensor in source.tensors.items() if not name.startswith(before)} if before else {}
    heads = {name: tensor for name, tensor in _renamed(others, HEADS).items() if name.startswith("head")}
    # Without a prefix the classifier stands among the model's own tensors.
    tensors = _renamed(tensors, HEADS) | heads
    vit = Vit("Hugging Face", _joined(tensors), eps=1e-6 if source.kind == "onnx" else 1e-12, antialias=False)
    vit.antialias = "reg_token" in vit.tensors  # as transformers interpolates positions: of these models only
    vit.graph, vit.before = source.graph, before
    if source.graph is None:
        _left_out(vit, [name for name in sorted(others) if not re.match("|".join(HEADS), name)], "behind the encoder")
    _facts(vit, source.config, source.preprocessor)
    return vit


CLIP: dict[str, str | None] = {
    r"embeddings\.class_embedding$": "cls_token",
    r"embeddings\.position_embedding\.weight$": "pos_embed",
    r"embeddings\.position_ids$": None,
    r"embeddings\.patch_embedding\.": "patch_embed.proj.",
    r"pre_layrnorm\.": "norm_pre.",
    r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.": r"blocks.\1.attn.query.",
    r"encoder\.layers\.(\d+)\.self_attn\.k_proj\.": r"blocks.\1.attn.key.",
    r"encoder\.layers\.(\d+)\.self_attn\.v_proj\.": r"blocks.\1.attn.value.",
    r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.": r"blocks.\1.attn.proj.",
    r"encoder\.layers\.(\d+)\.layer_norm([12])\.": r"blocks.\1.norm\2.",
    r"encoder\.layers\.(\d+)\.mlp\.": r"blocks.\1.mlp.",
    r"post_layernorm\.": "norm.",
}


def clip(source: Source) -> Vit:
    """The vision tower of Hugging Face's CLIP, alone or in the whole model; its projection is that of the features."""
    before, tensors, others = _stripped(source.tensors, "embeddings.patch_embedding.weight")
    tensors = _renamed(tensors, CLIP)
    projection = "visual_projection.weight"
    tensors |= {"projection.weight": source.tensors[projection]} if projection in source.tensors else {}
    vit = Vit("CLIP", _joined(tensors), eps=1e-5, activation="quick-gelu", antialias=False)
    vit.before = before
    _left_out(vit, [name for name in others if name != projection], "outside the vision tower")
    config = source.config.get("vision_config")
    _facts(vit, config if isinstance(config, dict) else source.config, source.preprocessor)
    return vit


def _joined(tensors: Tensors) -> Tensors:
    """Queries, keys and values as one matrix."""
    found = dict(tensors)
    for name in tensors:
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)query\.(weight|bias)", name)
        if match is None:
            continue
        parts = [found.pop(f"{match[1]}{role}.{match[2]}", None) for role in ("query", "key", "value")]
        if any(part is None for part in parts):
            raise EdgemoeError(f"{name} has no key or value beside it")
        found[f"{match[1]}qkv.{match[2]}"] = np.concatenate([part for part in parts if part is not None])
    return found


def _pair(value: object) -> tuple[int, int] | None:
    """A size as the files write it: n, [h, w] or {"height": h, "width": w}, or {"shortest_edge": n}."""
    if isinstance(value, dict):
        if "shortest_edge" in value:
            value = value["shortest_edge"]
        else:
            value = [value.get("height"), value.get("width")]
    if isinstance(value, int):
        return value, value
    if isinstance(value, list) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value):
        return value[0], value[1]
    return None


def _activation(vit: Vit, name: object) -> None:
    """By the name that its configuration has for it."""
    if name not in ACTIVATION_NAMES:
        raise vit.fail(
            f"its activation is {brief(repr(name))} (hidden_act), which is not run here; known are "
            f"{', '.join(ACTIVATION_NAMES)}"
        )
    vit.activation = ACTIVATION_NAMES[str(name)]


def _facts(vit: Vit, config: dict[str, Any], pre: dict[str, Any]) -> None:
    """What config.json and preprocessor_config.json say."""
    if "hidden_act" in config:
        _activation(vit, config["hidden_act"])
    if isinstance(heads := config.get("num_attention_heads"), int):
        vit.heads = heads
    if isinstance(eps := config.get("layer_norm_eps"), float):
        vit.eps = eps
    labels = config.get("id2label")
    if isinstance(labels, dict) and all(str(n) in labels for n in range(len(labels))):
        vit.labels = tuple(str(labels[str(n)]) for n in range(len(labels)))
    if not any(name.startswith("head.") for name in vit.tensors):
        vit.labels = ()
    # The picture that the preprocessor makes is what the model sees; DINOv2's own size is that of its training.
    size = _pair(pre.get("crop_size")) if pre.get("do_center_crop", "crop_size" in pre) else None
    vit.image_size = size or _pair(pre.get("size")) or _pair(config.get("image_size"))
    if pre:
        rescale = float(pre.get("rescale_factor", 1 / 255)) if pre.get("do_rescale", True) else 1.0
        mean, std = (pre.get(name) for name in ("image_mean", "image_std"))
        if not pre.get("do_normalize", True):
            mean, std = [0.0] * 3, [1.0] * 3
        if isinstance(mean, list) and isinstance(std, list):
            vit.scaling = Scaling(tuple(map(float, mean)), tuple(map(float, std)), rescale)


M3VIT: dict[str, str | None] = {
    r"(blocks\.\d+\.mlp\.gate\.)(w_gate|w_noise)$": r"\g<1>0.\2",
    r".*_aux(\.|$)": None,
}


def m3vit(source: Source) -> Vit:
    """A training of M3ViT: its backbone, and its decoders where they are the usual ones."""
    before, tensors, others = _stripped(source.tensors, "patch_embed.proj.weight")
    vit = Vit("M3ViT", _renamed(tensors, M3VIT), scaling=PLAIN)
    # Noise is for training; only gates that choose first have it.
    noise = [name for name in vit.tensors if name.endswith(".w_noise")]
    for name in noise:
        del vit.tensors[name]
    vit.gate = "top-k" if noise else "all"
    shown = f"{noise[0]} shows it" if noise else "no w_noise is there"
    what = {"top-k": "choose experts, then weigh those (`noisy`)", "all": "weigh all experts (`noisy_vmoe`)"}[vit.gate]
    vit.assumed["gate"] = f"its gates {what}: {shown} (--gate says otherwise)"
    _condition(vit)
    vit.assumed["mean"] = "pixels are divided by 256, as M3ViT does on Cityscapes (--mean, --std say otherwise)"
    for name, tensor in source.tensors.items():
        if match := re.fullmatch(r"(?:.*\.)?decoders\.([^.]+)\.(.+)", name):
            vit.decoders.setdefault(match[1], {})[match[2]] = tensor
    known = any(map(is_pup, vit.decoders.values()))
    _left_out(vit, [name for name in others if not (known and "decoders." in name)], "outside the backbone")
    return vit


def _condition(vit: Vit) -> None:
    """Gates that see, beside a token, what an MLP with a norm makes of the task's number: a constant of the task, whose
    product with its part of the gate is a bias.
    """
    inside = "gate_task_represent."
    if not any(name.startswith(inside) for name in vit.tensors):
        return
    width = vit.tensors["patch_embed.proj.weight"].shape[0]
    first, offset = vit.take(f"{inside}fc1.weight", (None, None)), vit.take(f"{inside}fc1.bias", (None,))
    second, shift = vit.take(f"{inside}fc2.weight", (None, len(offset))), vit.take(f"{inside}fc2.bias", (None,))
    size = len(shift)
    gamma, beta = (vit.take(f"{inside}norm.{part}", (size,)) for part in ("weight", "bias"))
    hidden = gelu(first.T.astype(np.float64) + offset)  # [tasks, hidden]: of 1 at the task's place, 0 elsewhere
    made = hidden @ second.T + shift
    centred = made - made.mean(axis=1, keepdims=True)
    tasks = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6) * gamma + beta  # [tasks, size]
    for name in [name for name in vit.tensors if name.endswith(".mlp.gate.0.w_gate")]:
        gate = vit.take(name, (width + size, None))
        for task, row in enumerate(tasks):
            place = name.replace(".gate.0.", f".gate.{task}.")
            vit.tensors[place] = gate[:width]
            vit.tensors[place.replace(".w_gate", ".bias")] = (row @ gate[width:]).astype(np.float32)
    vit.notes.append(f"its gate sees the task: of {len(tasks)} tasks, each gets a gate of its own, with a bias")


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("m3vit", "a training of M3ViT", r"blocks\.\d+\.mlp\.(experts\.htoh4|gate)\.", m3vit),
        Layout("torchvision", "torchvision's vit_*", r"encoder\.layers\.encoder_layer_0\.", torchvision),
        Layout(
            "huggingface",
            "Hugging Face's ViT, DeiT, DINOv2",
            r"embeddings\.patch_embeddings\.projection\.",
            huggingface,
        ),
        Layout("clip", "CLIP's vision tower of Hugging Face", r"embeddings\.patch_embedding\.weight$", clip),
        Layout("timm", "timm's ViT and DeiT", r"blocks\.0\.norm1\.weight$", timm),
    )
}


def recognise(source: Source) -> tuple[Layout, str]:
    """The layout of a source, and the tensor that shows it."""
    for layout in LAYOUTS.values():
        if evidence := layout.evidence(source.tensors):
            return layout, evidence
    if shown := foreign(source.tensors):
        name, what = shown
        raise EdgemoeError(f"{source.shown} cannot be imported: {brief(name)} shows {what}, which is not run here")
    names = listing(sorted(source.tensors))
    raise EdgemoeError(
        f"{source.shown} is of no known layout ({', '.join(LAYOUTS)}): its tensors are {brief(names, 300)}"
    )
