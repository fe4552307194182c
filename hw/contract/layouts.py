# SPDX-License-Identifier: Apache-2.0
"""Every payload that crosses a unit boundary, declared once."""

from amaranth.hdl import Shape, Value, signed, unsigned
from amaranth.lib import data
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME, FIELDS, INSTRUCTION_BYTES, OFFSETS, Stationary
from edgemoe.models.numbers.words import WORD_BITS

ROW_BITS = 13  # absolute token rows (HardwareConfig allows 4096, and counts reach it)
EXPERT_BITS = 7
SCORE_BITS = 16  # of an expert for a token: 2^15 is 1.0
# Fields of instructions whose widths are also those of counters and ports.
WORD_ADDRESS_BITS = BY_NAME["destination_base"].bits  # of a word in an on-chip memory
STRIDE_BITS = BY_NAME["destination_stride"].bits
CHUNK_BITS = BY_NAME["chunks"].bits
COLUMN_BITS = BY_NAME["columns"].bits
DRAM_OFFSET_BITS = BY_NAME["address"].bits  # linear byte offset
ATTENTION_BITS = BY_NAME["attention"].bits
BEAT_COUNT_BITS = BY_NAME["beats"].bits
SEQUENCE_BITS = 8  # instructions are numbered modulo 256


def index_shape(count: int) -> Shape:
    """Shape of an index below `count`, at least one bit, as every address has."""
    return Shape.cast(range(max(2, count)))


def count_shape(most: int) -> Shape:
    """Shape of a number 0..most, at least two bits, so that it may be compared with 1."""
    return Shape.cast(range(max(3, most + 1)))


def word(config: HardwareConfig) -> data.ArrayLayout:
    """One word of every on-chip memory: `lanes` signed 16-bit numbers."""
    return data.ArrayLayout(signed(WORD_BITS), config.lanes)


def inputs(config: HardwareConfig) -> data.ArrayLayout:
    """What enters the array in a cycle: a word, or two that lie side by side."""
    return data.ArrayLayout(signed(WORD_BITS), config.inputs)


def sums(config: HardwareConfig) -> data.ArrayLayout:
    """The array's output: `lanes` exact 48-bit sums."""
    return data.ArrayLayout(signed(48), config.lanes)


INSTRUCTION = data.FlexibleLayout(
    8 * INSTRUCTION_BYTES,
    {f.name: data.Field(signed(f.bits) if f.signed else unsigned(f.bits), OFFSETS[f.name]) for f in FIELDS},
)

JOB = data.StructLayout(
    {
        "instruction": INSTRUCTION,
        "rows": ROW_BITS,  # rows of this execution: the instruction's, or the length of the expert's queue
        "expert": EXPERT_BITS,
        "address": DRAM_OFFSET_BITS,  # with the expert's stride applied
        "sequence": SEQUENCE_BITS,  # how many instructions were issued before this one
    }
)
"""An instruction as issued: operands that depend on the expert are resolved."""

CONTEXTS = data.ArrayLayout(JOB, 2)
"""The MATMULs in flight: one streams while the one before drains. TAG.context tells which is meant."""

TAG = data.StructLayout(
    {
        "valid": 1,
        "index": ROW_BITS,  # i: row within the stream, and in the accumulators
        "row": ROW_BITS,  # row of the destination: i, or the queue entry's row when scattering
        "table_row": ROW_BITS,  # absolute row of the streamed row, for the table of row scales
        "score": SCORE_BITS,  # router's score of the queue entry
        "column": COLUMN_BITS,
        "first": 1,  # first chunk: the accumulator starts
        "last": 1,  # last chunk: the sum is complete
        "column_end": 1,  # last row of a last chunk
        "final": 1,  # the instruction's last row
        "bank": 1,  # parameter bank of this column block
        "context": 1,  # which of the two instructions in flight
    }
)
"""What travels beside a row from the stream's issue to write-back."""

STEP = data.StructLayout({"mantissa": 5, "exponent": 3})
"""The step of a row's rounded activations: mantissa * 2^exponent / 8."""


def bank(config: HardwareConfig) -> Shape:
    """Number of a parameter bank: packed, two column blocks are under way while the next two are loaded."""
    return unsigned(1 + config.packed)


def tag(config: HardwareConfig) -> data.StructLayout:
    """TAG, of a build with packed products with more:

    emits   a row of results leaves the accumulators: with `last` that of the present sums, the lower ones if packed;
    high    or the upper ones that the accumulators hold, while the next column blocks' first chunk or
    flush   nothing is added up
    step    of the row, if packed
    """
    if not config.packed:
        return TAG
    return data.StructLayout(
        {**dict(TAG.members.items()), "bank": bank(config), "emits": 1, "high": 1, "flush": 1, "step": STEP}
    )


def packs(instruction: Value) -> Value:
    """Whether a MATMUL's products are packed, on a build that can."""
    weights = instruction.stationary == Stationary.WEIGHTS8
    return instruction.packed & weights & ~instruction.probabilities
