# SPDX-License-Identifier: Apache-2.0
"""Images through a checkpoint on a device: what `infer`, `demo` and `check` share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host import compiler
from edgemoe.host.compiler.capacities import streams_together
from edgemoe.host.runtime.board_device import DRAIN, BoardDevice
from edgemoe.host.runtime.device import Device
from edgemoe.host.runtime.driver import Driver, Progress, Run
from edgemoe.host.runtime.program import CompiledProgram, Stream
from edgemoe.host.totals import Totals
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models import heads, onnx_decoder
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import (
    EdgemoeError,
    notice,  # commands take it from here
)
from edgemoe.models.graph import graph
from edgemoe.models.numbers.quantise import QuantisedModel, quantise
from edgemoe.sim.recording import Recording
from numpy.typing import NDArray

DEVICES = ("verilator", "emulator", "fpga", "serial")
CLOCK_MHZ = 300  # at which milliseconds are told where no board is named: a target, not a measurement


class Notices:
    """Notices about files: a line for the first of a kind, and at the end how many more there were of each."""

    MOST = 10  # kinds that are shown

    def __init__(self) -> None:
        self._more: dict[str, int] = {}
        self._others = 0

    def __call__(self, file: str, text: str) -> None:
        if text in self._more:
            self._more[text] += 1
        elif len(self._more) < self.MOST:
            self._more[text] = 0
            notice(f"{file}: {text}")
        else:
            self._others += 1

    def close(self) -> None:
        """Say what was kept back."""
        for text, count in self._more.items():
            if count:
                notice(f"{count} more: {text}")
        if self._others:
            notice(f"{self._others} other notices of this sort are not shown")


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """A bar on standard error that names the instruction being executed; yields the function that moves it."""
    from edgemoe.models import console
    from rich.progress import TimeElapsedColumn

    step = "{task.completed}/{task.total} {task.fields[step]}"
    with console.bar("{task.description}", console.narrow(), step, TimeElapsedColumn()) as bar:
        task = bar.add_task(title, total=None, step="")
        yield lambda done, total, label: bar.update(task, completed=min(done, total), total=total, step=label)


@dataclass(frozen=True)
class SerialPort:
    """Where a board without a processor is; `baud`: what its bitstream was built for."""

    name: str
    baud: int | None = None

    @classmethod
    def of(cls, name: str | None, baud: int | None) -> SerialPort | None:
        """From the options --port and --baud."""
        if baud and not name:
            raise EdgemoeError("--baud is for --port")
        return cls(name, baud) if name else None


def _open_board(
    name: str, memory_size: int, bitstream: Path | None, port: SerialPort | None, uio: str | None, *, load: bool = True
) -> BoardDevice | None:
    """A board by name as it is found, its core perhaps at work; None for a device that is no board."""
    if (bitstream or uio) and name != "fpga":
        raise EdgemoeError(f"{'--bitstream' if bitstream else '--uio'} is for --device fpga, not {name}")
    if bitstream and uio:
        raise EdgemoeError("give --bitstream (PYNQ) or --uio (plain Linux), not both")
    if port and name != "serial":
        raise EdgemoeError(f"--port and --baud are for --device serial, not {name}")
    if name == "serial":
        from edgemoe.host.runtime.serial_link import SerialDevice
        from edgemoe.hw.contract.frames import BAUD

        if port is None:
            raise EdgemoeError(
                "--device serial needs --port: /dev/ttyUSB0, or what your system calls the board's serial port"
            )
        return SerialDevice(port.name, port.baud or BAUD)
    if name == "fpga":
        from edgemoe.host.runtime import fpga

        return (
            fpga.open_pynq(bitstream, memory_size, load=load)
            if bitstream
            else fpga.UioDevice(memory_size=memory_size, uio=uio)
        )
    return None


def recording(trace: Path | None, instructions: str | None, device: str) -> Recording | None:
    """From the options --trace and --instructions."""
    found = Recording.of(trace, instructions)
    if found and device != "verilator":
        raise EdgemoeError(f"--trace is for --device verilator: {device} has no waveforms")
    return found


def reset(name: str, bitstream: Path | None = None, port: SerialPort | None = None, uio: str | None = None) -> None:
    """Stop whatever a board's core does: soft reset, drain. EdgemoeError if it does not come to rest."""
    board = _open_board(name, 1, bitstream, port, uio, load=False)
    if board is None:
        raise EdgemoeError(
            f"reset is for --device fpga and serial: {name} runs inside its own process and leaves nothing behind"
        )
    try:
        stopped = board.stop()
    finally:
        board.close()
    if not stopped:
        reason = f"the core did not come to rest within {DRAIN:g} s of a soft reset: its memory no longer answers"
        raise EdgemoeError(f"{reason}; load the bitstream again")


def open_device(
    name: str,
    hardware: HardwareConfig,
    memory_size: int,
    dram: Any = None,
    bitstream: Path | None = None,
    port: SerialPort | None = None,
    uio: str | None = None,
    recording: Recording | None = None,
) -> Device:
    """A device by name; `dram`: behaviour of the simulated memory (sim.device.Dram); `bitstream`: what PYNQ is to load;
    `uio`: which UIO device, where several cores are there; `recording`: which waveforms of a simulation are kept.
    Through a board's memory a pattern has gone and come back."""
    if board := _open_board(name, memory_size, bitstream, port, uio):
        from edgemoe.host.runtime.loopback import loop_back

        try:
            loop_back(Driver(board, hardware))
        except BaseException:
            board.close()
            raise
        return board
    if name == "emulator":
        from edgemoe.sim.emulator_device import EmulatorDevice

        return EmulatorDevice(hardware, memory_size)
    if name == "verilator" and recording:
        from edgemoe.sim.waves import open_recording

        return open_recording(recording, hardware, memory_size, dram)
    if name == "verilator":
        from edgemoe.sim.simulator import open_verilator

        return open_verilator(hardware, memory_size, dram)
    raise EdgemoeError(f"unknown device {name!r}: choose one of {', '.join(DEVICES)}")


def tasks_of(config: ModelConfig, names: Sequence[str] | None) -> list[int]:
    """Task indices, each once; all of them if none is named."""
    return list(dict.fromkeys(config.task_index(name) for name in names)) if names else list(range(len(config.tasks)))


def images_together(config: ModelConfig, hardware: HardwareConfig, tasks: int) -> int:
    """Images that go through so many tasks each in one pass; 0 if the tasks of one image already need several."""
    return streams_together(config, hardware) // tasks


def passes(
    config: ModelConfig, hardware: HardwareConfig, images: int, tasks: Sequence[int]
) -> list[list[tuple[int, int]]]:
    """(image, task) streams, as many in a pass as the hardware has room for;
    the tasks of an image stay together if they can.
    """
    room = streams_together(config, hardware)
    if room == 0:  # the compiler cuts the rows of a stream, of as many streams as there are
        return [[(image, task) for task in tasks] for image in range(images)]
    if together := images_together(config, hardware, len(tasks)):
        return [
            [(i, t) for i in range(first, min(first + together, images)) for t in tasks]
            for first in range(0, images, together)
        ]
    return [
        [(i, t) for t in tasks[first : first + room]] for i in range(images) for first in range(0, len(tasks), room)
    ]


@dataclass(frozen=True)
class Pass:
    """What one run of the hardware gave. streams: (number of the image, task), in the order of the run's heads and
    tokens; images: the picture of each.
    """

    streams: list[tuple[int, int]]
    images: list[NDArray[np.uint8]]
    run: Run


@dataclass
class Inference:
    """Results of all passes. runs: one per pass; images, heads, tokens:
    one per stream, in the order image by image, task by task.
    """

    device: str
    hardware: HardwareConfig
    checkpoint: Checkpoint
    streams: list[tuple[int, int]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    heads: list[NDArray[np.float32] | None] = field(default_factory=list)
    tokens: list[NDArray[np.float32] | None] = field(default_factory=list)

    def total(self, what: Callable[[Run], float]) -> Any:
        return sum(what(run) for run in self.runs)

    def totals(self) -> Totals:
        sums = Totals()
        for run in self.runs:
            sums.add(run)
        return sums

    def map(self, stream: int) -> NDArray[Any] | None:
        """The prediction of a stream, as `prediction` gives it."""
        task, image = self.streams[stream][1], self.images[stream]
        return prediction(self.checkpoint, task, image, self.heads[stream], self.tokens[stream])


def prediction(
    checkpoint: Checkpoint,
    task: int,
    image: NDArray[np.uint8],
    head: NDArray[np.float32] | None,
    tokens: NDArray[np.float32] | None,
) -> NDArray[Any] | None:
    """What a task says of a picture, by its kind; None for a task without a head.

    A full-size map [H, W], class numbers uint8 or metres float32; values as they are, float32 [h, w] or
    [h, w, channels]; probabilities of classes, float32 [classes]; features float32 [tokens, width], normalised.
    head: what the device computed of it; tokens: the final ones, for heads that the host computes.
    """
    config, chosen = checkpoint.config, checkpoint.config.tasks[task]
    if host_head := graph(config).host_heads.get(chosen.name):
        assert tokens is not None  # a program stores them for a task that has no head on the array
        head = host_head.forward(tokens[None], checkpoint.tensors)[0]
    elif chosen.decoder == "onnx":
        assert tokens is not None
        head = onnx_decoder.decode(checkpoint.graphs[chosen.name], tokens, image)
    if head is None or chosen.kind == "features":
        return head
    decode = {
        "segmentation": heads.segmentation_map,
        "depth": heads.depth_map,
        "map": heads.plain_map,
        "classification": heads.class_probabilities,
    }
    return decode[chosen.kind](head, config, chosen)


def host_work(config: ModelConfig, task: int) -> str:
    """What `prediction` computes of what the device gave; "" for nothing."""
    chosen = config.tasks[task]
    host_head = graph(config).host_heads.get(chosen.name)
    first = host_head.title if host_head else "graph in onnxruntime" if chosen.decoder == "onnx" else ""
    last = {
        "segmentation": "interpolation, likeliest class of each pixel",
        "depth": "interpolation, metres",
        "map": "interpolation" if chosen.decoder == "linear" else "",
        "classification": "softmax",
    }.get(chosen.kind, "")
    return ", ".join(part for part in (first, last) if part)


def colourised(config: ModelConfig, task: int, prediction: NDArray[Any]) -> NDArray[np.uint8]:
    """A map, or features, as people look at it, uint8 [H, W, 3]."""
    kind = config.tasks[task].kind
    if kind == "features":
        return heads.colourise_features(prediction, config)
    if kind == "map":
        return heads.colourise_map(prediction, config)
    return heads.colourise_segmentation(prediction) if kind == "segmentation" else heads.colourise_depth(prediction)


def best_classes(config: ModelConfig, task: int, probabilities: NDArray[Any], most: int = 5) -> dict[str, float]:
    """The likeliest classes, by their labels or numbers, with their probabilities; the first is the likeliest."""
    labels = config.tasks[task].labels
    order = np.argsort(-probabilities, kind="stable")[:most]
    return {labels[i] if labels else str(i): float(probabilities[i]) for i in order}


class Session:
    """A model on an open device: programs are compiled, weights packed and loaded once for all passes of the same
    shape.

    The device is opened with the first pass, whose program says how much memory it needs. dram: behaviour of the
    simulated memory; bitstream, port, uio, recording: as `open_device` takes them. save_tokens, trace: what programs
    store besides the heads. program: one that is compiled already, which then is all passes'. quiet: how the model is
    cut has been said.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        hardware: HardwareConfig,
        weight_bits: str,
        save_tokens: bool = False,
        trace: bool = False,
        dram: Any = None,
        bitstream: Path | None = None,
        port: SerialPort | None = None,
        uio: str | None = None,
        recording: Recording | None = None,
        model: QuantisedModel | None = None,
        program: CompiledProgram | None = None,
        quiet: bool = False,
    ) -> None:
        self.quiet = quiet
        self.checkpoint, self.config, self.device, self.hardware = checkpoint, checkpoint.config, device, hardware
        self.weight_bits, self.save_tokens, self.trace = weight_bits, save_tokens, trace
        self._open = (dram, bitstream, port, uio, recording)
        self._model, self._given = model, program
        self._programs: dict[tuple[tuple[int, int], ...], CompiledProgram] = {}
        self._opened: Device | None = None
        self._driver: Driver | None = None
        self._loaded: CompiledProgram | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the device back. The next pass would open it again."""
        if self._opened:
            self._opened.close()
        self._opened = self._driver = self._loaded = None

    def _program(self, shape: tuple[tuple[int, int], ...]) -> CompiledProgram:
        if self._given:
            return self._given
        if self._model is None:
            self._model = quantise(self.checkpoint, self.weight_bits)
        if shape not in self._programs:
            streams = [Stream(image, task) for image, task in shape]
            self._programs[shape] = compiler.compile(
                self._model, streams, self.hardware, trace=self.trace, save_tokens=self.save_tokens
            )
            if (how := self._programs[shape].split) and len(self._programs) == 1 and not self.quiet:
                notice(f"{self.config.name} does not fit hardware {self.hardware.name!r} in one piece: {how}")
        return self._programs[shape]

    def run(
        self,
        shape: tuple[tuple[int, int], ...],
        images: Sequence[NDArray[np.uint8]],
        progress: Progress | None = None,
        following: Callable[[], Sequence[NDArray[np.uint8]] | None] | None = None,
    ) -> Run:
        """One pass over (image, task) streams of these images. following: as `Driver.run` asks it."""
        program = self._program(shape)
        if self._opened is None or self._opened.memory.size < program.memory_size:
            self.close()
            self._opened = open_device(self.device, self.hardware, program.memory_size, *self._open)
            self._driver = Driver(self._opened, self.hardware)
            if describe := getattr(self._opened, "describe", None):  # of a device that keeps waveforms
                describe(program.labels)
        assert self._driver is not None
        if self._loaded is not program:
            self._driver.load(program)
            self._loaded = program
        return self._driver.run(program, images, progress=progress, following=following)

    def passes(
        self,
        images: Iterable[NDArray[np.uint8]],
        tasks: Sequence[int],
        progress: Callable[[float, float], Progress | None] = lambda done, share: None,
    ) -> Generator[Pass, None, None]:
        """Every image through every task, pass by pass; images are taken when their pass comes, and nothing of a pass
        is kept.

        progress: called with (pictures done, pictures of this pass) before each pass; gives the function that the pass
        then calls.
        """
        if self._given:
            yield from self._passes_of(self._given, images, progress)
            return
        source, finished = iter(images), 0
        while group := list(islice(source, max(1, images_together(self.config, self.hardware, len(tasks))))):
            planned = passes(self.config, self.hardware, len(group), tasks)
            share = len(group) / len(planned)
            for number, streams in enumerate(planned):
                first, last = streams[0][0], streams[-1][0]
                run = self.run(tuple(streams), group[first : last + 1], progress(finished + number * share, share))
                seen = [group[image] for image, _ in streams]
                yield Pass([(finished + image, task) for image, task in streams], seen, run)
            finished += len(group)

    def _passes_of(
        self,
        program: CompiledProgram,
        images: Iterable[NDArray[np.uint8]],
        progress: Callable[[float, float], Progress | None],
    ) -> Generator[Pass, None, None]:
        """As `passes`, of a program that takes a number of images: the last one stands in for those that are missing
        at the end, and what comes of it is left out.
        """
        source, finished, room = iter(images), 0, len(program.images)
        shape = tuple((stream.image, stream.task) for stream in program.streams)
        while group := list(islice(source, room)):
            run = self.run(shape, group + group[-1:] * (room - len(group)), progress(finished, len(group)))
            real = [place for place, (image, _) in enumerate(shape) if image < len(group)]
            run = replace(run, heads=[run.heads[p] for p in real], tokens=[run.tokens[p] for p in real])
            streams = [(finished + shape[place][0], shape[place][1]) for place in real]
            yield Pass(streams, [group[shape[place][0]] for place in real], run)
            finished += len(group)


def stream(
    checkpoint: Checkpoint,
    images: Iterable[NDArray[np.uint8]],
    *,
    tasks: Sequence[int] | None = None,
    device: str = "verilator",
    hardware: HardwareConfig,
    weight_bits: str = "16",
    count: int | None = None,
    **options: Any,
) -> Generator[Pass, None, None]:
    """All passes of a session with these options, under a progress bar; count: how many images there will be."""
    chosen = list(range(len(checkpoint.config.tasks))) if tasks is None else list(tasks)
    with (
        shown(f"{device}, {hardware.name}") as bar,
        Session(checkpoint, device=device, hardware=hardware, weight_bits=weight_bits, **options) as session,
    ):
        yield from session.passes(
            images, chosen, lambda done, share: bar if count == 1 else _part(bar, done, share, count)
        )


def _part(bar: Progress, done: float, share: float, count: int | None) -> Progress:
    """Moves the bar of a batch from `done` pictures on by `share` of them while a pass runs."""

    def progress(instruction: int, instructions: int, label: str) -> None:
        bar(int(done + share * min(instruction, instructions) / max(1, instructions)), count or 0, "pictures")

    return progress


def infer(
    checkpoint: Checkpoint,
    images: Sequence[NDArray[np.uint8]],
    *,
    hardware: HardwareConfig,
    device: str = "verilator",
    **options: Any,
) -> Inference:
    """All passes of `stream`, which says what the options are."""
    result = Inference(device, hardware, checkpoint)
    with closing(stream(checkpoint, images, hardware=hardware, device=device, count=len(images), **options)) as parts:
        for part in parts:
            result.runs.append(part.run)
            result.streams += part.streams
            result.images += part.images
            result.heads += part.run.heads
            result.tokens += part.run.tokens
    return result
