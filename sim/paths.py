# SPDX-License-Identifier: Apache-2.0
"""The slowest paths of a mapped design, across its modules, net by net: when a signal arrives at every net, by the
delays of `edgemoe.sim.cell_delays`; wires take no time.

Twice: as Yosys mapped it, and *placed*, with what placing tools do without moving a clock cycle: the late inputs of a
LUT go to its fast pins, flip-flops beside a DSP slice into it (but those with the attribute `keep`), the last stage of
a shift register of LUTs into the flip-flop behind it.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemoe.sim.cell_delays import DSP_REGISTERS, Variant, delays

_CLOCK = re.compile(r"C|W?CLK|CLK\w+")
_FLIP_FLOP, _SLICE, _SHIFTERS = "FDRE", "DSP48E1", ("SRL16E", "SRLC32E")
_CONTROLS = ("CE", "R")


def pruned(netlist: Mapping[str, Any]) -> dict[str, Any]:
    """What paths need of a module in Yosys' JSON."""
    ports = sorted(netlist["ports"].items(), key=lambda item: item[1]["direction"] != "input")
    kept = {bit for net in netlist["netnames"].values() if "keep" in net.get("attributes", ()) for bit in net["bits"]}
    return {
        "ports": {name: port["bits"] for name, port in ports},  # inputs first
        "names": {name: net["bits"] for name, net in netlist["netnames"].items() if not net.get("hide_name")},
        "cells": {
            name: {
                "type": cell["type"],
                "parameters": dict(Variant.of(cell).parameters),
                "outputs": [p for p, way in cell.get("port_directions", {}).items() if way == "output"],
                "connections": cell["connections"],
                **({"kept": True} if kept.intersection(cell["connections"].get("Q", ())) else {}),
            }
            for name, cell in netlist["cells"].items()
        },
    }


@dataclass(frozen=True)
class Path:
    """picoseconds from `start` to `end` (registers, or ports of the design); through: the cells on the way, each with
    its delay.
    """

    picoseconds: int
    start: str
    end: str
    through: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Cell:
    """A primitive. pins: port -> nets (None: constant); names: its module's, by net."""

    name: str
    place: str
    variant: Variant
    pins: Mapping[str, list[int | None]]
    outputs: list[str]
    names: Mapping[int, str]
    kept: bool = False  # a flip-flop that is to stay where it is (the attribute `keep`)

    def nets(self, port: str) -> set[int]:
        return {net for net in self.pins.get(port, ()) if net is not None}

    def label(self, port: str = "") -> str:
        """As an end of a path: the register that it drives, and its port unless that is a flip-flop's data."""
        driven = (net for out in self.outputs for net in self.pins.get(out, ()) if net in self.names)
        named = next((self.names[net] for net in driven if net is not None), self.name).replace("\\", "")
        where = f"{self.place}.{named}" if self.place else named
        return f"{where} ({port})" if port and (port != "D" or not self.variant.kind.startswith("FD")) else where


@dataclass
class Design:
    """The primitives of a whole design; nets are numbers."""

    cells: list[Cell] = field(default_factory=list)
    joined: dict[int, int] = field(default_factory=dict)  # net -> another that it is the same as
    ports: dict[int, str] = field(default_factory=dict)  # of the whole: net -> name
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def of(cls, netlists: Mapping[str, Any], inside: Mapping[str, Mapping[str, str]], top: str) -> Design:
        """netlists: module -> `pruned`; inside: module -> instance -> module."""
        design = cls()
        outside: dict[str, list[int | None]] = {
            port: [next(design._numbers) for _ in bits] for port, bits in netlists[top]["ports"].items()
        }
        design.ports = {net: port for port, nets in outside.items() for net in nets if net is not None}
        design._place(netlists, inside, top, "", outside)
        return design

    def _place(
        self,
        netlists: Mapping[str, Any],
        inside: Mapping[str, Mapping[str, str]],
        module: str,
        path: str,
        outside: Mapping[str, list[int | None]],
    ) -> None:
        netlist = netlists[module]
        nets: dict[int, int] = {}
        for port, bits in netlist["ports"].items():
            for bit, net in zip(bits, outside.get(port, ()), strict=False):
                if isinstance(bit, int) and net is not None and nets.setdefault(bit, net) != net:
                    self.joined[net] = nets[bit]
        names: dict[int, str] = {}

        def numbered(bits: Iterable[int | str]) -> list[int | None]:
            return [nets.setdefault(b, next(self._numbers)) if isinstance(b, int) else None for b in bits]

        for name, cell in netlist["cells"].items():
            pins = {port: numbered(bits) for port, bits in cell["connections"].items()}
            child = inside[module].get(name) if module in inside else None
            child = child or (cell["type"] if cell["type"] in netlists else None)
            if child is None and not re.fullmatch("[A-Z0-9_]+", cell["type"]):
                continue  # a module that is looked at by itself
            if child:
                self._place(netlists, inside, child, f"{path}.{name}" if path else name, pins)
            else:
                kept = cell.get("kept", False)
                self.cells.append(Cell(name, path, Variant.of(cell), pins, cell["outputs"], names, kept))
        for name, bits in netlist["names"].items():
            for i, bit in enumerate(bits):
                if bit in nets:
                    names.setdefault(nets[bit], f"{name}[{i}]" if len(bits) > 1 else name)


class Arrivals:
    """When signals arrive, in picoseconds behind the clock's edge. placed: see above."""

    def __init__(self, design: Design, placed: bool):
        self.design, self.placed = design, placed
        moved = _beside(design) if placed else {}
        self.delays = delays({c.variant for c in design.cells} | {variant for variant, _ in moved.values()})
        self.through: dict[
            int, tuple[Cell | None, list[tuple[int, int]]]
        ] = {}  # net -> what drives it, from which nets
        self.starts: dict[int, tuple[int, Cell | None]] = dict.fromkeys(design.ports, (0, None))
        self.ends: list[tuple[int, int, Cell | None, str]] = [
            (net, 0, None, port) for net, port in design.ports.items()
        ]
        self.inside: list[tuple[int, Cell]] = []
        for net, other in design.joined.items():
            self.through[net] = (None, [(other, 0)])
        for cell in design.cells:
            self._add(cell, *moved.get(cell, (cell.variant, cell.pins)))
        self.at: dict[int, tuple[int, int | None]] = {}  # net -> (time, net before it)
        for net in {end[0] for end in self.ends}:
            self._arrive(net)

    def _add(self, cell: Cell, variant: Variant, pins: Mapping[str, list[int | None]]) -> None:
        found = self.delays[variant]

        def net(pin: tuple[str, int]) -> int | None:
            bits = pins.get(pin[0], ())
            return bits[pin[1]] if pin[1] < len(bits) else None

        for pin, sources in found.through.items():
            if (out := net(pin)) is not None:
                arcs = [(n, ps) for source, ps in sources if (n := net(source)) is not None]
                self.through[out] = (cell, arcs)
        late = self.placed and variant.kind in _SHIFTERS and not any(cell.nets(p) for p in pins if p[0] == "A")
        for pin, ps in found.arrival.items():
            if (out := net(pin)) is not None:
                self.starts[out] = (self.delays[Variant(_FLIP_FLOP)].arrival["Q", 0] if late else ps, cell)
        if found.inside:
            self.inside.append((found.inside, cell))
        if not found.arrival:
            return
        for port, bits in pins.items():
            if port not in cell.outputs and not _CLOCK.fullmatch(port):
                self.ends += [
                    (n, found.setup.get((port, i), 0), cell, port) for i, n in enumerate(bits) if n is not None
                ]

    def _arrive(self, net: int) -> None:
        stack, at = [net], self.at
        while stack:
            net = stack[-1]
            cell, arcs = self.through.get(net, (None, []))
            if net not in at:
                at[net] = (-1, None)
                waiting = [n for n, _ in arcs if n not in at]
                if waiting:
                    stack += waiting
                    continue
            stack.pop()
            best: tuple[int, int | None] = (self.starts[net][0], None) if net in self.starts else (-1, None)
            if self.placed and cell is not None and cell.variant.kind.startswith("LUT"):
                inputs = sorted((n for n, _ in arcs), key=lambda n: -at[n][0])
                arcs = list(
                    zip(inputs, sorted(ps for _, ps in self.delays[cell.variant].through["O", 0]), strict=False)
                )
            for before, ps in arcs:
                if at[before][0] >= 0 and at[before][0] + ps > best[0]:
                    best = (at[before][0] + ps, before)
            at[net] = best

    def slowest(self, most: int, unit_of: Callable[[str], str]) -> dict[str, list[Path]]:
        """Unit (of the place where it ends) -> its slowest paths, the slowest first; of those that end in lanes or bits
        of the same thing, one.
        """
        found: dict[str, dict[str, tuple[int, Cell | None, str, int | None]]] = defaultdict(dict)
        within = [(ps, cell, "inside", None) for ps, cell in self.inside]
        across = [
            (self.at[net][0] + setup, cell, port, net) for net, setup, cell, port in self.ends if self.at[net][0] >= 0
        ]
        for end in [*within, *across]:
            cell, port = end[1:3]
            unit, label = (unit_of(cell.place), cell.label(port)) if cell else ("top", port)
            kind = re.sub(r"\d+", "0", label)
            if kind not in found[unit] or end[0] > found[unit][kind][0]:
                found[unit][kind] = end
        return {
            unit: [self._path(*end) for end in sorted(ends.values(), key=lambda end: -end[0])[:most]]
            for unit, ends in found.items()
        }

    def _path(self, picoseconds: int, cell: Cell | None, port: str, net: int | None) -> Path:
        end = cell.label(port) if cell else port
        if net is None:
            assert cell is not None
            return Path(picoseconds, end, end, (f"{cell.variant.kind} {picoseconds}",))
        steps = [f"setup {picoseconds - self.at[net][0]}"]
        while (before := self.at[net][1]) is not None:
            driver = self.through[net][0]
            if driver is not None:
                steps.append(f"{driver.variant.kind} {self.at[net][0] - self.at[before][0]}")
            net = before
        source = self.starts[net][1]
        if source is not None:
            steps.append(f"{source.variant.kind} {self.at[net][0]}")
        start = source.label() if source else self.design.ports[net]
        return Path(picoseconds, start, end, tuple(reversed(steps)))


def _beside(design: Design) -> dict[Cell, tuple[Variant, Mapping[str, list[int | None]]]]:
    """DSP slices that take in the flip-flops before them: port by port, where nothing else feeds it, none of them is
    kept where it is, and one enable and one reset rule them all. What they are then, and what feeds them.
    """
    flip_flops = {net: c for c in design.cells if c.variant.kind == _FLIP_FLOP and not c.kept for net in c.nets("Q")}
    found: dict[Cell, tuple[Variant, Mapping[str, list[int | None]]]] = {}
    for cell in design.cells:
        if cell.variant.kind != _SLICE:
            continue
        variant, pins = cell.variant, dict(cell.pins)
        for port, register in DSP_REGISTERS.items():
            before = [flip_flops.get(_root(design, net)) for net in cell.nets(port)]
            if cell.variant.get(register) or not before or None in before:
                continue
            if len({tuple(f.pins[c][0] for c in _CONTROLS) for f in before if f}) == 1:
                variant = variant.having(**{register: 1})
                pins[port] = [f.pins["D"][0] for f in before if f]
        found[cell] = (variant, pins)
    return found


def _root(design: Design, net: int) -> int:
    while net in design.joined:
        net = design.joined[net]
    return net
