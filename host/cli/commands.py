# SPDX-License-Identifier: Apache-2.0
"""The command line, put together. Results go to standard output (with ``--json`` nothing else does), progress and
errors to standard error.

Nothing heavy is imported at the top of a file with commands: every command imports what it needs when it runs, so that
``--help`` is instant and a machine without PyTorch or Amaranth can run what does not need them.
"""

from __future__ import annotations

from typing import Annotated

import typer
from edgemoe.host.cli import generate, maintain, measure, models, profile, run, study

app = typer.Typer(
    name="edgemoe",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: whole on a narrow console, and one without Unicode
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"edgemoe {importlib.metadata.version('edgemoe')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """An FPGA accelerator for multi-task Mixture-of-Experts vision transformers."""


for command in (
    run.demo,
    run.infer,
    run.reset,
    generate.verilog,
    generate.build,
    measure.plan,
    measure.bench,
    measure.report,
    measure.growth,
    measure.check,
    study.evaluate,
    study.explore,
    study.soak,
    profile.profile,
    models.train,
    maintain.doctor,
    maintain.docs,
    maintain.test,
):
    app.command()(command)

app.command("import")(models.import_model)
app.command("compile")(generate.compile_program)
app.command("list")(maintain.list_all)
