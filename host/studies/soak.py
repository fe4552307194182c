# SPDX-License-Identifier: Apache-2.0
"""Many different scenes through the RTL, each over another memory:
whatever the bus does, the results are the emulator's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from edgemoe.host import compiler
from edgemoe.host.inference import passes, shown
from edgemoe.host.runtime.driver import DeviceError, Driver, Run
from edgemoe.host.runtime.program import Stream
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.calibrate import UNSEEN_SCENES
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.scenes import scene
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


def soak(images: int, seed: int, stalls: str, hardware: HardwareConfig, weight_bits: str) -> Soak:
    """`images` scenes of `seed`, all tasks each; every image on a simulation of its own with a memory of its own."""
    if stalls not in STALLS:
        raise EdgemoeError(f"unknown stalls {stalls!r}: choose one of {', '.join(STALLS)}")
    checkpoint = checkpoints.load(MODEL)
    planned = passes(checkpoint.config, hardware, 1, range(len(checkpoint.config.tasks)))
    model = quantise(checkpoint, weight_bits)
    programs = [
        compiler.compile(model, [Stream(i, t) for i, t in streams], hardware, save_tokens=True) for streams in planned
    ]
    size = max(program.memory_size for program in programs)
    emulator = Driver(EmulatorDevice(hardware, size), hardware)
    report = Soak(hardware.name, weight_bits, seed, stalls)
    for number in range(images):
        rng = np.random.default_rng([seed, number])
        picture = scene(UNSEEN_SCENES + int(rng.integers(1 << 40))).image
        dram = random_dram(rng) if stalls == "random" else Dram()
        device = open_verilator(hardware, size, dram)
        wrong: list[str] = []
        try:
            driver = Driver(device, hardware)
            for program in programs:
                driver.load(program)
                emulator.load(program)
                with shown(f"image {number + 1} of {images}") as progress:
                    run = driver.run(program, [picture], progress=progress)
                report.cycles += run.cycles
                wrong += _different(run, emulator.run(program, [picture]))
        except (DeviceError, ProtocolError) as error:
            wrong.append(str(error))
        finally:
            report.stalled_beats += sum(counters.stalled for counters in device.counters())
            device.strict = False  # what broke a rule is in the report
            device.close()
        report.images += 1
        if wrong:
            report.mismatches += 1
            report.mismatching.append({"image": number, "what": wrong, "dram": asdict(dram)})
    return report
