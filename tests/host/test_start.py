# SPDX-License-Identifier: Apache-2.0
"""How commands end: what a user or a machine can cause is one line on standard error and exit code 2, whatever command
it meets.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from edgemoe.host.cli import commands, start
from edgemoe.models.errors import EdgemoeError

ROOT = Path(__file__).resolve().parents[2]
# As the launcher starts it.
COMMAND = (sys.executable, "-I", "-S", str(ROOT / "host" / "cli" / "start.py"))


def ended(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """A command that raises this: (exit code, standard output, standard error)."""
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(commands, "app", app)
    monkeypatch.setattr(sys, "argv", ["edgemoe"])
    with pytest.raises(SystemExit) as stop:
        start.main()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert isinstance(stop.value.code, int)
    return stop.value.code, *capsys.readouterr()


def memory_error() -> MemoryError:
    """As NumPy raises it."""
    with pytest.raises(MemoryError) as raised:
        np.empty(2**60, np.uint8)
    return raised.value


def write_error() -> OSError:
    """As Python raises it where a folder stands in the place of a file."""
    with pytest.raises(OSError) as raised:
        open("/", "w")
    return raised.value


@pytest.mark.parametrize(
    "error, code, message",
    [
        (EdgemoeError("no such thing:\n  x"), 2, "no such thing: x"),
        (write_error(), 2, "/: Is a directory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"out/x.npy"), 2, "out/x.npy: No space left on device"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), 2, "a -> b: Invalid cross-device link"),
        (OSError("8192 requested and 0 written"), 2, "input or output failed: 8192 requested and 0 written"),
        (PermissionError(), 2, "input or output failed: PermissionError"),
        (MemoryError(), 2, "not enough memory"),
        (
            memory_error(),
            2,
            "not enough memory: Unable to allocate 1.00 EiB for an array with shape (1152921504606846976,)",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ImportError("libgomp.so.1: cannot open shared object file", name="torch"),
            2,
            "the package torch cannot be loaded: libgomp.so.1",
        ),
        (
            ModuleNotFoundError("No module named 'serial.tools'", name="serial.tools"),
            2,
            "this command needs the package pyserial: ",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_one_line(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = ended(error, monkeypatch, capsys)
    assert found == code and out == ""
    assert err.startswith(f"edgemoe: error: {message}") and err.endswith("\n") and len(err.splitlines()) == 1


def test_a_long_message_keeps_both_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = ended(FileNotFoundError(errno.ENOENT, "No such file", "/" + "a" * 3000), monkeypatch, capsys)
    assert len(err) < 430 and err.startswith("edgemoe: error: /aaa") and err.endswith("aaa: No such file\n")


@pytest.mark.parametrize(
    "error", [ValueError("x"), ModuleNotFoundError("gone", name="edgemoe.host.gone"), AssertionError()]
)
def test_our_own_faults_are_shown_as_such(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are not dressed up as the user's: traceback, exit code 1, and what to do with it."""
    code, _, err = ended(error, monkeypatch, capsys)
    assert (
        code == 1
        and "Traceback" in err
        and err.endswith("this is a fault of edgemoe itself; please report it with the lines above\n")
    )


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell's line in which $EDGEMOE is the command."""
    shown = {**os.environ, **environment}
    line = line.replace("$EDGEMOE", shlex.join(COMMAND))
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False, env=shown)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["doctor", "doctor --json", "--version", "--help"])
def test_full_disk_behind_standard_output(command: str) -> None:
    done = shell(f"$EDGEMOE {command} >/dev/full")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edgemoe: error: ") and done.stderr.endswith(": No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_behind_standard_error() -> None:
    assert shell("$EDGEMOE infer no-such.png 2>/dev/full").returncode == 2


def test_reader_that_leaves() -> None:
    done = shell("$EDGEMOE doctor | true")
    assert done.stderr == ""


@pytest.mark.parametrize("closed, code", [("doctor >&-", 0), ("doctor <&-", 0), ("infer no-such.png 2>&-", 2)])
def test_closed_streams(closed: str, code: int) -> None:
    done = shell(f"$EDGEMOE {closed}")
    assert done.returncode == code and done.stderr == ""


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "no-such-encoding"])
def test_consoles_without_unicode(encoding: str) -> None:
    done = shell("$EDGEMOE doctor", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.isascii() == (encoding != "no-such-encoding") and "\\u" not in done.stdout


def test_names_that_no_console_shows() -> None:
    done = shell("$EDGEMOE infer \"$(printf 'caf\\303\\251-\\377.png')\"", PYTHONIOENCODING="ascii")
    assert done.returncode == 2 and done.stderr == "edgemoe: error: image caf\\xe9-\\udcff.png does not exist\n"


@pytest.mark.parametrize("seconds", [0.15, 0.4, 0.8])
def test_early_interrupt(seconds: float) -> None:
    """Ctrl-C while modules are still being imported: a line, no traceback."""
    # typer's import is made to last: the interrupt surely comes before the command.
    script = f"""
import builtins, sys, time
real = builtins.__import__
def slow(name, *rest):
    if name == "typer": time.sleep(30)
    return real(name, *rest)
builtins.__import__ = slow
sys.argv = ["edgemoe", "doctor"]
print("begun", flush=True)
exec(open({str(ROOT / "host/cli/start.py")!r}).read())
"""
    process = subprocess.Popen([*COMMAND[:3], "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "edgemoe: error: interrupted\n")
