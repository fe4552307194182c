# SPDX-License-Identifier: Apache-2.0
"""Where the command line begins and where every command ends: what a user or a machine can cause is one line and exit
code 2.

Light at its top, so that Ctrl-C during the imports is met too. The launcher starts this file by its path and without
Python's `site`, which is loaded below for the same reason.
"""

from __future__ import annotations

import os
import sys

LONGEST = 400  # characters of a message; a path alone can have thousands


def main() -> None:
    """Run a command. Exit codes: the command's own; 2 for an error, told in one line; 130 if interrupted;
    1 for a fault of ours.
    """
    try:
        _prepare_streams()
        _prepare_endings()
        code = _run()
        sys.stdout.flush()  # here, while a full disk can still be reported
    except SystemExit:
        raise
    except BaseException as error:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends it without another word
        code = _end(error)
    sys.exit(code)


def _prepare_streams() -> None:
    """Streams that take any text: what their encoding lacks is written as its escape."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            # Closed by the caller: the next file to be opened would take the number, and with it what is printed.
            if os.open(os.devnull, os.O_RDWR) != number:
                raise OSError(f"cannot replace the closed stream {number}")
            setattr(sys, name, open(number, mode, closefd=False))
    # The launcher isolates Python from its environment; how the console is encoded is not a matter of imports.
    encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test's own stream may lack it
        if reconfigure:
            try:
                reconfigure(encoding=encoding or None, errors="backslashreplace")
            except LookupError:
                reconfigure(errors="backslashreplace")


def _prepare_endings() -> None:
    """Ended from outside (kill, a connection that breaks), a run is cleaned up as after Ctrl-C:
    no board's core goes on behind our back.
    """
    import signal

    for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")):
        if number and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def _run() -> int:
    # What a command computes (calibrations, training) must not depend on the machine's cores, nor fight for them. NumPy
    # reads this when it loads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import typer
    from edgemoe.models import console

    console.talk()
    from edgemoe.host.cli import commands

    command = typer.main.get_command(commands.app)
    if "_EDGEMOE_COMPLETE" in os.environ:  # asked by a shell, by what --install-completion put there
        command.main(prog_name="edgemoe")
    try:
        # Not command.main(), which ends an interrupted command in ways of its own, another one in each version.
        with command.make_context("edgemoe", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    return 0


def _end(error: BaseException) -> int:
    """Say what ended the command; returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError as full:
        # Else Python tries again when it ends, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(full, BrokenPipeError):  # the reader has gone and wants no more
            return 1
        return _say(f"cannot write standard output: {full.strerror}", 2)
    told = _told(error)
    if told:
        message, code = told
        return _say(message, code)
    import traceback

    traceback.print_exception(error)
    return _say("this is a fault of edgemoe itself; please report it with the lines above", 1)


def _told(error: BaseException) -> tuple[str, int] | None:
    """(message, exit code) of what can be expected to happen; None for a fault of ours."""
    from edgemoe.models.errors import EdgemoeError

    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, EdgemoeError):
        return str(error), 2
    if isinstance(error, MemoryError):
        return f"not enough memory{f': {error}' if str(error) else ''}", 2
    if isinstance(error, OSError):
        return _system_message(error), 2
    if isinstance(error, ImportError):
        return _import_message(error)
    # Usage errors of the command line library; they live in another package in each of its versions.
    message = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(str(error).strip("\n"), file=sys.stderr)
        raise SystemExit(2)
    return (message(), getattr(error, "exit_code", 2)) if message else None


def _system_message(error: OSError) -> str:
    place = " -> ".join(
        os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)
    )
    reason = error.strerror or str(error) or type(error).__name__
    return f"{place or 'input or output failed'}: {reason}"


def _import_message(error: ImportError) -> tuple[str, int] | None:
    """A package that is not installed, or that does not load, is no fault of ours; one of our own modules is."""
    from edgemoe.models import extras

    name = error.name or ""
    package = extras.package_of(name)
    extra = extras.extra_of(package) if name else None
    if extra is None:
        return None
    if isinstance(error, ModuleNotFoundError):
        return str(extras.missing(package, "this command", extra)), 2
    return f"the package {package} cannot be loaded: {error}", 2


def _say(message: str, code: int) -> int:
    line = " ".join(message.split())  # one line, whatever the message holds
    if len(line) > LONGEST:
        line = f"{line[: LONGEST * 2 // 3]} ... {line[-LONGEST // 3 + 5 :]}"
    try:
        print(f"edgemoe: error: {line}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


def _find_packages() -> None:
    """What Python's site does, without which the launcher starts."""
    if sys.flags.no_site:
        import site

        site.main()


if __name__ == "__mp_main__":  # a process that a command starts, which inherits Python's options
    _find_packages()

if __name__ == "__main__":
    try:
        _find_packages()
        from edgemoe.host.cli.start import main as start
    except KeyboardInterrupt:
        sys.exit(_say("interrupted", 130))
    start()
