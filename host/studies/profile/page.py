# SPDX-License-Identifier: Apache-2.0
"""A profile as one HTML file that needs nothing else: styles, scripts, Vega and all data are inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgemoe.host.studies.profile.tables import decibels, tables, words
from edgemoe.models import extras

FOLDER = Path(__file__).with_name("page")
# Of experts: neighbours differ in hue and in lightness. They are numbered, too.
EXPERT_COLOURS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#eeca3b", "#b279a2", "#9d755d",
    "#1f4e79", "#ffbf79", "#88d27a", "#ff9d98", "#2f8a8a", "#b79a20", "#d6a5c9", "#79706e",
)  # fmt: skip
PACKAGES = ("altair", "jinja2", "vl_convert")


def require() -> None:
    """EdgemoeError, before any long work, if a package is missing."""
    for module in PACKAGES:
        if not extras.present(module):
            raise extras.missing(extras.package_of(module), "the page", "page")


def render(profile: Mapping[str, Any]) -> str:
    """The page of a profile's summary."""
    require()
    import jinja2
    from edgemoe.host.studies.profile import charts

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"count": count, "size": size, "factor": factor, "words": words, "decibels": decibels}
    data = json.dumps(profile, default=float)
    scripts = [_vega(), *((FOLDER / f"{name}.js").read_text() for name in ("plots", "attention", "reordering"))]
    return environment.get_template("page.html.j2").render(
        p=json.loads(data),
        data=inside(data),
        tables=tables(json.loads(data)),
        legends=charts.legends(profile),
        plots=inside(json.dumps(charts.charts(profile))),
        css=(FOLDER / "page.css").read_text(),
        scripts=scripts,
        colours=[EXPERT_COLOURS[n % len(EXPERT_COLOURS)] for n in range(profile["model"]["experts"])],
    )


def inside(text: str) -> str:
    """JSON, or a script, as it may stand inside a script element."""
    return text.replace("<", "\\u003c")


@cache
def _vega() -> str:
    """Vega-Lite in Altair's version, or the newest there is, as a module that leaves `vegaEmbed` to the page's own
    scripts.
    """
    import altair
    import vl_convert

    wanted, known = altair.SCHEMA_VERSION.removeprefix("v").rpartition(".")[0], vl_convert.get_vegalite_versions()
    version = wanted if wanted in known else known[-1]
    return str(vl_convert.javascript_bundle("globalThis.vegaEmbed = vegaEmbed;", vl_version=version))


def count(number: float) -> str:
    """12,345."""
    return f"{number:,.0f}"


def size(bytes_: float) -> str:
    """1.23 MB."""
    for unit in ("bytes", "kB", "MB"):
        if bytes_ < 1000:
            return f"{bytes_:.3g} {unit}" if unit != "bytes" else f"{bytes_:.0f} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.3g} GB"


def factor(ratio: float) -> str:
    """1.04 x."""
    return f"{ratio:.2f} ×"
