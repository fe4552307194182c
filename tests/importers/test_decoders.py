# SPDX-License-Identifier: Apache-2.0
"""What stands behind an encoder and runs on the host: M3ViT's decoders, and the rest of an ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from edgemoe.host import inference
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig, TaskConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.golden import Golden
from edgemoe.models.importers import layouts, sources
from edgemoe.models.importers.vit import Options
from edgemoe.models.numbers.calibrate import calibrate
from edgemoe.models.numbers.forward import forward
from edgemoe.models.operations.pup import convolution, decode, decoder_tensors
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.support import sqnr
from .libraries import picture, scaled, shaken

Command = Callable[..., tuple[int, str, str]]
HEIGHT, WIDTH, D, HEADS, EXPERTS, HIDDEN, INNER = 48, 64, 32, 2, 4, 32, 24
SIZES = {"tokens": 24, "rows": 48, "width": 96, "hidden": 768}
HARDWARE = HardwareConfig.from_fields(SIZES, preset("tiny"))


def imported(path: Path, **options: Any) -> tuple[Checkpoint, list[str]]:
    source = sources.read(path)
    model = layouts.recognise(source)[0].convert(source)
    return model.to_checkpoint(Options(**options)), model.notes


def calibrated(checkpoint: Checkpoint, images: list[np.ndarray]) -> Checkpoint:
    return replace(checkpoint, calibration=calibrate(checkpoint, np.stack(images), error_aware=()))


# ----------------------------------------------------------------------- M3ViT, as its authors' scripts lay it out


@dataclass(frozen=True)
class Gating:
    """gates: how many; noisy: whether they choose before they weigh; represented: words that they see of the task."""

    gates: int
    noisy: bool = False
    represented: int = 0


class Gate(nn.Module):
    def __init__(self, gating: Gating) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.randn(D + gating.represented, EXPERTS))
        if gating.noisy:
            self.w_noise = nn.Parameter(torch.randn(D + gating.represented, EXPERTS))


class Representation(nn.Module):
    """Of a task's number."""

    def __init__(self, tasks: int, size: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.norm = nn.Linear(tasks, size), nn.Linear(size, size), nn.LayerNorm(size, 1e-6)

    def forward(self, task: int) -> Tensor:
        number = torch.zeros(self.fc1.in_features)
        number[task] = 1
        return self.norm(self.fc2(F.gelu(self.fc1(number))))


class Slices(nn.Module):
    """A linear layer of each expert."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, outputs, inputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(EXPERTS, outputs) * 0.1)


class Moe(nn.Module):
    """All experts of every token, weighed by the softmax where they are among its best two, else by nothing; of noisy
    gates by the softmax of these two.
    """

    def __init__(self, gating: Gating) -> None:
        super().__init__()
        self.noisy = gating.noisy
        self.gate = nn.ModuleList(Gate(gating) for _ in range(gating.gates))
        self.experts = nn.ModuleDict({"htoh4": Slices(HIDDEN, D), "h4toh": Slices(D, HIDDEN)})

    def forward(self, x: Tensor, task: int, feature: Tensor) -> Tensor:
        seen = torch.cat([x, feature.expand(*x.shape[:-1], -1)], -1)
        logits = seen @ self.gate[task % len(self.gate)].w_gate
        best = logits >= logits.topk(2).values[..., -1:]
        scores = logits.masked_fill(~best, -torch.inf).softmax(-1) if self.noisy else logits.softmax(-1) * best
        first, second = self.experts["htoh4"], self.experts["h4toh"]
        inner = F.gelu(torch.einsum("btd,ehd->bteh", x, first.weight) + first.bias)
        return torch.einsum("bteh,edh,bte->btd", inner, second.weight, scores) + scores @ second.bias


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)

    def forward(self, x: Tensor, task: int, feature: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, D // HEADS)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, moe: bool, gating: Gating) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D, 1e-6), nn.LayerNorm(D, 1e-6)
        self.attn, self.mlp = Attention(), Moe(gating) if moe else Mlp()

    def forward(self, x: Tensor, task: int, feature: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x), task, feature)


class Backbone(nn.Module):
    def __init__(self, gating: Gating) -> None:
        super().__init__()
        if gating.represented:
            self.gate_task_represent = Representation(3, gating.represented)
        self.cls_token = nn.Parameter(torch.randn(1, 1, D))
        self.pos_embed = nn.Parameter(torch.randn(1, HEIGHT * WIDTH // 256 + 1, D) * 0.3)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, D, 16, 16)})
        self.blocks = nn.ModuleList(Block(bool(n % 2), gating) for n in range(2))

    def forward(self, images: Tensor, task: int) -> Tensor:
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        feature = self.gate_task_represent(task) if hasattr(self, "gate_task_represent") else torch.zeros(0)
        for block in self.blocks:
            x = block(x, task, feature)
        return x


class Decoder(nn.Module):
    """The plain way: every convolution at its own resolution, its batch norm behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D, 1e-6)
        for n in range(4):
            self.add_module(f"conv_{n}", nn.Conv2d(INNER if n else D, INNER, 3, padding=1))
            self.add_module(f"syncbn_fc_{n}", nn.BatchNorm2d(INNER))
        self.conv_4 = nn.Conv2d(INNER, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)[:, 1:].transpose(1, 2).unflatten(2, (HEIGHT // 16, WIDTH // 16))
        for n in range(4):
            x = self.get_submodule(f"syncbn_fc_{n}")(self.get_submodule(f"conv_{n}")(x)).relu()
            if n < 3:
                x = F.interpolate(x, size=[2 * s for s in x.shape[2:]], mode="bilinear", align_corners=False)
        x = self.conv_4(x)
        return F.interpolate(x, size=[2 * s for s in x.shape[2:]], mode="bilinear", align_corners=False)


class Training(nn.Module):
    def __init__(self, gating: Gating) -> None:
        super().__init__()
        self.backbone = Backbone(gating)
        self.decoders = nn.ModuleDict({"semseg": Decoder(7), "depth": Decoder(1), "normals": Decoder(3)})

    def forward(self, images: np.ndarray, task: str) -> np.ndarray:
        """[channels, H, W] of one picture."""
        number = list(self.decoders).index(task)
        with torch.no_grad():
            tokens = self.backbone(torch.from_numpy(images[None] / 256).float(), number)
            return self.decoders[task](tokens)[0].numpy()


def training(gates: int, **gating: Any) -> Training:
    torch.manual_seed(3)
    model = shaken(Training(Gating(gates, **gating)), 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # what no parameter holds: as a training leaves it
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.05, 0.4)
    return model


def saved(model: Training, folder: Path) -> Path:
    """best_model.pth.tar, a folder of two ranks; the second holds its half of the experts alone."""
    path = folder / "best_model.pth.tar"
    path.mkdir()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    if len(model.backbone.blocks[1].mlp.gate) == 1:  # without --multi_gate
        state = {name.replace("gate.0.w_", "gate.w_"): tensor for name, tensor in state.items()}
    experts = {name: tensor for name, tensor in state.items() if ".experts." in name}
    best = {"semseg": {"mIoU": np.float64(61.5)}, "epoch": np.int64(7)}
    first = {name: tensor[:2].clone() for name, tensor in experts.items()}
    torch.save({"epoch": 7, "backbone": "VisionTransformer_moe", "state_dict": state | first, "best_result": best,
                "optimizer": {"state": {}, "param_groups": []}}, path / "0.pth")  # fmt: skip
    torch.save({"state_dict": {name: tensor[2:].clone() for name, tensor in experts.items()}}, path / "1.pth")
    return path


def image(seed: int) -> np.ndarray:
    return picture(WIDTH, seed)[:, :HEIGHT].copy()


@pytest.mark.parametrize(
    ("gates", "gating", "remark"),
    [(1, {}, "share their gates"), (3, {}, "semseg gate 0, depth gate 1, normals gate 2"),
     (3, dict(noisy=True), "w_noise shows it"), (1, dict(noisy=True, represented=5), "its gate sees the task"),
     (1, dict(represented=6), "no w_noise is there")],
)  # fmt: skip
def test_training(gates: int, gating: dict[str, Any], remark: str, tmp_path: Path) -> None:
    """A training's folder: tasks are its decoders, in order; float model and emulator give what the plain one does."""
    model = training(gates, **gating)
    checkpoint, notes = imported(saved(model, tmp_path), heads=HEADS, image_size=(HEIGHT, WIDTH))
    assert any(remark in note for note in notes)
    assert checkpoint.config.gate == ("top-k" if gating.get("noisy") else "all")
    assert checkpoint.config.gate_bias == ("represented" in gating)
    assert not any("left out" in note for note in notes)
    assert [(t.name, t.kind, t.channels) for t in checkpoint.config.tasks] == [
        ("semseg", "segmentation", 7), ("depth", "map", 1), ("normals", "map", 3),
    ]  # fmt: skip
    shown, tasks = image(0), ("semseg", "depth", "normals")
    want = {task: model(shown, task).transpose(1, 2, 0) for task in tasks}
    golden = Golden(checkpoint)
    for task in tasks:
        for dtype in (np.float32, np.float64):
            head = forward(checkpoint, shown[None], task, dtype=dtype).head
            assert head is not None and np.abs(head[0] - want[task]).max() < 1e-4 * np.abs(want[task]).max()
        with torch.no_grad():
            head = golden(shown, task).head
        assert head is not None and sqnr(want[task], head[0].numpy()) > 100
    model_16 = calibrated(checkpoint, [image(seed) for seed in range(1, 6)])
    path = checkpoints.save(model_16, tmp_path / "m.safetensors")
    found = inference.infer(checkpoints.load(path), [shown], hardware=HARDWARE, device="emulator")
    maps = {tasks[task]: found.map(stream) for stream, (_, task) in enumerate(found.streams)}
    assert maps["semseg"] is not None and np.mean(maps["semseg"] == want["semseg"].argmax(-1)) > 0.98
    assert sqnr(want["depth"][..., 0], maps["depth"]) > 38 and sqnr(want["normals"], maps["normals"]) > 38


def test_task_names(tmp_path: Path) -> None:
    """A decoder's names in another order put them to other gates; other names are new ones."""
    model = training(3)
    path = saved(model, tmp_path)
    options: dict[str, Any] = dict(heads=HEADS, image_size=(HEIGHT, WIDTH))
    checkpoint, _ = imported(path, tasks=("depth", "normals", "semseg"), **options)
    assert [(t.name, t.channels) for t in checkpoint.config.tasks] == [("depth", 1), ("normals", 3), ("semseg", 7)]
    checkpoint, _ = imported(path, tasks=("a", "b", "c"), **options)
    assert [(t.name, t.channels) for t in checkpoint.config.tasks] == [("a", 7), ("b", 1), ("c", 3)]
    with pytest.raises(EdgemoeError, match="3 decoders and 3 gates, and 2 names"):
        imported(path, tasks=("a", "b"), **options)


@pytest.mark.parametrize(
    "name, shape, text",
    [
        ("decoders.depth.conv_9.weight", (1,), "the decoder of task depth: conv_9.weight have no place"),
        ("decoders.depth.syncbn_fc_2.weight", None, "the decoder of task depth lacks syncbn_fc_2.weight"),
        ("decoders.depth.syncbn_fc_2.weight", (3,), "conv_2 and its batch norm differ in channels"),
        ("decoders.depth.conv_1.weight", (INNER, INNER, 5, 5), "conv1.weight has shape"),
    ],
)
def test_another_decoder(name: str, shape: tuple[int, ...] | None, text: str, tmp_path: Path) -> None:
    state: dict[str, Tensor] = dict(training(3).state_dict())
    state.pop(name, None)
    torch.save(state | ({name: torch.zeros(shape)} if shape else {}), tmp_path / "m.pth")
    with pytest.raises(EdgemoeError, match=text):
        imported(tmp_path / "m.pth", heads=HEADS, image_size=(HEIGHT, WIDTH))


def test_command(edgemoe: Command, tmp_path: Path) -> None:
    """From the folder to maps; the report says what the host computed, and how long."""
    path, out = saved(training(3), tmp_path), tmp_path / "m.safetensors"
    for seed in range(2):
        Image.fromarray(image(seed).transpose(1, 2, 0)).save(tmp_path / f"p{seed}.png")
    words = ["--heads", HEADS, "--image-size", f"{HEIGHT}x{WIDTH}", "--calibrate", tmp_path / "p1.png"]
    code, _, errors = edgemoe("import", "m3vit", path, "-o", out, *map(str, words))
    assert code == 0, errors
    hardware = ["--hardware", "tiny", *[w for n, v in SIZES.items() for w in ("--set", f"{n}={v}")]]
    infer = ["infer", tmp_path / "p0.png", "--checkpoint", out, *hardware, "--device", "emulator"]
    code, text, errors = edgemoe(*infer, "--out", tmp_path / "out", "--json")
    assert code == 0, errors
    report = json.loads(text)
    assert report["host"]["depth"] == "final norm, five convolutions"
    assert report["host"]["semseg"].endswith("likeliest class of each pixel")
    assert report["host_seconds"] == pytest.approx(sum(stream["host_seconds"] for stream in report["streams"])) != 0
    shapes = {name: np.load(tmp_path / "out" / f"p0-{name}.npy").shape for name in ("semseg", "depth", "normals")}
    assert shapes == {"semseg": (HEIGHT, WIDTH), "depth": (HEIGHT, WIDTH), "normals": (HEIGHT, WIDTH, 3)}
    for name in shapes:
        shown = np.asarray(Image.open(tmp_path / "out" / f"p0-{name}.png"))
        assert shown.shape == (HEIGHT, WIDTH, 3) and shown.std() > 5
    code, text, errors = edgemoe(*infer, "--out", tmp_path / "out")
    assert code == 0 and "host took" in text and "final norm, five convolutions" in text


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("rows, columns", [(1, 1), (1, 5), (4, 1), (3, 6)])
def test_convolution(rows: int, columns: int, double: bool) -> None:
    """Borders and corners, too, and pictures of one patch: at the low resolution it is the same."""
    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(2, rows, columns, 5)), rng.normal(size=(4, 5, 3, 3)), rng.normal(size=4)
    image = torch.from_numpy(x).permute(0, 3, 1, 2)
    if double:
        image = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    want = F.conv2d(image, torch.from_numpy(weight), torch.from_numpy(bias), padding=1).permute(0, 2, 3, 1).numpy()
    assert np.abs(convolution(x, weight, bias, double=double) - want).max() < 1e-12


def test_products_are_at_the_low_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the multiplications of the plain way, behind conv_0."""
    from edgemoe.models.operations import pup

    done = 0
    plain = pup.product

    def counted(x: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        nonlocal done
        done += x.size * matrix.shape[1]
        return plain(x, matrix)

    monkeypatch.setattr(pup, "product", counted)
    tensors = {name: np.ones(shape, np.float32) for name, shape in decoder_tensors("d", 8, 6, 2).items()}
    assert decode(np.ones((1, 3, 5, 8), np.float32), tensors, "d").shape == (1, 48, 80, 2)
    first, inner = 15 * 9 * 8 * 6, 9 * 6 * 6
    assert done == first + 15 * (1 + 4 + 16) * inner + 15 * 64 * 6 * 2


@pytest.mark.parametrize(
    "fields, text",
    [
        (dict(kind="map", channels=1, decoder="pup"), "decoder_width is 0"),
        (dict(kind="map", channels=1, grid=2, decoder_width=4), "and 0 for others"),
        (dict(kind="map", channels=1, grid=2, decoder="pup", decoder_width=4), "grid 0"),
        (dict(kind="map", channels=0, decoder="onnx"), "channels of at least 1"),
        (dict(kind="depth", channels=1, decoder="onnx"), "gives a map"),
        (dict(kind="features", decoder="onnx"), "has no decoder"),
        (dict(kind="map", channels=1, decoder="conv"), "expected one of linear, pup, onnx"),
        (dict(kind="depth", channels=2, decoder="pup", decoder_width=4), "exactly 1 channel"),
    ],
)
def test_refused_tasks(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(EdgemoeError, match=text):
        TaskConfig(name="t", **fields)


# ----------------------------------------------------------------------------------------------------------- ONNX

SIDE = 64


class Whole(nn.Module):
    """A DINOv2 with a decoder, `kind` of which says what it sees."""

    def __init__(self, kind: str = "saliency", channels: int = 1) -> None:
        super().__init__()
        import transformers

        fields = dict(hidden_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=SIDE, patch_size=16)
        self.backbone = transformers.Dinov2Model(transformers.Dinov2Config(**fields))
        self.up = nn.ConvTranspose2d(96, 24, 4, 2, 1)
        self.norm, self.last = nn.BatchNorm2d(24), nn.Conv2d(24, channels, 1)
        self.kind = kind

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.backbone(pixels, output_hidden_states=True)
        tokens = hidden.hidden_states[2] if self.kind == "no norm" else hidden.last_hidden_state
        tokens = tokens + hidden.hidden_states[1] if self.kind == "taps" else tokens
        # The size of the picture is asked for, as people's decoders do.
        rows, columns = pixels.shape[2] // 16, pixels.shape[3] // 16
        x = tokens[:, 1:].transpose(1, 2).reshape(pixels.shape[0], -1, rows, columns)
        x = self.last(self.norm(self.up(x)).relu()).sigmoid()
        return x + 0.1 * F.interpolate(pixels[:, :1], x.shape[2:]) if self.kind == "pixels" else x


def exported(model: nn.Module, path: Path, torchscript: bool, **options: Any) -> Path:
    given = dict(input_names=["pixels"], output_names=["saliency"], verbose=False, dynamo=not torchscript)
    torch.onnx.export(shaken(model), (scaled(picture(SIDE)),), path, **given, **options)
    return path


def hardware(config: ModelConfig) -> HardwareConfig:
    fields = dict(tokens=config.tokens, rows=config.tokens, width=config.width, hidden=768)
    return HardwareConfig.from_fields(fields, HARDWARE)


@pytest.mark.filterwarnings("ignore")  # what exporting warns of is PyTorch's matter
@pytest.mark.parametrize("torchscript", [True, False], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("kind, channels", [("saliency", 1), ("saliency", 3), ("no norm", 1), ("pixels", 1)])
def test_onnx(torchscript: bool, kind: str, channels: int, tmp_path: Path) -> None:
    """The graph's output, of the emulator's tokens: the decoder travels in the checkpoint."""
    path = exported(Whole(kind, channels), tmp_path / "m.onnx", torchscript)
    checkpoint, notes = imported(path)
    assert any("the host runs them" in note for note in notes) and not any("left out" in note for note in notes)
    assert checkpoint.config.tasks == (TaskConfig(name="saliency", kind="map", channels=channels, decoder="onnx"),)
    assert len(checkpoint.graphs["saliency"]) < 200_000 < path.stat().st_size  # no encoder in it
    model = calibrated(checkpoint, [picture(SIDE, seed) for seed in range(1, 5)])
    stored = checkpoints.load(checkpoints.save(model, tmp_path / "m.safetensors"))
    assert stored.graphs == checkpoint.graphs and stored.config == checkpoint.config
    shown = picture(SIDE)
    whole = onnxruntime.InferenceSession(path)
    want = whole.run(None, {"pixels": scaled(shown).numpy()})[0][0].transpose(1, 2, 0)
    got = inference.infer(stored, [shown], hardware=hardware(stored.config), device="emulator").map(0)
    assert got is not None and got.shape == ((8, 8) if channels == 1 else (8, 8, 3))
    assert sqnr(want - want.mean(), got.reshape(want.shape) - want.mean()) > 38
    assert inference.colourised(stored.config, 0, got).shape == (SIDE, SIDE, 3)


@pytest.mark.filterwarnings("ignore")
def test_onnx_with_any_batch(tmp_path: Path) -> None:
    """Sizes that the export left open are those of one picture."""
    axes = {"pixels": {0: "batch", 2: "height", 3: "width"}, "saliency": {0: "batch"}}
    path = exported(Whole(), tmp_path / "m.onnx", True, dynamic_axes=axes)
    checkpoint, _ = imported(path, image_size=(SIDE, SIDE), tasks=("looks",))
    assert [(t.name, t.decoder) for t in checkpoint.config.tasks] == [("looks", "onnx")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("torchscript", [True, False], ids=["torchscript", "dynamo"])
def test_onnx_that_cannot_be_cut(torchscript: bool, tmp_path: Path) -> None:
    """What sees more than the final tokens is left out, with a notice."""
    checkpoint, notes = imported(exported(Whole("taps"), tmp_path / "m.onnx", torchscript))
    assert checkpoint.config.tasks[0].kind == "features" and not checkpoint.graphs
    assert any("left out, features are given: it sees inner values" in note for note in notes)


@pytest.fixture
def with_graph(tmp_path: Path) -> Checkpoint:
    """A random model with a graph that is an identity of the wrong shape."""
    task = TaskConfig(name="t", kind="map", channels=1, decoder="onnx")
    config = ModelConfig(
        name="m", image_height=16, image_width=16, width=32, heads=1, layers=1, hidden=32, experts=0, expert_hidden=0,
        top_k=0, moe_layers=(), tasks=(task,),
    )  # fmt: skip
    kind = onnx.TensorProto.FLOAT
    ends = [onnx.helper.make_tensor_value_info(name, kind, ["b"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return replace(Golden(config).to_checkpoint(), graphs={"t": model.SerializeToString()})


def test_graphs_are_checked(with_graph: Checkpoint, tmp_path: Path) -> None:
    for graphs, text in (({}, "heads.t.graph is missing"), (with_graph.graphs | {"u": b"x"}, "does not belong")):
        with pytest.raises(EdgemoeError, match=text):
            checkpoints.save(replace(with_graph, graphs=graphs), tmp_path / "m.safetensors")
    tokens = np.zeros((2, 32), np.float32)
    for graph in (with_graph.graphs["t"], b"", b"no graph"):
        broken = replace(with_graph, graphs={"t": graph})
        with pytest.raises(EdgemoeError, match="onnxruntime cannot run the decoder") as error:
            inference.prediction(broken, 0, np.zeros((3, 16, 16), np.uint8), None, tokens)
        assert "\n" not in str(error.value)
