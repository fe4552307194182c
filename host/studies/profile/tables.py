# SPDX-License-Identifier: Apache-2.0
"""The plots' numbers as tables, for people who read rather than look, and for paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of cells below a line of headers; the first cell of a row is its name."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(profile: Mapping[str, Any]) -> dict[str, Table]:
    """Name -> table, each beside the plot of that name."""
    spans, states = profile["timeline"], list(profile["states"])
    found = {
        "timeline": Table(
            "All executions as a table",
            ("instruction", "unit", "expert", "rows", "starts at", "cycles", "mostly"),
            [
                (
                    row["label"],
                    row["unit"],
                    "" if row["expert"] is None else str(row["expert"]),
                    *(f"{n:,}" for n in (row["rows"], row["start"], row["end"] - row["start"])),
                    words(row["mostly"]),
                )
                for row in spans
            ],
        ),
        "kinds": Table(
            "By kind of instruction, as a table",
            ("kind", *map(words, states), "sum", "share"),
            list(_kinds(profile["kinds"], states, profile["cycles"])),
        ),
        "bytes": Table(
            "As a table",
            ("for", "bytes moved", "at least"),
            [(row["use"], f"{row['moved']:,}", f"{row['minimum']:,}") for row in profile["bytes"]],
        ),
        "hardware": Table("All sizes", ("field", "value"), _fields(profile["hardware"])),
        "model": Table("The model", ("field", "value"), _fields(profile["model"])),
    }
    if profile["queues"]:
        experts = map(str, range(profile["model"]["experts"]))
        found["queues"] = Table("As a table", ("tokens of expert", *experts), list(_queues(profile["queues"])))
    if profile["decibels"]:
        rows = [(row["operation"], *(decibels(row[name]) for name in ("all", "alone"))) for row in profile["decibels"]]
        found["decibels"] = Table("As a table", ("operation", "all", "alone"), rows)
    return found


def words(name: str) -> str:
    """The name of a field as people write it."""
    return name.replace("_", " ")


def decibels(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f} dB"


def _kinds(kinds: Mapping[str, Mapping[str, int]], states: Sequence[str], cycles: int) -> Iterator[list[str]]:
    for kind, spent in kinds.items():
        total = sum(spent.values())
        if total:
            counts = [f"{spent[state]:,}" if spent.get(state) else "" for state in states]
            yield [words(kind), *counts, f"{total:,}", f"{100 * total / cycles:.1f} %"]


def _queues(queues: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for (layer, task), rows in groupby(queues, key=lambda row: (row["layer"], row["task"])):
        yield [f"layer {layer}, {task}", *(str(row["tokens"]) for row in rows)]


def _fields(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (words(name), ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
        for name, value in values.items()
        if name != "tasks"
    ]
