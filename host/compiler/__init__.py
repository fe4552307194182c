# SPDX-License-Identifier: Apache-2.0
"""From a quantised model and a list of streams to a program, packed weights and a memory layout, pass by pass:

place     which stream has which token rows                                             streams
split     whether the model fits in one piece, or how it is cut                         capacities, split
lower     the model's steps -> instructions, whose operands are still values            lower, tiled
trace     a STORE behind every MATMUL, if asked for                                     traces
allocate  values -> words of activation memory                                          allocate
wait      which instruction must wait for an earlier one's results                      waits
link      regions of the memory -> offsets; weights packed; bytes                       link
"""

from __future__ import annotations

from collections.abc import Sequence

from edgemoe.host.compiler.allocate import allocate
from edgemoe.host.compiler.capacities import Missing, Need, Shortage, limits, needs, remedy_of
from edgemoe.host.compiler.draft import Lowered
from edgemoe.host.compiler.link import Outline, link, locate
from edgemoe.host.compiler.lower import lower
from edgemoe.host.compiler.split import Split, split
from edgemoe.host.compiler.streams import place
from edgemoe.host.compiler.tiled import lower_tiled
from edgemoe.host.compiler.traces import add_traces
from edgemoe.host.compiler.waits import mark_waits
from edgemoe.host.runtime.program import CompiledProgram, Stream
from edgemoe.hw.contract.config import PRESETS, HardwareConfig
from edgemoe.models.config import LANDMARK_KIND
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.quantise import QuantisedModel
from edgemoe.models.operations.feature_maps import MAPS


def compile(
    model: QuantisedModel,
    streams: Sequence[Stream | tuple[int, int | str]],
    hardware: HardwareConfig,
    *,
    trace: bool = False,
    save_tokens: bool = False,
) -> CompiledProgram:
    """A program for `streams`, each an (image index, task index or name).

    save_tokens: also store the final tokens of streams whose task has a head. trace: store the destination of every
    MATMUL. EdgemoeError if the model does not fit, naming the capacity, the excess, and the hardware fields with which
    it would.
    """
    return link(outline(model, streams, hardware, trace=trace, save_tokens=save_tokens), model, hardware)


def outline(
    model: QuantisedModel,
    streams: Sequence[Stream | tuple[int, int | str]],
    hardware: HardwareConfig,
    *,
    trace: bool = False,
    save_tokens: bool = False,
) -> Outline:
    """All of `compile` but the packing of weights; of them only the sizes are looked at."""
    listed = _listed(model, streams)

    def attempt(build: HardwareConfig) -> Outline:
        return _outline(model, listed, build, trace, save_tokens)

    try:
        return attempt(hardware)
    except Shortage as shortage:
        raise shortage.advised(remedy_of(shortage, attempt, hardware)) from None


def in_one_piece(
    model: QuantisedModel, streams: Sequence[Stream | tuple[int, int | str]], hardware: HardwareConfig
) -> dict[str, int | str]:
    """Fields of the hardware to change, and to what, so that the model need not be cut; none if none are known."""
    listed = _listed(model, streams)

    def attempt(build: HardwareConfig) -> Outline:
        return _outline(model, listed, build, False, False, whole=True)

    try:
        attempt(hardware)
    except Shortage as shortage:
        return remedy_of(shortage, attempt, hardware)
    return {}


def _listed(model: QuantisedModel, streams: Sequence[Stream | tuple[int, int | str]]) -> list[Stream]:
    if not streams:
        raise EdgemoeError("nothing to compile: give at least one stream (image, task)")
    return [s if isinstance(s, Stream) else Stream(int(s[0]), model.config.task_index(s[1])) for s in streams]


def _outline(
    model: QuantisedModel,
    streams: list[Stream],
    hardware: HardwareConfig,
    trace: bool,
    save_tokens: bool,
    whole: bool = False,
) -> Outline:
    """Pass by pass: in one piece, or else, unless it must be `whole`, in tiles. Shortage, of everything that is short,
    if it does not fit.
    """
    config = model.config
    found = list(limits(config, hardware))
    if model.weight_bits.fast:
        whole = True  # maxima of rows that come back from memory are not known
        if not config.packable:
            found.append(Missing(f"{config.attention} attention of packed products", 1, 0))
        if not hardware.packed:
            built = next((p.name for p in PRESETS.values() if p.packed), "none")
            found.append(Missing(f"packed products (preset {built!r} has them)", 1, 0, dict(packed=1)))
    if any(need.short for need in found):
        raise Shortage(config.name, hardware, found)
    placement = place(streams, parts=any(operation.routed for operation in model.graph.trunk))

    def complete(lowered: Lowered, needed: list[Need], cut: Split | None = None) -> Outline:
        if trace:
            add_traces(lowered, hardware, config.experts)
        used = allocate(lowered.drafts, config.name, hardware)
        mark_waits(lowered.drafts, follow=bool(hardware.packed))
        return locate(lowered, [*found, *needed, used], hardware, cut)

    needed = list(needs(config, hardware, placement.slots))
    if not any(need.short for need in needed):
        try:
            return complete(lower(model, streams, placement, hardware, save_tokens), needed)
        except Shortage as shortage:
            needed += shortage.needs
    if whole or config.attention in (*MAPS, LANDMARK_KIND):  # what features and landmarks keep is of all keys
        raise Shortage(config.name, hardware, needed)
    cut = split(config, hardware, [need for need in needed if need.short])
    while True:
        try:
            lowered = lower_tiled(model, streams, placement, hardware, save_tokens, cut)
            return complete(lowered, list(cut.needs(config, hardware)), cut)
        except Shortage:
            smaller = cut.smaller(hardware)
            if smaller is None:
                raise
            cut = smaller
