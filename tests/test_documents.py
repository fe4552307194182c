# SPDX-License-Identifier: Apache-2.0
"""What documents say of the repository is true: links lead somewhere, modules exist, the picture of the house is the
code's.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from edgemoe.former import NOW

from .host.test_layers import USES, room

ROOT = Path(__file__).resolve().parents[1]
ROOMS = "models|hw|sim|host|boards"
FOLDERS = [ROOT / name for name in (*ROOMS.split("|"), "tests", "examples", "docs", ".github")]
ENDINGS = {".md", ".py", ".in", ".toml", ".v", ".cpp", ".yml", ".ipynb"}
TEXTS = sorted(
    path
    for path in (*ROOT.glob("*"), *(path for folder in FOLDERS for path in folder.rglob("*")))
    if path.suffix in ENDINGS and path.is_file() and "generated" not in path.parts
)


def headings(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "path", [p for p in TEXTS if p.suffixes == [".md"]], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target} is not there"
        assert not anchor or anchor in headings(there), f"{target}: no such heading"


def exists(name: str) -> bool:
    """Whether a dotted name of ours is a module, or something in one."""
    path = ROOT
    for part in name.split(".")[1:]:
        if (path / part).is_dir() or (path / f"{part}.py").is_file():
            path = path / part
            continue
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return re.search(rf"\b{part}\b", file.read_text()) is not None
    return True


def test_what_is_named_exists() -> None:
    wrong = []
    for path in TEXTS:
        text = path.read_text()
        names = set(re.findall(rf"\bedgemoe\.(?:{ROOMS})(?:\.[a-zA-Z]\w*)+", text))
        if "former" in path.name:  # its former names are held by tests of their own
            names -= set(NOW)
        names -= {"edgemoe.host.gone"}  # a test's
        files = set(re.findall(rf"(?<![\w/.])(?:{ROOMS}|tests|examples)/[\w/]+\.(?:py|v|md|json|toml|cpp|svg)\b", text))
        gone = [name for name in names if not exists(name)]
        gone += [name for name in files if not (ROOT / name).exists() and not (path.parent / name).exists()]
        wrong += [f"{path.relative_to(ROOT)} names {name}" for name in sorted(gone)]
    assert not wrong


def test_the_picture_of_attention() -> None:
    """It is what its command draws: stages of the units, weights of the integers, every kind."""
    from edgemoe.hw import attention_picture
    from edgemoe.hw.contract.config import ATTENTION

    assert tuple(kind.name for kind in attention_picture.KINDS) == ATTENTION
    assert attention_picture.PICTURE.read_text() == attention_picture.picture()


def test_the_picture_of_the_house() -> None:
    """Its rooms are those of the code, and from each of them arrows lead to all rooms that it uses, and to no other."""
    text = (ROOT / "house.svg").read_text()
    drawn = set(re.findall(r'class="room"[^>]*>([\w/]+)<', text))
    within = {"models/street": "models"} | {name: "hw" for name in drawn if re.match("hw/(?!contract)", name)}
    assert drawn | {"models/street"} == set(USES)
    arrows = {tuple(pair.split()) for pair in re.findall(r'data-uses="([^"]+)"', text)}
    uses = {
        (within.get(user, user), within.get(used, used)) for user, others in USES.items() for used in others.split()
    }
    assert arrows <= uses
    reached = set(arrows)
    for _ in USES:
        reached |= {(a, d) for a, b in reached for c, d in arrows if b == c}
    assert not {(user, used) for user, used in uses if user != used} - reached


def test_rooms_are_found() -> None:
    assert room("edgemoe.hw.compute.array") == "hw/compute" and room("edgemoe.hw.top") == "hw"
