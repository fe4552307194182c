# SPDX-License-Identifier: Apache-2.0
"""A Vision Transformer under timm's names -> our checkpoint; what our trunk has no place for is folded.

LayerScale           into the projection's and fc2's rows and biases
tokens, registers    with their positions, the first rows of `pos_embed`
mean, std            into the patch embedding, as pixels stay 8 bit: ours are x = pixel / 256, so with
                     y = (pixel * rescale - mean) / std  ->  W' = W * 256 rescale / std, b' = b - sum W mean / std
no bias              a bias of zeros; of norms: they are RMSNorms
a gate's task        what it sees of the task is constant: a gate for each, with a bias
another grid         positions interpolated, as the library does that trained them
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint, check_tensors
from ..config import LANDMARK_KIND, ModelConfig, TaskConfig
from ..errors import EdgemoeError, brief, listing
from .behind import cut
from .decoders import is_pup, pup
from .positions import resized
from .sources import Tensors

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# What tensors of other architectures are called, and what they are.
FOREIGN = {
    r"rel_pos|relative_position": "relative positions",
    r"rope|freqs_cis|rotary": "rotary positions",
    r"mlp\.(w12|w1|w2|w3|weights_in|gate_proj|fc1_g|fc1_x)\b": "a gated MLP (SwiGLU)",
    r"downsample|patch_merging": "windows and merged patches",
    r"patch_embed\.backbone|stem|conv1\.|bn1\.": "a convolution stem",
    r"attn_pool": "attention pooling",
    r"lora_": "adapters, which are to be merged first",
}


def foreign(names: Iterable[str]) -> tuple[str, str] | None:
    """The first tensor that shows another architecture, and what it shows."""
    found = ((name, what) for name in sorted(names) for pattern, what in FOREIGN.items() if re.search(pattern, name))
    return next(found, None)


@dataclass(frozen=True)
class Scaling:
    """What a model expects of a pixel 0..255: (pixel * rescale - mean) / std, a mean and a std for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float = 1 / 255


@dataclass(frozen=True)
class Options:
    """What the user says, where files do not, or say otherwise."""

    name: str = "imported"
    heads: int | None = None
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    top_k: int = 2
    attention: str = "softmax"
    activation: str | None = None
    gate: str | None = None


@dataclass
class Vit:
    """A model under timm's names, and what only files beside it say.

    tensors     `convert` takes them out one by one; what remains at the end has no place
    heads       attention heads; None: not known
    image_size  height, width; None: from the positions' grid
    scaling     None: not known; "pixel / 256": `PLAIN`
    gate        of M3ViT: what scores are the softmax of
    activation  function between the matrices of an MLP, see numbers.activation
    antialias   how positions are interpolated
    pool        of the classifier; "": by the tensors
    decoders    of M3ViT's tasks, in their order: tensors without what stands before
    graph       the ONNX graph that it comes from; before: what stands there before the names of its tensors
    notes       what was done, for the user
    assumed     what was assumed, by the option that says otherwise: not told where it is given
    """

    layout: str
    tensors: Tensors = field(repr=False)
    heads: int | None = None
    eps: float = 1e-6
    image_size: tuple[int, int] | None = None
    scaling: Scaling | None = None
    gate: str = "all"
    activation: str = "gelu"
    antialias: bool = True
    pool: str = ""
    labels: tuple[str, ...] = ()
    decoders: dict[str, Tensors] = field(default_factory=dict, repr=False)
    graph: Any = field(default=None, repr=False)
    before: str = ""
    notes: list[str] = field(default_factory=list)
    assumed: dict[str, str] = field(default_factory=dict)

    # ---------------------------------------------------------------------------------------------------- tensors

    def fail(self, text: str) -> EdgemoeError:
        return EdgemoeError(f"this {self.layout} checkpoint cannot be imported: {text}")

    def take(self, name: str, shape: tuple[int | None, ...] | None = None) -> NDArray[np.float32]:
        """A tensor, of this shape (None: any size)."""
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            raise self.fail(f"{name} is missing")
        if shape is not None and (
            tensor.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, tensor.shape, strict=True))
        ):
            wanted = " x ".join("any" if n is None else str(n) for n in shape)
            raise self.fail(f"{name} has shape {brief(list(tensor.shape), 40)}, expected {wanted}")
        return tensor

    def rows(self, name: str, width: int) -> NDArray[np.float32]:
        """Tokens [1, n, width] or [n, width] as [n, width]; none if there is no such tensor."""
        tensor = self.tensors.pop(name, None)
        if tensor is None:
            return np.zeros((0, width), np.float32)
        if tensor.size == 0 or tensor.shape[-1] != width:
            raise self.fail(f"{name} has shape {brief(list(tensor.shape), 40)}, expected rows of {width}")
        return tensor.reshape(-1, width)

    def affine(self, name: str, outputs: int, inputs: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(weight, bias) of a linear layer; no bias is a bias of zeros."""
        weight = self.take(f"{name}.weight", (outputs, inputs))
        bias = self.tensors.pop(f"{name}.bias", None)
        if bias is not None and bias.shape != (outputs,):
            raise self.fail(f"{name}.bias has shape {brief(list(bias.shape), 40)}, expected {outputs}")
        return weight, np.zeros(outputs, np.float32) if bias is None else bias

    # ---------------------------------------------------------------------------------------------------- conversion

    def to_checkpoint(self, options: Options) -> Checkpoint:
        """Our checkpoint, not yet calibrated."""
        self.refuse_foreign()
        self.notes += [text for name, text in self.assumed.items() if not getattr(options, name)]
        patch_weight = self.take("patch_embed.proj.weight", (None, None, None, None))
        width, channels, patch, other = patch_weight.shape
        if patch != other:
            raise self.fail(f"patch_embed.proj.weight has patches of {patch} x {other} pixels, expected square ones")
        patch_bias = self.tensors.pop("patch_embed.proj.bias", np.zeros(width, np.float32))
        tensors: Tensors = {}
        scaling = self.pixels(options, channels)
        factor = 256 * scaling.rescale / np.asarray(scaling.std)
        tensors["patch_embed.proj.weight"] = (patch_weight * factor[:, None, None]).astype(np.float32)
        shift = (patch_weight.astype(np.float64).sum(axis=(2, 3)) * (np.asarray(scaling.mean) / scaling.std)).sum(
            axis=1
        )
        tensors["patch_embed.proj.bias"] = (patch_bias - shift).astype(np.float32)
        size, prefix, tensors["pos_embed"] = self.positions(options, width, patch)
        pre_norm, heads = "norm_pre.weight" in self.tensors, self.head_count(options, width)
        kind, qk_norm = self.norm_kind("blocks.0.norm1"), self.norm_kind("blocks.0.attn.q_norm")
        if pre_norm:
            self.norm(tensors, "norm_pre", width)
        layers = 1 + max(
            (int(found[1]) for name in self.tensors if (found := re.match(r"blocks\.(\d+)\.", name))), default=-1
        )
        if layers == 0:
            raise self.fail("it has no blocks.0.…: no transformer layers")
        hidden, moe = 0, {}
        for layer in range(layers):
            block = f"blocks.{layer}"
            for norm in ("norm1", "norm2"):
                self.norm(tensors, f"{block}.{norm}", width)
            for norm in ("q_norm", "k_norm") if qk_norm else ():
                self.norm(tensors, f"{block}.attn.{norm}", width // heads)
            parts = 2 if options.attention == LANDMARK_KIND else 3  # whose keys are its queries
            self.dense(tensors, f"{block}.attn.qkv", parts * width, width)
            if (vectors := f"{block}.attn.features") in self.tensors:
                tensors[vectors] = self.take(vectors, (None, None))
            if f"{block}.attn.norm.gate" in self.tensors:
                for part in ("weight", "gate"):
                    tensors[f"{block}.attn.norm.{part}"] = self.take(f"{block}.attn.norm.{part}", (width,))
            self.dense(tensors, f"{block}.attn.proj", width, width, f"{block}.ls1.gamma")
            if f"{block}.mlp.experts.htoh4.weight" in self.tensors:
                moe[layer] = self.experts(tensors, block, width)
            else:
                hidden = hidden or self.outputs(f"{block}.mlp.fc1")
                self.dense(tensors, f"{block}.mlp.fc1", hidden, width)
                self.dense(tensors, f"{block}.mlp.fc2", width, hidden, f"{block}.ls2.gamma")
        gates = next(iter(moe.values()))[2] if moe else 1
        tasks = self.task_heads(tensors, options, width, prefix, gates)
        graphs: dict[str, bytes] = {}
        if self.graph is not None and tasks[0].kind in ("features", "tokens"):
            tasks, graphs = self.behind(tensors, tasks[0], options, (channels, *size), scaling)
        if self.tensors:
            raise self.fail(f"{listing(sorted(self.tensors))} have no place in a ViT as this hardware runs it")
        experts, expert_hidden = next(iter(moe.values()))[:2] if moe else (0, 0)
        config = ModelConfig(
            name=options.name, image_height=size[0], image_width=size[1], image_channels=channels, patch=patch,
            width=width, heads=heads, layers=layers, hidden=hidden, experts=experts, expert_hidden=expert_hidden,
            top_k=options.top_k if moe else 0, moe_layers=tuple(moe), tasks=tasks, eps=self.eps, prefix=prefix,
            attention=options.attention, features=len(tensors.get("blocks.0.attn.features", ())),
            activation=options.activation or self.activation, gate=options.gate or self.gate,
            pre_norm=pre_norm, gate_bias=any(".mlp.gate." in name and name.endswith(".bias") for name in tensors),
            norm=kind or "layer", qk_norm=qk_norm,
        )  # fmt: skip
        tensors = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
        check_tensors(config, tensors, "the imported model")
        return Checkpoint(config, tensors, graphs=graphs)

    def refuse_foreign(self) -> None:
        """What another architecture has is named."""
        if shown := foreign(self.tensors):
            name, what = shown
            raise self.fail(f"{brief(name)} shows {what}, which this hardware does not run")

    def outputs(self, name: str) -> int:
        """Of a linear layer, by its weight."""
        weight = self.tensors.get(f"{name}.weight")
        if weight is None or weight.ndim != 2:
            raise self.fail(f"{name}.weight is missing or no matrix")
        return int(weight.shape[0])

    def norm_kind(self, name: str) -> str:
        """By its tensors; "" without any."""
        if f"{name}.weight" not in self.tensors:
            return ""
        if f"{name}.bias" in self.tensors:
            return "layer"
        self.notes.append(f"{name} has no bias: taken for an RMSNorm, and all others of its kind with it")
        return "rms"

    def norm(self, tensors: Tensors, name: str, width: int, source: str = "") -> None:
        """A norm of `width` channels, of either kind; `source`: its name in the file, if that is another."""
        source = source or name
        for part in ("weight", "bias") if f"{source}.bias" in self.tensors else ("weight",):
            tensors[f"{name}.{part}"] = self.take(f"{source}.{part}", (width,))

    def dense(self, tensors: Tensors, name: str, outputs: int, inputs: int, scale: str = "") -> None:
        """A linear layer; `scale`: the LayerScale behind it, if there is one."""
        weight, bias = self.affine(name, outputs, inputs)
        if scale in self.tensors:
            gamma = self.take(scale, (outputs,))
            weight, bias = weight * gamma[:, None], bias * gamma
        tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}

    def experts(self, tensors: Tensors, block: str, width: int) -> tuple[int, int, int]:
        """The experts and gates of a layer; (experts, their hidden width, gates)."""
        first = self.take(f"{block}.mlp.experts.htoh4.weight", (None, None, width))
        experts, hidden = first.shape[:2]
        tensors[f"{block}.mlp.experts.htoh4.weight"] = first
        tensors[f"{block}.mlp.experts.htoh4.bias"] = self.take(f"{block}.mlp.experts.htoh4.bias", (experts, hidden))
        for part, shape in (("weight", (experts, width, hidden)), ("bias", (experts, width))):
            tensors[f"{block}.mlp.experts.h4toh.{part}"] = self.take(f"{block}.mlp.experts.h4toh.{part}", shape)
        gates = sorted(
            (name for name in self.tensors if re.fullmatch(rf"{re.escape(block)}\.mlp\.gate\.\d+\.w_gate", name)),
            key=lambda name: int(name.split(".")[4]),
        )
        if not gates:
            raise self.fail(f"{block}.mlp.gate.0.w_gate is missing")
        for number, name in enumerate(gates):
            tensors[f"{block}.mlp.gate.{number}.w_gate"] = self.take(name, (width, experts))
            bias = name.replace(".w_gate", ".bias")
            if bias in self.tensors:
                tensors[f"{block}.mlp.gate.{number}.bias"] = self.take(bias, (experts,))
        return experts, hidden, len(gates)

    # ---------------------------------------------------------------------------------------------------- facts

    def pixels(self, options: Options, channels: int) -> Scaling:
        """How pixels are scaled."""
        scaling = self.scaling
        if scaling is None:
            if channels != 3 and not (options.mean and options.std):
                raise self.fail(
                    f"its pictures have {channels} channels, whose scale is not known: give --mean and --std"
                )
            scaling = Scaling(*IMAGENET)
            if not (options.mean and options.std):
                self.notes.append("pixels are scaled with ImageNet's mean and std (--mean, --std say otherwise)")
        scaling = replace(scaling, mean=options.mean or scaling.mean, std=options.std or scaling.std)
        for what, values in (("mean", scaling.mean), ("std", scaling.std)):
            if len(values) != channels:
                raise self.fail(f"{what} has {len(values)} values for {channels} channels")
        if min(scaling.std) <= 0:
            raise self.fail(f"std is {scaling.std}, expected positive numbers")
        return scaling

    def positions(self, options: Options, width: int, patch: int) -> tuple[tuple[int, int], int, NDArray[np.float32]]:
        """(picture's size, rows before the patches, [tokens, width])."""
        single = np.concatenate([self.rows(name, width) for name in ("cls_token", "dist_token")])
        registers = self.rows("reg_token", width)
        stored = self.rows("pos_embed", width)
        if not len(stored):
            raise self.fail("pos_embed is missing: it has other positions than a row for each token")
        before = len(single) + len(registers)
        known = self.image_size or options.image_size
        counts = {before, len(single), 0}
        squares = {k: math.isqrt(len(stored) - k) for k in counts if len(stored) > k}
        fitting = [k for k, side in squares.items() if side * side == len(stored) - k]
        grid = (0, 0)
        if known and all(n % patch == 0 for n in known):
            shape = (known[0] // patch, known[1] // patch)
            exact = [k for k in counts if shape[0] * shape[1] == len(stored) - k]
            if exact:
                fitting, grid = exact, shape
        if not fitting:
            raise self.fail(
                f"pos_embed has {len(stored)} rows, which with {before} tokens before the patches is no square grid; "
                "give --image-size HEIGHTxWIDTH"
            )
        count = max(fitting)
        grid = grid if all(grid) else (squares[count], squares[count])
        if not known and count < len(single):  # what a picture that is not square may look like, too
            self.notes.append(
                f"its {len(stored)} positions are taken as {grid[0]} x {grid[1]} patches, none for the tokens before "
                "them (--image-size says otherwise)"
            )
        size = options.image_size or self.image_size or (grid[0] * patch, grid[1] * patch)
        for n in size:
            if n % patch:
                raise self.fail(f"pictures of {size[0]} x {size[1]} are no multiple of its patches of {patch}")
        wanted = (size[0] // patch, size[1] // patch)
        if wanted != grid:
            self.notes.append(
                f"positions are interpolated from {grid[0]} x {grid[1]} to {wanted[0]} x {wanted[1]} patches"
            )
        cells = resized(stored[count:].reshape(*grid, width), *wanted, antialias=self.antialias).reshape(-1, width)
        first = np.concatenate([single, registers])
        first[:count] += stored[:count]
        return size, before, np.concatenate([first, cells])

    def head_count(self, options: Options, width: int) -> int:
        """Attention heads, from the user or the files."""
        heads = options.heads or self.heads
        if heads is None:
            raise self.fail(f"how many heads its attention has stands nowhere in it (width {width}): give --heads N")
        if heads < 1 or width % heads:
            raise self.fail(f"{heads} heads do not divide its width {width}; give --heads N")
        if options.heads and self.heads and options.heads != self.heads:
            self.notes.append(f"{options.heads} heads, as told; the files say {self.heads}")
        return heads

    # ---------------------------------------------------------------------------------------------------- heads

    def task_heads(
        self, tensors: Tensors, options: Options, width: int, prefix: int, gates: int
    ) -> tuple[TaskConfig, ...]:
        """The tasks, and the tensors of their heads."""
        if "head.weight" in self.tensors:
            return (self.classifier(tensors, options, width, prefix),)
        if options.labels:
            raise self.fail("labels are for a classifier, and it has no head.weight")
        if "norm.weight" in self.tensors:
            names = options.tasks or ("features",)
            self.norm(tensors, f"heads.{names[0]}.norm", width, "norm")
            channels = 0
            if "projection.weight" in self.tensors:
                channels = self.outputs("projection")
                weight, bias = self.affine("projection", channels, width)
                tensors |= {f"heads.{names[0]}.proj.weight": weight, f"heads.{names[0]}.proj.bias": bias}
            return (TaskConfig(name=names[0], kind="features", channels=channels),)
        if [self.tensors.pop(f"fc_norm.{part}") for part in ("weight", "bias") if f"fc_norm.{part}" in self.tensors]:
            self.notes.append("fc_norm, the norm of the mean of the patches, is left out: tokens come as they are")
        if any(map(is_pup, self.decoders.values())):
            return self.decoder_tasks(tensors, options, width, gates)
        names = options.tasks or tuple(f"task{number}" for number in range(gates))
        if len(names) != gates:
            raise self.fail(f"it has {gates} tasks, and {len(names)} names are given")
        return tuple(TaskConfig(name=name, kind="tokens") for name in names)

    def decoder_tasks(self, tensors: Tensors, options: Options, width: int, gates: int) -> tuple[TaskConfig, ...]:
        """A task for each of M3ViT's decoders, with its gate."""
        names = options.tasks or tuple(self.decoders)
        if len(names) != len(self.decoders) or gates not in (1, len(names)):
            raise self.fail(f"it has {len(self.decoders)} decoders and {gates} gates, and {len(names)} names are given")
        # The user's names are the decoders' in the gates' order, or new ones for them.
        kinds = names if set(names) == set(self.decoders) else tuple(self.decoders)
        if gates < len(names):
            self.notes.append(f"its tasks share their gates: {listing(names)} get the same ones")
            for gate in [name for name in tensors if ".mlp.gate.0." in name]:
                tensors |= {gate.replace(".gate.0.", f".gate.{n}."): tensors[gate] for n in range(1, len(names))}
        elif gates > 1:
            order = ", ".join(f"{kind} gate {number}" for number, kind in enumerate(kinds))
            self.notes.append(
                f"gates are numbered, decoders named; in the file's order: {order} (--task, repeated, says otherwise)"
            )
        tasks = []
        for name, kind in zip(names, kinds, strict=True):
            if not is_pup(self.decoders[kind]):
                self.notes.append(f"the decoder of task {kind} is no PUP decoder and left out: the task gives tokens")
                tasks.append(TaskConfig(name=name, kind="tokens"))
                continue
            try:
                task, found = pup(name, kind, self.decoders[kind], width)
            except EdgemoeError as error:
                raise self.fail(str(error)) from error
            tasks.append(task)
            tensors |= found
        return tuple(tasks)

    def behind(
        self, tensors: Tensors, task: TaskConfig, options: Options, shape: tuple[int, int, int], scaling: Scaling
    ) -> tuple[tuple[TaskConfig, ...], dict[str, bytes]]:
        """What the graph makes of the final tokens as a task, and its graph; as it was, if that cannot be cut out."""
        std = np.asarray(scaling.std)
        affine = (scaling.rescale / std, -np.asarray(scaling.mean) / std)
        rows, width = tensors["pos_embed"].shape
        try:
            found = cut(self.graph, self.before, shape, affine, (rows, width))
        except EdgemoeError as error:
            self.notes.append(f"what stands behind the encoder is left out, {task.kind} are given: {error}")
            return (task,), {}
        if found is None:
            return (task,), {}
        self.notes += found.notes
        name = options.tasks[0] if options.tasks else found.name
        for part in ("weight", "bias"):
            tensors.pop(f"heads.{task.name}.norm.{part}", None)  # the graph has it
        return (TaskConfig(name=name, kind="map", channels=found.channels, decoder="onnx"),), {name: found.graph}

    def classifier(self, tensors: Tensors, options: Options, width: int, prefix: int) -> TaskConfig:
        """A linear layer over the picture's classes."""
        name = (options.tasks or ("classification",))[0]
        first = "fc_norm" in {key.partition(".")[0] for key in self.tensors}
        classes = self.outputs("head")
        pool = self.pool or ("mean-first" if first else "mean" if prefix == 0 else "cls")
        if "head_dist.weight" in self.tensors:
            pool = "distilled"
            parts = [self.affine(key, classes, width) for key in ("head", "head_dist")]
            weight, bias = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        elif self.tensors["head.weight"].shape[1] == 2 * width:
            pool = "cls+mean"
            both, one = self.affine("head", classes, 2 * width)
            weight, bias = np.concatenate([both[:, :width], both[:, width:]]), np.concatenate([one, np.zeros_like(one)])
        else:
            weight, bias = self.affine("head", classes, width)
        self.norm(tensors, f"heads.{name}.norm", width, "fc_norm" if first else "norm")
        tensors |= {f"heads.{name}.proj.weight": weight, f"heads.{name}.proj.bias": bias}
        labels = options.labels if options.labels is not None else self.labels
        if labels and len(labels) != classes:
            raise self.fail(f"there are {len(labels)} labels for {classes} classes")
        return TaskConfig(name=name, kind="classification", channels=classes, pool=pool, labels=labels)
