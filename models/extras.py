# SPDX-License-Identifier: Apache-2.0
"""Optional packages: the extra that brings each, and a command line that gets it into the very environment that lacks
it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
import sys
from pathlib import Path

from .errors import EdgemoeError

_PACKAGE = "edgemoe"
_ROOT = Path(__file__).resolve().parent.parent
# Modules that are not called as the package that brings them.
_BRINGS = {
    "PIL": "pillow",
    "cocotb_tools": "cocotb",
    "find_libpython": "cocotb",
    "serial": "pyserial",
    "vl_convert": "vl-convert-python",
    "xdist": "pytest-xdist",
    "z3": "z3-solver",
}


def clone() -> Path | None:
    """The clone of the repository that this package is run from; None for an installed copy."""
    return _ROOT if (_ROOT / "pyproject.toml").is_file() and (_ROOT / _PACKAGE).is_file() else None


def requirements(extra: str = "") -> list[str]:
    """What an extra asks for (none: the base), as pip takes it; extras inside it are resolved."""
    found: list[str] = []
    for line in importlib.metadata.requires(_PACKAGE) or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        named = re.search(r"""(?:and\s+)?\bextra\s*==\s*["']([\w-]+)["']""", marker)
        if (named[1] if named else "") != extra:
            continue
        inner = re.fullmatch(rf"{_PACKAGE}\[(.*)\]", requirement)
        if inner:
            more = [one for name in inner[1].split(",") for one in requirements(name.strip())]
        else:
            # What else a marker says (a release of Python, a machine) stays.
            rest = marker.replace(named[0], "").strip(" ()") if named else marker
            more = [f"{requirement}; {rest}" if rest else requirement]
        found += [one for one in more if one not in found]
    return found


def name_of(requirement: str) -> str:
    """The package in a requirement."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def extra_of(package: str) -> str | None:
    """The smallest extra that brings a package ("": the base does); None for a stranger."""
    extras = importlib.metadata.metadata(_PACKAGE).get_all("Provides-Extra") or []
    holding = [extra for extra in ["", *extras] if package in map(name_of, requirements(extra))]
    return min(holding, key=lambda extra: len(requirements(extra)) if extra else 0, default=None)


def remedy(extra: str) -> str:
    """A command to paste. In a clone it names the clone, since no index has this package;
    elsewhere the packages themselves.
    """
    root = clone()
    wanted = ["-e", f"{root}[{extra}]" if extra else str(root)] if root else requirements(extra)
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *wanted])


def missing(package: str, what: str, extra: str | None = None) -> EdgemoeError:
    """The error to raise: `what` needs a package that is not here. `extra`: default, the smallest that brings it."""
    found = extra_of(package) if extra is None else extra
    how = f": {remedy(found)}" if found is not None else ", which is not installed"
    return EdgemoeError(f"{what} needs the package {package}{how}")


def present(module: str) -> bool:
    """Whether a module can be imported, without doing it."""
    return importlib.util.find_spec(module) is not None


def package_of(module: str) -> str:
    """The package that brings a module."""
    top = module.partition(".")[0]
    return _BRINGS.get(top, top.replace("_", "-"))
