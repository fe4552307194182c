# SPDX-License-Identifier: Apache-2.0
"""`edgemoe import` and what follows it, as a person types it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgemoe.models import checkpoint as checkpoints
from PIL import Image

from .libraries import libraries, output, picture, scaled, shaken

Command = Callable[..., tuple[int, str, str]]
SIDE = 64
VIT: dict[str, Any] = dict(img_size=SIDE, patch_size=16, embed_dim=96, num_heads=3, depth=2, num_classes=6)
SIZES = ("tokens=20", "rows=20", "width=96", "hidden=384")


@pytest.fixture
def classifier(tmp_path: Path) -> torch.nn.Module:
    model = shaken(libraries().Vit(**VIT))
    torch.save(model.state_dict(), tmp_path / "my classifier.pth")
    (tmp_path / "classes.txt").write_text("\n".join(["cat", "dog", "cow", "hen", "pig", "fox"]) + "\n")
    for seed in range(4):
        Image.fromarray(picture(SIDE, seed).transpose(1, 2, 0)).save(tmp_path / f"picture{seed}.png")
    return model


def test_a_classifier(edgemoe: Command, classifier: torch.nn.Module, tmp_path: Path) -> None:
    """From the file to the likeliest classes, with their labels."""
    out = tmp_path / "c.safetensors"
    pictures = [tmp_path / f"picture{seed}.png" for seed in range(1, 4)]
    words = [word for path in pictures for word in ("--calibrate", path)]
    code, text, errors = edgemoe(
        "import", tmp_path / "my classifier.pth", "-o", out, "--heads", "3", "--labels", tmp_path / "classes.txt",
        *words, "--json",
    )  # fmt: skip
    assert code == 0, errors
    report, config = json.loads(text), checkpoints.load(out).config
    assert report["layout"] == "timm's ViT and DeiT, as blocks.0.norm1.weight shows"
    assert report["model"] == config.name == "my-classifier" and report["calibration_images"] == 3
    hardware = ["--hardware", "tiny", *[word for size in SIZES for word in ("--set", size)], "--device", "emulator"]
    infer = ["infer", tmp_path / "picture0.png", "--checkpoint", out, *hardware, "--out", tmp_path / "out"]
    code, text, errors = edgemoe(*infer, "--json")
    assert code == 0, errors
    classes = json.loads(text)["streams"][0]["classes"]
    logits = output(classifier, scaled(picture(SIDE)))
    want = torch.from_numpy(logits).softmax(-1).numpy()
    labels = config.tasks[0].labels
    assert list(classes) == [labels[n] for n in np.argsort(-want)[:5]]
    assert np.allclose(list(classes.values()), np.sort(want)[::-1][:5], atol=0.01)
    stored = np.load(tmp_path / "out" / "picture0-classification.npy")
    assert stored.shape == (6,) and abs(stored.sum() - 1) < 1e-5
    code, text, errors = edgemoe(*infer)
    assert code == 0 and f"{100 * want.max():.1f} %"[:3] in text and labels[int(want.argmax())] in text


def test_features(edgemoe: Command, tmp_path: Path) -> None:
    """A model without a head gives its normalised tokens, and their principal components as a picture."""
    torch.save(shaken(libraries().Vit(**VIT | {"num_classes": 0})).state_dict(), tmp_path / "f.pth")
    Image.fromarray(picture(SIDE).transpose(1, 2, 0)).save(tmp_path / "p.png")
    out = tmp_path / "f.safetensors"
    assert edgemoe("import", "timm", tmp_path / "f.pth", "-o", out, "--heads", "3")[0] == 0
    hardware = ["--hardware", "tiny", *[word for size in SIZES for word in ("--set", size)], "--device", "emulator"]
    code, _, errors = edgemoe("infer", tmp_path / "p.png", "--checkpoint", out, *hardware, "--out", tmp_path)
    assert code == 0, errors
    features, shown = np.load(tmp_path / "p-features.npy"), np.asarray(Image.open(tmp_path / "p-features.png"))
    assert features.shape == (17, 96) and shown.shape == (SIDE, SIDE, 3)
    assert shown.std() > 20  # a picture, not a flat field


@pytest.mark.parametrize("classes", [6, 0], ids=["classifier", "features"])
def test_what_other_commands_say_of_it(edgemoe: Command, classes: int, tmp_path: Path) -> None:
    """They run it, or say in a line why not."""
    small = dict(img_size=16, patch_size=4, in_chans=1, embed_dim=32, num_heads=2, depth=2, mlp_ratio=2.0)
    torch.save(shaken(libraries().Vit(**small, num_classes=classes)).state_dict(), tmp_path / "grey.pth")
    pictures = [tmp_path / f"{seed}.png" for seed in range(9)]
    for seed, path in enumerate(pictures):
        Image.fromarray(picture(16, seed)[0]).save(path)
    out, scale = tmp_path / "grey.safetensors", ("--heads", "2", "--mean", "0.5", "--std", "0.5")
    code, _, errors = edgemoe("import", tmp_path / "grey.pth", "-o", out, *scale, "--calibrate", pictures[1])
    assert code == 0 and "calibrated on one picture: what reaches further in others is cut off" in errors
    words = [word for path in pictures[1:] for word in ("--calibrate", path)]
    code, text, errors = edgemoe("import", tmp_path / "grey.pth", "-o", out, *scale, *words)
    assert code == 0 and "cut off" not in errors and "0 in 16 bit, 0 in 8 bit" in text

    this = ("--checkpoint", out, "--hardware", "tiny")
    code, text, errors = edgemoe("check", *this, "--image", pictures[0], "--json")
    report = json.loads(text)
    assert code == 0 and report["mismatches"] == 0 and "noise" not in errors
    kinds = ["patch embedding", *["attention", "MLP"] * 2, "head classification" if classes else "head features"]
    assert [layer["kind"] for layer in report["layers"]] == kinds and report["worst"] in report["layers"]
    assert all(40 < layer["db"] < 100 for layer in report["layers"])
    code, _, errors = edgemoe("check", *this, "--device", "emulator", "--table")
    assert code == 0 and "compared on noise" in errors
    assert json.loads(edgemoe("bench", *this, "--image", pictures[0], "--json")[1])["cycles"] > 0
    assert json.loads(edgemoe("plan", *this, "--image", pictures[0], "--json")[1])["cycles"] > 0
    for command, said in (
        (("evaluate", *this), "for which street:200 knows no truth"),
        (("bench", *this, "--tasks", "2"), "model grey has 1 task, not 2"),
    ):
        code, printed, errors = edgemoe(*command)
        assert code == 2 and printed == "" and said in errors


def test_what_is_given_is_not_assumed(edgemoe: Command, tmp_path: Path) -> None:
    """A notice names the option that says otherwise, unless it has been said."""
    small = dict(img_size=32, patch_size=16, embed_dim=192, num_heads=6, depth=1, num_classes=4)
    torch.save(shaken(libraries().Vit(**small)).state_dict(), tmp_path / "s.pth")
    command = ("import", tmp_path / "s.pth", "-o", tmp_path / "s.safetensors")
    code, _, errors = edgemoe(*command)
    assert code == 0 and "3 heads, which timm's models of width 192 have; no tensor shows it (--heads says" in errors
    code, text, errors = edgemoe(*command, "--heads", "6")
    assert code == 0 and "--heads" not in errors and re.search(r"layers +│ 1 layers, 192 wide, 6 heads", text)


def test_a_checkpoint_is_called_one(edgemoe: Command, classifier: torch.nn.Module, tmp_path: Path) -> None:
    """No other name could be read again."""
    for words in (("import", tmp_path / "my classifier.pth"), ("train",)):
        code, _, errors = edgemoe(*words, "--out", tmp_path / "model")
        assert code == 2 and "its name must end in .safetensors" in errors
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "words, text",
    [
        (("nope", "x.pth"), "unknown layout 'nope': choose one of auto, edge-moe"),
        (("no-such-file.pth",), "no such file or folder"),
        (("huggingface", "my classifier.pth"), "is not Hugging Face's ViT, DeiT, DINOv2: blocks.0.norm1.weight shows"),
        (("onnx", "my classifier.pth"), "is no ONNX file"),
        (("my classifier.pth",), "give --heads N"),
        (("my classifier.pth", "--heads", "3", "--image-size", "a4"), "expected HEIGHTxWIDTH"),
        (("my classifier.pth", "--heads", "3", "--mean", "x,y"), "expected numbers"),
        (("my classifier.pth", "--heads", "3", "--labels", "no-labels.txt"), "cannot be read"),
        (("my classifier.pth", "--fill-missing", "1"), "--fill-missing is not for auto"),
        (("edge-moe", ".", "--heads", "3"), "--heads is not for edge-moe"),
    ],
)
def test_refused(
    edgemoe: Command, classifier: torch.nn.Module, words: tuple[str, ...], text: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One line, exit code 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, printed, errors = edgemoe("import", *words, "-o", "out.safetensors")
    assert code == 2 and printed == "" and text in errors and errors.count("error:") == 1
    assert sorted(tmp_path.iterdir()) == before
