# SPDX-License-Identifier: Apache-2.0
"""`--hardware` and `--set`: files, fields, names, one line for whatever is wrong;
and the line that a model needs that does not fit.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from edgemoe.host import compiler
from edgemoe.host.cli import commands
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import PRESETS, HardwareConfig, preset
from edgemoe.hw.contract.hardware_option import changed, configured, option, to_toml
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import config as models
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.quantise import quantise
from edgemoe.models.numbers.sketch import sketch

from ..models.support import ODD, TINY, random_checkpoint
from .conftest import Command, refused
from .test_commands import picture

COMMANDS = ("demo", "infer", "verilog", "build", "plan", "bench", "report", "check", "soak")


@pytest.mark.parametrize("name", PRESETS)
def test_a_written_configuration_is_read_again(name: str, tmp_path: Path) -> None:
    file = tmp_path / "written.toml"
    file.write_text(to_toml(PRESETS[name]))
    assert configured(str(file)) == PRESETS[name]
    assert configured(name) is PRESETS[name] and option(PRESETS[name], "x.toml") == name
    different = changed(PRESETS[name], ["rows=300"])
    assert option(different, "x.toml") == "x.toml"
    file.write_text(to_toml(different))
    assert configured(str(file)) == different


def test_a_file_and_fields(tmp_path: Path) -> None:
    file = tmp_path / "my core.TOML"
    file.write_text('base = "tiny"\nrows = 44\nweight_bits = 8  # as a number\n')
    found = configured(str(file))
    assert found == replace(preset("tiny"), name="my-core", rows=44, weight_bits="8")
    found = configured(str(file), ["rows=45", " experts = 6 ", "weight_bits=mixed", "rows=46"])
    assert found == replace(preset("tiny"), name="my-core*", rows=46, experts=6, weight_bits="mixed")
    file.write_text("lanes = 8\nprefetch_beats = 256\n")
    assert configured(str(file)) == HardwareConfig("my-core", lanes=8, prefetch_beats=256)


def test_names() -> None:
    tiny = preset("tiny")
    assert changed(tiny, None) is tiny and changed(tiny, []) is tiny
    assert changed(tiny, ["rows=40"]) is tiny  # nothing changed
    assert changed(tiny, ["rows=41"]).name == changed(changed(tiny, ["rows=42"]), ["rows=41"]).name == "tiny*"
    assert changed(tiny, ["rows=41", "name=mine"]).name == "mine"
    assert changed(tiny, ["rows=41"]).hash != tiny.hash == changed(tiny, ["weight_bits=8"]).hash


@pytest.mark.parametrize(
    "changes, message",
    [
        (["rows"], r"--set 'rows': expected FIELD=VALUE, as in rows=400"),
        (["rows="], "expected FIELD=VALUE"),
        (["=4"], "expected FIELD=VALUE"),
        (["rows=many"], r"hardware 'tiny\*': rows must be an integer of 1 to 4096, not 'many'"),
        (["rows=1.5"], "rows must be an integer"),
        (
            ["rows=9999", "lanes=5"],
            "lanes must be 4, 8, 16 or 32, not 5; rows must be an integer of 1 to 4096, not 9999",
        ),
        (["row=50"], "no field 'row', perhaps 'rows'"),
        (["tokens=30", "rows=29"], r"tokens must be 1..rows \(29\), not 30"),
        (["weight_bits=4"], "weight_bits must be '16', '8', 'mixed', 'fast', 'fast-trunk' or 'sage', not '4'"),
        (["name=a/b"], "name"),
        (["name=a b"], "name"),
    ],
)
def test_bad_fields(changes: list[str], message: str) -> None:
    with pytest.raises(EdgemoeError, match=message) as caught:
        configured("tiny", changes)
    assert len(str(caught.value)) <= 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "cannot read hardware .*: No such file"),
        (b"rows = ", "is no TOML file: Invalid value"),
        (b"\xff\xfe", "is no TOML file: "),
        (b"rows = 4\nrows = 5", "is no TOML file: "),
        (b'base = "huge"', "unknown hardware 'huge': choose one of base"),
        (b"base = 3", "base must be a preset's name in quotes, not 3"),
        (b"rows = 40", "lanes is missing"),
        (b'base = "tiny"\nrows = "40"', "rows must be an integer of 1 to 4096, not '40'"),
        (b'base = "tiny"\nrows = true', "rows must be an integer"),
        (b'base = "tiny"\nlane = 4', "no field 'lane', perhaps 'lanes'"),
        (b'base = "tiny"\n[sizes]\nrows = 4', "no field 'sizes'"),
        (b'base = "tiny"\nname = "two\\nlines"', "name"),
    ],
)
def test_bad_files(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "hardware.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EdgemoeError, match=message) as caught:
        configured(str(file))
    assert "\n" not in str(caught.value)
    if content is not None:
        assert str(file) in str(caught.value)
    with pytest.raises(EdgemoeError, match="cannot read hardware .*[Dd]irectory"):
        (tmp_path / "folder.toml").mkdir()
        configured(str(tmp_path / "folder.toml"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_them(name: str) -> None:
    functions = {str(c.callback.__name__): c.callback for c in commands.app.registered_commands if c.callback}
    assert {"hardware", "changes"} <= set(inspect.signature(functions[name]).parameters)


def test_a_changed_core_through_the_commands(edgemoe: Command, tmp_path: Path) -> None:
    """Written under another name, and run by the file that was written; what it says of itself is what it is."""
    folder = tmp_path / "written"
    code, text, _ = edgemoe("verilog", "--hardware", "tiny", "--set", "rows=44", "--name", "left", "-o", folder)
    names = {"left.v", "left.h", "left.toml", "registers.md", "registers.json", "instructions.md"}
    assert code == 0 and {Path(line).name for line in text.split()} == names
    assert {path.name for path in folder.iterdir()} - {".edgemoe-outputs"} == names
    config = configured(str(folder / "left.toml"))
    assert config == changed(preset("tiny"), ["rows=44"])
    listed = json.loads((folder / "registers.json").read_text())
    assert (
        listed["module"] == "left"
        and listed["hardware"]["rows"] == 44
        and listed["constants"] == registers.constants(config)
    )
    checkpoint = checkpoints.save(random_checkpoint(TINY), tmp_path / "tiny.safetensors")
    picture(tmp_path / "x.png", size=(16, 16))
    arguments = (
        "--checkpoint",
        checkpoint,
        "--device",
        "emulator",
        "--hardware",
        folder / "left.toml",
        "--out",
        tmp_path / "out",
        "--json",
    )
    code, text, errors = edgemoe("infer", tmp_path / "x.png", *arguments)
    assert code == 0 and json.loads(text)["hardware"] == "tiny*", errors


def test_a_board_with_another_core(edgemoe: Command, tmp_path: Path) -> None:
    """Its README, facts and files are of the core that it carries; one of two memory ports is left alone."""
    arguments = (
        "build",
        "--board",
        "zcu102",
        "--hardware",
        "tiny",
        "--set",
        "rows=44",
        "--name",
        "left",
        "-o",
        tmp_path,
        "--json",
    )
    code, text, errors = edgemoe(*arguments)
    assert code == 0, errors
    files = {Path(path).name for path in json.loads(text)["files"]}
    assert {"left.v", "left_ip.v", "left.core", "left.h", "left.toml", "left_registers.py"} <= files
    assert not [name for name in files if name.startswith("edgemoe") and Path(name).suffix in (".v", ".core", ".h")]
    config = configured(str(tmp_path / "left.toml"))
    facts = json.loads((tmp_path / "board.json").read_text())
    assert facts["constants"]["CONFIG_HASH"] == config.hash == changed(preset("tiny"), ["rows=44"]).hash
    assert [memory["port"] for memory in facts["memory"]] == ["HP0"]
    assert facts["registers"]["module"] == "edgemoe:accelerator:left_ip:1.0"
    assert (tmp_path / "README.md").read_text().count("--hardware left.toml") == 2
    for script in ("package_ip.tcl", "build.tcl", "Makefile", "left.core"):
        assert "left" in (tmp_path / script).read_text() and "edgemoe_ip" not in (tmp_path / script).read_text()


@pytest.mark.parametrize(
    "arguments, part",
    [
        (("verilog", "--hardware", "tiny", "--name", "2x"), "'2x' cannot name a module"),
        (("verilog", "--hardware", "none.toml"), "cannot read hardware none.toml"),
        (
            ("verilog", "--hardware", "tiny", "--set", "lanes=3"),
            "hardware 'tiny*': lanes must be 4, 8, 16 or 32, not 3",
        ),
        (("build", "--board", "zcu102", "--name", "module"), "'module' cannot name a module"),
        (("build", "--board", "ultra96", "--set", "masters=2"), "has 2 masters; board 'ultra96' has 1 memory port"),
        (
            ("build", "--board", "ultra96", "--set", "data_bits=64"),
            "data_bits 64; the memory ports of board 'ultra96' are 128 bits wide",
        ),
        (
            ("build", "--board", "ulx3s", "--hardware", "tiny"),
            "data_bits 128; the memory ports of board 'ulx3s' are 64 bits wide",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_write_nothing(edgemoe: Command, tmp_path: Path, arguments: tuple[str, ...], part: str) -> None:
    refused(edgemoe(*arguments, "-o", tmp_path / "out"), part)
    assert not (tmp_path / "out").exists()


LARGE_PATCHES = replace(TINY, name="large-patches", image_height=40, image_width=40, patch=20)
MODELS = [*models.PRESETS.values(), TINY, ODD, LARGE_PATCHES]


@pytest.mark.parametrize("model", MODELS, ids=lambda c: c.name)
def test_the_line_that_would_fit_fits(model: models.ModelConfig) -> None:
    """Every model on every preset, one stream and all tasks of four pictures:
    it fits in one piece, or with the fields that are named.
    """
    quantised = sketch(model)
    told = 0
    for hardware in PRESETS.values():
        for streams in ([(0, 0)], [(image, task) for image in range(4) for task in range(len(model.tasks))]):
            if fields := compiler.in_one_piece(quantised, streams, hardware):
                told += 1
                larger = changed(hardware, [f"{name}={value}" for name, value in fields.items()])
                assert compiler.outline(quantised, streams, larger).split is None
    assert told


def test_experts_cannot_be_cut() -> None:
    """What no split mends: the message names the fields, and with them it fits."""
    with pytest.raises(EdgemoeError, match=r"it needs 16 experts, the limit is 8 .*; it fits with --set") as caught:
        compiler.outline(sketch(models.PRESETS["m3vit-t"]), [(0, 0)], preset("small"))
    assert len(str(caught.value)) <= 400
    named = re.findall(r" --set (\w+=\d+)", str(caught.value).partition("; it fits with")[2])
    assert compiler.outline(sketch(models.PRESETS["m3vit-t"]), [(0, 0)], changed(preset("small"), named)).instructions


def test_where_no_hardware_fits_none_is_named() -> None:
    """4,095 tokens are the most that a softmax can sum."""
    model = replace(TINY, name="too-long", image_height=260, image_width=260)
    with pytest.raises(
        EdgemoeError, match=r"it needs 4226 tokens a stream, .*; choose a larger hardware preset, fewer streams"
    ):
        compiler.compile(quantise(random_checkpoint(model)), [(0, 0)], preset("base"))
