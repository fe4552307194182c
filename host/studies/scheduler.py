# SPDX-License-Identifier: Apache-2.0
"""A study in independent parts: computed here, by processes of this machine, or by the workers of a Dask scheduler.

A part is a pure function of what all parts share and of what is its own: it may be computed anywhere, twice, or again.
Whoever computes it, its result is the same, and results are given in the order of the parts; so nothing depends on how
many workers there are, nor on their dying. What is finished is kept in the cache until all of it is: a study that was
interrupted goes on where it was when the same command comes again.

Workers must run this very edgemoe. Their sources are compared when a study begins, and before each part.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import pickle
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from edgemoe.boards.kit import sources
from edgemoe.models import console
from edgemoe.models.errors import EdgemoeError, notice
from edgemoe.models.files import write_whole
from edgemoe.sim.build import cache_folder, digest

LOCAL = "local"
AHEAD = 3  # parts a worker that are handed out before they are wanted


@dataclass(frozen=True)
class Study:
    """What is to be computed. compute: a function of a module, of (shared, part), that gives what JSON can hold.

    identity: what its results depend on, besides edgemoe itself, as JSON; shared: for all parts; parts: what each needs
    besides, or how to get it when its turn comes; sizes: of the parts, in `unit`; packages: which round, besides NumPy.
    """

    title: str
    unit: str
    compute: Callable[[Any, Any], Any]
    identity: dict[str, Any]
    shared: Any
    parts: Sequence[Callable[[], Any]]
    sizes: Sequence[int]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Where:
    """scheduler: "local" or the address of one; workers: processes of this machine, where it is local."""

    scheduler: str = LOCAL
    workers: int = 1

    def __post_init__(self) -> None:
        if self.scheduler != LOCAL and "://" not in self.scheduler:
            raise EdgemoeError(
                f"scheduler is {self.scheduler!r}, expected {LOCAL} or the address of a Dask scheduler, tcp://HOST:PORT"
            )
        if self.scheduler != LOCAL and self.workers != 1:
            raise EdgemoeError("--workers is for --scheduler local: a scheduler has its own")

    @property
    def here(self) -> bool:
        """In this very process."""
        return self.scheduler == LOCAL and self.workers == 1

    @property
    def elsewhere(self) -> bool:
        """Where this machine's files are perhaps not."""
        return self.scheduler != LOCAL


HERE = Where()


@dataclass
class Outcome:
    """results: in the order of the parts. again: of `unit`, how much an earlier, interrupted run had left; rate: of
    `unit` a second in this one, None where nothing was left to do."""

    results: list[Any] = field(default_factory=list)
    again: int = 0
    seconds: float = 0.0
    rate: float | None = None


@cache
def version(packages: tuple[str, ...] = ()) -> str:
    """Of what computes: the hash of edgemoe's sources, and of the releases of the packages that round."""
    state = hashlib.sha256()
    for name, data in sources():
        state.update(f"{name} {len(data)}\n".encode() + data)
    for package in ("numpy", "pillow", *packages):
        try:
            state.update(f"{package} {importlib.metadata.version(package)}\n".encode())
        except importlib.metadata.PackageNotFoundError:
            state.update(f"no {package}\n".encode())
    return state.hexdigest()[:24]


_mine = threading.local()


def held(key: str, make: Callable[[], Any]) -> Any:
    """What a worker keeps between the parts of a study; one thing, which is closed when another is wanted."""
    if getattr(_mine, "key", None) != key:
        release()
        _mine.value = make()
        _mine.key = key
    return _mine.value


def release() -> None:
    """Close what is held."""
    value = getattr(_mine, "value", None)
    _mine.key = _mine.value = None
    if value is not None:
        value.close()


def run(study: Study, where: Where) -> Outcome:
    """All parts."""
    key = digest(study.identity, version(study.packages))
    folder = cache_folder() / "unfinished" / key
    results = {number: value for number, value in _kept(folder, len(study.parts))}
    outcome = Outcome(again=sum(study.sizes[number] for number in results))
    if results:
        notice(f"goes on after {outcome.again} {study.unit}, which an interrupted run has left")
    missing = [number for number in range(len(study.parts)) if number not in results]
    started = time.monotonic()
    with _bar(study, outcome.again) as done, ExitStack() as stack:
        if where.here or not missing:
            stack.callback(release)
            found: Iterator[tuple[int, Any]] = (
                (number, study.compute(study.shared, study.parts[number]())) for number in missing
            )
        else:
            found = _distributed(study, key, missing, where, stack)
        for number, value in found:
            text = json.dumps(value)
            results[number] = json.loads(text)
            if len(missing) > 1:
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(folder / f"{number}.json", text)
            done(study.sizes[number])
    shutil.rmtree(folder, ignore_errors=True)
    outcome.seconds = time.monotonic() - started
    if missing:
        outcome.rate = sum(study.sizes[number] for number in missing) / outcome.seconds
    outcome.results = [results[number] for number in range(len(study.parts))]
    return outcome


def _kept(folder: Path, count: int) -> Iterator[tuple[int, Any]]:
    """Results of an interrupted run."""
    for number in range(count) if folder.is_dir() else ():
        try:
            yield number, json.loads((folder / f"{number}.json").read_text())
        except (OSError, ValueError):
            continue


@contextmanager
def _bar(study: Study, again: int) -> Iterator[Callable[[int], None]]:
    """How far it is, how fast, and how long it will take; yields what tells of more."""
    from rich.progress import TimeRemainingColumn

    total, begun, finished = sum(study.sizes), time.monotonic(), 0
    counted = f"{{task.completed}}/{{task.total}} {study.unit}"
    with console.bar(
        "{task.description}", console.narrow(), counted, "{task.fields[rate]}", TimeRemainingColumn()
    ) as bar:
        task = bar.add_task(study.title, total=total, completed=again, rate="")

        def done(more: int) -> None:
            nonlocal finished
            finished += more
            rate = finished / max(time.monotonic() - begun, 1e-9)
            bar.update(task, completed=again + finished, rate=f"{rate:.3g} {study.unit}/s")

        yield done


# -------------------------------------------------------------------------------------------------------------- Dask


def _unpacked(data: bytes) -> Any:
    """What all parts share, on a worker. A task of its own, so that it is made again if the worker that has it dies."""
    return pickle.loads(data)


def _part(
    compute: Callable[[Any, Any], Any], shared: Any, part: Any, packages: tuple[str, ...], wanted: str
) -> tuple[bool, Any]:
    """(whether it could be computed, its result or why not)."""
    if version(packages) != wanted:
        return False, "a worker runs another edgemoe, or other packages, than this command: install the same on both"
    try:
        return True, compute(shared, part)
    except EdgemoeError as error:
        return False, str(error)


def _distributed(
    study: Study, key: str, missing: Sequence[int], where: Where, stack: ExitStack
) -> Iterator[tuple[int, Any]]:
    """Parts as they are finished. Only some are handed out at a time: their contents need not be all in memory."""
    import distributed

    stack.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", module="distributed")  # of sizes of tasks, and of the versions compared below
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if where.elsewhere:
        try:
            client = stack.enter_context(distributed.Client(where.scheduler, timeout="5s"))
        except (OSError, ValueError, TypeError) as error:
            raise EdgemoeError(f"no scheduler answers at {where.scheduler} (dask scheduler starts one)") from error
    else:
        cluster = stack.enter_context(
            distributed.LocalCluster(
                n_workers=where.workers,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                memory_limit=None,
            )
        )
        client = stack.enter_context(distributed.Client(cluster))
    packages, mine = study.packages, version(study.packages)
    _check_workers(client, where, packages)
    shared = client.submit(_unpacked, pickle.dumps(study.shared), key=f"edgemoe-{key}")

    def submit(number: int) -> Any:
        name = f"edgemoe-{key}-{number}"
        return client.submit(_part, study.compute, shared, study.parts[number](), packages, mine, key=name)

    numbers = iter(missing)
    room = AHEAD * max(1, sum(client.nthreads().values()))
    futures = {submit(number): number for number in islice(numbers, room)}
    waiting = distributed.as_completed(futures, with_results=False)
    for future in waiting:
        number = futures.pop(future)
        try:
            good, value = future.result()
        except distributed.KilledWorker as error:
            raise EdgemoeError(f"several workers died over part {number}, perhaps of too little memory") from error
        if not good:
            raise EdgemoeError(value)
        for following in islice(numbers, 1):
            futures[new := submit(following)] = following
            waiting.add(new)
        yield number, value


def _check_workers(client: Any, where: Where, packages: tuple[str, ...]) -> None:
    """There are some, and all of them run this very edgemoe."""
    try:
        client.wait_for_workers(1, timeout=30)
    except TimeoutError as error:
        raise EdgemoeError(f"the scheduler at {where.scheduler} has no workers (dask worker starts one)") from error
    for worker, found in client.run(version, packages, on_error="return").items():
        if found != version(packages):
            what = f"cannot run edgemoe ({found})" if isinstance(found, BaseException) else "runs another edgemoe"
            raise EdgemoeError(
                f"worker {worker} {what}, or other packages, than this command: install the same on both"
            )
