# SPDX-License-Identifier: Apache-2.0
"""What edgemoe writes appears whole or not at all, and nothing of the user's goes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from edgemoe.models.errors import EdgemoeError, listing
from edgemoe.models.files import whole, write_whole
from edgemoe.models.folders import RECORD, OutputFolder, writable_file, writable_folder

from ..models.support import small_disk


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_there_when_all_of_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with whole(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half" and names(tmp_path) == {"x.bin"}


@pytest.mark.parametrize("before", [None, b"before"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "No space left on device")])
def test_what_fails_leaves_nothing(tmp_path: Path, before: bytes | None, error: type[BaseException] | OSError) -> None:
    path = tmp_path / "x.bin"
    if before:
        path.write_bytes(before)
    with pytest.raises(EdgemoeError if isinstance(error, OSError) else error) as caught, whole(path) as file:
        file.write(b"half")
        raise error
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert (path.read_bytes() if path.exists() else None) == before
    assert names(tmp_path) == ({"x.bin"} if before else set())


def test_a_full_disk(tmp_path: Path) -> None:
    write_whole(tmp_path / "x.bin", "before")
    with small_disk(100), pytest.raises(EdgemoeError, match="cannot write .*x.bin: File too large"):
        write_whole(tmp_path / "x.bin", bytes(1000))
    assert (tmp_path / "x.bin").read_text() == "before" and names(tmp_path) == {"x.bin"}


def test_links_permissions_and_devices_stay(tmp_path: Path) -> None:
    """A link still points where it did, a script can still be run, and /dev/full is still a device."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    target.chmod(0o751)
    link.symlink_to(target)
    write_whole(link, "after")
    assert link.is_symlink() and target.read_text() == "after" and target.stat().st_mode & 0o777 == 0o751
    write_whole("/dev/null", "gone")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(EdgemoeError, match="cannot write /dev/full: No space left on device"):
        write_whole("/dev/full", "x")
    with pytest.raises(EdgemoeError, match="Is a directory"):
        write_whole(tmp_path, "x")
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "new", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_named_files(tmp_path: Path) -> None:
    assert writable_file(tmp_path / "a" / "x.npy").parent.is_dir()
    with pytest.raises(EdgemoeError, match="it is a folder"):
        writable_file(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(EdgemoeError, match="cannot write to folder .*file"):
        writable_folder(tmp_path / "file")


def test_own_files_are_replaced_and_others_are_not(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.write("x.png", b"1")
    OutputFolder(tmp_path).write("x.png", b"2")  # another run
    assert (tmp_path / "x.png").read_bytes() == b"2" and names(tmp_path) == {"x.png", RECORD}
    (tmp_path / "y.png").write_bytes(b"mine")
    (tmp_path / "x.png").write_bytes(b"edited")
    for name in ("x.png", "y.png"):
        with pytest.raises(
            EdgemoeError, match=f"holds {name}, which edgemoe did not write or which changed since.*--force"
        ):
            OutputFolder(tmp_path).write(name, b"3")
    (tmp_path / "y.png").write_bytes(b"2")  # the content of one of our files under another name
    with pytest.raises(EdgemoeError, match="y.png"):
        OutputFolder(tmp_path).check(["y.png"])
    OutputFolder(tmp_path, force=True).write("y.png", b"3")
    OutputFolder(tmp_path).write("y.png", b"4")
    assert (tmp_path / "y.png").read_bytes() == b"4"


def test_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(EdgemoeError, match="holds b,"):
        OutputFolder(tmp_path).write_all({"a": "1", "b": "2"})
    assert names(tmp_path) == {"b"}
    assert OutputFolder(tmp_path, force=True).write_all({"a": "1", "b": "2"}) == [tmp_path / "a", tmp_path / "b"]


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    os.mkfifo(tmp_path / "y.png")
    (tmp_path / "z.png").symlink_to("nowhere")
    for name, what in {
        "x.png": "it is a folder",
        "y.png": "it is no regular file",
        "n" * 300: "File name too long",
    }.items():
        with pytest.raises(EdgemoeError, match=what):
            OutputFolder(tmp_path, force=True).check([name])
    with pytest.raises(EdgemoeError, match="z.png"):
        OutputFolder(tmp_path).check(["z.png"])


def test_a_folder_goes_again_if_nothing_came(tmp_path: Path) -> None:
    def fail(write: bool) -> None:
        with pytest.raises(EdgemoeError, match="^no$"), OutputFolder(tmp_path / "a" / "b") as folder:
            assert (tmp_path / "a" / "b").is_dir()
            if write:
                folder.write("x", "1")
            raise EdgemoeError("no")

    fail(write=False)
    assert names(tmp_path) == set()
    (tmp_path / "a").mkdir()
    fail(write=False)
    assert names(tmp_path) == {"a"} and names(tmp_path / "a") == set()
    fail(write=True)
    assert names(tmp_path / "a" / "b") == {"x", RECORD}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum, which reads the record, is not installed")
def test_the_record_is_sha256sums(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    odd = ["x.png", "two  spaces", "back\\slash", "line\nbreak", "[red]", os.fsdecode(b"\xff.png")]
    for name in odd:
        folder.write(name, name.encode(errors="surrogateescape"))
    command = ["sha256sum", "--strict", "-c", RECORD]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0 and done.stdout.count(b": OK") == len(odd), done.stderr
    for name in odd:
        OutputFolder(tmp_path).write(name, b"again")


def test_a_record_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("0123abc")
    OutputFolder(tmp_path).write("x", "1")
    OutputFolder(tmp_path).write("x", "2")
    assert (tmp_path / "x").read_text() == "2"


def test_lists_are_short() -> None:
    assert listing("abc") == "a, b, c" and listing("abcdefg") == "a, b, c, d, e and 2 more"
