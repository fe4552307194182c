# SPDX-License-Identifier: Apache-2.0
"""`edgemoe soak`: different scenes, a different memory for each, the emulator's results every time."""

import dataclasses

import numpy as np
import pytest
from edgemoe.host.studies import soak
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.hardware_option import changed
from edgemoe.models.errors import EdgemoeError


def test_scenes_over_stalling_memories():
    report = soak.soak(2, 7, "random", preset("base"), "16")
    assert (report.images, report.mismatches) == (2, 0)
    assert report.cycles > 500_000 and report.stalled_beats > 10_000


def test_without_stalls_nothing_is_put_off():
    report = soak.soak(1, 7, "none", preset("base"), "mixed")
    assert (report.mismatches, report.stalled_beats) == (0, 0)


@pytest.mark.full
@pytest.mark.parametrize(("weight_bits", "packed"), [("16", 0), ("8", 0), ("fast", 1), ("fast-trunk", 1)])
def test_twenty_scenes(weight_bits, packed):
    report = soak.soak(20, 0, "random", changed(preset("base"), [f"packed={packed}"]), weight_bits)
    assert (report.images, report.mismatches) == (20, 0)


def test_a_difference_is_a_mismatch(monkeypatch):
    """A soak that cannot fail would show nothing: a simulation with one wrong weight is found out."""
    opened = soak.open_verilator

    def wrong(hardware, size, dram):
        device = opened(hardware, size, dram)
        write = device.memory.write

        def corrupt(address, data):
            # Bits all over the weights: a single one might belong to an expert that nobody asks for.
            data = np.array(data)
            if data.size > 1 << 20:
                data[data.size // 4 :: 997] ^= 0x40
            write(address, data)

        device.memory.write = corrupt
        return device

    monkeypatch.setattr(soak, "open_verilator", wrong)
    report = soak.soak(1, 1, "none", preset("base"), "16")
    assert report.mismatches == 1 and report.mismatching[0]["what"]


def test_memories_differ_and_stall_on_every_channel():
    drawn = [soak.random_dram(np.random.default_rng([3, i])) for i in range(50)]
    assert len(set(drawn)) == 50
    for dram in drawn:
        assert all(getattr(dram, f"stall_{channel}") > 0 for channel in ("ar", "r", "aw", "w", "b"))
    assert {dram.bandwidth > 0 for dram in drawn} == {True, False}
    assert dataclasses.replace(drawn[0]) == soak.random_dram(np.random.default_rng([3, 0]))


def test_unknown_stalls():
    with pytest.raises(EdgemoeError, match="unknown stalls 'some'"):
        soak.soak(1, 0, "some", preset("base"), "16")
