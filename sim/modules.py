# SPDX-License-Identifier: Apache-2.0
"""The modules of generated Verilog, apart: what each holds, whom it instantiates, and to which unit of the core it
belongs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgemoe.hw import verilog_text
from edgemoe.hw.contract.config import NAME
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.sim import build

TOP = NAME
VERSION = 4  # of what is kept under a key: raise it when counting changes


@dataclass(frozen=True)
class Module:
    """A module of the generated Verilog: its name as Yosys knows it, its text, the modules inside it (one entry per
    instance).
    """

    name: str
    text: str
    children: tuple[tuple[str, str], ...]  # (instance, module)

    @property
    def stub(self) -> str:
        """The ports alone, as a black box."""
        header = self.text[: self.text.index(");") + 2]
        ports = re.findall(r"^  (?:input|output|inout) .*;$", self.text, re.M)
        return "(* blackbox *)\n" + "\n".join([header, *ports, "endmodule\n"])

    @property
    def multiplies(self) -> bool:
        """Whether a multiplication or a cell of the array in a slice stands in the text."""
        return " * " in self.bare or any(kind in self.text for kind in DspSlice)

    @property
    def bare(self) -> str:
        """The text without the primitives that go with it."""
        return without_primitives(self.text)

    @property
    def key(self) -> str:
        """Hash of the text as Yosys wrote it, without the numbers that it deals out over the whole design: what
        `verilog_text.finish` adds is nothing to a synthesis."""
        numbers: dict[str, str] = {}
        text = verilog_text.unfinished(self.text)
        text = re.sub(
            r"(port\$\d+|dump_module\$\d+)", lambda found: numbers.setdefault(found[0], f"n{len(numbers)}"), text
        )
        name = re.sub(r"\$\d+", "", self.name)
        text = re.sub(r"(\\edgemoe[\w.]*)\$\d+", r"\1", text).replace(escaped(name), "self")
        return build.digest(VERSION, text, [re.sub(r"\$\d+", "", child) for _, child in self.children])


def without_primitives(text: str) -> str:
    """Verilog without the modules that are not generated."""
    for source in verilog_text.primitives().values():
        text = text.replace(source, "")
    return text


def escaped(name: str) -> str:
    """A name as Verilog writes it."""
    return name if re.fullmatch(r"\w+", name) else f"\\{name} "


def split(text: str) -> dict[str, Module]:
    """The modules of a generated file; primitives go with each module that instantiates them."""
    text = without_primitives(text)
    parts = {}
    for part in re.findall(r"^module .*?^endmodule", text, re.M | re.S):
        header = re.match(r"module \\?([^\s(]+)", part)
        assert header
        parts[header[1]] = part + "\n"
    modules = {}
    for name, part in parts.items():
        found = re.findall(r"^  \\?(\S+) +\\?(\S+) +\($", part, re.M)
        children = tuple((instance, module) for module, instance in found if module in parts)
        part += "".join(source for primitive, source in verilog_text.primitives().items() if primitive in part)
        modules[name] = Module(name, part, children)
    return modules


def instances(modules: Mapping[str, Module], name: str = TOP, path: str = "") -> Iterable[tuple[str, str]]:
    """(path, module) of everything in the design."""
    yield path, name
    for instance, child in modules[name].children:
        yield from instances(modules, child, f"{path}.{instance}" if path else instance)


def unit_of(path: str) -> str:
    """The unit of a path: what stands directly in the core or in the engine."""
    parts = [re.sub(r"\$\d+$", "", part) for part in path.split(".") if part != "top"]
    if parts[:1] == ["engine"]:
        parts = parts[1:2] or ["engine"]
    return parts[0] if parts else "top"
