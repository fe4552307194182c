# SPDX-License-Identifier: Apache-2.0
"""Commands for the installation itself."""

from __future__ import annotations

from typing import Annotated

import typer
from edgemoe.host.cli.options import Json
from edgemoe.models.errors import EdgemoeError


def doctor(json: Json = False) -> None:
    """What is installed, what is missing, and how to get it."""
    from edgemoe.host.studies.doctor import examine, show

    findings = examine()
    show(findings, as_json=json)
    if lacking := [finding for finding in findings if finding.needed and not finding.present]:
        first = lacking[0]
        others = f"; also {', '.join(finding.name for finding in lacking[1:])}" if lacking[1:] else ""
        raise EdgemoeError(f"{first.name} is missing or cannot be used ({first.purpose}): {first.remedy}{others}")


def test(
    full: Annotated[bool, typer.Option("--full", help="Also the long tests.")] = False,
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Handed to pytest (after --).", metavar="[-- PYTEST...]")
    ] = None,
) -> None:
    """Lint, types and all tests."""
    from edgemoe.host.studies.suite import run

    raise typer.Exit(run(full=full, arguments=arguments or []))
