# SPDX-License-Identifier: Apache-2.0
"""Waveforms of the whole core, read as Surfer reads them: complete, named as the hardware is, held to a window of
instructions, and opened by save files that name nothing that is not there.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import pywellen
from edgemoe.host import inference
from edgemoe.hw.contract.config import preset
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import waves
from edgemoe.sim.recording import Recording
from edgemoe.sim.simulator import verilog

from ..models.small import random_images
from ..top.support import NANO, checkpoint_of

TINY = preset("tiny")
CYCLE = 10  # ns
NUMBER = "edgemoe.top.control.instruction"


def infer(recording: Recording | None) -> inference.Inference:
    return inference.infer(checkpoint_of(NANO), list(random_images(NANO, 1)), hardware=TINY, recording=recording)


def changes(file: Path, name: str) -> list[tuple[int, int]]:
    """(ns, value) of a signal, from its first value on."""
    return [(time, int(value)) for time, value in pywellen.Waveform(str(file))[name].signal]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, inference.Inference]:
    """A run with all its waveforms."""
    path = tmp_path_factory.mktemp("waves") / "whole.fst"
    return path, infer(Recording(path))


def test_a_recorded_run_is_the_run(whole: tuple[Path, inference.Inference]) -> None:
    """Nothing is computed or timed otherwise because somebody looks."""
    _, recorded = whole
    plain = infer(None)
    assert recorded.total(lambda run: run.cycles) == plain.total(lambda run: run.cycles)
    for ours, theirs in zip(recorded.heads, plain.heads, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_cycle_and_every_instruction(whole: tuple[Path, inference.Inference]) -> None:
    file, result = whole
    run = result.runs[0]
    edges = [time for time, value in changes(file, "edgemoe.aclk") if value]
    assert len(edges) >= run.cycles and set(np.diff(edges)) == {CYCLE}
    running = changes(file, "edgemoe.top.registers.run__running")
    begun, ended = [time for time, value in running][-2:]
    assert (ended - begun) // CYCLE == run.cycles, "what the counter counts is what the waveform shows"
    numbers = [value for _, value in changes(file, NUMBER)]
    # Within EXPERTS the sequencer returns to the first instruction of the body, once for each queue.
    assert set(numbers) == set(range(len(run.program.instructions)))


def test_names_are_those_of_the_hardware(whole: tuple[Path, inference.Inference]) -> None:
    """As in the Verilog, scope by scope, and none that a tool made up."""
    every = [var.full_name for var in pywellen.Waveform(str(whole[0])).all_vars()]
    names = [name for name in every if not name.startswith("$rootio.")]  # Verilator shows the ports there, too
    assert len(names) > 5000 and not [name for name in names if re.search(r"(^|[.\\])_?(port)?\$", name)]
    for name in (
        "edgemoe.top.engine.epilogue.activation.value",
        "edgemoe.top.sequencer.instruction_number",
        "edgemoe.m_axi_araddr",
    ):
        assert name in names


def test_save_files_name_what_is_there(whole: tuple[Path, inference.Inference]) -> None:
    file, result = whole
    names = {var.full_name for var in pywellen.Waveform(str(file)).all_vars()}
    gtkw = file.with_suffix(".gtkw").read_text()
    shown = re.findall(r"^(edgemoe\.[\w.]+)", gtkw, re.M)
    added = re.findall(r"^variable_add (\S+)$", file.with_suffix(".sucl").read_text(), re.M)
    assert shown == added and set(shown) <= names
    # All that is meant for this build: without the masters that it lacks.
    meant = [path for paths in waves.VIEW.values() for path in paths if not re.match(r"m_axi\d", path)]
    assert [name.removeprefix("edgemoe.") for name in shown] == meant
    labels = file.with_name("whole.instructions.txt")
    assert f"^1 {labels}" in gtkw and f"load_file {file}" in file.with_suffix(".sucl").read_text()
    lines = labels.read_text().splitlines()
    assert lines[5] == f"5 5 {result.runs[0].program.labels[5]}" and len(lines) == len(result.runs[0].program.labels)


def test_a_window_of_instructions(whole: tuple[Path, inference.Inference], tmp_path: Path) -> None:
    """All cycles with these at the sequencer, every value as in the whole file, and little behind them."""
    file, part = whole[0], tmp_path / "part.fst"
    infer(Recording(part, 5, 7))
    assert part.stat().st_size < file.stat().st_size / 2
    edges = [time for time, value in changes(part, "edgemoe.aclk") if value]
    number = changes(file, NUMBER)
    wanted = {
        time
        for (begun, value), (ended, _) in zip(number, number[1:], strict=False)
        for time in range(begun // CYCLE * CYCLE + 5, ended, CYCLE)
        if 5 <= value <= 7
    }
    assert wanted and wanted <= set(edges)
    assert {value for time, value in changes(part, NUMBER) if time >= edges[0]} <= set(range(5, 15))
    for name in ("edgemoe.top.engine.array.stream__data", "edgemoe.top.engine.epilogue.out__word"):
        full, cut = (pywellen.Waveform(str(path))[name].signal for path in (file, part))
        assert {time: cut.value_at(time) for time in wanted} == {time: full.value_at(time) for time in wanted}


def test_views_of_two_masters() -> None:
    """Every path of the view is in some build: none is misspelt."""
    text = verilog(preset("tiny"))
    two = text.replace("m_axi_", "m_axi0_") + text.replace("m_axi_", "m_axi1_")
    for paths in waves.VIEW.values():
        for path in paths:
            given = two if re.match(r"m_axi\d", path) else text
            assert re.search(rf"\b{path.rpartition('.')[2]};", given), path


@pytest.mark.parametrize(
    "path, instructions, told",
    [
        ("run.vcd", None, "must end in .fst"),
        (None, "3..4", "--instructions is for --trace"),
        ("run.fst", "4..3", "numbers of a first and a last"),
        ("run.fst", "all", "numbers of a first and a last"),
    ],
)
def test_what_cannot_be_meant(path: str | None, instructions: str | None, told: str) -> None:
    with pytest.raises(EdgemoeError, match=re.escape(told)):
        Recording.of(Path(path) if path else None, instructions)


def test_one_instruction_or_a_range() -> None:
    assert Recording.of(Path("a.fst"), "7") == Recording(Path("a.fst"), 7, 7)
    assert Recording.of(Path("a.fst"), "7..9") == Recording(Path("a.fst"), 7, 9)
    assert Recording.of(None, None) is None


def test_other_devices_have_none() -> None:
    with pytest.raises(EdgemoeError, match="emulator has no waveforms"):
        inference.recording(Path("a.fst"), None, "emulator")


def test_nothing_stays_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(EdgemoeError, match="cannot write"):
        infer(Recording(tmp_path / "no" / "folder" / "a.fst"))
    assert list(tmp_path.iterdir()) == []
