# SPDX-License-Identifier: Apache-2.0
"""What a model is: sizes, MoE layers and tasks, checked when constructed. Needs no PyTorch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal

from .errors import EdgemoeError, brief, listing
from .numbers.activation import ACTIVATIONS

NORM_KINDS = ("layer", "rms")  # operations.norms makes them
# operations.weighing, operations.feature_maps and operations.landmark_attention make them
ATTENTION_KINDS = ("softmax", "sigmoid", "relu", "two-pass", "softplus", "rela", "performer", "cosformer", "soft")
LINEAR_KINDS = ("performer", "cosformer")
LANDMARK_KIND = "soft"
LANDMARK_GRID = 2  # a landmark is the mean of so many by so many patches
UNSAID = ("features", "qk_norm")  # fields that files hold only where they are something
GATES = ("all", "top-k")
TASK_KINDS = ("segmentation", "depth", "map", "classification", "features", "tokens")
DECODERS = ("linear", "pup", "onnx")  # of segmentation, depth and maps
# Of a classifier: what its linear layer sees, and how many times its outputs a row then has.
POOLS = {"cls": 1, "distilled": 2, "mean": 1, "cls+mean": 2, "mean-first": 0}


# of any size: far above what runs, and small enough that a broken file cannot ask for more than there is
LARGEST = 1 << 20
MOST_LAYERS = 1024
MOST_TASKS = 64


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task: a router matrix per MoE layer and, unless it is of kind "tokens", a head.

    name      letters, digits, "_" or "-": it is a part of the tensor names
    kind      by a decoder: "segmentation" (logits of `channels` classes), "depth" (one channel, see `heads`), "map"
              (`channels` values, as they are); "classification" (of the picture, into `channels` classes), "features"
              (the tokens behind the final norm, or `channels` values of each by a matrix behind that), "tokens" (no
              head: those before it)
    channels  values per cell of the grid; classes
    decoder   "linear" (of each patch, on the array), or on the host: "pup" (M3ViT's convolutions), "onnx" (the graph
              that the checkpoint keeps for this task; "map" alone)
    grid      s: the linear decoder gives s x s cells per patch, so s * s * channels values per patch
    decoder_width  channels of the convolutions of "pup"
    pool      of a classifier, what the linear layer sees: "cls" (row 0, normalised), "distilled" (rows 0 and 1, a layer
              each, logits averaged), "mean" (of the normalised patches), "cls+mean" (both, one after the other),
              "mean-first" (the mean of the patches, then normalised)
    labels    names of the classes, or none
    """

    name: str
    kind: Literal["segmentation", "depth", "map", "classification", "features", "tokens"]
    channels: int = 0
    decoder: Literal["linear", "pup", "onnx"] = "linear"
    grid: int = 0
    decoder_width: int = 0
    pool: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if (
            not isinstance(self.name, str)
            or not 0 < len(self.name) <= 64
            or not all(c.isalnum() or c in "_-" for c in self.name)
        ):
            raise EdgemoeError(
                f"task name {brief(repr(self.name))}: expected letters, digits, '_' or '-'; rename the task"
            )
        if self.kind not in TASK_KINDS:
            raise EdgemoeError(
                f"task {self.name}: kind is {brief(repr(self.kind))}, expected one of {', '.join(TASK_KINDS)}"
            )
        counts = (self.channels, self.grid, self.decoder_width)
        if not all(map(_is_count, counts)):
            given = ", ".join(brief(repr(count)) for count in counts)
            raise EdgemoeError(
                f"task {self.name}: channels, grid and decoder_width must be integers of at most {LARGEST}, got {given}"
            )
        if self.decoder not in DECODERS:
            raise EdgemoeError(
                f"task {self.name}: decoder is {brief(repr(self.decoder))}, expected one of {', '.join(DECODERS)}"
            )
        self._check_kind()

    def _check_kind(self) -> None:
        has_decoder = self.kind in ("segmentation", "depth", "map")
        if self.decoder != "linear" and not has_decoder:
            raise EdgemoeError(f"task {self.name}: kind {self.kind!r} has no decoder, so none is {self.decoder!r}")
        if (self.decoder == "pup") != (self.decoder_width > 0):
            raise EdgemoeError(
                f"task {self.name}: decoder_width is {self.decoder_width}, expected at least 1 for decoder 'pup', and "
                "0 for others"
            )
        if self.kind == "classification":
            self._check_classifier()
        elif self.pool or self.labels:
            raise EdgemoeError(f"task {self.name}: pool and labels are for kind 'classification', not {self.kind!r}")
        elif self.kind in ("tokens", "features"):
            if self.kind == "tokens" and (self.channels or self.grid):
                raise EdgemoeError(f"task {self.name}: kind 'tokens' has no head; leave channels and grid at 0")
            if self.channels < 0 or self.grid:
                raise EdgemoeError(
                    f"task {self.name}: kind 'features' needs grid 0 and channels of 0 (no projection) or more, got "
                    f"{self.grid} and {self.channels}"
                )
        elif self.decoder != "linear":
            self._check_host_decoder()
        elif self.channels < 1 or self.grid < 1:
            raise EdgemoeError(
                f"task {self.name}: kind {self.kind!r} needs channels and grid of at least 1, got {self.channels} and "
                f"{self.grid}"
            )
        if self.kind == "depth" and self.channels != 1:
            raise EdgemoeError(f"task {self.name}: kind 'depth' has exactly 1 channel, got {self.channels}")

    def _check_host_decoder(self) -> None:
        if self.channels < 1 or self.grid:
            raise EdgemoeError(
                f"task {self.name}: decoder {self.decoder!r} needs channels of at least 1 and grid 0, got "
                f"{self.channels} and {self.grid}"
            )
        if self.decoder == "onnx" and self.kind != "map":
            raise EdgemoeError(f"task {self.name}: decoder 'onnx' gives a map, not {self.kind!r}")

    def _check_classifier(self) -> None:
        if self.channels < 1 or self.grid:
            raise EdgemoeError(
                f"task {self.name}: kind 'classification' needs channels of at least 1 and grid 0, got {self.channels} "
                f"and {self.grid}"
            )
        if self.pool not in POOLS:
            raise EdgemoeError(
                f"task {self.name}: pool is {brief(repr(self.pool))}, expected one of {', '.join(POOLS)}"
            )
        if self.labels and len(self.labels) != self.channels:
            raise EdgemoeError(
                f"task {self.name}: {len(self.labels)} labels for {self.channels} classes; give one for each, in order"
            )
        if not all(isinstance(label, str) for label in self.labels):
            raise EdgemoeError(f"task {self.name}: labels must be texts")

    @property
    def head_outputs(self) -> int:
        """Values that the array computes of each row of the head, 0 if it computes none.

        Of a patch decoder s * s * channels, in the order s row, s column, channel (fastest).
        """
        if self.kind == "classification":
            return POOLS[self.pool] * self.channels
        return self.grid * self.grid * self.channels


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """An M3ViT: a pre-norm Vision Transformer, some of whose layers have a Mixture of Experts in place of the MLP.

    image_height, image_width, image_channels   pixels; one unsigned 8-bit value per pixel and channel
    patch           side of a square patch, pixels
    width           words of a token
    heads           attention heads; each is width / heads wide
    layers          number of layers
    hidden          hidden width of the MLP of the layers that are no MoE layer
    experts, expert_hidden, top_k, moe_layers   the MoE; a plain Vision Transformer has experts=0 and moe_layers=()
    tasks           at least one
    norm            kind of the norms: "layer" (LayerNorm) or "rms" (RMSNorm)
    eps             added to the variance in them
    gate            what scores are the softmax of: "all" experts, or of the "top-k" chosen ones
    gate_bias       whether routers have a bias
    pre_norm        whether there is a norm of the embedded rows, before the layers
    activation      function between the two matrices of an MLP or an expert, see numbers.activation
    prefix          rows of a stream before its patches: CLS token, distillation token, registers
    attention       what weighs the values of n tokens by the scores s = q k / sqrt(d): "softmax", "sigmoid"
                    (1 / (1 + n exp(-s)): no row is normalised), "relu" (max(s, 0) / n, likewise), "two-pass"
                    (softmax, whose sum is kept by exponents as scores come out), "softplus" (relu(a / mean - 1)^15 of
                    a = softplus(s), normalised), "rela" (max(s, 0); the results o of
                    all heads are then normalised and gated, g o / sqrt(mean of o^2 + eps) sigmoid(w o)); or by the
                    products of features of queries and keys, each row divided
                    by its sum: "performer" (max(w x / d^(1/4), 0) + 0.001 for fixed vectors w), "cosformer" (max(x, 0)
                    times sine and cosine of i/n of a quarter turn, for token i); or, with keys that are queries, by
                    their distances from means of 2 x 2 patches: "soft" (K1 (K2 + 0.01 I)^-1 K1^T, K = exp(-|a - b|^2
                    / 2))
    features        number of Performer's vectors; 0: d ln d of them, d = width / heads
    qk_norm         kind of the norms of each head's queries and keys, of those of `norm`; "": there are none
    """

    name: str
    image_height: int
    image_width: int
    image_channels: int = 3
    patch: int = 16
    width: int
    heads: int
    layers: int
    hidden: int
    experts: int
    expert_hidden: int
    top_k: int
    moe_layers: tuple[int, ...]
    tasks: tuple[TaskConfig, ...]
    norm: str = "layer"
    eps: float = 1e-6
    prefix: int = 1
    attention: str = "softmax"
    features: int = 0
    activation: str = "gelu"
    gate: str = "all"
    gate_bias: bool = False
    pre_norm: bool = False
    qk_norm: str = ""

    def __post_init__(self) -> None:
        # Lists (as JSON gives them) become tuples, so that a configuration stays hashable.
        object.__setattr__(self, "moe_layers", tuple(self.moe_layers))
        object.__setattr__(self, "tasks", tuple(self.tasks))

        def fail(text: str) -> None:
            raise EdgemoeError(f"model {self.name}: {text}")

        if not isinstance(self.name, str) or not 0 < len(self.name) <= 64:
            raise EdgemoeError(f"model name is {brief(repr(self.name))}: expected a text of 1 to 64 characters")
        for field in ("image_height", "image_width", "image_channels", "patch", "width", "heads", "layers"):
            value = getattr(self, field)
            if not _is_count(value) or value < 1:
                fail(f"{field} is {brief(repr(value))}, expected an integer from 1 to {LARGEST}")
        for field in ("hidden", "experts", "expert_hidden", "top_k", "prefix", "features"):
            value = getattr(self, field)
            if not _is_count(value) or value < 0:
                fail(f"{field} is {brief(repr(value))}, expected an integer from 0 to {LARGEST}")
        if self.layers > MOST_LAYERS:
            fail(f"layers is {self.layers}, expected at most {MOST_LAYERS}")
        for field in ("image_height", "image_width"):
            if getattr(self, field) % self.patch:
                fail(
                    f"{field} is {getattr(self, field)}, expected a multiple of the patch side {self.patch}; crop or "
                    f"resize the image"
                )
        if self.width % self.heads:
            fail(f"width is {self.width}, expected a multiple of the {self.heads} heads")
        for layer in self.moe_layers:
            if not _is_count(layer) or not 0 <= layer < self.layers:
                fail(f"moe_layers names layer {brief(repr(layer))}, expected layers 0 to {self.layers - 1}")
        if list(self.moe_layers) != sorted(set(self.moe_layers)):
            fail(f"moe_layers is {brief(self.moe_layers)}, expected each layer once and in ascending order")
        if self.moe_layers:
            if self.experts < 1 or self.expert_hidden < 1:
                fail(
                    f"{len(self.moe_layers)} MoE layers need experts and expert_hidden of at least 1, got "
                    f"{self.experts} and "
                    f"{self.expert_hidden}; for a plain Vision Transformer set moe_layers=()"
                )
            if not 1 <= self.top_k <= self.experts:
                fail(f"top_k is {self.top_k}, expected 1 to the number of experts, {self.experts}")
        elif self.experts:
            fail(
                f"{self.experts} experts but no MoE layer; set moe_layers, or experts=0 for a plain Vision Transformer"
            )
        if len(self.moe_layers) < self.layers and self.hidden < 1:
            fail("hidden is 0, but some layers are no MoE layers and need an MLP; set hidden to at least 1")
        if not self.tasks:
            fail("no task; give at least one TaskConfig (kind 'tokens' for none of the known heads)")
        if len(self.tasks) > MOST_TASKS:
            fail(f"it has {len(self.tasks)} tasks, expected at most {MOST_TASKS}")
        for task in self.tasks:
            if not isinstance(task, TaskConfig):
                fail(f"tasks holds {brief(repr(task))}, expected a TaskConfig")
            needed = {"cls": 1, "distilled": 2, "cls+mean": 1}.get(task.pool, 0)
            if self.prefix < needed:
                fail(f"task {task.name}: pool {task.pool!r} needs {needed} rows before the patches, got {self.prefix}")
            if task.grid > self.patch:
                fail(f"task {task.name}: grid is {task.grid}, expected at most the patch side {self.patch}")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            fail(f"task names are {brief(', '.join(names))}: expected each name once")
        if self.norm not in NORM_KINDS:
            fail(f"norm is {brief(repr(self.norm))}, expected one of {', '.join(NORM_KINDS)}")
        if self.attention not in ATTENTION_KINDS:
            fail(f"attention is {brief(repr(self.attention))}, expected one of {', '.join(ATTENTION_KINDS)}")
        if self.qk_norm and self.qk_norm not in NORM_KINDS:
            fail(f"qk_norm is {brief(repr(self.qk_norm))}, expected one of {', '.join(NORM_KINDS)}, or nothing")
        if self.attention == LANDMARK_KIND and not self.landmarks:
            fail(f"{LANDMARK_KIND} attention needs at least {LANDMARK_GRID} x {LANDMARK_GRID} patches")
        if self.qk_norm and self.attention in (*LINEAR_KINDS, LANDMARK_KIND):
            fail(f"qk_norm is for attention with scores, not for {self.attention}")
        if self.gate not in GATES:
            fail(f"gate is {brief(repr(self.gate))}, expected one of {', '.join(GATES)}")
        for field in ("gate_bias", "pre_norm"):
            if not isinstance(getattr(self, field), bool):
                fail(f"{field} is {brief(repr(getattr(self, field)))}, expected true or false")
        if self.activation not in ACTIVATIONS:
            fail(f"activation is {brief(repr(self.activation))}, expected one of {', '.join(ACTIVATIONS)}")
        if not isinstance(self.eps, float) or not 0 < self.eps < 1:
            fail(f"eps is {brief(repr(self.eps))}, expected a number between 0 and 1")

    @property
    def patches_per_row(self) -> int:
        return self.image_width // self.patch

    @property
    def patches_per_column(self) -> int:
        return self.image_height // self.patch

    @property
    def patches(self) -> int:
        """Number of patches; they are numbered row by row from the top left."""
        return self.patches_per_row * self.patches_per_column

    @property
    def packable(self) -> bool:
        """Whether products of its matrices can share multipliers: what these kinds of attention give has no maxima."""
        return self.attention not in (*LINEAR_KINDS, LANDMARK_KIND)

    @property
    def weighings(self) -> str:
        """Kinds of attention that a build has for it, as its configuration lists them: landmarks need softmax's."""
        return ",".join(dict.fromkeys(("softmax", "softmax" if self.attention == LANDMARK_KIND else self.attention)))

    @property
    def landmarks(self) -> int:
        """Means of patches that "soft" attention has."""
        return (self.patches_per_row // LANDMARK_GRID) * (self.patches_per_column // LANDMARK_GRID)

    @property
    def tokens(self) -> int:
        """Rows of a stream: the prefix (the CLS token is row 0), then the patches."""
        return self.patches + self.prefix

    def head_rows(self, task: TaskConfig) -> range:
        """The rows of a stream that a task's head on the array sees."""
        if task.pool in ("cls", "distilled"):
            return range(POOLS[task.pool])
        return range(0 if task.pool == "cls+mean" else self.prefix, self.tokens)

    @property
    def patch_size_words(self) -> int:
        """Values of one patch: image_channels * patch * patch."""
        return self.image_channels * self.patch * self.patch

    @property
    def head_width(self) -> int:
        """Words of one attention head."""
        return self.width // self.heads

    def is_moe(self, layer: int) -> bool:
        return layer in self.moe_layers

    def task_index(self, task: int | str) -> int:
        """Index of a task given by name or index."""
        names = [t.name for t in self.tasks]
        if isinstance(task, str) and task in names:
            return names.index(task)
        if not isinstance(task, str) and 0 <= task < len(names):
            return int(task)
        raise EdgemoeError(
            f"model {self.name} has no task {brief(repr(task))}; its tasks are {listing(names)} (0 to {len(names) - 1})"
        )

    def to_json(self) -> str:
        fields = dataclasses.asdict(self)
        return json.dumps({name: value for name, value in fields.items() if name not in UNSAID or value})

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """The inverse of `to_json`; anything else raises EdgemoeError."""
        try:
            fields: dict[str, Any] = json.loads(text)
            fields["tasks"] = tuple(TaskConfig(**task) for task in fields["tasks"])
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = brief(repr(error), 120)
            raise EdgemoeError(
                f"model configuration is no valid JSON of a ModelConfig ({why}); write it with to_json"
            ) from error


PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        # The size of Edge-MoE's M3ViT: a DeiT-Tiny trunk on 128x256 Cityscapes frames.
        ModelConfig(
            name="m3vit-t",
            image_height=128,
            image_width=256,
            width=192,
            heads=3,
            layers=12,
            hidden=768,
            experts=16,
            expert_hidden=384,
            top_k=2,
            moe_layers=(1, 3, 5, 7, 9, 11),
            tasks=(TaskConfig(name="task0", kind="tokens"), TaskConfig(name="task1", kind="tokens")),
        ),
        # Small enough to train on a laptop's CPU and to simulate gate by gate; every width is a multiple of 32.
        ModelConfig(
            name="m3vit-micro",
            image_height=128,
            image_width=256,
            width=96,
            heads=3,
            layers=4,
            hidden=384,
            experts=8,
            expert_hidden=128,
            top_k=2,
            moe_layers=(1, 3),
            tasks=(
                TaskConfig(name="segmentation", kind="segmentation", channels=7, grid=8),
                TaskConfig(name="depth", kind="depth", channels=1, grid=8),
            ),
        ),
    )
}
# The same with attention that normalises no row.
PRESETS["m3vit-micro-sigmoid"] = dataclasses.replace(
    PRESETS["m3vit-micro"], name="m3vit-micro-sigmoid", attention="sigmoid"
)
# The same on a window of the picture, for devices with room for 50 tokens.
PRESETS["m3vit-nano"] = dataclasses.replace(
    PRESETS["m3vit-micro"], name="m3vit-nano", image_height=112, image_width=112
)


def preset(name: str) -> ModelConfig:
    """A preset by name."""
    if name not in PRESETS:
        raise EdgemoeError(f"no model preset {name!r}; the presets are {', '.join(PRESETS)}")
    return PRESETS[name]
