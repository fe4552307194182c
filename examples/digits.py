# SPDX-License-Identifier: Apache-2.0
"""A classifier from its training to the hardware, on real data: scikit-learn's 1,797 handwritten digits, 8 x 8 pixels.

    python examples/digits.py                 (half a minute; --pictures 64 simulates fewer)
    python examples/digits.py --attention all (each kind of attention is trained, and all stand in one table)

A small Vision Transformer in plain PyTorch is trained for some seconds, saved as anyone saves a model, imported,
calibrated on pictures of its training, and tried on the third of the pictures that it never saw: in floating point, in
the emulator, and on the simulated hardware, which must agree with the emulator in every value.

The same by hand, with what this leaves behind:

    ./edgemoe import out/digits/digits.pth -o mine.safetensors --heads 2 --mean .5 --std .5 --calibrate PICTURE ...
    ./edgemoe infer out/digits/7.png --checkpoint out/digits/digits.safetensors --hardware tiny
    ./edgemoe check --image out/digits/7.png --checkpoint out/digits/digits.safetensors --hardware tiny

Needs PyTorch and scikit-learn: `pip install -e '.[sim,golden]' scikit-learn`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import edgemoe
import numpy as np
import torch
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.importers import layouts, sources
from edgemoe.models.importers.vit import Options
from edgemoe.models.numbers.calibrate import calibrate
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

# What fits the smallest hardware, "tiny", which is 32 words wide; its 40 rows take 8 pictures of 5 tokens at a time.
SIDE, PATCH, CLASSES = 8, 4, 10
WIDTH, HEADS, HIDDEN, LAYERS = 32, 2, 64, 3
MEAN = STD = 0.5  # pixels become -1 to 1
EPOCHS, BATCH, PEAK_RATE = 40, 64, 3e-3
CALIBRATION = 64  # pictures
EPS = 1e-6  # of timm's norms


def two_pass(scores: Tensor) -> Tensor:
    """Softmax from the parts of e^s = m 2^n, its sum a pair (M, E)."""
    whole = (scores / math.log(2)).round().detach()
    parts = (scores / math.log(2) - whole).exp2() * (whole - whole.amax(-1, keepdim=True)).exp2()
    return parts / parts.sum(-1, keepdim=True)


def reweighted(scores: Tensor) -> Tensor:
    """Softplus, re-weighted: the 15th power of what is above a row's mean, over its sum."""
    positive = F.softplus(scores)
    above = (positive / positive.mean(-1, keepdim=True) - 1).relu()
    power = (above / above.amax(-1, keepdim=True).clamp(min=1e-6)) ** 15
    return power / power.sum(-1, keepdim=True).clamp(min=1e-6)


# What weighs the values of n tokens by their scores [B, h, T, n].
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.softmax(-1),
    "sigmoid": lambda scores: (scores - math.log(scores.shape[-1])).sigmoid(),
    "relu": lambda scores: scores.relu() / scores.shape[-1],
    "two-pass": two_pass,
    "softplus": reweighted,
    "rela": F.relu,
}


def cosformer(x: Tensor) -> Tensor:
    """Features times sine and cosine of the position, 1/T to 1 of a quarter turn: [B, h, T, 2 d]."""
    angle = torch.arange(1, x.shape[-2] + 1)[:, None] * math.pi / 2 / x.shape[-2]
    return torch.cat([x * angle.sin(), x * angle.cos()], dim=-1)


# Features of queries or keys [B, h, T, d], given fixed vectors [m, d]: products of these weigh the values.
FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosformer": lambda x, _: cosformer(x.relu()),
    "performer": lambda x, vectors: (x / x.shape[-1] ** 0.25 @ vectors.T).relu() + 1e-3,
}


def softened(x: Tensor, value: Tensor) -> Tensor:
    """By distances from means of 2 x 2 patches: K1 (K2 + 0.01 I)^-1 (K1^T V), K = exp(-|a - b|^2 / 2)."""
    x, side = x / x.shape[-1] ** 0.25, SIDE // PATCH
    patches = x[..., -(side**2) :, :].unflatten(-2, (side // 2, 2, side // 2, 2))  # the CLS token is in none
    marks = patches.mean((-4, -2)).flatten(-3, -2)  # [B, h, m, d]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[..., :, None, :] - b[..., None, :, :]).square().sum(-1) / 2).exp()

    near, among = kernel(x, marks), kernel(marks, marks) + 0.01 * torch.eye(marks.shape[-2])
    return near @ torch.linalg.solve(among, near.transpose(-1, -2) @ value)


KINDS = (*WEIGHTS, *FEATURES, "soft")


def orthogonal(count: int, width: int) -> Tensor:
    """So many vectors, orthogonal in groups of `width`, as long as random ones are [count, width]."""
    groups = [torch.linalg.qr(torch.randn(width, width))[0] for _ in range(-(-count // width))]
    return torch.cat(groups)[:count] * torch.randn(count, width).norm(dim=1, keepdim=True)


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, WIDTH, PATCH, PATCH)

    def forward(self, pixels: Tensor) -> Tensor:  # [B, 1, H, W]
        return self.proj(pixels).flatten(2).transpose(1, 2)  # [B, N, D]


class GatedNorm(nn.Module):
    """Of the results of all heads, side by side: g * x / rms(x) * sigmoid(w * x)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.gate = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * (self.gate * x).sigmoid()


class Attention(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.qkv = nn.Linear(WIDTH, (2 if kind == "soft" else 3) * WIDTH)  # its keys are its queries
        self.proj = nn.Linear(WIDTH, WIDTH)
        if kind == "performer":
            width = WIDTH // HEADS
            self.register_buffer("features", orthogonal(int(width * math.log(width)), width))
        self.norm = GatedNorm() if kind == "rela" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        qkv = self.qkv(x).unflatten(-1, (-1, HEADS, WIDTH // HEADS))
        q, *keys, v = qkv.permute(2, 0, 3, 1, 4)  # [B, h, T, d] each
        k = keys[0] if keys else q
        if self.kind == "soft":
            x = softened(q, v)
        elif self.kind in FEATURES:
            q, k = (FEATURES[self.kind](side, getattr(self, "features", None)) for side in (q, k))  # [B, h, T, m] each
            x = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2)[..., None]).clamp(min=1e-6)  # [B, h, T, d]
        else:
            x = WEIGHTS[self.kind](q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5) @ v  # [B, h, T, d]
        return self.proj(self.norm(x.transpose(1, 2).flatten(2)))  # [B, T, D]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(WIDTH, eps=EPS), Attention(kind)
        self.norm2, self.mlp = nn.LayerNorm(WIDTH, eps=EPS), Mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Attributes are named as timm's, hence the tensors of its state_dict: that is all that the importer asks for."""

    def __init__(self, kind: str = "softmax") -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + (SIDE // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block(kind) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, eps=EPS)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:  # uint8 [B, 1, H, W]
        x = self.patch_embed((pictures.float() / 255 - MEAN) / STD)  # [B, N, D]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed  # [B, T, D]
        return self.head(self.norm(self.blocks(x))[:, 0])  # [B, classes]


def pictures_and_labels() -> list[NDArray]:
    """[pictures to learn from, held-out pictures, labels of the former, of the latter]; pictures uint8 [B, 1, H, W].

    They are shuffled before they are split: most writers have digits in both parts.
    """
    digits = load_digits()
    pictures = (digits.images * 255 / 16).round().astype(np.uint8)[:, None]  # theirs go from 0 to 16
    return train_test_split(pictures, digits.target, test_size=1 / 3, random_state=0, stratify=digits.target)


def train(pictures: NDArray[np.uint8], labels: NDArray[np.int64], epochs: int, kind: str) -> VisionTransformer:
    """The same weights at every run on the same machine."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # of this size it is fastest, and sums have one order
    model, x, y = VisionTransformer(kind), torch.from_numpy(pictures), torch.from_numpy(labels)
    batches = len(x) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=epochs * batches)
    for _ in range(epochs):
        for chosen in torch.randperm(len(x))[: batches * BATCH].reshape(batches, BATCH):
            loss = F.cross_entropy(model(x[chosen]), y[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def bring(path: Path, pictures: NDArray[np.uint8], kind: str) -> Checkpoint:
    """What `edgemoe import` does: a file of tensors -> a checkpoint, calibrated on some of these pictures."""
    source = sources.read(path)
    layout, evidence = layouts.recognise(source)
    print(f"{path.name} is {layout.what}, as {evidence} shows")
    labels = tuple(str(digit) for digit in range(CLASSES))
    options = Options(name="digits", heads=HEADS, mean=(MEAN,), std=(STD,), labels=labels, attention=kind)
    checkpoint = layout.convert(source).to_checkpoint(options)
    return replace(checkpoint, calibration=calibrate(checkpoint, pictures[:CALIBRATION]))


def through(
    device: str, checkpoint: Checkpoint, pictures: NDArray[np.uint8], weight_bits: str
) -> tuple[Sequence[edgemoe.Prediction], float]:
    """(what a device says of each picture, cycles a picture)."""
    hardware = preset("tiny")
    if checkpoint.config.attention != "softmax":  # one build for all others
        hardware = replace(hardware, attention=preset("family").attention)
    with edgemoe.open(checkpoint, device=device, hardware=hardware, weight_bits=weight_bits, tokens=True) as session:
        results = session.infer([picture.transpose(1, 2, 0) for picture in pictures])
    return [result["classification"] for result in results], sum(result.cycles or 0 for result in results) / len(
        results
    )


@dataclass(frozen=True)
class Outcome:
    """Classes of the held-out pictures: in floating point, of the emulator, of the RTL (of the first so many); cycles a
    picture; seconds of training and of simulation.
    """

    floating: NDArray
    emulated: NDArray
    simulated: NDArray
    cycles: float
    training: float
    simulation: float


def accuracy(found: NDArray, labels: NDArray[np.int64]) -> str:
    """In percent."""
    return f"{100 * (found == labels[: len(found)]).mean():6.2f} %"


def way(kind: str, given: argparse.Namespace, data: Sequence[NDArray]) -> Outcome:
    """From the training to the hardware, with a kind of attention."""
    seen, unseen, seen_labels, _ = data
    started = time.monotonic()
    model = train(seen, seen_labels, given.epochs, kind)
    training = time.monotonic() - started
    print(f"{kind} attention: {len(seen)} pictures, {given.epochs} epochs, {training:.0f} s")
    name = "digits" if kind == "softmax" else f"digits-{kind}"
    torch.save(model.state_dict(), given.out / f"{name}.pth")
    checkpoint = bring(given.out / f"{name}.pth", seen, kind)
    checkpoints.save(checkpoint, given.out / f"{name}.safetensors")

    with torch.no_grad():
        floating = model(torch.from_numpy(unseen)).argmax(-1).numpy()
    emulated, _ = through("emulator", checkpoint, unseen, given.weight_bits)
    count = min(given.pictures or len(unseen), len(unseen))
    started = time.monotonic()
    simulated, cycles = through("verilator", checkpoint, unseen[:count], given.weight_bits)
    simulation = time.monotonic() - started
    for number, (mine, theirs) in enumerate(zip(simulated, emulated, strict=False)):
        if not (np.array_equal(mine.map, theirs.map) and np.array_equal(mine.tokens, theirs.tokens)):
            raise SystemExit(f"picture {number}: RTL and emulator differ")
    guess, on_rtl = (np.array([prediction.map.argmax() for prediction in found]) for found in (emulated, simulated))
    return Outcome(floating, guess, on_rtl, cycles, training, simulation)


def show(found: Outcome, labels: NDArray[np.int64], weight_bits: str) -> None:
    """One kind, row by row."""
    count = len(found.simulated)
    took = f"{found.cycles:,.0f} cycles each, {found.simulation:.0f} s of simulation"
    print(f"""
| held-out pictures    |      | accuracy |
|----------------------|------|----------|
| PyTorch, float       | {len(labels):4} | {accuracy(found.floating, labels)} |
| emulator, {weight_bits:>2} bit     | {len(labels):4} | {accuracy(found.emulated, labels)} |
| RTL, {weight_bits:>2} bit          | {count:4} | {accuracy(found.simulated, labels)} |

{(found.emulated != found.floating).sum()} classes of {len(labels)} are not PyTorch's
RTL = emulator in every value of {count} pictures; {took}""")


def compare(found: dict[str, Outcome], labels: NDArray[np.int64], weight_bits: str) -> None:
    """All kinds, a row each."""
    count = len(next(iter(found.values())).simulated)
    print(f"""
{len(labels)} held-out pictures, {count} of them on the RTL; {weight_bits} bit

| attention | float    | emulator | RTL      | cycles | training |
|-----------|----------|----------|----------|--------|----------|""")
    for kind, o in found.items():
        shares = " | ".join(accuracy(classes, labels) for classes in (o.floating, o.emulated, o.simulated))
        print(f"| {kind:9} | {shares} | {o.cycles:6,.0f} | {o.training:6.0f} s |")
    print(f"\nRTL = emulator in every value of {count} pictures of each kind")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--pictures", type=int, help="so many on the simulated hardware (default: all held out)")
    parser.add_argument("--weight-bits", default="16", choices=("16", "8"))
    parser.add_argument("--attention", default="softmax", choices=(*KINDS, "all"))
    parser.add_argument("--out", type=Path, default=Path("out/digits"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)

    data = pictures_and_labels()
    _, unseen, _, labels = data
    for digit in range(CLASSES):
        Image.fromarray(unseen[labels == digit][0, 0]).save(given.out / f"{digit}.png")
    kinds = KINDS if given.attention == "all" else [given.attention]
    found = {kind: way(kind, given, data) for kind in kinds}
    if given.attention == "all":
        compare(found, labels, given.weight_bits)
    else:
        show(found[given.attention], labels, given.weight_bits)


if __name__ == "__main__":
    main()
