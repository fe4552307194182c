# SPDX-License-Identifier: Apache-2.0
"""How files are written: whole, or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import EdgemoeError


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file to write to. It takes its name when all of it is there; if anything fails, what was there before
    stays.

    It is written beside its place under a hidden name. A link is followed, a replaced file's permissions are kept, and
    what is no regular file (a device, a pipe) is written to directly. Every OSError becomes an EdgemoeError that names
    the path.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".edgemoe-{secrets.token_hex(6)}.tmp")
    try:
        if target.exists() and not target.is_file():
            with open(target, "wb") as file:
                yield file
            return
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(None, "it is write-protected")
        try:
            with open(temporary, "xb") as file:
                yield file
            if target.exists():
                shutil.copymode(target, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise EdgemoeError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from error


def write_whole(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Bytes, or text as UTF-8, into a file."""
    with whole(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)
