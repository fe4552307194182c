# SPDX-License-Identifier: Apache-2.0
"""A compiled program as a file: whole, checked, and enough - for `infer --program`, and for a host in C."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from edgemoe.host import compiler, inference, program_file
from edgemoe.host.images import png
from edgemoe.host.runtime.program import CompiledProgram
from edgemoe.hw.contract import registers
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.models import checkpoint as checkpoints
from edgemoe.models import scenes
from edgemoe.models.errors import EdgemoeError
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from ..models.small import random_images
from ..programs import needed
from ..top.support import NANO, STRIPS, checkpoint_of, quantised
from .conftest import Command, refused
from .test_fpga import STRIPED, platform

TINY = preset("tiny")
SOURCES = Path(__file__).resolve().parents[2] / "examples" / "c"


def compiled(config=NANO, streams=((0, 0), (0, 1)), hardware=TINY, **options: bool) -> CompiledProgram:
    return compiler.compile(quantised(config), list(streams), hardware, **options)


def saved(folder: Path, program: CompiledProgram) -> Path:
    return program_file.save(program, checkpoint_of(program.config), folder / "program.emoe")


@pytest.mark.parametrize("config, streams", [(NANO, ((0, 0), (0, 1))), (STRIPS, ((0, 1),))], ids=["nano", "strips"])
def test_what_is_read_is_what_was_written(config, streams, tmp_path: Path) -> None:
    program = compiled(config, streams, save_tokens=True)
    found, checkpoint = program_file.load(saved(tmp_path, program))
    np.testing.assert_array_equal(found.memory, program.memory)
    # What `check` alone looks at is not in the file.
    compared = [f.name for f in fields(program) if f.name not in ("memory", "keys", "exponents", "instructions")]
    assert [name for name in compared if getattr(found, name) != getattr(program, name)] == []
    assert found.labels == program.labels
    code = [instruction.encode() for instruction in program.instructions]
    assert [instruction.encode() for instruction in found.instructions] == code
    assert checkpoint.config == config and not checkpoint.tensors and not checkpoint.graphs


def test_it_runs_as_the_checkpoint_does(tmp_path: Path) -> None:
    """Two pictures a run, three pictures: the last run is filled up, and nothing of that is seen."""
    images = list(random_images(NANO, 3))
    wide = replace(TINY, name="wide", rows=2 * 2 * NANO.tokens)
    program = compiled(streams=[(image, task) for image in (0, 1) for task in (0, 1)], hardware=wide)
    found, checkpoint = program_file.load(saved(tmp_path, program))
    options = dict(device="emulator", hardware=wide)
    ours = inference.infer(checkpoint, images, program=found, tasks=[0, 1], **options)
    theirs = inference.infer(checkpoint_of(NANO), images, **options)
    assert ours.streams == theirs.streams == [(image, task) for image in range(3) for task in (0, 1)]
    for a, b in zip(ours.heads, theirs.heads, strict=True):
        np.testing.assert_array_equal(a, b)


def altered(path: Path, change: dict[str, NDArray], metadata: dict[str, str] | None = None) -> Path:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        kept = file.metadata()
    save_file({**load_file(path), **change}, path, {**kept, **(metadata or {})})
    return path


def test_damage_and_strangers_are_told(tmp_path: Path) -> None:
    path = saved(tmp_path, compiled())
    whole, facts = path.read_bytes(), load_file(path)["program"]
    memory = load_file(path)["memory"]
    memory[5000] ^= 1
    with pytest.raises(EdgemoeError, match="is damaged: memory is not as it was written"):
        program_file.load(altered(path, {"memory": memory}))
    path.write_bytes(whole)
    facts[0] = 9
    with pytest.raises(EdgemoeError, match="is a program of version 9, this edgemoe reads version 1"):
        program_file.load(altered(path, {"program": facts}))
    path.write_bytes(whole)
    other = json.dumps({"name": "other", "lanes": 8})
    with pytest.raises(EdgemoeError, match="compiled by another release"):
        program_file.load(altered(path, {}, {"hardware": other}))
    path.write_bytes(whole[:-100])
    with pytest.raises(EdgemoeError, match="is no readable program"):
        program_file.load(path)
    with pytest.raises(EdgemoeError, match="is no program: expected a file that `edgemoe compile` wrote"):
        program_file.load(checkpoints.resolve("m3vit-nano"))


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(EdgemoeError, match=r"must end in \.emoe"):
        program_file.save(compiled(), checkpoint_of(NANO), tmp_path / "program.bin")
    with pytest.raises(EdgemoeError, match="stores traces"):
        saved(tmp_path, compiled(trace=True))
    assert list(tmp_path.iterdir()) == []


def test_the_commands(edgemoe: Command, tmp_path: Path) -> None:
    """compile, then infer with its file alone: the same maps as of the checkpoint; what it settles is refused."""
    picture, program = tmp_path / "street.png", tmp_path / "new" / "depth.emoe"
    picture.write_bytes(png(scenes.scene(2_000_000).image.transpose(1, 2, 0)))
    given = ["--checkpoint", "m3vit-nano", "--task", "depth", "--hardware", "schoko"]
    code, text, errors = edgemoe("compile", *given, "-o", program, "--json")
    assert code == 0, errors
    facts = json.loads(text)
    assert facts["tasks"] == ["depth"] and facts["bytes"] == program.stat().st_size and facts["hardware"] == "schoko"
    code, text, _ = edgemoe("compile", *given, "-o", program)
    assert code == 0 and re.search(r"a run takes +│ 1 picture through depth", text) and "MB of the device's" in text
    for name, options in (("from-program", ["--program", program]), ("from-checkpoint", given)):
        code, _, errors = edgemoe("infer", picture, *options, "--device", "emulator", "--out", tmp_path / name)
        assert code == 0, errors
    files = {path.name: path.read_bytes() for path in (tmp_path / "from-program").glob("street*")}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "from-checkpoint").glob("street*")}
    assert len(files) == 3
    more = ["--program", program, "--device", "emulator", "--out", tmp_path / "more"]
    refused(edgemoe("infer", picture, *more, "--hardware", "base"), "--program says it all: leave out --hardware")
    refused(edgemoe("infer", picture, *more, "--set", "rows=100"), "leave out --set")
    refused(edgemoe("infer", picture, *more, "--save-tokens", tmp_path / "t.npy"), "does not store tokens")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in C, for tiny."""
    return built(tmp_path_factory.mktemp("c"), TINY)


def built(folder: Path, hardware: HardwareConfig) -> Path:
    """The example in C, with the header that is generated for a core."""
    needed("cc", "make")
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True)
    (folder / "edgemoe.h").write_text(registers.to_c_header(hardware))
    done = subprocess.run(
        ["make", "WARNINGS=-Werror", "host", "host-uio"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "host"


def ppm(path: Path, image: NDArray[np.uint8]) -> Path:
    path.write_bytes(b"P6\n%d %d\n255\n" % (image.shape[2], image.shape[1]) + image.transpose(1, 2, 0).tobytes())
    return path


@pytest.mark.parametrize("config", [NANO, STRIPS], ids=["nano", "strips"])
def test_a_host_in_c(config, host: Path, tmp_path: Path) -> None:
    """It loads once, runs twice, and reads from the simulated core what the emulator computes, to the last bit."""
    from edgemoe.sim.simulator import library

    streams = ((0, 0), (0, 1)) if config is NANO else ((0, 1),)
    images = random_images(config, 2)
    program = saved(tmp_path, compiled(config, streams, save_tokens=True))
    pictures = [ppm(tmp_path / f"picture{number}.ppm", image) for number, image in enumerate(images)]
    done = subprocess.run([host, program, library(TINY), *pictures], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = inference.infer(
        checkpoint_of(config), list(images), device="emulator", hardware=TINY, tasks=[t for _, t in streams],
        save_tokens=True,
    )  # fmt: skip
    for (image, task), head, tokens in zip(expected.streams, expected.heads, expected.tokens, strict=True):
        found = np.load(tmp_path / f"picture{image}-0-{task}.npy")
        np.testing.assert_array_equal(found, head)
        np.testing.assert_array_equal(np.load(tmp_path / f"picture{image}-0-{task}-tokens.npy"), tokens)
    assert done.stdout.count(" cycles\n") == 2


def test_the_host_in_c_refuses(host: Path, tmp_path: Path) -> None:
    from edgemoe.sim.simulator import library

    def told(program: Path, picture: Path, device: Path) -> str:
        done = subprocess.run([host, program, device, picture], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
        return done.stderr

    program, simulator = saved(tmp_path, compiled()), library(TINY)
    fitting = ppm(tmp_path / "fitting.ppm", random_images(NANO, 1)[0])
    other = ppm(tmp_path / "other.ppm", random_images(STRIPS, 1)[0])
    assert "is no binary PPM or PGM of the model's size" in told(program, other, simulator)
    assert "cannot be loaded" in told(program, fitting, tmp_path / "absent.so")
    (tmp_path / "small").mkdir()
    narrow = replace(TINY, name="narrow", rows=TINY.rows + 4)
    assert "has other sizes" in told(saved(tmp_path / "small", compiled(hardware=narrow)), fitting, simulator)
    data = bytearray(program.read_bytes())
    data[-1] ^= 1
    program.write_bytes(data)
    assert "is damaged" in told(program, fitting, simulator)
    program.write_bytes(data[: len(data) // 2])
    assert "is no program" in told(program, fitting, simulator)


@pytest.mark.parametrize("hardware", [TINY, STRIPED], ids=lambda h: h.name)
def test_the_host_in_c_beside_an_fpga(hardware: HardwareConfig, tmp_path: Path) -> None:
    """Through UIO and u-dma-buf, one memory and two that take turns: the simulated core stands behind the files."""
    image = random_images(NANO, 1)[0]
    program, picture = saved(tmp_path, compiled(hardware=hardware)), ppm(tmp_path / "picture.ppm", image)
    host = built(tmp_path / "c", hardware).with_name("host-uio")
    with platform(tmp_path / "root", hardware, 1 << 18) as root:
        environment = {**os.environ, "EDGEMOE_SYSROOT": str(root)}
        command = [host, program, "uio0", picture]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = inference.infer(checkpoint_of(NANO), [image], device="emulator", hardware=hardware)
    for (_, task), head in zip(expected.streams, expected.heads, strict=True):
        np.testing.assert_array_equal(np.load(tmp_path / f"picture-0-{task}.npy"), head)
