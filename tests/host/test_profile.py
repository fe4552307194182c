# SPDX-License-Identifier: Apache-2.0
"""A profile's numbers are the run's: cycles, bytes, queues, attention, decibels."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edgemoe.host import inference
from edgemoe.host.compiler.timing import Cost, Execution
from edgemoe.host.studies import benchmark, checking
from edgemoe.host.studies.profile import page, pictures, timeline
from edgemoe.host.studies.profile.attention import attention
from edgemoe.host.studies.profile.gather import profile
from edgemoe.host.studies.profile.recorder import NOTED
from edgemoe.hw.contract.config import preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import extras
from edgemoe.models.config import TaskConfig
from edgemoe.models.golden import Golden
from edgemoe.models.numbers.calibrate import unseen_images
from PIL import Image

from ..models.support import PLAIN, TINY, random_checkpoint
from .conftest import Command, refused
from .profiles import CHECKPOINT, HARDWARE, IMAGE, found

CLOSE = 0.02  # plan and RTL
LOOKS = 64  # cycles that lie between two looks at the most


@pytest.fixture(scope="module")
def rtl() -> Mapping[str, Any]:
    return found(True)


@pytest.fixture(scope="module")
def plan() -> Mapping[str, Any]:
    return found(False)


@pytest.fixture(scope="module")
def ran() -> inference.Inference:
    """The same without anybody watching."""
    return inference.infer(CHECKPOINT, [IMAGE], hardware=HARDWARE, device="verilator")


@pytest.fixture(scope="module")
def told() -> inference.Inference:
    return inference.infer(CHECKPOINT, [IMAGE], hardware=HARDWARE, device="emulator", trace=True)


def total(rows: Any, column: str = "cycles") -> int:
    return sum(row[column] for row in rows)


def test_watching_costs_the_core_nothing(rtl: Mapping[str, Any], ran: inference.Inference) -> None:
    assert rtl["source"] == "rtl" and rtl["cycles"] == ran.total(lambda run: run.cycles)
    assert rtl["kinds"] == benchmark.breakdown(ran.runs)["kinds"]


def test_spans_are_the_run(rtl: Mapping[str, Any], ran: inference.Inference) -> None:
    """One after the other without a gap, as many as retired, and their states add up to the core's own counters."""
    spans = rtl["timeline"]
    assert spans[0]["start"] == 0 and spans[-1]["end"] == rtl["cycles"] and spans[-1]["unit"] == "end"
    assert all(a["end"] == b["start"] for a, b in zip(spans, spans[1:], strict=False))
    assert len(spans) == ran.total(lambda run: run.counters["INSTRUCTIONS"]) + rtl["passes"]
    for state, counter in benchmark.STATES.items():
        counted = sum(run.counters[counter] for run in ran.runs)
        assert sum(span["spent"].get(state, 0) for span in spans) == counted
        assert total(row for row in rtl["parts"] if row["state"] == state) == counted
    assert {span["unit"] for span in spans} == {*timeline.UNITS, "end"}
    assert {span["operation"] for span in spans} == set(timeline.OPERATIONS)


def test_the_plan_has_the_same_spans(rtl: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    same = ("label", "part", "unit", "expert", "rows")
    assert [[s[name] for name in same] for s in plan["timeline"]] == [
        [s[name] for name in same] for s in rtl["timeline"]
    ]
    assert plan["source"] == "plan" and plan["cycles"] == pytest.approx(rtl["cycles"], rel=CLOSE)
    for mine, theirs in zip(plan["timeline"], rtl["timeline"], strict=True):
        assert abs(mine["end"] - theirs["end"]) < CLOSE * rtl["cycles"] + LOOKS, mine["label"]
    assert plan["kinds"].keys() == {*timeline.UNITS, "end"}
    assert sum(sum(states.values()) for states in plan["kinds"].values()) == plan["cycles"]


def test_a_lost_instruction_is_told() -> None:
    executions = [Execution(number, Cost()) for number in range(3)]
    samples = [[0] * len(NOTED), [cycle + 1 for cycle in range(len(NOTED))]]
    samples[1][NOTED.index("INSTRUCTIONS")] = 1
    with pytest.raises(RuntimeError, match="1 instructions retired, the queues ask for 2"):
        timeline.measured(samples, executions)


@pytest.mark.parametrize("source", ["rtl", "plan"])
def test_activity_is_the_run_in_slices(source: str, request: pytest.FixtureRequest) -> None:
    profiled = request.getfixturevalue(source)
    slices = profiled["activity"]
    assert len(slices) == timeline.BINS * profiled["passes"] and slices[-1]["end"] == profiled["cycles"]
    for state in profiled["states"]:
        spent = sum(span["spent"].get(state, 0) for span in profiled["timeline"])
        assert sum(s[state] * (s["end"] - s["start"]) for s in slices) == pytest.approx(spent, abs=len(slices))
    assert all(-0.01 <= s["read"] <= 1.2 for s in slices) and max(s["read"] for s in slices) > 0.2


def test_bytes_are_those_on_the_bus(
    rtl: Mapping[str, Any], ran: inference.Inference, told: inference.Inference
) -> None:
    assert rtl["bytes_moved"] == ran.total(lambda run: run.bytes_read + run.bytes_written)
    quiet = inference.infer(CHECKPOINT, [IMAGE], hardware=HARDWARE, device="emulator")
    dropped = [row for row in rtl["bytes"] if row["use"] == "dropped fetches"]
    assert rtl["bytes_moved"] - total(dropped, "moved") == quiet.total(lambda run: run.bytes_read + run.bytes_written)
    assert 0 < rtl["bytes_minimum"] < rtl["bytes_moved"] and all(r["minimum"] <= r["moved"] for r in rtl["bytes"])
    queues = [row for row in rtl["queues"] if row["layer"] == 1]
    used = {row["expert"] for row in queues if row["tokens"]}
    [experts] = [row for row in rtl["bytes"] if row["use"] == "weights of experts"]
    assert experts["moved"] == experts["minimum"] == len(used) * rtl["experts"][0]["bytes"]


def test_queues_and_routes(rtl: Mapping[str, Any], told: inference.Inference) -> None:
    chosen = [np.array(route["experts"]) for route in rtl["routes"]]
    routes = [route for run in told.runs for route in run.routes]
    assert len(routes) == len(chosen) and all(np.array_equal(a, b) for a, b in zip(routes, chosen, strict=True))
    assert [(r["layer"], r["task"]) for r in rtl["routes"]] == [(1, "seg"), (1, "dep")]
    assert total(rtl["queues"], "tokens") == 2 * TINY.tokens * TINY.top_k
    lengths = [benchmark.queue_lengths(run)[1] for run in told.runs]
    found = [sum(row["tokens"] for row in rtl["queues"] if row["expert"] == expert) for expert in range(TINY.experts)]
    assert found == np.sum(lengths, axis=0).tolist()


def test_attention_is_the_float_models(told: inference.Inference, rtl: Mapping[str, Any]) -> None:
    """Of both tasks, in layer 0, which they share, and behind it; and the pictures hold it."""
    golden = Golden(CHECKPOINT).double().eval()
    seen: list[torch.Tensor] = []
    for block in golden.blocks:
        block.attn.register_forward_pre_hook(lambda module, inputs: seen.append(module.qkv(inputs[0])))
    maps = [probabilities for run in told.runs for probabilities in attention(run).values()]
    with torch.no_grad():
        for task in range(2):
            golden(torch.tensor(IMAGE[None]), task)
    assert len(maps) == len(seen) == len(rtl["attention"]) == 4
    for ours, qkv, row in zip(maps, seen, rtl["attention"], strict=True):
        query, key, _ = qkv[0].reshape(TINY.tokens, 3, TINY.heads, -1).permute(1, 2, 0, 3)
        wanted = (query @ key.transpose(-2, -1) / TINY.head_width**0.5).softmax(-1).numpy()
        assert np.abs(ours - wanted).max() < 2e-3 and np.allclose(ours.sum(-1), 1)
        with Image.open(io.BytesIO(base64.b64decode(row["png"].partition(",")[2]))) as picture:
            grey = np.asarray(picture).reshape(ours.shape)
        assert np.abs(grey / 255 - ours / ours.max(-1, keepdims=True)).max() <= 0.5 / 255 + 1e-9


def test_a_query_that_looks_at_nothing_is_black() -> None:
    shares = np.array([[[0.5, 0.25], [0.0, 0.0]]])
    assert pictures.grey(shares).tolist() == [[255, 128], [0, 0]]


def test_decibels_are_the_checks(rtl: Mapping[str, Any]) -> None:
    accuracy = checking.check(CHECKPOINT, [IMAGE], hardware=HARDWARE, rtl=False).accuracy
    assert accuracy is not None
    assert [row["all"] for row in rtl["decibels"]] == [round(one.db, 2) for one in accuracy.layers]
    assert rtl["accuracy"]["dep"]["db_routed"] == round(accuracy.sqnr_db_routed["dep"], 2)


def test_several_passes() -> None:
    """A build with room for one stream: the second task's pass begins where the first one's ends."""
    small = replace(HARDWARE, rows=HARDWARE.tokens)
    both = profile(CHECKPOINT, IMAGE, hardware=small, weight_bits="16", rtl=False).summary()
    assert both["passes"] == 2 and {span["run"] for span in both["timeline"]} == {0, 1}
    assert all(a["end"] == b["start"] for a, b in zip(both["timeline"], both["timeline"][1:], strict=False))
    assert both["timeline"][-1]["end"] == both["cycles"] and len(both["activity"]) == 2 * timeline.BINS
    assert [row["task"] for row in both["attention"]] == ["seg"] * 2 + ["dep"] * 2
    assert total(both["queues"], "tokens") == 2 * TINY.tokens * TINY.top_k


def test_a_model_larger_than_the_chip(caplog: pytest.LogCaptureFixture) -> None:
    """In tiles of rows: queries, keys and queues are put together again, and every byte is accounted for."""
    small = replace(HARDWARE, rows=12, tokens=12)
    cut = profile(CHECKPOINT, IMAGE, hardware=small, weight_bits="16", rtl=False).summary()
    assert caplog.text.count("in one piece") == 1, "the comparison with the float model says it again"
    whole, quiet = found(False), inference.infer(CHECKPOINT, [IMAGE], hardware=small, device="emulator")
    assert cut["bytes_moved"] == quiet.total(lambda run: run.bytes_read + run.bytes_written)
    assert cut["cycles"] > whole["cycles"] and cut["bytes_moved"] > whole["bytes_moved"]
    for same in ("results", "routes", "queues", "attention"):
        assert cut[same] == whole[same], same
    assert all(row["moved"] >= row["minimum"] for row in cut["bytes"])


def test_a_classifier_without_experts_or_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("cat", "<dog>", "cow")
    task = TaskConfig(name="animal", kind="classification", channels=3, pool="cls", labels=labels)
    config = replace(PLAIN, tasks=(task, TaskConfig(name="raw", kind="tokens")))
    present = extras.present
    monkeypatch.setattr(extras, "present", lambda module: module != "torch" and present(module))
    image = unseen_images(config, 1)[0]
    plain = profile(random_checkpoint(config), image, hardware=preset("tiny"), weight_bits="16", rtl=False).summary()
    assert plain["decibels"] is None and not plain["queues"] and not plain["routes"] and not plain["experts"]
    assert set(plain["results"][0]["classes"]) == set(labels) and plain["results"][1]["map"] is None
    text = page.render(plain)
    assert 'id="reordering"' not in text and "Not compared" in text and "&lt;dog&gt;" in text and "<dog>" not in text


def test_the_command(edgemoe: Command, tmp_path: Path) -> None:
    path = checkpoints.save(CHECKPOINT, tmp_path / "m.safetensors")
    Image.fromarray(IMAGE.transpose(1, 2, 0)).save(tmp_path / "a.png")
    asked = ["profile", "--checkpoint", path, "--hardware", "tiny", "--image", tmp_path / "a.png"]
    html = tmp_path / "new" / "report.html"
    code, text, errors = edgemoe(*asked, "--html", html, "--json")
    assert code == 0, errors
    shown = json.loads(text)
    assert shown["source"] == "rtl" and shown["cycles"] == found(True)["cycles"] and shown["picture"]["name"] == "a.png"
    assert shown["routes"] == found(True)["routes"]
    inside = html.read_text().partition('id="profile">')[2].partition("</script>")[0]
    assert json.loads(inside) == shown
    code, text, errors = edgemoe(*asked, "--device", "emulator", "--html", html)
    assert code == 0 and "as planned" in text and str(html) in text, errors


def test_what_it_refuses(edgemoe: Command, tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    refused(edgemoe("profile"), "nowhere to put the profile", "--html FILE")
    refused(edgemoe("profile", "--html", tmp_path), "it is a folder")
    refused(edgemoe("profile", "--json", "--device", "fpga"), "not of fpga")
    refused(edgemoe("profile", "--json", "--image", tmp_path), "are 2 pictures, a profile is of one")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "b.png"]
