# SPDX-License-Identifier: Apache-2.0
"""The commands as users type them: what they write, what they print, and one line with exit code 2 for whatever is
wrong.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import scenes
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from ..models.support import TINY, random_checkpoint
from .conftest import Command, refused

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """A picture of the model's size."""
    return picture(tmp_path / "street.png")


def picture(path: Path, seed: int = 2_000_100, size: tuple[int, int] | None = None) -> Path:
    image = Image.fromarray(scenes.scene(seed).image.transpose(1, 2, 0))
    (image.resize(size) if size else image).save(path)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole, small checkpoint."""
    return checkpoints.save(random_checkpoint(TINY), tmp_path_factory.mktemp("models") / "tiny.safetensors")


# ------------------------------------------------------------------------------------------------ what goes right


def test_infer_prints_json_and_writes_maps(edgemoe: Command, street: Path, tmp_path: Path) -> None:
    out, tokens = tmp_path / "a" / "b", tmp_path / "c" / "tokens.npy"
    code, text, errors = edgemoe(
        "infer", street, "--device", "emulator", "--out", out, "--save-tokens", tokens, "--json"
    )
    assert code == 0 and "error" not in errors
    report = json.loads(text)
    assert report["device"] == "emulator" and report["hardware"] == "base" and report["checkpoint"] == "m3vit-micro"
    assert [(s["image"], s["file"], s["task"], s["pass"]) for s in report["streams"]] == [
        (0, str(street), "segmentation", 0),
        (0, str(street), "depth", 0),
    ]
    wanted = {
        "device",
        "hardware",
        "checkpoint",
        "streams",
        "cycles",
        "macs",
        "mac_utilisation",
        "bytes_read",
        "bytes_written",
        "seconds",
    }
    assert wanted | {"outputs"} <= set(report)
    assert report["macs"] > 0 and report["bytes_read"] > 1_000_000
    assert {Path(p).name for p in report["outputs"]} >= {
        "street-segmentation.png", "street-segmentation.npy", "street-depth.png", "street-depth.npy", "tokens.npy",
    }  # fmt: skip
    assert all(Path(p).is_file() for p in report["outputs"])
    assert [p for s in report["streams"] for p in s["outputs"]] + [str(tokens)] == report["outputs"]
    assert report["pictures"] == 1 and report["failed"] == []
    labels, depth = np.load(out / "street-segmentation.npy"), np.load(out / "street-depth.npy")
    assert labels.shape == depth.shape == (128, 256) and labels.dtype == np.uint8 and depth.dtype == np.float32
    with Image.open(out / "street-depth.png") as shown:
        assert shown.size == (256, 128)
    saved = np.load(tokens)
    assert saved.shape == (2, 129, 96) and saved.dtype == np.float32 and np.isfinite(saved).all()


def test_nothing_but_json_on_standard_output(street: Path, tmp_path: Path) -> None:
    """As a shell sees it, notices and progress included."""
    big = picture(tmp_path / "big.png", size=(640, 480))
    arguments = ["infer", street, big, "--device", "emulator", "--task", "depth", "--out", tmp_path / "out", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "edgemoe.host.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [s["image"] for s in json.loads(done.stdout)["streams"]] == [0, 1]
    assert "big.png: resized from 640 x 480 to 256 x 128 pixels" in done.stderr


def test_infer_as_a_table(edgemoe: Command, street: Path, tmp_path: Path) -> None:
    code, text, _ = edgemoe("infer", street, "--device", "emulator", "--task", "depth", "--out", tmp_path / "out")
    assert code == 0 and "m3vit-micro on emulator" in text


def test_several_images_and_tasks(edgemoe: Command, tmp_path: Path) -> None:
    """Three images of one name: names stay apart, and each result is the image's own, whatever ran beside it.

    A task named twice is computed once.
    """
    folders = [tmp_path / str(i) for i in range(3)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        picture(folder / "street.png", seed=2_000_100 + i)
    out = tmp_path / "out"
    code, text, _ = edgemoe(
        "infer", *(f / "street.png" for f in folders), "--device", "emulator", "--out", out, "--json",
        "--task", "depth", "--task", "segmentation", "--task", "depth",
    )  # fmt: skip
    assert code == 0
    report = json.loads(text)
    assert [(s["image"], s["task"]) for s in report["streams"]] == [
        (i, t) for i in range(3) for t in ("depth", "segmentation")
    ]
    assert len(report["outputs"]) == len(set(report["outputs"])) == 3 * 5
    assert (
        edgemoe("infer", folders[2] / "street.png", "--device", "emulator", "--out", tmp_path / "alone", "--json")[0]
        == 0
    )
    for task in ("depth", "segmentation"):
        alone = np.load(tmp_path / "alone" / f"street-{task}.npy")
        assert (np.load(out / f"2-street-{task}.npy") == alone).all()
        assert (np.load(out / f"0-street-{task}.npy") != alone).any()


def test_npy_and_jpeg(edgemoe: Command, street: Path, tmp_path: Path) -> None:
    """A picture as an array gives what the picture gives; JPEG is read."""
    pixels = np.asarray(Image.open(street))
    np.save(tmp_path / "array.npy", pixels)
    Image.fromarray(pixels).save(tmp_path / "photo.jpeg", quality=95)
    out = tmp_path / "out"
    images = (street, tmp_path / "array.npy", tmp_path / "photo.jpeg")
    assert edgemoe("infer", *images, "--device", "emulator", "--task", "segmentation", "--out", out, "--json")[0] == 0
    a, b, c = (np.load(out / f"{name}-segmentation.npy") for name in ("street", "array", "photo"))
    assert (a == b).all() and (a == c).mean() > 0.9


@pytest.mark.parametrize("weight_bits", ["8", "mixed"])
def test_weight_formats(edgemoe: Command, street: Path, tmp_path: Path, weight_bits: str) -> None:
    code, text, _ = edgemoe(
        "infer", street, "--device", "emulator", "--weight-bits", weight_bits, "--out", tmp_path / "out", "--json"
    )
    assert code == 0 and json.loads(text)["bytes_read"] < 2_500_000


def test_a_checkpoint_file_on_the_smallest_core(edgemoe: Command, tiny_model: Path, tmp_path: Path) -> None:
    """RTL and emulator through the command line: equal files."""
    picture(tmp_path / "x.png", size=(16, 16))
    for device in ("emulator", "verilator"):
        code, text, errors = edgemoe(
            "infer", tmp_path / "x.png", "--checkpoint", tiny_model, "--hardware", "tiny", "--device", device,
            "--out", tmp_path / device, "--save-tokens", tmp_path / f"{device}.npy", "--json",
        )  # fmt: skip
        assert code == 0, errors
        report = json.loads(text)
        assert (report["cycles"] > 0) == (device == "verilator")
        assert (report["mac_utilisation"] is None) == (device == "emulator")
    assert (np.load(tmp_path / "emulator.npy") == np.load(tmp_path / "verilator.npy")).all()
    for name in ("x-seg.npy", "x-dep.npy"):
        assert (np.load(tmp_path / "emulator" / name) == np.load(tmp_path / "verilator" / name)).all()


def test_verilog(edgemoe: Command, tmp_path: Path) -> None:
    code, text, _ = edgemoe("verilog", "--hardware", "tiny", "-o", tmp_path / "hardware")
    names = {"edgemoe.v", "registers.md", "registers.json", "edgemoe.h", "instructions.md", "edgemoe.toml"}
    assert code == 0 and {Path(line).name for line in text.split()} == names
    folder = tmp_path / "hardware"
    assert {p.name for p in folder.iterdir()} == names | {".edgemoe-outputs"}
    source = (folder / "edgemoe.v").read_text()
    assert "module edgemoe(" in source and "s_axil_awaddr" in source and "m_axi_arid" in source
    assert any(r["name"] == "CTRL" for r in json.loads((folder / "registers.json").read_text())["registers"])
    assert "MATMUL" in (folder / "instructions.md").read_text() and "EDGEMOE_CTRL" in (folder / "edgemoe.h").read_text()


def test_verilog_in_slices(edgemoe: Command, tmp_path: Path) -> None:
    """The array's cells are slices of a device, whose model for simulators lies beside."""
    code, text, _ = edgemoe("verilog", "--hardware", "tiny", "--slices", "DSP48E2", "-o", tmp_path)
    assert code == 0 and {"edgemoe.v", "dsp48e2.v"} < {Path(line).name for line in text.split()}
    assert (tmp_path / "edgemoe.v").read_text().count("  edgemoe_dsp48e2 #(") == 16
    assert "module DSP48E2 #(" in (tmp_path / "dsp48e2.v").read_text()


@pytest.mark.parametrize(
    "command", [("verilog", "--hardware", "tiny"), ("build", "--board", "kv260")], ids=lambda c: c[0]
)
def test_folders_of_hardware_replace_only_their_own(edgemoe: Command, tmp_path: Path, command: tuple[str, ...]) -> None:
    header = tmp_path / "edgemoe.h"
    header.write_text("mine")
    refused(edgemoe(*command, "-o", tmp_path), "edgemoe.h, which edgemoe did not write", "--force")
    assert header.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["edgemoe.h"]
    assert edgemoe(*command, "-o", tmp_path, "--force")[0] == 0
    assert edgemoe(*command, "-o", tmp_path)[0] == 0
    assert "EDGEMOE_CTRL" in header.read_text()


def test_check_finds_no_mismatch(edgemoe: Command) -> None:
    """The default: m3vit-micro, both tasks, RTL against emulator against the float model."""
    code, text, errors = edgemoe("check", "--json")
    assert code == 0, errors
    report = json.loads(text)
    assert report["mismatches"] == 0 and report["instructions"] > 50
    for key in ("sqnr_db", "sqnr_db_routed"):
        assert set(report[key]) == {"segmentation", "depth"}
    assert min(report["sqnr_db_routed"].values()) > 45
    assert all(len(layers) == 4 for layers in report["sqnr_db_layers"].values())
    assert set(report["routes_different"]) == {"segmentation", "depth"}


# ------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("--checkpoint", "m3vit-huge"), ("no checkpoint named 'm3vit-huge'", "m3vit-micro")),
        (("--checkpoint", "nowhere/x.safetensors"), ("no checkpoint file nowhere/x.safetensors",)),
        (("--task", "speed"), ("has no task 'speed'", "segmentation, depth")),
        (("--hardware", "huge"), ("unknown hardware 'huge'", "base", "tiny")),
        (("--weight-bits", "4"), ("'4'", "mixed")),
        (("--device", "abacus"), ("abacus", "emulator")),
        (
            ("--hardware", "base", "--set", "experts=4"),
            ("m3vit-micro does not fit hardware 'base*'", "8 experts", "limit is 4", "(4 too many)"),
        ),
        (("--out", "/proc/nope"), ("cannot write to folder /proc/nope",)),
        (("--save-tokens", "/proc/nope/x.npy"), ("cannot write to folder /proc/nope",)),
        (("--save-tokens", "/tmp"), ("cannot write /tmp: it is a folder",)),
        (("--resize", "squash"), ("squash", "crop")),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_bad_options(
    edgemoe: Command, street: Path, tmp_path: Path, arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    refused(edgemoe("infer", street, *(() if "--out" in arguments else ("--out", out)), *arguments, "--json"), *parts)
    assert not list(out.glob("*"))


@pytest.mark.parametrize(
    "name, content, parts",
    [
        ("missing.png", None, ("missing.png does not exist",)),
        ("text.png", b"this is no picture", ("text.png is no picture that can be read",)),
        ("empty.jpg", b"", ("empty.jpg is no picture that can be read",)),
        ("broken.npy", b"\x93NUMPY garbage", ("broken.npy is no .npy file",)),
        ("float.npy", np.zeros((8, 8, 3)), ("float.npy holds float64 [8, 8, 3], expected uint8 [height, width, 3]",)),
        ("grey.npy", np.zeros((8, 8), np.uint8), ("grey.npy holds uint8 [8, 8]",)),
        ("none.npy", np.zeros((0, 8, 3), np.uint8), ("none.npy holds uint8 [0, 8, 3]",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_images(
    edgemoe: Command,
    street: Path,
    tmp_path: Path,
    name: str,
    content: bytes | np.ndarray | None,
    parts: tuple[str, ...],
) -> None:
    """Alone: one line, and nothing is left behind. Beside a good one:
    that one's maps are saved, and the exit code says so.
    """
    path, out = tmp_path / name, tmp_path / "out"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    refused(edgemoe("infer", path, "--out", out), *parts)
    assert not out.exists()
    code, text, errors = edgemoe(
        "infer", path, street, "--task", "depth", "--device", "emulator", "--out", out, "--json"
    )
    report = json.loads(text)
    assert (
        code == 1 and [s["file"] for s in report["streams"]] == [str(street)] and (out / "street-depth.npy").is_file()
    )
    assert [f["file"] for f in report["failed"]] == [str(path)] and all(
        part in report["failed"][0]["error"] for part in parts
    )
    assert errors.splitlines()[-1] == "edgemoe: error: 1 of 2 pictures could not be read; the others are done"
    assert len(errors.splitlines()) == 2 and parts[0] in errors


def test_a_truncated_picture(edgemoe: Command, street: Path, tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(street.read_bytes()[:1000])
    refused(
        edgemoe("infer", tmp_path / "half.png", "--out", tmp_path / "out"), "half.png is no picture that can be read"
    )


def damaged(source: Path, path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """A copy of a checkpoint with other tensors."""
    with safe_open(source, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    change(tensors)
    save_file(tensors, path, metadata)
    return path


def set_nan(tensors: dict[str, np.ndarray]) -> None:
    tensors["pos_embed"] = tensors["pos_embed"].copy()
    tensors["pos_embed"].reshape(-1)[:2] = np.nan


@pytest.mark.parametrize(
    "change, parts",
    [
        (lambda t: t.pop("blocks.0.attn.qkv.weight"), ("blocks.0.attn.qkv.weight is missing",)),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), ("extra does not belong to the model",)),
        (lambda t: t.update(pos_embed=np.zeros((1, 2, 3), np.float32)), ("pos_embed has shape [1, 2, 3], expected [",)),
        (lambda t: t.update(pos_embed=t["pos_embed"].astype(np.int32)), ("pos_embed is I32, expected F32",)),
        (set_nan, ("pos_embed has 2 values that are NaN or infinite",)),
    ],
    ids=["missing", "extra", "misshapen", "integers", "NaN"],
)
def test_bad_tensors(
    edgemoe: Command,
    street: Path,
    tiny_model: Path,
    tmp_path: Path,
    change: Callable[[dict[str, np.ndarray]], object],
    parts: tuple[str, ...],
) -> None:
    path = damaged(tiny_model, tmp_path / "bad.safetensors", change)
    out = tmp_path / "out"
    refused(
        edgemoe("infer", street, "--checkpoint", path, "--hardware", "tiny", "--out", out), "bad.safetensors", *parts
    )
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", None], ids=["empty", "text", "cut off"])
def test_broken_checkpoints(
    edgemoe: Command, street: Path, tiny_model: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(tiny_model.read_bytes()[:-100] if content is None else content)
    refused(edgemoe("infer", street, "--checkpoint", path), "broken.safetensors is no readable safetensors file")


def test_a_checkpoint_without_configuration(edgemoe: Command, street: Path, tmp_path: Path) -> None:
    save_file({"x": np.zeros(3, np.float32)}, tmp_path / "foreign.safetensors")
    refused(
        edgemoe("infer", street, "--checkpoint", tmp_path / "foreign.safetensors"), "has no 'config' in its metadata"
    )


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("check", "--checkpoint", "nothing"), ("no checkpoint named 'nothing'",)),
        (("check", "--hardware", "nothing"), ("unknown hardware 'nothing'",)),
        (("check", "--image", "nothing.png"), ("nothing.png does not exist",)),
        (("check", "--hardware", "tiny", "--set", "top_k=1"), ("does not fit hardware 'tiny*'",)),
        (("verilog", "--hardware", "nothing", "-o", "/tmp"), ("unknown hardware 'nothing'",)),
        (("verilog", "-o", "/proc/nope"), ("cannot write to folder /proc/nope",)),
        (("demo", "--out", "/proc/nope"), ("cannot write to folder /proc/nope",)),
        (("import", "edge-moe", "/nowhere", "-o", "/proc/nope/x.safetensors"), ("cannot write to folder /proc/nope",)),
        (("train", "--out", "/proc/nope/x.safetensors"), ("cannot write",)),
        (("train", "nothing"), ("nothing",)),
        (("bench", "--plot", "x.xyz"), ("x.xyz", "svg")),
        (("growth", "--plot", "/proc/nope/x.png"), ("cannot write to folder /proc/nope",)),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_other_commands(
    edgemoe: Command, arguments: tuple[str, ...], parts: tuple[str, ...], monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(edgemoe(*arguments), *parts)


def test_a_model_card_is_not_written_over_another_file(edgemoe: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    refused(edgemoe("train", "--out", tmp_path / "notes.safetensors"), "notes.md, which edgemoe did not write")


def test_import_names_every_missing_file(edgemoe: Command, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    target = tmp_path / "x.safetensors"
    refused(edgemoe("import", "edge-moe", tmp_path / "weights", "-o", target), "patch_embed")
    assert not target.exists()


# ------------------------------------------------------------------------------------------------ documents

# The README and the pages of the site; the walks are run step by step in test_docs.py.
DOCUMENTS = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if "walk-" not in path.name)]
LONG = (
    "demo",
    "test",
    "train",
    "bench",
    "import",
    "soak",
    "growth",
    "evaluate",
    "explore",
    "reset",  # needs a board
    "docs",  # test_docs.py builds the site
)  # their options are checked; what they do has tests of its own
MADE = (".safetensors",)  # what an earlier command of the document makes


def documented_commands() -> list[str]:
    """Lines of the documents' sh blocks that start the launcher."""
    lines, inside = [], False
    for line in "\n".join(path.read_text() for path in DOCUMENTS).splitlines():
        if line.strip().startswith("```"):
            inside = line.strip() == "```sh"
        elif inside and line.strip().startswith("./edgemoe"):
            lines.append(line.strip().split(" #")[0].strip())
    return sorted(set(lines))


def test_the_documents_have_commands() -> None:
    commands = [line.split()[1] for line in documented_commands() if len(line.split()) > 1]
    assert {"demo", "test", "infer", "check", "verilog"} <= set(commands)


def test_commands_stand_where_they_can_be_pasted_from() -> None:
    """In sh blocks alone, without prose between them."""
    lines = [line for path in DOCUMENTS for line in path.read_text().splitlines()]
    assert not [line for line in lines if line.startswith("    ./edgemoe")]
    assert not [line for line in documented_commands() if any(c in line for c in "()…")]


@pytest.mark.parametrize("line", documented_commands())
def test_documented_commands(edgemoe: Command, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick ones run as they stand; of the long ones and of placeholders, command and options must exist."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    words = words[: next((i for i, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))]
    words = words[: words.index("--")] if "--" in words else words
    options = [word.split("=")[0] for word in words if word.startswith("-")]
    depth = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    if (
        not words
        or words[0] in LONG
        or any(word.startswith(("DIR", "IMAGE", "FILE", "FOLDER", "<")) or word.endswith(MADE) for word in words)
    ):
        names = words[: min(depth, 2 if words and words[0] == "import" else 1)]
        monkeypatch.setenv("COLUMNS", "200")
        code, text, errors = edgemoe(*names, "--help")
        assert code == 0, errors
        assert all(option in text for option in options), text
        return
    for word, before in zip(words, [""] + words[:-1], strict=True):
        path = Path(word)
        if path.suffix in (".png", ".jpg", ".jpeg") and before not in ("-o", "--out", "--save-tokens"):
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(path)
    code, _, errors = edgemoe(*words)
    assert code == 0, errors
