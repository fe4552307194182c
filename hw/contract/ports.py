# SPDX-License-Identifier: Apache-2.0
"""Groups of signals between units, each a signature with one name, declared once; a unit's port is one of them."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import Memory
from edgemoe.hw.contract.layouts import EXPERT_BITS, JOB, ROW_BITS, SCORE_BITS, WORD_ADDRESS_BITS, inputs, word


class ReadPort(wiring.Signature):
    """Reading an on-chip memory, as its reader sees it: `data` stands two cycles after `address`."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"address": Out(WORD_ADDRESS_BITS), "data": In(word(config))})


class InputsPort(wiring.Signature):
    """The same for who reads what enters the array in a cycle: the words from `address` on."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"address": Out(WORD_ADDRESS_BITS), "data": In(inputs(config))})


class ResultPort(wiring.Signature):
    """A result on its way to the on-chip memories, as its source sees it: `word` goes to `address` of `memory`, and
    with `copy_valid` to `copy_address` of activation memory as well; where products are packed, what goes to activation
    memory is `copy_word`.
    """

    def __init__(self, config: HardwareConfig) -> None:
        copy = {"copy_word": Out(word(config))} if config.packed else {}
        super().__init__(
            {
                "valid": Out(1),
                "memory": Out(Memory),
                "address": Out(WORD_ADDRESS_BITS),
                "word": Out(word(config)),
                "copy_valid": Out(1),
                "copy_address": Out(WORD_ADDRESS_BITS),
                **copy,
            }
        )


class EntryPort(wiring.Signature):
    """Reading an expert's queue, as its reader sees it: `row` and `score` of an entry stand two cycles after `index`,
    and `expert` since the cycle before that.
    """

    def __init__(self) -> None:
        super().__init__(
            {"expert": Out(EXPERT_BITS), "index": Out(ROW_BITS), "row": In(ROW_BITS), "score": In(SCORE_BITS)}
        )


class DmaPort(wiring.Signature):
    """DMA to the on-chip memories, as DMA sees it: a word written, a word read (`read_data` two cycles after its
    address), the row of the current expert's queue entry (`entry_row` two cycles after `entry_index`).

    `write_lanes` is an enable for each lane, of activation memory; the others are written whole.
    """

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {
                "write_valid": Out(1),
                "write_memory": Out(Memory),
                "write_address": Out(WORD_ADDRESS_BITS),
                "write_word": Out(word(config)),
                "write_lanes": Out(config.lanes),
                "read_memory": Out(Memory),
                "read_address": Out(WORD_ADDRESS_BITS),
                "read_data": In(word(config)),
                "entry_index": Out(ROW_BITS),
                "entry_row": In(ROW_BITS),
            }
        )


class OperationPort(wiring.Signature):
    """An instruction that runs alone, as who orders it sees it: `start` (pulse), `job`, which stands still until
    `done` (pulse).
    """

    def __init__(self) -> None:
        super().__init__({"start": Out(1), "job": Out(JOB), "done": In(1)})


class WeightRowPort(wiring.Signature):
    """The weight stream, as its source sees it: a stream of words, and how many will come without a gap."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "word": Out(word(config)),
                "level": Out(range(2 * config.lanes + 1)),
            }
        )


class QueueQuery(wiring.Signature):
    """Questions about the experts' queues, as who asks sees them: `count`, the length of `count_expert`'s, in the same
    cycle; one cycle after `next_from`: `next_expert`, the first from there on whose queue is not empty (`next_found`).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "count_expert": Out(EXPERT_BITS),
                "count": In(ROW_BITS),
                "next_from": Out(EXPERT_BITS),
                "next_found": In(1),
                "next_expert": In(EXPERT_BITS),
            }
        )


class Events(wiring.Signature):
    """What the engine does in this cycle, as the engine sees it.

    `retired` (pulse): an instruction has written all its results. Of the others at most one is set: the array takes a
    row, or waits for weights, for the keys or values of the next block or its spacing, for results; a DMA instruction,
    LAYERNORM or ROUTE runs; or there is nothing to do (`idle`).
    """

    def __init__(self) -> None:
        waits = ("waits_for_weights", "waits_for_operands", "waits_for_results")
        names = ("retired", "array_active", *waits, "moving", "normalising", "routing", "idle")
        super().__init__({name: Out(1) for name in names})
