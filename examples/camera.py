# SPDX-License-Identifier: Apache-2.0
"""Frames one at a time through a model that is loaded once: a webcam, a video, or a folder of frames.

    python examples/camera.py FOLDER
    python examples/camera.py drive.mp4 --device verilator
    python examples/camera.py 0 --device fpga              # the first webcam; needs OpenCV: pip install -e '.[camera]'

Leaves FRAME-TASK.png in the folder `out/camera`, the newest of each task as TASK.png (a viewer that reloads shows it
live), and a line a frame. Ctrl-C ends it. A program is compiled and weights are loaded with the first frame; every
other one costs what it takes to compute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import edgemoe
import numpy as np
from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def frames(source: str) -> Iterator[tuple[str, Image.Image]]:
    """(name, picture): of a folder in the order of their names; of a video or a webcam as they come."""
    folder = Path(source)
    if folder.is_dir():
        for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
            with Image.open(path) as picture:
                yield path.stem, picture.convert("RGB")
        return
    try:
        import cv2
    except ImportError:
        raise SystemExit("a webcam or a video needs OpenCV: pip install -e '.[camera]'") from None
    camera = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not camera.isOpened():
        raise SystemExit(f"{source} is no folder, no video and no webcam that opens")
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest that is kept
    try:
        number = 0
        while True:
            there, pixels = camera.read()
            if not there:
                return
            yield f"{number:06d}", Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))
            number += 1
    finally:
        camera.release()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Frames of a webcam, a video or a folder, one at a time.")
    parser.add_argument("source", help="number of a webcam, a video file, or a folder of frames")
    parser.add_argument("--checkpoint", default="m3vit-micro")
    parser.add_argument("--device", default="emulator", help="or verilator, fpga, serial")
    parser.add_argument("--hardware", default="base")
    parser.add_argument("--task", action="append", help="may be repeated; default: all")
    parser.add_argument("--frames", type=int, help="stop after so many")
    parser.add_argument("--out", type=Path, default=Path("out/camera"))
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)

    with edgemoe.open(given.checkpoint, device=given.device, hardware=given.hardware, resize="crop") as session:
        try:
            for number, (name, picture) in enumerate(frames(given.source)):
                if number == given.frames:
                    break
                begun = time.perf_counter()
                (result,) = session.infer([picture], tasks=given.task)
                seconds = time.perf_counter() - begun
                for task, prediction in result.items():
                    prediction.save(given.out / f"{name}-{task}.png")
                    prediction.save(given.out / f"{task}.png")
                cycles = f", {result.cycles:,.0f} cycles" if result.cycles else ""
                print(f"{name}: {1000 * seconds:.0f} ms{cycles}", flush=True)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
