# SPDX-License-Identifier: Apache-2.0
"""How plots look and how they are written: Matplotlib without a display, colours that everybody tells apart."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from edgemoe.models import extras, folders
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.files import write_whole

#: Okabe and Ito's eight colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
GREY = "#999999"  # what is left over


def pyplot(what: str = "--plot") -> Any:
    """Matplotlib's plotting functions, without a display. what: needs them."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise extras.missing("matplotlib", what, "plot") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def plottable(path: Path) -> None:
    """Say, before any long work, if a plot cannot be made: no Matplotlib, no such format, no place to write."""
    pyplot()
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.filetypes
    if _format(path) not in kinds:
        raise EdgemoeError(f"cannot write {path}: its suffix is none of {', '.join(sorted(kinds))}")
    folders.writable_file(path)


def _format(path: Path) -> str:
    return path.suffix.lower().lstrip(".") or "png"


def encoded(figure: Any, kind: str = "png", dpi: int = 120) -> bytes:
    """A figure as a file of this kind, without a date or a version in it; the figure is closed."""
    data = io.BytesIO()
    figure.savefig(data, dpi=dpi, format=kind, metadata={"Software": None} if kind == "png" else None)
    pyplot().close(figure)
    return data.getvalue()


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a picture, in the format of the path's suffix."""
    plottable(path)
    write_whole(path, encoded(figure, _format(path)))
