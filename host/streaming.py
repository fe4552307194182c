# SPDX-License-Identifier: Apache-2.0
"""Pictures without an end: files as they appear in a folder, frames as another program writes them.

Program and weights stay loaded. Three things go on at once: a thread reads the next pictures, the device computes one,
a thread turns what the device gave into maps and saves them. The next picture is uploaded while the device still
computes (`Driver.run`), where it does so long enough to be asked.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from edgemoe.host import outputs
from edgemoe.host.images import SUFFIXES, picture_pixels, read_image
from edgemoe.host.inference import Notices, Session, passes, prediction
from edgemoe.host.totals import Totals
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.folders import OutputFolder
from numpy.typing import NDArray

AHEAD = 2  # pictures that wait between two of the three
POLL = 0.1  # seconds between two looks at a folder
WORK = {"device": "the device", "read": "reading", "map": "maps", "write": "writing"}  # what is told of a picture

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """A picture that has come: uint8 [C, H, W], or why it could not be read."""

    name: str
    pixels: Pixels | None
    remarks: tuple[str, ...] = ()
    error: str = ""


Source = Callable[[threading.Event], Iterator[Frame]]  # ends, soon, when the event is set


def raw_frames(file: BinaryIO, width: int, height: int, config: ModelConfig, resize: str) -> Source:
    """Frames of width x height x 3 bytes, RGB, one after the other (ffmpeg: -f rawvideo -pix_fmt rgb24)."""

    def frames(stop: threading.Event) -> Iterator[Frame]:
        size, number = width * height * 3, 0
        while data := file.read(size):
            number += 1
            name = f"frame-{number:06}"
            if len(data) < size:
                yield Frame(name, None, error=f"{name} ends after {len(data)} of {size} bytes; is it {width}x{height}?")
                return
            pixels, remarks = picture_pixels(
                np.frombuffer(data, np.uint8).reshape(height, width, 3), config, resize, name
            )
            yield Frame(name, pixels, tuple(remarks))

    return frames


def watched(folder: Path, config: ModelConfig, resize: str) -> Source:
    """Pictures of a folder, those that are there and those that come, each once it has stopped growing."""
    if not folder.is_dir():
        raise EdgemoeError(f"--watch {folder} is no folder: expected one in which pictures appear")

    def frames(stop: threading.Event) -> Iterator[Frame]:
        done: set[Path] = set()
        before: dict[Path, tuple[int, int]] = {}
        while not stop.is_set():
            now: dict[Path, tuple[int, int]] = {}
            for path in sorted(folder.glob("[!.]*")):
                if path.suffix.lower() in SUFFIXES and path not in done and path.is_file():
                    found = path.stat()
                    now[path] = (found.st_size, found.st_mtime_ns)
            for path in (path for path, state in now.items() if before.get(path) == state):
                done.add(path)
                try:
                    pixels, remarks = read_image(path, config, resize)
                    yield Frame(path.stem, pixels, tuple(remarks))
                except EdgemoeError as error:
                    yield Frame(path.stem, None, error=str(error))
            before = now
            stop.wait(POLL)

    return frames


@dataclass
class Streamed:
    """What came of a stream. seconds: of work, all together: reading, the device, making maps, writing files;
    first, last: when a picture was saved.
    """

    pictures: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "device", "map", "write"), 0.0))
    first: float = 0.0
    last: float = 0.0

    @property
    def rate(self) -> float | None:
        """Pictures a second, sustained: from the first one that was saved on."""
        return (self.pictures - 1) / (self.last - self.first) if self.last > self.first else None

    def on_board(self, milliseconds: float) -> dict[str, float]:
        """What the host would be beside a device that takes so long for a picture: reading, the device, and what is
        behind it overlap, so the slowest decides. The host's are as measured, on this processor.
        """
        each = {f"{name}_ms": 1e3 * self.seconds[name] / max(1, self.pictures) for name in ("read", "map", "write")}
        slowest = max(milliseconds, each["read_ms"], each["map_ms"] + each["write_ms"])
        host = sum(each.values())
        each |= {"pictures_per_second": 1e3 / slowest, "host_share": host / (host + milliseconds)}
        return {"device_ms": milliseconds} | each

    def rows(self, hardware: HardwareConfig, clock_mhz: float, milliseconds: float) -> list[tuple[str, str]]:
        """For people; the device is expected to take so long for a picture at that clock."""
        board = self.on_board(milliseconds)
        took = ", ".join(f"{work} {board[f'{name}_ms']:.2f} ms" for name, work in WORK.items())
        return [
            ("pictures", f"{self.pictures:,}" + (f", {self.rate:.2f} a second" if self.rate else "")),
            *self.totals.rows(hardware, clock_mhz),
            ("reading and writing", f"{self.seconds['read']:,.2f} s, {self.seconds['write']:,.2f} s"),
            (f"at {clock_mhz:g} MHz", f"{board['pictures_per_second']:.1f} pictures a second with this host"),
            ("a picture there", took),
        ]


class _Stage(threading.Thread):
    """A thread whose error is raised where its results are wanted."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.work, self.error = work, None

    error: BaseException | None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.error = error


def stream(
    checkpoint: Checkpoint,
    source: Source,
    folder: OutputFolder,
    *,
    tasks: list[int],
    hardware: HardwareConfig,
    limit: int | None = None,
    endless: bool = False,
    **options: Any,
) -> Streamed:
    """Maps of every picture, saved as they come; until the source ends, or `limit` pictures are done.

    endless: Ctrl-C is how it ends, no error; what has been computed is saved. options: those of `inference.Session`.
    """
    config, result, notices, stop = checkpoint.config, Streamed(), Notices(), threading.Event()
    coming: queue.Queue[Frame | None] = queue.Queue(AHEAD)
    computed: queue.Queue[tuple[Frame, list[tuple[int, Any, Any]]] | None] = queue.Queue(AHEAD)

    def put(channel: queue.Queue[Any], item: Any, thread: threading.Thread | None = None) -> bool:
        """False if nobody will take it any more."""
        while not stop.is_set() and (thread is None or thread.is_alive()):
            try:
                channel.put(item, timeout=POLL)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        frames, number = source(stop), 0
        while limit is None or number < limit:
            started = time.thread_time()  # its work, and not what it waits for
            frame = next(frames, None)
            result.seconds["read"] += time.thread_time() - started
            if frame is None or not put(coming, frame):
                break
            number += 1
        put(coming, None)

    def save() -> None:
        while item := computed.get():
            frame, heads = item
            for task, head, tokens in heads:
                assert frame.pixels is not None
                started = time.thread_time()
                values = prediction(checkpoint, task, frame.pixels, head, tokens)
                made = time.thread_time()
                outputs.save_maps(folder, frame.name, config, task, values)
                result.seconds["map"] += made - started
                result.seconds["write"] += time.thread_time() - made
            result.pictures += 1
            result.last = time.perf_counter()
            result.first = result.first or result.last

    reader, saver = _Stage(read), _Stage(save)
    known: deque[Frame | None] = deque()

    def following() -> list[Pixels] | None:
        """The next picture, if it is there."""
        if not known:
            try:
                known.append(coming.get_nowait())
            except queue.Empty:
                return None
        return [known[0].pixels] if known[0] and known[0].pixels is not None else None

    planned = passes(config, hardware, 1, tasks)
    with Session(checkpoint, hardware=hardware, **options) as session:
        reader.start()
        saver.start()
        try:
            while frame := known.popleft() if known else _next(coming, reader):
                if frame.pixels is None:
                    result.failed.append({"file": frame.name, "error": frame.error})
                    continue
                for remark in frame.remarks:
                    notices(frame.name, remark)
                heads: list[tuple[int, Any, Any]] = []
                for shape in planned:
                    ask = following if len(planned) == 1 else None
                    run = session.run(tuple(shape), [frame.pixels], following=ask)
                    result.totals.add(run)
                    result.seconds["device"] += run.seconds
                    found = zip(shape, run.heads, run.tokens, strict=True)
                    heads += [(task, head, tokens) for (_, task), head, tokens in found]
                if not put(computed, (frame, heads), saver):
                    break
        except KeyboardInterrupt:
            if not endless:
                raise
        finally:
            put(computed, None, saver)
            saver.join()
            stop.set()
    for thread in (reader, saver):
        if thread.error:
            raise thread.error
    notices.close()
    return result


def _next(coming: queue.Queue[Frame | None], reader: threading.Thread) -> Frame | None:
    """The next picture; None at the end, also if the reader has failed."""
    while True:
        try:
            return coming.get(timeout=POLL)
        except queue.Empty:
            if not reader.is_alive() and coming.empty():
                return None
