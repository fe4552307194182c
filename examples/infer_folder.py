# SPDX-License-Identifier: Apache-2.0
"""A folder of pictures through the library: their maps beside them, and a line for each.

Run it with `python examples/infer_folder.py FOLDER`; `--device verilator` simulates the hardware cycle by cycle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import edgemoe

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Maps of every picture in a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="emulator", help="or verilator, fpga, serial")
    given = parser.parse_args(arguments)
    pictures = sorted(path for path in given.folder.iterdir() if path.suffix.lower() in SUFFIXES)
    out = given.folder / "maps"
    out.mkdir(exist_ok=True)

    # A session keeps the program and the weights loaded; pictures of one call share passes of the hardware.
    with edgemoe.open("m3vit-micro", device=given.device, hardware="base", resize="crop") as session:
        for result in session.infer(pictures):
            assert result.source is not None  # these pictures are files
            for task, prediction in result.items():
                prediction.save(out / f"{result.source.stem}-{task}.png")
            nearest = result["depth"].map.min()
            remarks = f" ({'; '.join(result.remarks)})" if result.remarks else ""
            print(f"{result.source.name}: nearest {nearest:.1f} m{remarks}")


if __name__ == "__main__":
    main()
