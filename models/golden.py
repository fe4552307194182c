# SPDX-License-Identifier: Apache-2.0
"""The float M3ViT: what the paper means, in one file. Everything else in the repository is compared with this.

Letters in the shape comments: B images, C colour channels, H and W pixels, p patch side, N patches, P tokens before
them (CLS), T = P + N tokens, D width, h heads, d = D / h head width, M hidden width, E experts, X expert hidden width,
k = top_k, S tokens of one expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import Checkpoint, expected_tensors
from .config import ModelConfig, TaskConfig
from .errors import EdgemoeError


@dataclass
class Output:
    """What one forward pass gives.

    tokens         [B, T, D]  the residual stream after the last layer; no norm follows in the trunk
    head           [B, N, s * s * channels]  the task's linear decoder; [B, 16 rows, 16 columns, channels] of M3ViT's
                   convolutions; a classifier's linear layer [B, rows, outputs] of the rows that it sees, before logits
                   are averaged; features [B, T, D or channels]; None for kind "tokens", and where a graph decodes these
    routing        layer -> [B, T, k]  expert indices, highest score first
    scores         layer -> [B, T, k]  their softmax probabilities, over what the model's gate says
    probabilities  layer -> [B, T, E]  the router's whole softmax; only with trace
    attended       [B, T, D] each: the residual stream after each layer's attention; only with trace
    layers         [B, T, D] each: the residual stream after each layer; only with trace
    embedded       [B, T, D]  the residual stream before layer 0, and before the norm there; only with trace
    normalised     [B, T, D]  behind that norm; only with trace, and None of models without one
    """

    tokens: Tensor
    head: Tensor | None = None
    routing: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[int, Tensor] = field(default_factory=dict)
    probabilities: dict[int, Tensor] = field(default_factory=dict)
    attended: list[Tensor] = field(default_factory=list)
    layers: list[Tensor] = field(default_factory=list)
    embedded: Tensor | None = None
    normalised: Tensor | None = None


class PatchEmbed(nn.Module):
    """Cuts the image into patches, row by row, and maps each to a token. The weight is a convolution's, as in timm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.proj = nn.Conv2d(config.image_channels, config.width, config.patch, config.patch)

    def forward(self, images: Tensor) -> Tensor:
        batch, channels, height, width = images.shape  # B, C, H, W
        p = self.patch
        x = images.reshape(batch, channels, height // p, p, width // p, p)  # [B, C, H/p, p, W/p, p]
        x = x.permute(0, 2, 4, 1, 3, 5)  # [B, H/p, W/p, C, p, p]
        x = x.reshape(batch, -1, channels * p * p)  # [B, N, C*p*p]
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)  # [B, N, D]


def two_pass(scores: Tensor) -> Tensor:
    """Softmax from the parts of e^s = m 2^n: the sum is a pair (M, E), E the largest n."""
    whole = (scores / math.log(2)).round()  # n: [B, h, T, n]
    parts = (scores / math.log(2) - whole).exp2()  # m
    largest = whole.amax(dim=-1, keepdim=True)  # E: [B, h, T, 1]
    parts = parts * (whole - largest).exp2()
    return parts / parts.sum(dim=-1, keepdim=True)


def reweighted(scores: Tensor) -> Tensor:
    """Softplus, re-weighted: what is above the row's mean, to the 15th power, over its sum; 1e-6 above is not above."""
    shares = F.softplus(scores) / F.softplus(scores).mean(dim=-1, keepdim=True)  # [B, h, T, n]
    above = (shares - 1).relu()
    power = (above / above.amax(dim=-1, keepdim=True).clamp(min=1e-6)) ** 15
    return power / power.sum(dim=-1, keepdim=True).clamp(min=1e-6)


# What weighs n values by their scores [B, h, T, n].
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.softmax(dim=-1),
    "sigmoid": lambda scores: (scores - math.log(scores.shape[-1])).sigmoid(),
    "relu": lambda scores: scores.relu() / scores.shape[-1],
    "two-pass": two_pass,
    "softplus": reweighted,
    "rela": F.relu,
}


def cosformer(x: Tensor, vectors: Tensor | None) -> Tensor:
    """Times sine and cosine of the position, 1/T to 1 of a quarter turn: [B, h, T, 2 d]."""
    angle = torch.arange(1, x.shape[-2] + 1, dtype=x.dtype)[:, None] * math.pi / 2 / x.shape[-2]
    return torch.cat([x.relu() * angle.sin(), x.relu() * angle.cos()], dim=-1)


# Features of queries or keys [B, h, T, d], given fixed vectors [m, d].
FEATURES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "cosformer": cosformer,
    "performer": lambda x, vectors: (x / x.shape[-1] ** 0.25 @ vectors.T).relu() + 1e-3,
}


def softened(x: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
    """K1 (K2 + 0.01 I)^-1 (K1^T V) of points x / d^(1/4), x [B, h, T, d]; landmarks are means of 2 x 2 patches."""
    x = x / x.shape[-1] ** 0.25
    patches = x[..., x.shape[-2] - grid[0] * grid[1] :, :].unflatten(-2, grid)  # [B, h, rows, columns, d]
    rows, columns = (count // 2 * 2 for count in grid)
    blocks = patches[..., :rows, :columns, :].unflatten(-2, (-1, 2)).unflatten(-4, (-1, 2))
    marks = blocks.mean(dim=(-4, -2)).flatten(-3, -2)  # [B, h, m, d]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[..., :, None, :] - b[..., None, :, :]).square().sum(dim=-1) / 2).exp()

    near, among = kernel(x, marks), kernel(marks, marks) + 0.01 * torch.eye(marks.shape[-2], dtype=x.dtype)
    return near @ torch.linalg.solve(among, near.transpose(-2, -1) @ value)  # [B, h, T, d]


NORMS: dict[str, type[nn.LayerNorm | nn.RMSNorm]] = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}


class GatedNorm(nn.Module):
    """g * x / sqrt(mean of x^2 + eps) * sigmoid(w * x)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))  # g
        self.gate = nn.Parameter(torch.ones(width))  # w

    def forward(self, x: Tensor) -> Tensor:
        scaled = x * (x.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()  # [B, T, D]
        return self.weight * scaled * (self.gate * x).sigmoid()  # [B, T, D]


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V, per head, or another function of the scores than softmax; or f(Q) (f(K)^T V) divided
    by f(Q) (f(K)^T 1); or `softened` values, without keys. Queries and keys of each head may be normalised. ReLA has a
    gated norm of the results of all heads.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kind = config.heads, config.attention
        self.grid = (config.patches_per_column, config.patches_per_row)
        self.qkv = nn.Linear(config.width, (2 if self.kind == "soft" else 3) * config.width)
        self.proj = nn.Linear(config.width, config.width)
        if config.qk_norm:
            self.q_norm, self.k_norm = (NORMS[config.qk_norm](config.head_width, eps=config.eps) for _ in range(2))
        self.normed = bool(config.qk_norm)
        if shape := expected_tensors(config).get("blocks.0.attn.features"):
            self.features = nn.Parameter(torch.randn(shape), requires_grad=False)
        self.norm = GatedNorm(config.width, config.eps) if config.attention == "rela" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape  # B, T, D
        qkv = self.qkv(x)  # [B, T, 3*D]; without keys 2*D
        qkv = qkv.reshape(batch, tokens, -1, self.heads, width // self.heads)  # [B, T, 3, h, d]
        query, *keys, value = qkv.permute(2, 0, 3, 1, 4)  # [B, h, T, d] each
        key = keys[0] if keys else query
        if self.normed:
            query, key = self.q_norm(query), self.k_norm(key)
        if self.kind == "soft":
            x = softened(query, value, self.grid)  # [B, h, T, d]
        elif self.kind in FEATURES:
            vectors = getattr(self, "features", None)
            query, key = (FEATURES[self.kind](side, vectors) for side in (query, key))  # [B, h, T, m] each
            x = query @ (key.transpose(-2, -1) @ value)  # [B, h, T, d]
            x = x / (query @ key.sum(dim=-2)[..., None]).clamp(min=1e-6 if self.kind == "cosformer" else 0.0)
        else:
            scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)  # [B, h, T, T]
            x = WEIGHTS[self.kind](scores) @ value  # [B, h, T, d]
        x = x.transpose(1, 2).reshape(batch, tokens, width)  # [B, T, D]
        return self.proj(self.norm(x))  # [B, T, D]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # x * (1 + erf(x / sqrt(2))) / 2
    "gelu-tanh": partial(F.gelu, approximate="tanh"),
    "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu": F.relu,
}


class Mlp(nn.Module):
    """fc2(f(fc1(x))) with the activation function f."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.fc1(x))  # [B, T, M]
        return self.fc2(x)  # [B, T, D]


class Router(nn.Module):
    """softmax(x @ w_gate) over all experts; M3ViT's own gates have no bias, those of a task's representation do."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.empty(config.width, config.experts))
        self.bias = nn.Parameter(torch.zeros(config.experts)) if config.gate_bias else None
        nn.init.normal_(self.w_gate, std=0.5 / math.sqrt(config.width))

    def forward(self, x: Tensor) -> Tensor:
        logits = x @ self.w_gate  # [..., E]
        return (logits if self.bias is None else logits + self.bias).softmax(dim=-1)  # [..., E]


class ExpertLinear(nn.Module):
    """The same layer of all experts: weight [E, outputs, inputs], bias [E, outputs]."""

    def __init__(self, experts: int, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(experts, outputs))
        nn.init.normal_(self.weight, std=0.5 / math.sqrt(inputs))


class Experts(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.htoh4 = ExpertLinear(config.experts, config.expert_hidden, config.width)
        self.h4toh = ExpertLinear(config.experts, config.width, config.expert_hidden)

    def forward(self, expert: int, x: Tensor) -> Tensor:
        x = self.activation(F.linear(x, self.htoh4.weight[expert], self.htoh4.bias[expert]))  # [S, X]
        return F.linear(x, self.h4toh.weight[expert], self.h4toh.bias[expert])  # [S, D]


class MixtureOfExperts(nn.Module):
    """y = sum over the token's k experts e of p_e * expert_e(x), with p the softmax over all E experts, not
    renormalised, or, of the gate "top-k", over the k chosen ones.

    One router per task; the experts are common. Experts run one after another over the queue of their tokens, as in
    hardware.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.top_k, self.among_chosen = config.top_k, config.gate == "top-k"
        self.gate = nn.ModuleList(Router(config) for _ in config.tasks)
        self.experts = Experts(config)

    def forward(self, x: Tensor, task: int, chosen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[B, T, D] -> y [B, T, D], indices [B, T, k], scores [B, T, k], probabilities [B, T, E].
        `chosen` holds the indices.
        """
        probabilities = self.gate[task](x)  # [B, T, E]
        if chosen is None:
            # A stable sort, not topk: of equal probabilities the lowest expert index goes first.
            chosen = probabilities.sort(dim=-1, descending=True, stable=True).indices[..., : self.top_k]  # [B, T, k]
        scores = probabilities.gather(-1, chosen)  # [B, T, k]
        if self.among_chosen:
            scores = scores / scores.sum(dim=-1, keepdim=True)  # [B, T, k]

        rows = x.flatten(0, 1)  # [B*T, D]
        order = chosen.flatten().argsort(stable=True)  # [B*T*k] queue entries, expert by expert, tokens in order
        tokens = order // self.top_k  # [B*T*k] the row of each entry
        lengths = chosen.flatten().bincount(minlength=probabilities.shape[-1])  # [E]
        queues = rows[tokens].split(lengths.tolist())  # E times [S, D]
        results = [self.experts(expert, queue) for expert, queue in enumerate(queues) if len(queue)]  # [S, D] each
        weighted = torch.cat(results) * scores.flatten()[order, None]  # [B*T*k, D]
        y = torch.zeros_like(rows, dtype=weighted.dtype).index_add(0, tokens, weighted)  # [B*T, D]
        return y.reshape(x.shape), chosen, scores, probabilities


class Block(nn.Module):
    """x + attention(norm1(x)), then x + mlp(norm2(x)), where the MLP may be a Mixture of Experts."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm1 = NORMS[config.norm](config.width, eps=config.eps)
        self.attn = Attention(config)
        self.norm2 = NORMS[config.norm](config.width, eps=config.eps)
        self.mlp: MixtureOfExperts | Mlp = MixtureOfExperts(config) if config.is_moe(layer) else Mlp(config)


class Head(nn.Module):
    """A linear patch decoder: each patch's token gives s x s cells of `channels` values (s row, s column, channel
    fastest). Or M3ViT's convolutions, a classifier's linear layer, or the final norm alone.
    """

    def __init__(self, config: ModelConfig, task: TaskConfig) -> None:
        super().__init__()
        self.kind, self.pool, self.prefix, self.decoder = task.kind, task.pool, config.prefix, task.decoder
        self.grid = (config.patches_per_column, config.patches_per_row)
        self.norm = NORMS[config.norm](config.width, eps=config.eps)
        if task.decoder == "pup":
            inner = task.decoder_width
            self.conv0 = nn.Conv2d(config.width, inner, 3, padding=1)
            self.conv1 = nn.Conv2d(inner, inner, 3, padding=1)
            self.conv2 = nn.Conv2d(inner, inner, 3, padding=1)
            self.conv3 = nn.Conv2d(inner, inner, 3, padding=1)
            self.conv4 = nn.Conv2d(inner, task.channels, 1)
        elif task.kind == "features":
            self.proj = nn.Linear(config.width, task.channels) if task.channels else nn.Identity()
        else:
            self.proj = nn.Linear(config.width, task.head_outputs or task.channels)

    def forward(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, self.prefix :]  # [B, N, D]
        if self.kind == "features":
            return self.proj(self.norm(tokens))  # [B, T, D or channels]
        if self.decoder == "pup":
            return self.upsample(self.norm(patches))  # [B, 16 rows, 16 columns, channels]
        if self.pool == "mean-first":
            return self.proj(self.norm(patches.mean(dim=1, keepdim=True)))  # [B, 1, classes]
        seen = {"cls": tokens[:, :1], "distilled": tokens[:, :2], "cls+mean": tokens}.get(self.pool, patches)
        return self.proj(self.norm(seen))  # [B, N, s*s*channels], or [B, rows, outputs]

    def upsample(self, patches: Tensor) -> Tensor:
        x = patches.transpose(1, 2).unflatten(2, self.grid)  # [B, D, rows, columns]
        for conv in (self.conv0, self.conv1, self.conv2):
            x = F.interpolate(conv(x).relu(), scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.conv4(self.conv3(x).relu())  # [B, channels, 8 rows, 8 columns]
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return x.permute(0, 2, 3, 1)


def has_head(task: TaskConfig) -> bool:
    """Whether a task goes on behind the trunk, here."""
    return task.kind != "tokens" and task.decoder != "onnx"


class Golden(nn.Module):
    """The float M3ViT of a configuration (random weights) or of a checkpoint. `.double()` makes it run in float64.

    The names in `state_dict` are the checkpoint's tensor names.
    """

    def __init__(self, source: Checkpoint | ModelConfig) -> None:
        super().__init__()
        config = source.config if isinstance(source, Checkpoint) else source
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = nn.Parameter(torch.empty(config.tokens, config.width))
        self.norm_pre = NORMS[config.norm](config.width, eps=config.eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.heads = nn.ModuleDict({t.name: Head(config, t) for t in config.tasks if has_head(t)})
        nn.init.normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.5 / math.sqrt(module.weight[0].numel()))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(source, Checkpoint):
            self.load_checkpoint(source)

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        if checkpoint.config != self.config:
            raise EdgemoeError(
                f"the checkpoint is of model {checkpoint.config.name}, expected the configuration of {self.config.name}"
            )
        self.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in checkpoint.tensors.items()})

    def to_checkpoint(self) -> Checkpoint:
        state = self.state_dict()
        return Checkpoint(
            self.config, {name: state[name].float().cpu().numpy().copy() for name in expected_tensors(self.config)}
        )

    def embed(self, images: Tensor | np.ndarray) -> Tensor:
        """uint8 [B, C, H, W] -> the residual stream before layer 0, [B, T, D]."""
        x = torch.as_tensor(images)
        if x.dim() == 3:
            x = x[None]  # [1, C, H, W]
        expected = (self.config.image_channels, self.config.image_height, self.config.image_width)
        if x.dtype != torch.uint8 or tuple(x.shape[1:]) != expected:
            shape = "x".join(map(str, expected))
            raise EdgemoeError(
                f"image is {x.dtype} {list(x.shape)}, expected uint8 {shape} (or a batch of them); convert or resize it"
            )
        x = x.to(self.pos_embed.dtype) / 256  # [B, C, H, W]
        patches = self.patch_embed(x)  # [B, N, D]
        # The CLS token and others are folded into pos_embed's first rows.
        prefix = patches.new_zeros(len(patches), self.config.prefix, patches.shape[-1])  # [B, P, D]
        return torch.cat([prefix, patches], dim=1) + self.pos_embed  # [B, T, D]

    def layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(
        self,
        images: Tensor | np.ndarray,
        task: int | str = 0,
        routing: Mapping[int, Tensor | np.ndarray] | None = None,
        trace: bool = False,
    ) -> Output:
        """uint8 images [B, C, H, W] or [C, H, W] -> Output.

        With `routing` (layer -> expert indices, [B, T, k] or [T, k]) the choice of experts is held in these layers; the
        weights are still the model's own probabilities at those indices.
        """
        index = self.config.task_index(task)
        x = self.embed(images)  # [B, T, D]
        output = Output(tokens=x, embedded=x if trace else None)
        x = self.norm_pre(x)  # [B, T, D]
        output.normalised = x if trace and self.config.pre_norm else None
        for layer, block in enumerate(self.layers()):
            x = x + block.attn(block.norm1(x))  # [B, T, D]
            if trace:
                output.attended.append(x)
            y = block.norm2(x)  # [B, T, D]
            if isinstance(block.mlp, MixtureOfExperts):
                held = None
                if routing is not None and layer in routing:
                    shape = (*x.shape[:2], self.config.top_k)
                    # [B, T, k]
                    held = torch.as_tensor(routing[layer], dtype=torch.int64, device=x.device).reshape(shape)
                # [B, T, D], [B, T, k], [B, T, k], [B, T, E]
                y, chosen, scores, probabilities = block.mlp(y, index, held)
                output.routing[layer], output.scores[layer] = chosen, scores
                if trace:
                    output.probabilities[layer] = probabilities
            else:
                y = block.mlp(y)  # [B, T, D]
            x = x + y  # [B, T, D]
            if trace:
                output.layers.append(x)
        output.tokens = x
        name = self.config.tasks[index].name
        if name in self.heads:
            output.head = self.heads[name](x)  # [B, N, s*s*channels]
        return output
