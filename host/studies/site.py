# SPDX-License-Identifier: Apache-2.0
"""The documentation site: what its pages take from the repository, and how it is built.

Pages written by hand are docs/*.md. Next to them stand generated ones, in docs/generated: copies of the documents of
other folders, registers and instructions from the contract, and a data sheet of every unit from its docstring. Links
in all of them are those of the repository, and are turned here into links of the site.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgemoe.hw.contract import isa, registers
from edgemoe.hw.contract.config import preset
from edgemoe.models import extras
from edgemoe.models.errors import EdgemoeError

PAGES = Path("docs")
GENERATED = PAGES / "generated"
ROOMS = ("compute", "memory", "control", "periphery")
COPIES = {  # document, or folder of units -> its page in GENERATED
    "hw/README.md": "hardware.md",
    "hw/MANUAL.md": "manual.md",
    "hw/ACCURACY.md": "accuracy.md",
    "hw/ATTENTION.md": "attention.md",
    "models/checkpoints/m3vit-micro.md": "m3vit-micro.md",
    "models/checkpoints/m3vit-nano.md": "m3vit-nano.md",
    "tests/README.md": "tests.md",
    "examples/README.md": "examples.md",
    "examples/c/README.md": "c-host.md",
    "boards/README.md": "boards.md",
    "host/README.md": "host.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "../index.md",
    **{f"hw/{room}": f"units-{room}.md" for room in ROOMS},
}
SECTIONS = ("Ports", "Latency", "Interval", "Format", "Limits", "Twin")


def build(out: Path) -> Path:
    """Build the site into a folder; its first page. EdgemoeError if Sphinx is missing or warns of anything."""
    root = extras.clone()
    if root is None:
        raise EdgemoeError("the documentation is built from a clone of the repository: ./edgemoe docs")
    for package in ("sphinx", "furo", "myst-parser"):
        try:
            __import__(package.replace("-", "_"))
        except ModuleNotFoundError:
            raise extras.missing(package, "the documentation", "docs") from None
    with tempfile.TemporaryDirectory(prefix="edgemoe-docs-") as scratch:
        command = [sys.executable, "-I", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", scratch]
        done = subprocess.run([*command, str(root / PAGES), str(out)], text=True, capture_output=True, check=False)
    if done.returncode:
        raise EdgemoeError(f"Sphinx found fault with the documentation: {done.stderr.strip()}")
    return out / "index.html"


def write(root: Path) -> None:
    """All generated pages; those that are as they should be stay untouched."""
    pages = {page: relinked((root / source).read_text(), source, GENERATED / page, root) for source, page in copies()}
    hardware = preset("base")
    pages["registers.md"] = f"{registers.to_markdown(hardware)}\nAs of preset `{hardware.name}`.\n"
    pages["instructions.md"] = isa.to_markdown()
    for room in ROOMS:
        pages[f"units-{room}.md"] = data_sheets(root, room)
    folder = root / GENERATED
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)


def copies() -> Iterator[tuple[str, str]]:
    """(document, page) of all that are copied as they are."""
    return ((source, page) for source, page in COPIES.items() if source.endswith(".md") and not page.startswith(".."))


def relinked(text: str, source: str | Path, page: Path, root: Path) -> str:
    """A document's text with links that lead to the same from a page of the site.

    source: where the document is, page: where its text will be, both from the root. A link to a document that has a
    page leads there, one to another file to the file, and one to a folder becomes words: a site has no folders.
    """

    def replaced(found: re.Match[str]) -> str:
        bang, words, target = found.groups()
        file, hash_, anchor = target.partition("#")
        if "://" in target or not file or file.startswith("mailto:"):
            return found[0]
        place = os.path.normpath(Path(source).parent / file)
        if place in COPIES:
            place = os.path.normpath(GENERATED / COPIES[place])
        elif (root / place).is_dir():
            return words
        return f"{bang}[{words}]({os.path.relpath(place, page.parent)}{hash_}{anchor})"

    return re.sub(r"(!?)\[((?:[^][]|\[[^]]*\])*)\]\(([^)\s]+)\)", replaced, text)


def data_sheets(root: Path, room: str) -> str:
    """A page of the units in a room of the hardware: of each its contract, as its docstring has it."""
    lines = [
        f"# Data sheets: {room}",
        "",
        "Of each unit what it computes and its contract; tests hold the unit to both.",
        "",
    ]
    for path in sorted((root / "hw" / room).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, ast.ClassDef) or not any("Component" in ast.unparse(base) for base in node.bases):
                continue
            if document := ast.get_docstring(node):
                link = f"[hw/{room}/{path.name}](../../hw/{room}/{path.name})"
                lines += [f"## {node.name}", "", link, "", *sheet(document), ""]
    return "\n".join(lines)


def sheet(document: str) -> list[str]:
    """A docstring as Markdown: its text, the ports as a table, the rest of the contract as another."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", document, flags=re.M)
    lines = [escaped(parts[0].strip()), ""]
    found = {name: text.strip() for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if ports := found.pop("Ports", ""):
        lines += ["| port | direction | what it is |", "|---|---|---|"]
        for name, direction, text in re.findall(
            r"^ *([\w., *]+) \(([^)]*)\): (.*(?:\n(?! *[\w., *]+ \([^)]*\): ).*)*)", ports, re.M
        ):
            lines.append(f"| {cell(name)} | {cell(direction)} | {cell(text)} |")
        lines.append("")
    lines += ["| | |", "|---|---|", *(f"| **{name}** | {cell(text)} |" for name, text in found.items())]
    return lines


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return escaped(" ".join(text.split())).replace("|", "\\|")


def escaped(text: str) -> str:
    """Text as it is meant, in Markdown: only `code` is marked in docstrings."""
    parts = re.split(r"(``?[^`]+``?)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)
