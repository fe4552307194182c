# SPDX-License-Identifier: Apache-2.0
"""The driver by hand, without a session: compile, open a device, load, run, look at the counters.

A board, its simulation and the emulator are driven by the same lines:

    python examples/drive_board.py emulator
    python examples/drive_board.py fpga                    # on a Zynq board's Linux
    python examples/drive_board.py serial /dev/ttyUSB0     # beside an ECP5 board
"""

from __future__ import annotations

import sys

import edgemoe
from edgemoe.host import compiler
from edgemoe.host.inference import prediction
from edgemoe.host.runtime.device import Device
from edgemoe.host.runtime.driver import Driver
from edgemoe.host.runtime.loopback import loop_back
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models import scenes
from edgemoe.models.numbers.quantise import quantise


def open_device(name: str, hardware: HardwareConfig, memory_size: int, port: str = "") -> Device:
    """Each is imported where it is used: a board needs no simulator, and a simulator no serial port."""
    if name == "serial":
        from edgemoe.host.runtime.serial_link import SerialDevice

        return SerialDevice(port)
    if name == "fpga":
        from edgemoe.host.runtime.fpga import UioDevice

        return UioDevice(memory_size=memory_size)
    if name == "verilator":
        from edgemoe.sim.simulator import open_verilator

        return open_verilator(hardware, memory_size)
    from edgemoe.sim.emulator_device import EmulatorDevice

    return EmulatorDevice(hardware, memory_size)


def main(arguments: list[str] | None = None) -> None:
    name, *rest = sys.argv[1:] if arguments is None else arguments
    hardware = preset("schoko")  # what the board was built as: the driver compares
    model = edgemoe.load("m3vit-nano")
    image = scenes.cut(scenes.scene(2_000_000), model.config.image_height, model.config.image_width).image
    program = compiler.compile(quantise(model), [(0, "depth")], hardware)

    device = open_device(name, hardware, program.memory_size, *rest)
    try:
        driver = Driver(device, hardware)  # refuses a core of another kind or size
        loop_back(driver)  # a pattern through the core: do processor and core see the same memory?
        driver.load(program)
        run = driver.run(program, [image])
    finally:
        device.close()
    depth = prediction(model, 1, image, run.heads[0], run.tokens[0])
    print(f"{name}: nearest {depth.min():.1f} m, farthest {depth.max():.1f} m")
    print(f"{run.counters['INSTRUCTIONS']} instructions, {run.cycles:,} cycles, {run.bytes_read:,} bytes read")


if __name__ == "__main__":
    main()
