# SPDX-License-Identifier: Apache-2.0
"""The plots of the page, as Vega-Lite that Altair has checked. Their data are the profile's own tables, by name: the
page hands them over, so that a plot cannot show anything else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemoe.host.studies.profile.timeline import BUS, OPERATIONS, UNITS
from edgemoe.models import extras

if extras.present("altair"):  # else nothing is drawn: `page.require` says so before
    import altair as alt

INK = "currentColor"  # of the page: light or dark, on a screen or on paper
STEP = 24  # pixels of a row
LEFT = 72  # pixels beside plots that stand above one another
ROUND = "format(datum.value, '~s')"
# Told apart by people who see colours otherwise, too, on black and on white.
COLOURS = ("#4c78a8", "#e45756", "#f58518", "#b89600", "#3f9e98", "#8f6fb5", "#d9659b", "#8a8a8a")
PLAN_COLOURS = ("#4c78a8", "#3f9e98", "#f58518", "#b89600")
OPERATION_COLOURS = dict(zip(OPERATIONS, (COLOURS[n] for n in (7, 0, 2, 1, 4)), strict=True))
BUS_COLOURS = dict(zip(BUS, (COLOURS[0], COLOURS[2]), strict=True))
ERROR_COLOURS = {"all": COLOURS[1], "alone": COLOURS[0]}
BYTE_COLOURS = {"moved": COLOURS[0], "minimum": COLOURS[7]}


def state_colours(states: Sequence[str]) -> dict[str, str]:
    """Of those of the simulated core, or of the planner."""
    return dict(zip(states, COLOURS if len(states) == len(COLOURS) else PLAN_COLOURS, strict=True))


def legends(profile: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Name of a plot -> what its colours mean."""
    states = state_colours(list(profile["states"]))
    return {
        "timeline": OPERATION_COLOURS,
        "activity": states,
        "parts": states,
        "bus": BUS_COLOURS,
        "decibels": ERROR_COLOURS,
        "bytes": BYTE_COLOURS,
    }


def charts(profile: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> what Vega-Lite draws."""
    states, end = list(profile["states"]), profile["cycles"]

    def heights(table: str, column: str) -> int:
        return STEP * len({row[column] for row in profile[table]})

    found: dict[str, Any] = {
        "timeline": timeline(end, heights("timeline", "unit")),
        "activity": activity(states, end),
        "bus": bus(end),
        "parts": parts(states, heights("parts", "part")),
        "bytes": moved(heights("bytes", "use")),
    }
    if profile["queues"]:
        longest = max(row["tokens"] for row in profile["queues"])
        height = heights("queues", "layer")
        found |= {f"queues-{n}": queues(height, longest, task) for n, task in enumerate(profile["tasks"])}
        if len(profile["tasks"]) > 1:
            found["queues-all"] = queues(height, longest * len(profile["tasks"]))
    if profile["decibels"]:
        found["decibels"] = decibels(heights("decibels", "operation"))
    return {name: _configured(chart).to_dict() for name, chart in found.items()}


def _configured(chart: Any) -> Any:
    text = dict(labelColor=INK, titleColor=INK, labelFontSize=12, titleFontSize=12, titleFontWeight="normal")
    return (
        chart.properties(width="container", background="transparent")
        .configure(font="system-ui, sans-serif")
        .configure_view(stroke=None)
        .configure_axis(
            **text, domainColor=INK, tickColor=INK, gridColor=INK, domainOpacity=0.4, tickOpacity=0.4, gridOpacity=0.12
        )
    )


def _cycles(*, labels: bool = True) -> alt.X:
    """The axis of time, whose ends the page moves. Without labels it takes the same place, so that plots align."""
    domain: Any = [alt.ExprRef("from"), alt.ExprRef("to")]
    axis = alt.Axis(labelExpr=ROUND, tickCount=6, labelOpacity=float(labels), title="clock cycles" if labels else None)
    return alt.X("start:Q", scale=alt.Scale(domain=domain, nice=False, zero=False), axis=axis)


def _shares() -> alt.Axis:
    return alt.Axis(format="%", tickCount=2, title=None, minExtent=LEFT)


def _window(end: int) -> list[Any]:
    return [alt.param(name="from", value=0), alt.param(name="to", value=end)]


def _colour(field: str, colours: Mapping[str, str]) -> alt.Color:
    """Without a legend: the page's own breaks its lines on a narrow screen."""
    scale = alt.Scale(domain=list(colours), range=list(colours.values()))
    return alt.Color(field, scale=scale, sort=list(colours), legend=None)


def timeline(end: int, height: int) -> alt.Chart:
    """An execution is a bar in the row of its unit."""
    return (
        alt.Chart(alt.NamedData("timeline"), height=height)
        .transform_filter("datum.unit != 'end'")
        .transform_calculate(cycles="datum.end - datum.start")
        .mark_bar(clip=True, aria=False, stroke=INK, strokeWidth=0.25, strokeOpacity=0.4)
        .encode(
            x=_cycles(),
            x2="end:Q",
            y=alt.Y("unit:N", sort=list(UNITS), title=None, axis=alt.Axis(minExtent=LEFT)),
            color=_colour("operation:N", OPERATION_COLOURS),
            tooltip=[
                alt.Tooltip(field)
                for field in ("label:N", "part:N", "expert:N", "rows:Q", "start:Q", "cycles:Q", "mostly:N")
            ],
        )
        .add_params(*_window(end))
    )


def activity(states: Sequence[str], end: int) -> alt.Chart:
    """What the core's cycles went into, slice by slice."""
    return (
        alt.Chart(alt.NamedData("activity"), height=110)
        .transform_fold(list(states), as_=["state", "share"])
        .mark_area(interpolate="step-after", clip=True, aria=False)
        .encode(
            x=_cycles(labels=False),
            y=alt.Y("share:Q", stack="zero", scale=alt.Scale(domain=[0, 1]), axis=_shares()),
            color=_colour("state:N", state_colours(states)),
        )
        .add_params(*_window(end))
    )


def bus(end: int) -> alt.Chart:
    """How much of the bus was used."""
    return (
        alt.Chart(alt.NamedData("activity"), height=70)
        .transform_fold(list(BUS), as_=["way", "share"])
        .mark_line(interpolate="step-after", clip=True, aria=False, strokeWidth=1.3)
        .encode(
            x=_cycles(),
            y=alt.Y("share:Q", axis=_shares()),
            color=_colour("way:N", BUS_COLOURS),
        )
        .add_params(*_window(end))
    )


def parts(states: Sequence[str], height: int) -> alt.Chart:
    """Cycles of every part of the model, by what they went into."""
    return (
        alt.Chart(alt.NamedData("parts"), height=height)
        .mark_bar()
        .encode(
            x=alt.X("cycles:Q", axis=alt.Axis(labelExpr=ROUND, tickCount=5), title="clock cycles"),
            y=alt.Y("part:N", sort=None, title=None),
            color=_colour("state:N", state_colours(states)),
            tooltip=["part:N", "state:N", alt.Tooltip("cycles:Q", format=",")],
        )
    )


def queues(height: int, longest: int, task: str | None = None) -> alt.LayerChart:
    """Tokens of each expert, layer by layer, of one task or of all of them together."""
    chart = alt.Chart(alt.NamedData("queues"), height=height)
    if task is None:
        chart = chart.transform_aggregate(tokens="sum(tokens)", groupby=["layer", "expert"])
    else:
        chart = chart.transform_filter(alt.FieldEqualPredicate(field="task", equal=task))
    place = chart.encode(x=alt.X("expert:O", axis=alt.Axis(labelAngle=0)), y=alt.Y("layer:O"))
    colour = alt.Color("tokens:Q", scale=alt.Scale(scheme="viridis", domain=[0, longest], reverse=True), legend=None)
    dark = alt.condition(alt.datum.tokens > longest / 3, alt.value("white"), alt.value("black"))
    return alt.LayerChart(
        layer=[
            place.mark_rect().encode(color=colour, tooltip=["layer:O", "expert:O", "tokens:Q"]),
            place.mark_text(fontSize=11, aria=False).encode(text="tokens:Q", color=dark),
        ]
    )


def decibels(height: int) -> alt.LayerChart:
    """After every operation: the error of all up to there, and its own alone."""
    chart = alt.Chart(alt.NamedData("decibels"), height=height).encode(y=alt.Y("operation:N", sort=None, title=None))
    shapes = alt.Scale(domain=list(ERROR_COLOURS), range=["circle", "diamond"])
    both = chart.transform_fold(list(ERROR_COLOURS), as_=["error", "decibels"])
    return alt.LayerChart(
        layer=[
            chart.mark_rule(opacity=0.4, color=INK, aria=False).encode(x=alt.X("all:Q"), x2="alone:Q"),
            both.mark_point(filled=True, size=70, opacity=1).encode(
                x=alt.X(
                    "decibels:Q",
                    title="decibels (more is better)",
                    scale=alt.Scale(zero=False),
                    axis=alt.Axis(tickCount=6),
                ),
                color=_colour("error:N", ERROR_COLOURS),
                shape=alt.Shape("error:N", scale=shapes, legend=None),
                tooltip=["operation:N", "error:N", alt.Tooltip("decibels:Q", format=".1f")],
            ),
        ]
    )


def moved(height: int) -> alt.Chart:
    """Bytes that were moved beside those that have to be."""
    return (
        alt.Chart(alt.NamedData("bytes"), height=height)
        .transform_fold(list(BYTE_COLOURS), as_=["which", "bytes"])
        .mark_bar()
        .encode(
            x=alt.X("bytes:Q", axis=alt.Axis(labelExpr=ROUND, tickCount=5)),
            y=alt.Y("use:N", sort=None, title=None),
            yOffset=alt.YOffset("which:N", sort=list(BYTE_COLOURS)),
            color=_colour("which:N", BYTE_COLOURS),
            tooltip=["use:N", "which:N", alt.Tooltip("bytes:Q", format=",")],
        )
    )
