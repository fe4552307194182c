# SPDX-License-Identifier: Apache-2.0
"""The docstring of every unit is its contract, and true: ports and their directions, cycles, and the twin.

After what the unit computes come, in this order::

    Ports:
        valid, word (in): what they mean.
        request (out stream): of a stream; of a group of ports by its signature's name: (out AxiRead).
    Latency: LATENCY = 3 cycles from valid to out_valid.
    Interval: INTERVAL = 1 cycle between words.
    Format: of numbers.
    Limits: what must hold.
    Twin: `models.numbers.twins.function`.

Every `NAME = expression cycles` is an attribute of that value; the expression may use the fields of the configuration,
`tree` (the stages of a tree over the lanes), and attributes of the unit and of others. Instead of cycles stands "none
(reason)" or "varies: with what", and instead of a twin "none (reason)". Numbers have a format; limits are said where
there are any.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import edgemoe.hw
import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.activation import ActivationFunction
from edgemoe.hw.compute.cosformer import CosFormer
from edgemoe.hw.compute.expert_choice import ExpertChoice
from edgemoe.hw.compute.expert_score import ExpertScore
from edgemoe.hw.compute.exponential import Exponential
from edgemoe.hw.compute.gate import Gate
from edgemoe.hw.compute.lane_tree import tree_stages
from edgemoe.hw.compute.logarithm import Logarithm
from edgemoe.hw.compute.logit_scan import LogitScan
from edgemoe.hw.compute.performer import Performer
from edgemoe.hw.compute.reciprocal import Reciprocal
from edgemoe.hw.compute.rsqrt import ReciprocalSquareRoot
from edgemoe.hw.compute.running_sums import RunningSums
from edgemoe.hw.compute.score_functions import ScoreFunctions
from edgemoe.hw.compute.sigmoid import Sigmoid
from edgemoe.hw.compute.slice_row import SliceRow
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.dsp_slice import DspSlice
from edgemoe.hw.control.hazards import Hazards
from edgemoe.hw.control.register_file import RegisterFile
from edgemoe.hw.control.row_pipeline import RowPipeline
from edgemoe.hw.control.stream_path import StreamPath
from edgemoe.hw.control.streamer import Streamer
from edgemoe.hw.control.writeback import Writeback
from edgemoe.hw.memory.arbiter import Arbiter
from edgemoe.hw.memory.axi import BurstSplitter
from edgemoe.hw.memory.banked_memory import BankedMemory
from edgemoe.hw.memory.block_memory import BlockMemory
from edgemoe.hw.memory.element_queue import ElementQueue
from edgemoe.hw.memory.image import ImagePixels
from edgemoe.hw.memory.reader import Reader, ReadMaster
from edgemoe.hw.memory.row_unpacker import LevelPromise, RowUnpacker
from edgemoe.hw.memory.word_pairs import WordPairs
from edgemoe.hw.periphery.blocks import BlockReader, BlockWriter
from edgemoe.hw.periphery.frame_receiver import FrameReceiver
from edgemoe.hw.periphery.frame_sender import FrameSender
from edgemoe.hw.periphery.interconnect import Interconnect
from edgemoe.hw.periphery.link import Link
from edgemoe.hw.periphery.sdram import Sdram
from edgemoe.hw.periphery.sdram_commands import SdramCommands
from edgemoe.hw.periphery.sdram_config import SdramConfig
from edgemoe.hw.periphery.sdram_port import SdramPort
from edgemoe.hw.periphery.uart import UartReceiver, UartTransmitter
from edgemoe.hw.system import System
from edgemoe.sim.bench import flat_ports
from edgemoe.sim.rtl import rtl

CONFIG = preset("tiny")
PACKED = replace(CONFIG, packed=1)
SECTIONS = ("Ports", "Latency", "Interval", "Format", "Limits", "Twin")
INSTANCES: dict[type, Callable[[], Any]] = {
    Exponential: partial(Exponential, CONFIG.lanes),
    CosFormer: partial(CosFormer, CONFIG.lanes),
    Performer: partial(Performer, CONFIG.lanes),
    Sigmoid: partial(Sigmoid, CONFIG.lanes),
    Gate: partial(Gate, CONFIG.lanes),
    RunningSums: partial(RunningSums, replace(CONFIG, attention=preset("family").attention)),
    Logarithm: Logarithm,
    ScoreFunctions: partial(ScoreFunctions, replace(CONFIG, attention=preset("family").attention)),
    Reciprocal: Reciprocal,
    ReciprocalSquareRoot: ReciprocalSquareRoot,
    LogitScan: partial(LogitScan, CONFIG, ExpertChoice(CONFIG).LATENCY),
    ExpertScore: partial(ExpertScore, CONFIG, ExpertChoice(CONFIG).LATENCY - ExpertChoice.SEEN),
    Hazards: partial(Hazards, block_spacing=4, probability_latency=7, packed=True),
    ActivationFunction: partial(ActivationFunction, PACKED),
    StreamPath: partial(StreamPath, PACKED, probability_latency=7),
    Streamer: partial(Streamer, PACKED, block_spacing=4, probability_latency=7),
    RowPipeline: partial(RowPipeline, PACKED, array_latency=7, accumulator_latency=3, epilogue_latency=21, settle=3),
    Writeback: partial(Writeback, PACKED),
    Arbiter: partial(Arbiter, 4, 2),
    SliceRow: partial(SliceRow, PACKED, DspSlice.DSP48E2, 16),
    BlockMemory: partial(BlockMemory, 24, 10, 3),
    BankedMemory: partial(BankedMemory, 24, 10),
    WordPairs: partial(WordPairs, 24, 10, 3),
    LevelPromise: partial(LevelPromise, CONFIG, 8),
    ElementQueue: partial(ElementQueue, 24, 10),
    ReadMaster: partial(ReadMaster, CONFIG, 0b0011, 0),
    Reader: partial(Reader, CONFIG, {"fetch": 8, "dma": 32}),
    Interconnect: partial(Interconnect, 64),
    BlockReader: BlockReader,
    BlockWriter: BlockWriter,
    FrameReceiver: partial(FrameReceiver, 100, 1 << 20),
    FrameSender: FrameSender,
    Link: partial(Link, 100, 1 << 20),
    UartReceiver: partial(UartReceiver, 8),
    UartTransmitter: partial(UartTransmitter, 8),
    **{unit: partial(unit, SdramConfig(60e6)) for unit in (Sdram, SdramCommands, SdramPort)},
    System: partial(System, preset("ulx3s"), SdramConfig(60e6), 8),
}
"""How to make those that take more than a configuration."""


def units() -> Iterator[type]:
    """Every component of the hardware."""
    for module in pkgutil.walk_packages(edgemoe.hw.__path__, "edgemoe.hw."):
        for _, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(found, wiring.Component) and found.__module__ == module.name:
                yield found


UNITS = sorted(units(), key=lambda unit: (unit.__module__, unit.__name__))


def made(unit: type) -> Any:
    default = partial(unit, CONFIG) if inspect.signature(unit).parameters else unit
    return INSTANCES.get(unit, default)()


def sections(unit: type) -> dict[str, str]:
    """The text of each section; entries of `Ports` keep their lines."""
    text = inspect.cleandoc(unit.__doc__ or "")
    found = re.findall(rf"^({'|'.join(SECTIONS)}):[ \n](.*?)(?=^\S|\Z)", text, re.M | re.S)
    assert [name for name, _ in found] == [name for name in SECTIONS if name in dict(found)], "sections out of order"
    assert text.split(":", 1)[0].strip() not in SECTIONS, "what it computes comes first"
    return dict(found)


def named(unit: type) -> dict[str, tuple[str, str, str]]:
    """Of each port that the docstring names: (direction, kind, meaning)."""
    ports: dict[str, tuple[str, str, str]] = {}
    entries = re.sub(r"\n {5,}", " ", sections(unit)["Ports"])
    for line in entries.strip().split("\n"):
        entry = re.fullmatch(r" *([\w<>]+(?:, [\w<>]+)*) \((in|out)( \w+)?\): (.+)", line)
        assert entry, f"not `names (in|out kind): meaning`: {line}"
        for name in entry[1].split(", "):
            assert name not in ports, f"{name} stands twice"
            ports[name] = (entry[2], (entry[3] or "").strip(), entry[4])
    return ports


def declared(instance: Any) -> dict[str, tuple[str, str]]:
    """Of each member of the signature: (direction, kind)."""
    ports = {}
    for name, member in instance.signature.members.items():
        kind = ""
        if member.is_signature:
            signature = member.signature.flip() if member.flow == wiring.In else member.signature
            kind = "stream" if isinstance(signature, stream.Signature) else type(signature).__name__
        ports[name] = (member.flow.name.lower(), kind)
    return ports


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.__name__)
def test_ports(unit: type) -> None:
    """None missing, none too many; `<client>_valid` stands for that port of every client."""
    told = {name: text[:2] for name, text in named(unit).items()}
    patterns = {name: re.sub(r"<\w+>", r"\\w+", name) for name in told}
    matched = set()
    for name, port in declared(made(unit)).items():
        found = [name] if name in told else [by for by, pattern in patterns.items() if re.fullmatch(pattern, name)]
        assert found, f"{name} is not named"
        assert told[found[0]] == port, f"{name} is {port}, not {told[found[0]]}"
        matched.add(found[0])
    assert matched == told.keys(), f"no such ports: {told.keys() - matched}"


def attributes(unit: type) -> dict[str, str]:
    """Attribute -> expression, of all that the sections behind the ports say to be cycles."""
    text = " ".join(" ".join(text.split()) for name, text in sections(unit).items() if name != "Ports")
    return {found[1]: found[2] for found in re.finditer(r"\b([A-Z][A-Z_]+) = ([^:;]+?) cycles?\b", text)}


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.__name__)
def test_cycles(unit: type) -> None:
    """Stated cycles are attributes of that value, and such attributes are stated."""
    instance = made(unit)
    config = getattr(instance, "config", None)
    names = {"tree": tree_stages(CONFIG.lanes), **{unit.__name__: unit for unit in UNITS}, **vars(instance)}
    names |= {name: getattr(instance, name) for name in dir(unit) if name.isupper()}
    names |= {name: getattr(config, name) for name in dir(config) if not name.startswith("_")} if config else {}
    stated = attributes(unit)
    for name, expression in stated.items():
        assert getattr(instance, name) == eval(expression, {}, names), f"{name} is {getattr(instance, name)}"
    for section in ("Latency", "Interval"):
        text = sections(unit)[section].strip()
        assert re.match(r"[A-Z_]+ = |none \(|varies: ", text), f"{section}: {text}"
        assert (section.upper() in stated) == hasattr(instance, section.upper()), (
            f"{section.upper()} and its text differ"
        )


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.__name__)
def test_twin(unit: type) -> None:
    """What is named in backquotes with its room exists; without a twin there is a reason."""
    text = sections(unit)["Twin"].strip()
    assert re.match(r"`|none \(.+\)", text), text
    assert text.startswith("none") or "Format" in sections(unit), "arithmetic has a number format"
    for name in re.findall(r"`((?:models|hw|host|sim)\.[\w.]+)`", text):
        module, _, attribute = f"edgemoe.{name}".rpartition(".")
        try:
            assert hasattr(importlib.import_module(module), attribute) or importlib.import_module(f"edgemoe.{name}")
        except ModuleNotFoundError:
            pytest.fail(f"there is no {name}")


# Of units without a test that takes their results by LATENCY: the input that pulses, what is held beside it, and the
# output that answers so many cycles later as the attribute says.
PULSES: dict[str, tuple[type, str, dict[str, int], str]] = {
    "LogitScan.LATENCY": (LogitScan, "start", {"rows": 1, "columns": 1, "top_k": 1}, "valid"),
    "ExpertChoice.SEEN": (ExpertChoice, "valid", {}, "seen_valid"),
    "ExpertChoice.LATENCY": (ExpertChoice, "valid", {"token.last": 1, "token.first": 1}, "chosen"),
    "ExpertScore.LATENCY": (ExpertScore, "seen_valid", {"seen_token.last": 1, "seen_token.scored": 1}, "scored"),
    "Hazards.LATENCY": (Hazards, "announced", {}, "block_may_start"),
    "RegisterFile.LATENCY": (RegisterFile, "bus_arvalid", {}, "bus_rvalid"),
    "RowUnpacker.LATENCY": (RowUnpacker, "valid", {}, "row_valid"),
    "ElementQueue.LATENCY": (ElementQueue, "arriving", {}, "valid"),
    "LevelPromise.LATENCY": (LevelPromise, "arriving", {}, "level"),
    "BurstSplitter.LATENCY": (BurstSplitter, "request_valid", {"request.p.beats": 1}, "burst_valid"),
    "ImagePixels.LATENCY": (ImagePixels, "data", {}, "pixels"),
    "FrameSender.LATENCY": (FrameSender, "answer_valid", {}, "bytes_valid"),
    "UartTransmitter.LATENCY": (UartTransmitter, "bytes_valid", {}, "line"),
    "Interconnect.LATENCY": (Interconnect, "reads_0_arvalid", {}, "read_arvalid"),
    "ReadMaster.LATENCY": (ReadMaster, "axi_0_rvalid", {}, "valid"),
}


class Pulsed(wiring.Component):
    """All of them side by side, for one build. `nothing` is 0, which Verilator need not know."""

    def __init__(self) -> None:
        self.cases = {name.replace(".", "_"): (made(unit), *case) for name, (unit, *case) in PULSES.items()}
        outputs = {name: Out(len(flat_ports(unit)[output][0])) for name, (unit, *_, output) in self.cases.items()}
        super().__init__({"pulse": In(1), "nothing": In(1), **outputs})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, (unit, pulse, held, output) in self.cases.items():
            m.submodules[name] = unit
            ports = flat_ports(unit)
            inputs = [Value.cast(value) for _, member, value in unit.signature.flatten(unit) if member.flow == In]
            m.d.comb += [value.eq(self.nothing.replicate(len(value))) for value in inputs]
            m.d.comb += [attrgetter(place)(unit).eq(Mux(self.nothing, 0, value)) for place, value in held.items()]
            m.d.comb += [ports[pulse][0].eq(self.pulse), getattr(self, name).eq(ports[output][0])]
        return m


@pytest.fixture(scope="module")
def answers() -> dict[str, int]:
    """Cycles from the pulse to the first change of each output."""
    unit, before = Pulsed(), 4
    out = rtl(unit, {"pulse": np.arange(40) == before}, latency=dict.fromkeys(unit.cases, 0))
    return {name: np.flatnonzero(seen != seen[0])[0] - before for name, seen in out.items()}


@pytest.mark.parametrize("attribute", PULSES)
def test_a_pulse_is_answered_in_time(answers: dict[str, int], attribute: str) -> None:
    assert answers[attribute.replace(".", "_")] == getattr(made(PULSES[attribute][0]), attribute.partition(".")[2])
