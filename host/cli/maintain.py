# SPDX-License-Identifier: Apache-2.0
"""Commands for the installation itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from edgemoe.host.cli.options import Json, print_json
from edgemoe.models.errors import EdgemoeError


def list_all(
    what: Annotated[
        str | None, typer.Argument(help="presets, boards, models or checkpoints. Default: all.", metavar="[WHAT]")
    ] = None,
    json: Json = False,
) -> None:
    """What comes along by name: hardware presets, boards, models, and checkpoints with their tasks."""
    from edgemoe.host.studies import catalogue
    from edgemoe.models.errors import listing

    found = catalogue.catalogue()
    if what is not None and what not in found:
        raise EdgemoeError(f"there are no {what[:60]!r} to list: choose one of {listing(found)}")
    chosen = {what: found[what]} if what else found
    if json:
        print_json(chosen)
    else:
        catalogue.show(chosen)


def doctor(json: Json = False) -> None:
    """What is installed, what is missing, and how to get it."""
    from edgemoe.host.studies.doctor import examine, show

    findings = examine()
    show(findings, as_json=json)
    if lacking := [finding for finding in findings if finding.needed and not finding.present]:
        first = lacking[0]
        others = f"; also {', '.join(finding.name for finding in lacking[1:])}" if lacking[1:] else ""
        raise EdgemoeError(f"{first.name} is missing or cannot be used ({first.purpose}): {first.remedy}{others}")


def docs(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write.", metavar="DIR")] = Path("out/docs"),
) -> None:
    """Build the documentation as a site; a warning is an error."""
    from edgemoe.host.studies import site

    typer.echo(site.build(out))


def test(
    full: Annotated[bool, typer.Option("--full", help="Also the long tests.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="These tests alone, without lint and types; may be repeated.", metavar="PATH"),
    ] = None,
    waves: Annotated[
        Path | None, typer.Option("--waves", help="Benches of units leave their waveforms here.", metavar="DIR")
    ] = None,
    simulator: Annotated[
        str | None, typer.Option("--simulator", help="What benches of units run in.", metavar="verilator|icarus")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field of all presets that tests use; for --only.", metavar="FIELD=VALUE"),
    ] = None,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Handed to pytest (after --).", metavar="[-- PYTEST...]")
    ] = None,
) -> None:
    """Lint, types and all tests."""
    from edgemoe.host.studies.suite import run

    if changes and not only:
        raise EdgemoeError("--set is for --only: most of the suite is about the sizes as they are")
    options = [f"--set={change}" for change in changes or []]
    options += [f"--waves={waves.absolute()}"] if waves else []
    options += [f"--simulator={simulator}"] if simulator else []
    raise typer.Exit(run(full=full, arguments=[*options, *(arguments or []), *(only or [])], whole=not only))
