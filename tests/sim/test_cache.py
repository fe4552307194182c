# SPDX-License-Identifier: Apache-2.0
"""The build cache: damaged entries are made again, leavings of killed builds go, and what it cannot do is one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from edgemoe.models.errors import EdgemoeError
from edgemoe.sim import build


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("EDGEMOE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "library.so").write_bytes(b"program" * 1000)
    (folder / "facts.json").write_text("{}")


def count(made: list[Path]) -> Callable[[Path], None]:
    """`make`, that notes each call."""
    return lambda folder: made.append(folder) or make(folder)


def truncate(folder: Path) -> None:
    (folder / "inner" / "library.so").write_bytes(b"prog")


def flip(folder: Path) -> None:
    (folder / "inner" / "library.so").write_bytes(b"Program" + b"program" * 999)


def empty(folder: Path) -> None:
    (folder / "facts.json").write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / "inner" / "library.so").unlink()


def remove_all(folder: Path) -> None:
    subprocess.run(["rm", "-r", folder / "inner", folder / "facts.json", folder / "contents.json"], check=True)


def garble_list(folder: Path) -> None:
    (folder / "contents.json").write_text("[]")


@pytest.mark.parametrize("damage", [truncate, flip, empty, remove, remove_all, garble_list])
def test_damage_heals(cache: Path, damage: Callable[[Path], None]) -> None:
    made: list[Path] = []
    folder = build.cached("kind", "key", count(made))
    assert build.cached("kind", "key", count(made)) == folder == cache / "kind" / "key" and len(made) == 1
    damage(folder)
    assert build.kept("kind", "key") is None
    assert build.cached("kind", "key", count(made)) == folder and len(made) == 2
    assert (folder / "inner" / "library.so").read_bytes() == b"program" * 1000 and (
        folder / "facts.json"
    ).read_text() == "{}"
    assert {path.name for path in folder.parent.iterdir()} == {"key", "key.lock"}


def test_an_open_library_survives_its_replacement(cache: Path) -> None:
    """Who has a damaged entry open keeps what he has: it is moved away, not written over."""
    folder = build.cached("kind", "key", make)
    with open(folder / "inner" / "library.so", "rb") as held:
        remove_all(folder)
        build.cached("kind", "key", make)
        assert held.read() == b"program" * 1000


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise EdgemoeError("no")

    with pytest.raises(EdgemoeError, match="no"):
        build.cached("kind", "key", fail)
    assert [path.name for path in (cache / "kind").iterdir()] == ["key.lock"]


KILLED = """
import sys, tempfile, time
from pathlib import Path
from edgemoe.sim import build

def make(folder):
    (folder / "half").write_text("x")
    Path(tempfile.mkdtemp(dir=folder)).joinpath("object.o").write_text("x")
    print("building", flush=True)
    time.sleep(60)

build.cached("kind", sys.argv[1], make)
"""


def building(key: str) -> subprocess.Popen[str]:
    """A process in the middle of a build."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, key], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert process.stdout and process.stdout.readline() == "building\n"
    return process


@pytest.fixture
def builder(cache: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """`building`, ended with the test."""
    begun: list[subprocess.Popen[str]] = []

    def start(key: str) -> subprocess.Popen[str]:
        begun.append(building(key))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def test_leavings_of_killed_builds_go(cache: Path, builder: Callable[[str], subprocess.Popen[str]]) -> None:
    """Those of other keys too; a build that still runs is left alone."""
    one, two, alive = (builder(key) for key in ("one", "two-full", "three"))
    for process in (one, two):
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = sorted(path.name.rpartition("-")[0] for path in (cache / "kind").iterdir() if path.is_dir())
    assert left == [".one", ".three", ".two-full"]
    build.cached("kind", "one", make)
    assert alive.poll() is None
    left = sorted(path.name.rpartition("-")[0] for path in (cache / "kind").iterdir() if path.name.startswith("."))
    assert left == [".three"] and (cache / "kind" / "one" / "facts.json").is_file()


def test_two_processes_build_once(cache: Path) -> None:
    """Four at once, over a damaged entry: one builds, all find it whole."""
    truncate(build.cached("kind", "key", make))
    script = (
        "import time\nfrom edgemoe.sim import build\n"
        "def make(folder):\n    print('built'); time.sleep(0.5); (folder / 'x').write_text('x')\n"
        "print((build.cached('kind', 'key', make) / 'x').read_text())\n"
    )
    begun = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        for _ in range(4)
    ]
    shown = "".join(process.communicate()[0] for process in begun)
    assert shown.count("built") == 1 and shown.count("x\n") == 4


def test_a_file_in_the_place_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEMOE_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        EdgemoeError, match="cannot write the build cache: .*file/kind: .*EDGEMOE_CACHE names another folder"
    ):
        build.cached("kind", "key", make)


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("EDGEMOE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(EdgemoeError, match="no home folder for the build cache: EDGEMOE_CACHE must name"):
        build.cache_folder()


def test_a_cache_that_may_not_hold_programs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before minutes of building. The mount's flag is the system's to give; a real mount is tried below."""
    real = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: type("", (), {"f_flag": real(path).f_flag | os.ST_NOEXEC})())
    with pytest.raises(
        EdgemoeError, match=r"may not hold programs \(mounted noexec\): EDGEMOE_CACHE names another folder"
    ):
        build.build_library("module edgemoe; endmodule")
    assert not cache.exists()


def test_a_mount_without_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "noexec,size=1m", "tmpfs", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount")
    try:
        monkeypatch.setenv("EDGEMOE_CACHE", str(folder / "cache"))
        assert not build.runs_programs(build.cache_folder())
        with pytest.raises(EdgemoeError, match="may not hold programs"):
            build.build_library("module edgemoe; endmodule")
    finally:
        subprocess.run(["umount", folder], check=True)
    assert build.runs_programs(folder)


def test_a_library_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_text("no library")
    with pytest.raises(EdgemoeError, match="cannot load the simulator: .*x.so.*EDGEMOE_CACHE"):
        build.load(tmp_path / "x.so")


def test_full_disk_while_a_tool_fails(cache: Path) -> None:
    """Its own message is told even where the log cannot be kept (here: there is no cache folder yet)."""
    begun = time.monotonic()
    with pytest.raises(EdgemoeError, match="^cutting failed: it is an error$"):
        build.run([sys.executable, "-c", "import sys; sys.exit('it is an error')"], "cutting")
    assert time.monotonic() - begun < 60
