# SPDX-License-Identifier: Apache-2.0
"""Many different scenes through the RTL, each over another memory:
whatever the bus does, the results are the emulator's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from edgemoe.host import compiler
from edgemoe.host.inference import passes
from edgemoe.host.runtime.driver import DeviceError, Driver, Run
from edgemoe.host.runtime.program import Stream
from edgemoe.host.studies import scheduler
from edgemoe.host.studies.scheduler import HERE, Study, Where
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.console import show_table
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.calibrate import UNSEEN_SCENES
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.scenes import scene
from edgemoe.sim.build import digest
from edgemoe.sim.device import Dram, ProtocolError
from edgemoe.sim.emulator_device import EmulatorDevice
from edgemoe.sim.simulator import open_verilator

MODEL = "m3vit-micro"  # its images have the size of the generated scenes
STALLS = ("random", "none")


def random_dram(rng: np.random.Generator) -> Dram:
    """A memory drawn from the generator: latencies, depth of its queues, and stalls on every channel, from rare to most
    of the time.
    """
    stalls: dict[str, Any] = {
        f"stall_{channel}": float(rng.uniform(0.02, 0.6)) for channel in ("ar", "r", "aw", "w", "b")
    }
    latency, write_latency = (int(v) for v in rng.integers(1, 201, 2))
    # Three memories of four give a beat a cycle in each direction, the fourth shares fewer between them.
    bandwidth = float(rng.uniform(0.5, 1.5)) if rng.random() < 0.25 else 0.0
    return Dram(
        latency=latency,
        write_latency=write_latency,
        outstanding=int(rng.integers(1, 17)),
        bandwidth=bandwidth,
        seed=int(rng.integers(1, 1 << 31)),
        **stalls,
    )


@dataclass
class Soak:
    """What a soak found. stalled_beats: cycles by which random stalls put off transfers, all channels together."""

    hardware: str
    weight_bits: str
    seed: int
    stalls: str
    images: int = 0
    mismatches: int = 0
    cycles: int = 0
    stalled_beats: int = 0
    mismatching: list[dict[str, Any]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        return asdict(self)


def _different(mine: Run, reference: Run) -> list[str]:
    """The results of a run that are not those of the other."""
    found = []
    for what in ("heads", "tokens"):
        for stream, (a, b) in enumerate(zip(getattr(mine, what), getattr(reference, what), strict=True)):
            if (a is None) != (b is None) or (a is not None and not np.array_equal(a, b)):
                found.append(f"{what} of stream {stream}")
    return found


@dataclass(frozen=True)
class Shared:
    """What all images of a soak share."""

    key: str
    seed: int
    stalls: str
    hardware: HardwareConfig
    weight_bits: str


class Held:
    """What a worker keeps between images: the programs of an image's passes, and the emulator that runs them."""

    def __init__(self, shared: Shared) -> None:
        checkpoint, hardware = checkpoints.load(MODEL), shared.hardware
        planned = passes(checkpoint.config, hardware, 1, range(len(checkpoint.config.tasks)))
        model = quantise(checkpoint, shared.weight_bits)
        self.programs = [
            compiler.compile(model, [Stream(i, t) for i, t in streams], hardware, save_tokens=True)
            for streams in planned
        ]
        self.size = max(program.memory_size for program in self.programs)
        self.emulator = Driver(EmulatorDevice(hardware, self.size), hardware)

    def close(self) -> None:
        self.emulator.device.close()


def compute(shared: Shared, number: int) -> dict[str, Any]:
    """One image, on a simulation of its own with a memory of its own; "what" is different of it."""
    held = scheduler.held(shared.key, lambda: Held(shared))
    rng = np.random.default_rng([shared.seed, number])
    picture = scene(UNSEEN_SCENES + int(rng.integers(1 << 40))).image
    dram = random_dram(rng) if shared.stalls == "random" else Dram()
    device = open_verilator(shared.hardware, held.size, dram)
    wrong: list[str] = []
    cycles = 0
    try:
        driver = Driver(device, shared.hardware)
        for program in held.programs:
            driver.load(program)
            held.emulator.load(program)
            run = driver.run(program, [picture])
            cycles += run.cycles
            wrong += _different(run, held.emulator.run(program, [picture]))
    except (DeviceError, ProtocolError) as error:
        wrong.append(str(error))
    finally:
        stalled = sum(counters.stalled for counters in device.counters())
        device.strict = False  # what broke a rule is in the report
        device.close()
    return {"image": number, "what": wrong, "dram": asdict(dram), "cycles": cycles, "stalled": stalled}


def soak(images: int, seed: int, stalls: str, hardware: HardwareConfig, weight_bits: str, where: Where = HERE) -> Soak:
    """`images` scenes of `seed`, all tasks each."""
    if stalls not in STALLS:
        raise EdgemoeError(f"unknown stalls {stalls!r}: choose one of {', '.join(STALLS)}")
    identity = {"study": "soak", "seed": seed, "stalls": stalls, "hardware": hardware.sizes, "weight_bits": weight_bits}
    study = Study(
        title=f"soak on {hardware.name}",
        unit="images",
        compute=compute,
        identity=identity | {"images": images},
        shared=Shared(digest(identity), seed, stalls, hardware, weight_bits),
        parts=[partial(int, number) for number in range(images)],
        sizes=[1] * images,
    )
    report = Soak(hardware.name, weight_bits, seed, stalls, images=images)
    for found in scheduler.run(study, where).results:
        report.cycles += found.pop("cycles")
        report.stalled_beats += found.pop("stalled")
        if found["what"]:
            report.mismatches += 1
            report.mismatching.append(found)
    return report


def show(report: Soak) -> None:
    """The report on standard output."""
    equal = report.images - report.mismatches
    rows = [
        ("pictures", f"{equal} of {report.images} bit-exact with the emulator, each over a memory of its own"),
        ("weights", WeightFormat.of(report.weight_bits).label),
        ("seed", str(report.seed)),
        ("cycles", f"{report.cycles:,}"),
        (
            "stalls",
            f"{report.stalls}; {report.stalled_beats:,} cycles put off" if report.stalled_beats else report.stalls,
        ),
    ]
    rows += [(f"picture {wrong['image']}", "; ".join(wrong["what"])) for wrong in report.mismatching]
    show_table(f"Soak on {report.hardware}", rows)
