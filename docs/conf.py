# SPDX-License-Identifier: Apache-2.0
"""The site's settings; `./edgemoe docs` builds it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from edgemoe.host.studies import site

ROOT = Path(__file__).resolve().parents[1]

project = "edgemoe"
author = "The edgemoe authors"
release = importlib.metadata.version("edgemoe")
extensions = ["myst_parser"]
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = "edgemoe"
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "native"
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
suppress_warnings = ["myst.header"]  # a copied document may begin with a smaller heading


def _read(app: Any, name: str, source: list[str]) -> None:
    """Links of pages written by hand are the repository's, too."""
    page = site.PAGES / f"{name}.md"
    if page.parent != site.GENERATED:
        source[0] = site.relinked(source[0], page, page, ROOT)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    site.write(ROOT)
    app.connect("source-read", _read)
