# SPDX-License-Identifier: Apache-2.0
"""From what the ROUTEs of a run chose, in their order, back to tokens, layers and queues; whole or in tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from edgemoe.host.runtime.program import CompiledProgram
from edgemoe.hw.contract.isa import Opcode
from numpy.typing import NDArray


@dataclass(frozen=True)
class Queues:
    """What an EXPERTS found: of every expert the token rows (slot * tokens + token), in the order of its queue."""

    instruction: int
    layer: int
    members: list[list[int]]

    @property
    def lengths(self) -> list[int]:
        return [len(queue) for queue in self.members]


def routers(program: CompiledProgram) -> Iterator[tuple[int, int, int]]:
    """(instruction, layer, first token row) of every ROUTE."""
    for index, instruction in enumerate(program.instructions):
        if instruction.opcode == Opcode.ROUTE:
            key = program.keys[index]
            assert key is not None and key.layer is not None
            yield index, key.layer, program.origins[index] + instruction.row_base


def expert_queues(program: CompiledProgram, routes: Sequence[NDArray[np.int64]]) -> Iterator[Queues]:
    """The queues of every EXPERTS. routes: of each ROUTE the chosen experts, [rows, top_k]."""
    chosen = {index: (layer, first, each) for (index, layer, first), each in zip(routers(program), routes, strict=True)}
    members: list[list[int]] = []
    layer = 0
    for index, instruction in enumerate(program.instructions):
        if index in chosen:
            layer, first, each = chosen[index]
            if instruction.reset_queues:
                members = [[] for _ in range(program.config.experts)]
            for choice in each.T:  # all first choices, then all second ones
                for row, expert in enumerate(choice, first):
                    members[expert].append(row)
        elif instruction.opcode == Opcode.EXPERTS:
            yield Queues(index, layer, members)


def routes_by_token(program: CompiledProgram, routes: Sequence[NDArray[np.int64]]) -> dict[int, NDArray[np.int64]]:
    """MoE layer -> the experts of every token row, [slots * tokens, top_k]."""
    rows = (max(program.slots) + 1) * program.config.tokens
    found: dict[int, NDArray[np.int64]] = {}
    for (_, layer, first), chosen in zip(routers(program), routes, strict=True):
        found.setdefault(layer, np.zeros((rows, program.config.top_k), np.int64))[first : first + len(chosen)] = chosen
    return found
