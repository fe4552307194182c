# SPDX-License-Identifier: Apache-2.0
"""Where results go: folders that can be written to, and whose file is whose.

A file that the user named (``-o FILE``, ``--plot``, ``--save-tokens``) is replaced, as a compiler does. A file whose
name edgemoe made up is written through an `OutputFolder`, which replaces only what edgemoe itself wrote.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from edgemoe.models.errors import EdgemoeError, listing
from edgemoe.models.files import write_whole

RECORD = ".edgemoe-outputs"


def writable_folder(path: Path) -> Path:
    """Create a folder, or say why not - before any long work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".edgemoe-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EdgemoeError(f"cannot write to folder {path}: {error.strerror or error}") from error
    return path


def writable_file(path: Path) -> Path:
    """The path of a file that is to be written, in a folder that can be written to - before any long work."""
    if path.is_dir():
        raise EdgemoeError(f"cannot write {path}: it is a folder; name a file")
    writable_folder(path.absolute().parent)
    return path


class OutputFolder:
    """A folder for files whose names edgemoe makes up: the user's own files of such a name stay.

    A file is edgemoe's if its SHA-256 and name are in the folder's record, ``.edgemoe-outputs``, to which every file is
    added when it is written (``sha256sum -c`` reads it). Any other file, also one that was changed since, is replaced
    with `force` only. Used in a `with`, the folder is created at the start and, if an error ends the block, removed
    again if nothing came to lie in it.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path, self.force = path, force
        self._created: list[Path] = []
        self._record: set[str] | None = None
        self._before = ""  # what the next line of the record needs before it

    def __enter__(self) -> OutputFolder:
        self._created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        writable_folder(self.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            for folder in self._created:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()

    def check(self, names: Iterable[str]) -> None:
        """EdgemoeError, before anything is written, if a file of these names is not edgemoe's to replace."""
        foreign = []
        for name in names:
            path = self.path / name
            try:
                os.lstat(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise EdgemoeError(f"cannot write {path}: {error.strerror or error}") from error
            if path.exists() and not path.is_file():
                what = "a folder" if path.is_dir() else "no regular file"
                raise EdgemoeError(f"cannot write {path}: it is {what}; name another folder")
            if not self.force and not self._is_ours(name):
                foreign.append(name)
        if foreign:
            raise EdgemoeError(
                f"{self.path} holds {listing(foreign)}, which edgemoe did not write or which changed since; "
                "name another folder, or replace with --force"
            )

    def write(self, name: str, data: bytes | str) -> Path:
        """Write a file, whole or not at all, and record it."""
        self.check([name])
        data = data.encode() if isinstance(data, str) else data
        line = _line(hashlib.sha256(data).hexdigest(), name)
        # The record comes first: a line too many does no harm, a line too few makes the next run refuse its own file.
        if line not in self._recorded():
            try:
                with open(self.path / RECORD, "a", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(self._before + line + "\n")
            except OSError as error:
                raise EdgemoeError(f"cannot write {self.path / RECORD}: {error.strerror or error}") from error
            self._recorded().add(line)
            self._before = ""
        write_whole(self.path / name, data)
        return self.path / name

    def write_all(self, files: dict[str, bytes] | dict[str, str]) -> list[Path]:
        """Write files by name: all of them, or none if one is not edgemoe's to replace."""
        self.check(files)
        return [self.write(name, data) for name, data in files.items()]

    def _recorded(self) -> set[str]:
        if self._record is None:
            try:
                text = (self.path / RECORD).read_text(encoding="utf-8", errors="surrogateescape")
            except OSError:
                text = ""
            self._record = set(text.split("\n"))
            self._before = "\n" if text and not text.endswith("\n") else ""  # its last line was cut off by a full disk
        return self._record

    def _is_ours(self, name: str) -> bool:
        try:
            return _line(hashlib.sha256((self.path / name).read_bytes()).hexdigest(), name) in self._recorded()
        except OSError:
            return False


def _line(digest: str, name: str) -> str:
    """As sha256sum writes it; a name with a line break or a backslash is escaped."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{chr(92) if escaped != name else ''}{digest}  {escaped}"
