# SPDX-License-Identifier: Apache-2.0
"""The one exception for mistakes that a user can make and mend; notices; and how both stay short."""

from __future__ import annotations

import logging
from collections.abc import Iterable

LOGGER = logging.getLogger("edgemoe")
LOGGER.addHandler(logging.NullHandler())  # a library says nothing unless it is asked to


class EdgemoeError(Exception):
    """Says in one line what is wrong, what was expected and what to do.
    The command line prints it without a traceback.
    """


def notice(text: str) -> None:
    """A line for the user beside the results: a warning of the logger "edgemoe", which the command line shows on
    standard error.

    Whatever a file's name holds, it stays one line.
    """
    LOGGER.warning(
        "%s", "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    )


def brief(value: object, length: int = 60) -> str:
    """A value from a file, in at most `length` characters of one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= length else f"{text[: length - length // 3 - 1]}…{text[len(text) - length // 3 :]}"


def listing(items: Iterable[str], separator: str = ", ", most: int = 5, length: int = 240) -> str:
    """The first of many, at most `most` of them and about `length` characters, and how many more there are."""
    items = list(items)
    shown: list[str] = []
    for item in items[:most]:
        if shown and len(separator.join([*shown, item])) > length:
            break
        shown.append(brief(item, length))
    more = len(items) - len(shown)
    return separator.join(shown) + (f" and {more} more" if more else "")
