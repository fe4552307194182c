# SPDX-License-Identifier: Apache-2.0
"""Images through a checkpoint on a device: what `infer`, `demo` and `check` share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from edgemoe.host import compiler
from edgemoe.host.device import Device
from edgemoe.host.driver import Driver, Progress, Run
from edgemoe.host.program import CompiledProgram, Stream
from edgemoe.hw.config import HardwareConfig
from edgemoe.models import heads
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.quantise import QuantisedModel, quantise
from numpy.typing import NDArray

DEVICES = ("verilator", "emulator", "fpga", "serial")


def notice(text: str) -> None:
    """A line for the user beside the results."""
    print(f"edgemoe: {text}", file=sys.stderr)


@contextmanager
def shown(title: str) -> Iterator[Progress]:
    """A bar on standard error that names the instruction being executed; yields the function that moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    step = TextColumn("{task.completed}/{task.total} {task.fields[step]}")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), step, TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, step="")
        yield lambda done, total, label: bar.update(task, completed=min(done, total), total=total, step=label)


@dataclass(frozen=True)
class SerialPort:
    """Where a board without a processor is; `baud`: what its bitstream was built for."""

    name: str
    baud: int | None = None


def open_device(
    name: str,
    hardware: HardwareConfig,
    memory_size: int,
    dram: Any = None,
    bitstream: Path | None = None,
    port: SerialPort | None = None,
) -> Device:
    """A device by name; `dram`: behaviour of the simulated memory (sim.device.Dram); `bitstream`: what PYNQ is to load."""
    if bitstream and name != "fpga":
        raise EdgemoeError(f"--bitstream is for --device fpga, not {name}")
    if port and name != "serial":
        raise EdgemoeError(f"--port and --baud are for --device serial, not {name}")
    if name == "serial":
        from edgemoe.host.serial_link import BAUD, open_serial

        if port is None:
            raise EdgemoeError("--device serial needs --port: /dev/ttyUSB0, or what your system calls the board's serial port")
        return open_serial(hardware, port.name, port.baud or BAUD)
    if name == "fpga":
        from edgemoe.host.fpga import open_fpga

        return open_fpga(hardware, memory_size, bitstream)
    if name == "emulator":
        from edgemoe.sim.emulator_device import EmulatorDevice

        return EmulatorDevice(hardware, memory_size)
    if name == "verilator":
        from edgemoe.sim.simulator import open_verilator

        return open_verilator(hardware, memory_size, dram)
    raise EdgemoeError(f"unknown device {name!r}: choose one of {', '.join(DEVICES)}")


def tasks_of(config: ModelConfig, names: Sequence[str] | None) -> list[int]:
    """Task indices; all of them if none is named."""
    return [config.task_index(name) for name in names] if names else list(range(len(config.tasks)))


def passes(config: ModelConfig, hardware: HardwareConfig, images: int, tasks: Sequence[int]) -> list[list[tuple[int, int]]]:
    """(image, task) streams, as many in a pass as the hardware has rows for; the tasks of an image stay together if they can."""
    room = hardware.rows // config.tokens
    if room == 0:  # let the compiler say by how much
        return [[(0, tasks[0])]]
    together = max(1, room // len(tasks)) if len(tasks) <= room else 0
    if together:
        return [[(i, t) for i in range(first, min(first + together, images)) for t in tasks] for first in range(0, images, together)]
    return [[(i, t) for t in tasks[first : first + room]] for i in range(images) for first in range(0, len(tasks), room)]


@dataclass
class Inference:
    """Results of all passes. runs: one per pass; heads, tokens: one per stream, in the order image by image, task by task."""

    device: str
    hardware: HardwareConfig
    checkpoint: Checkpoint
    streams: list[tuple[int, int]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    heads: list[NDArray[np.float32] | None] = field(default_factory=list)
    tokens: list[NDArray[np.float32] | None] = field(default_factory=list)

    def total(self, what: Callable[[Run], float]) -> Any:
        return sum(what(run) for run in self.runs)

    def summary(self) -> dict[str, Any]:
        """What --json shows."""
        cycles, macs = self.total(lambda r: r.cycles), self.total(lambda r: r.program.macs)
        config = self.checkpoint.config
        return {
            "device": self.device,
            "hardware": self.hardware.name,
            "checkpoint": config.name,
            "streams": [{"image": image, "task": config.tasks[task].name} for image, task in self.streams],
            "cycles": cycles,
            "macs": macs,
            "mac_utilisation": macs / (cycles * self.hardware.lanes**2) if cycles else None,
            "bytes_read": self.total(lambda r: r.bytes_read),
            "bytes_written": self.total(lambda r: r.bytes_written),
            "seconds": self.total(lambda r: r.seconds),
        }

    def map(self, stream: int) -> NDArray[Any] | None:
        """The full-size prediction of a stream: class numbers uint8 or metres float32, [H, W]; None for a task without a head."""
        config, head = self.checkpoint.config, self.heads[stream]
        task = config.tasks[self.streams[stream][1]]
        if head is None:
            return None
        return (heads.segmentation_map if task.kind == "segmentation" else heads.depth_map)(head, config, task)


def colourised(config: ModelConfig, task: int, prediction: NDArray[Any]) -> NDArray[np.uint8]:
    """A prediction as people look at it, uint8 [H, W, 3]."""
    kind = config.tasks[task].kind
    return heads.colourise_segmentation(prediction) if kind == "segmentation" else heads.colourise_depth(prediction)


def infer(
    checkpoint: Checkpoint,
    images: Sequence[NDArray[np.uint8]],
    *,
    tasks: Sequence[int] | None = None,
    device: str = "verilator",
    hardware: HardwareConfig,
    weight_bits: str = "16",
    save_tokens: bool = False,
    trace: bool = False,
    dram: Any = None,
    bitstream: Path | None = None,
    port: SerialPort | None = None,
    model: QuantisedModel | None = None,
) -> Inference:
    """Run every image through every task. Passes of the same shape share one program, so weights are packed and loaded once for them."""
    config = checkpoint.config
    tasks = list(range(len(config.tasks))) if tasks is None else list(tasks)
    planned = passes(config, hardware, len(images), tasks)
    model = quantise(checkpoint, weight_bits) if model is None else model
    result = Inference(device, hardware, checkpoint)
    programs: dict[tuple, CompiledProgram] = {}
    opened: Device | None = None
    driver: Driver | None = None
    loaded: CompiledProgram | None = None
    try:
        for number, streams in enumerate(planned):
            first = streams[0][0]
            shape = tuple((image - first, task) for image, task in streams)
            if shape not in programs:
                programs[shape] = compiler.compile(model, [Stream(i, t) for i, t in shape], hardware, trace=trace, save_tokens=save_tokens)
            program = programs[shape]
            if opened is None or opened.memory.size < program.memory_size:
                if opened:
                    opened.close()
                opened, loaded = open_device(device, hardware, program.memory_size, dram, bitstream, port), None
                driver = Driver(opened, hardware)
            assert driver is not None
            if loaded is not program:
                driver.load(program)
                loaded = program
            title = f"{device}, {hardware.name}" + (f", pass {number + 1} of {len(planned)}" if len(planned) > 1 else "")
            count = 1 + max(i for i, _ in shape)
            with shown(title) as progress:
                run = driver.run(program, list(images[first : first + count]), progress=progress)
            result.runs.append(run)
            result.streams += streams
            result.heads += run.heads
            result.tokens += run.tokens
    finally:
        if opened:
            opened.close()
    return result
