# SPDX-License-Identifier: Apache-2.0
"""The command line. Results go to standard output (with ``--json`` nothing else does), progress and errors to standard error.

Nothing heavy is imported here: every command imports what it needs when it runs, so that ``--help`` is instant and a machine without
PyTorch or Amaranth can run what does not need them.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from edgemoe.models.errors import EdgemoeError

app = typer.Typer(
    name="edgemoe",
    help="An FPGA accelerator for multi-task Mixture-of-Experts vision transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
importer = typer.Typer(help="Convert foreign checkpoints.", no_args_is_help=True)
app.add_typer(importer, name="import")


class DeviceName(StrEnum):
    """What ``infer`` can run on."""

    VERILATOR = "verilator"
    EMULATOR = "emulator"


class WeightBits(StrEnum):
    """Formats of the weights: 16 bit, 8 bit, or 8-bit experts in a 16-bit trunk."""

    SIXTEEN = "16"
    EIGHT = "8"
    MIXED = "mixed"


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on standard output.")]
Hardware = Annotated[str, typer.Option("--hardware", help="Hardware preset.", metavar="PRESET")]
CheckpointName = Annotated[str, typer.Option("--checkpoint", help="Name of a preset, or a .safetensors file.", metavar="NAME|FILE")]
Bits = Annotated[WeightBits, typer.Option("--weight-bits", help="Format of the weights.")]


@app.command()
def demo(out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path("out/demo")) -> None:
    """A street scene through the generated hardware: segmentation and depth, simulated cycle by cycle."""
    raise EdgemoeError("demo is not here yet")


@app.command()
def infer(
    images: Annotated[list[Path], typer.Argument(help="PNG or JPEG, or .npy of uint8 H x W x 3.", metavar="IMAGE...")],
    checkpoint: CheckpointName = "m3vit-micro",
    task: Annotated[list[str] | None, typer.Option("--task", help="A task of the checkpoint; may be repeated. Default: all.")] = None,
    device: Annotated[DeviceName, typer.Option("--device", help="What computes.")] = DeviceName.VERILATOR,
    hardware: Hardware = "base",
    weight_bits: Bits = WeightBits.SIXTEEN,
    out: Annotated[Path, typer.Option("--out", help="Folder for maps and raw predictions.")] = Path("out"),
    save_tokens: Annotated[
        Path | None, typer.Option("--save-tokens", help="Write the encoder's final tokens here.", metavar="FILE.npy")
    ] = None,
    json: Json = False,
) -> None:
    """Run images through a checkpoint."""
    raise EdgemoeError("infer is not here yet")


@importer.command("edge-moe")
def import_edge_moe(
    folder: Annotated[Path, typer.Argument(help="Folder of raw float32 files.", metavar="DIR")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Checkpoint to write.", metavar="FILE.safetensors")],
    calibrate: Annotated[
        list[Path] | None, typer.Option("--calibrate", help="Images for calibration; may be repeated.", metavar="IMAGE")
    ] = None,
    json: Json = False,
) -> None:
    """Convert the raw weights of the Edge-MoE project."""
    raise EdgemoeError("import edge-moe is not here yet")


@app.command()
def verilog(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.", metavar="DIR")],
    hardware: Hardware = "base",
) -> None:
    """Write the hardware as Verilog, with its register map and instruction set as documents."""
    raise EdgemoeError("verilog is not here yet")


@app.command()
def check(
    checkpoint: CheckpointName = "m3vit-micro",
    image: Annotated[list[Path] | None, typer.Option("--image", help="An image; may be repeated. Default: a generated scene.")] = None,
    hardware: Hardware = "base",
    weight_bits: Bits = WeightBits.SIXTEEN,
    json: Json = False,
) -> None:
    """Compare every instruction's result between emulator and RTL, and both with the float model."""
    raise EdgemoeError("check is not here yet")


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="Model preset.", metavar="PRESET")] = "m3vit-micro",
    out: Annotated[Path, typer.Option("--out", help="Checkpoint to write.")] = Path("out/m3vit-micro.safetensors"),
    seed: Annotated[int, typer.Option(help="Seed of weights, scenes and order.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps. Default: the preset's.", min=1)] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; the result depends on their number.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Train a checkpoint on generated street scenes."""
    try:
        from edgemoe.models.train import train as run
    except ModuleNotFoundError as error:
        raise EdgemoeError(
            f"training needs the package {error.name} (pip install 'edgemoe[golden]', or start this command as ./edgemoe train)"
        ) from error
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgemoeError(f"cannot write {out}: {error.strerror}") from error
    if steps is None:
        run(config, seed=seed, out=out, threads=threads)
    else:
        run(config, seed=seed, out=out, threads=threads, steps=steps)
    typer.echo(out)


@app.command()
def doctor(json: Json = False) -> None:
    """What is installed, what is missing, and how to get it."""
    from edgemoe.host.doctor import examine, show

    findings = examine()
    show(findings, as_json=json)
    if any(finding.needed and not finding.present for finding in findings):
        raise typer.Exit(1)


@app.command()
def test(
    full: Annotated[bool, typer.Option("--full", help="Also the long tests.")] = False,
    arguments: Annotated[list[str] | None, typer.Argument(help="Handed to pytest (after --).", metavar="[-- PYTEST...]")] = None,
) -> None:
    """Lint, types and all tests."""
    from edgemoe.host.suite import run

    raise typer.Exit(run(full=full, arguments=arguments or []))


def main() -> None:
    """Run a command; what the user can mend is one line on standard error and exit code 2."""
    try:
        result = app(prog_name="edgemoe", standalone_mode=False)
    except EdgemoeError as error:
        # One line, whatever the message holds.
        _stop(" ".join(str(error).split()), 2)
    except (KeyboardInterrupt, EOFError):
        _stop("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain once more while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        # Usage errors of the command line library; it lives in another package in each of its versions.
        message = getattr(error, "format_message", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            sys.exit(2)
        if type(error).__name__ == "Abort":
            _stop("interrupted", 130)
        if message is None:
            raise
        _stop(" ".join(message().split()), getattr(error, "exit_code", 2))
    sys.exit(result if isinstance(result, int) else 0)


def _stop(message: str, code: int) -> None:
    print(f"edgemoe: error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
