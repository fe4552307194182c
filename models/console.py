# SPDX-License-Identifier: Apache-2.0
"""Tables and progress bars. All text is shown as it is, whatever brackets stand in a file's name, on any console, and
whole.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from .errors import LOGGER

_talks = False


def talk() -> None:
    """From now on notices, progress bars and what builds say go to standard error:
    the command line wants them, a library does not.
    """
    global _talks
    if not _talks:
        _talks = True
        handler = _Notices()
        handler.setFormatter(logging.Formatter("edgemoe: %(message)s"))
        LOGGER.addHandler(handler)
        LOGGER.propagate = False


def talks() -> bool:
    """Whether anything is said on standard error."""
    return _talks


class _Notices(logging.Handler):
    """To standard error as it is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


_UNLIMITED = 10_000  # columns of a file or a pipe, which has no edge to break lines at
_CELL = 100  # sentences in a table break there nevertheless; a longer word, such as a path, stays in one piece


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error."""
    stream = sys.stderr if stderr else sys.stdout
    # The stream is named so that its encoding is seen: frames are drawn in ASCII where it has nothing better.
    width = None if stream.isatty() else _UNLIMITED
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def show_table(title: str, rows: Iterable[Sequence[str | Text] | None], headers: Sequence[str] = ()) -> None:
    """A table on standard output; None among the rows draws a line.
    What is too wide for the terminal is folded, not cut.
    """
    given = list(rows)
    table = Table(title=title, show_header=bool(headers))
    for number in range(max(len(row) for row in [headers, *given] if row is not None)):
        words = [word for row in given if row is not None and number < len(row) for word in str(row[number]).split()]
        widest = max(_CELL, *map(len, words)) if words else _CELL
        table.add_column(headers[number] if headers else "", overflow="fold", max_width=widest)
    for row in given:
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    console().print(table)


def bar(*columns: str | ProgressColumn) -> Progress:
    """A progress bar on standard error, gone when done; invisible off a terminal, or to a library.
    Strings are formats of its fields.
    """
    shown = console(stderr=True)
    made = [TextColumn(column, markup=False) if isinstance(column, str) else column for column in columns]
    return Progress(*made, console=shown, transient=True, disable=not (_talks and shown.is_terminal))


def narrow() -> BarColumn:
    """The bar itself, narrow enough to leave room for words."""
    return BarColumn(bar_width=24)
