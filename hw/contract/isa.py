# SPDX-License-Identifier: Apache-2.0
"""The instruction set: one fixed-size layout that the decoder, the assembler and the disassembler share.

An instruction is 64 bytes, fields packed from bit 0 upwards in the order of FIELDS. Addresses into on-chip memories are
in words; addresses into DRAM are byte offsets from the memory base. Row i, word j of an operand stands at base + row(i)
* stride + j, where row(i) = i, or, with gather/scatter, the absolute row of the i-th entry of the current expert's
queue.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.activation import FUNCTIONS, GATE
from edgemoe.models.numbers.arithmetic import STEP_FRACTION
from edgemoe.models.numbers.words import ACCUMULATOR_SHIFT_BITS, EPSILON_BITS

INSTRUCTION_BYTES = 64


class Opcode(IntEnum):
    END = 1
    LOAD = 2
    STORE = 3
    IMAGE = 4
    MATMUL = 5
    LAYERNORM = 6
    ROUTE = 7
    EXPERTS = 8


class Memory(IntEnum):
    ACTIVATION = 0
    KEY_VALUE = 1
    RESIDUAL = 2
    SCORE = 3


class Stationary(IntEnum):
    WEIGHTS16 = 0
    WEIGHTS8 = 1
    KEYS = 2
    VALUES = 3


class Scale(IntEnum):
    """The factor of a whole output row."""

    NONE = 0
    NORM = 1
    SOFTMAX = 2
    EXPERT = 3


class Attention(IntEnum):
    """What becomes of a score on its way to the values. A build of softmax alone does not look at it."""

    SOFTMAX = 0
    SIGMOID = 1
    RELU = 2
    TWO_PASS = 3
    SOFTPLUS = 4
    PERFORMER = 5
    COSFORMER = 6
    RELA = 7

    @classmethod
    def of(cls, kind: str) -> "Attention":
        """By its name among a build's kinds."""
        return cls[kind.upper().replace("-", "_")]

    @property
    def kind(self) -> str:
        return self.name.lower().replace("_", "-")


FEATURES = (Attention.PERFORMER, Attention.COSFORMER)
"""Kinds whose weights are features of a token: with `scale` = SOFTMAX, rows are divided by the sums that the last other
weights of the same rows had.
"""


class Turn(IntEnum):
    """The factor of COSFORMER's weights, of the angle that a token's number has, counted from 1."""

    NONE = 0
    SINE = 1
    COSINE = 2
    ROWS = 3


def turning(turn: Turn, step: int) -> int:
    """`score_bias` of COSFORMER; step: of 15 bits, the first of them set."""
    bits = turn << STEP_FRACTION | step & (1 << STEP_FRACTION) - 1
    return bits - (1 << STEP_FRACTION + 2) * (turn >= Turn.COSINE)


_ACTIVATIONS = (*FUNCTIONS, GATE)  # in the order of their codes


class Activation(IntEnum):
    """The function of a result before it becomes 16 bit."""

    NONE = 0
    GELU = 1
    GELU_TANH = 2
    QUICK_GELU = 3
    SILU = 4
    RELU = 5
    SOFTPLUS = 6
    GATED = 7

    @classmethod
    def of(cls, function: str) -> "Activation":
        """That of a model's activation function, or of none: ""."""
        return cls(1 + _ACTIVATIONS.index(function)) if function else cls.NONE

    @property
    def function(self) -> str:
        return _ACTIVATIONS[self - 1] if self else ""


class ErrorCode(IntEnum):
    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    CAPACITY = 2
    READ_BUS = 3
    WRITE_BUS = 4
    WATCHDOG = 5


@dataclass(frozen=True)
class Enumeration:
    """The values of a field or of a register, for documents and for other languages. meanings:
    value -> what it means.
    """

    name: str
    doc: str
    meanings: Mapping[IntEnum, str]


ENUMERATIONS: tuple[Enumeration, ...] = (
    Enumeration(
        "opcode",
        "what an instruction does",
        {
            Opcode.END: "wait for everything, raise the interrupt",
            Opcode.LOAD: "DRAM -> on-chip memory, rows x columns words",
            Opcode.STORE: "on-chip memory -> DRAM, rows x columns words",
            Opcode.IMAGE: "8-bit CHW picture -> one activation row per patch",
            Opcode.MATMUL: "streamed rows x stationary blocks -> epilogue -> memory",
            Opcode.LAYERNORM: "1/sigma of residual rows row_base.. into the row-scale table",
            Opcode.ROUTE: "top-k of the router's logits in score memory into the experts' queues",
            Opcode.EXPERTS: "repeat the next `length` instructions for every expert with a non-empty queue",
        },
    ),
    Enumeration(
        "memory",
        "an on-chip memory",
        {
            Memory.ACTIVATION: "what the array streams",
            Memory.KEY_VALUE: "keys and values of every token",
            Memory.RESIDUAL: "the residual stream",
            Memory.SCORE: "one head's attention scores, or the router's logits",
        },
    ),
    Enumeration(
        "stationary",
        "what the array holds while rows stream past",
        {
            Stationary.WEIGHTS16: "16-bit weights from the weight stream",
            Stationary.WEIGHTS8: "8-bit weights from the weight stream",
            Stationary.KEYS: "key/value memory: column i of block (c, r) is the word of key c*lanes+i, chunk r",
            Stationary.VALUES: "key/value memory: row i of block (c, r) is the word of key r*lanes+i, column c",
        },
    ),
    Enumeration(
        "scale",
        "the factor of a whole output row",
        {
            Scale.NONE: "one",
            Scale.NORM: "1/sigma of the row (LAYERNORM)",
            Scale.SOFTMAX: "1/sum of the row's weights",
            Scale.EXPERT: "the router's score of this queue entry",
        },
    ),
    Enumeration(
        "attention",
        "how `probabilities` weigh values, and what is kept of a row of scores (memory = SCORE)",
        {
            Attention.SOFTMAX: "2^(score - row maximum)",
            Attention.SIGMOID: "1 / (1 + exp(-(score + score_bias)))",
            Attention.RELU: "max(score, 0), in the score's own unit",
            Attention.TWO_PASS: "2^(score - E), E the row's largest exponent; the sum is kept as scores are written",
            Attention.SOFTPLUS: "(max(keys score - sum, 0) / (keys maximum - sum))^15, of the sum of a row's scores",
            Attention.PERFORMER: "max(score, 0) + score_bias, likewise; `scale` = SOFTMAX uses the sums of before",
            Attention.COSFORMER: "max(score, 0) times the sine or cosine of a token's position; the same of `scale`",
            Attention.RELA: "max(score, 0), as RELU's",
        },
    ),
    Enumeration(
        "turn",
        "the factor of COSFORMER's weights, bits 15 and 14 of `score_bias`",
        {
            Turn.NONE: "one",
            Turn.SINE: "the sine; scores of a row are those of tokens 1, 2, ...",
            Turn.COSINE: "the cosine, likewise",
            Turn.ROWS: "row i is token row_base + i + 1: the sine, and from chunk floor(chunks / 2) on the cosine",
        },
    ),
    Enumeration(
        "activation",
        "the function of a result before it becomes 16 bit",
        {
            Activation.NONE: "the result as it is",
            Activation.GELU: "x (1 + erf(x / sqrt(2))) / 2",
            Activation.GELU_TANH: "x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2",
            Activation.QUICK_GELU: "x / (1 + exp(-1.702 x))",
            Activation.SILU: "x / (1 + exp(-x))",
            Activation.RELU: "max(x, 0)",
            Activation.SOFTPLUS: "log(1 + exp(x)), in builds with SOFTPLUS attention",
            Activation.GATED: "y / (1 + exp(-x)), x in units of 2^-11, y a number that was streamed: the matrix has "
            "2^14 on its diagonal; the row's squares are kept; in builds with RELA attention",
        },
    ),
    Enumeration(
        "error_code",
        "why a run stopped, and what ERROR_ADDRESS then holds",
        {
            ErrorCode.NONE: "no error",
            ErrorCode.ILLEGAL_INSTRUCTION: "no such opcode, or fields that do not go together; address: 0",
            ErrorCode.CAPACITY: "an operand or a count beyond the build's sizes; address: 0",
            ErrorCode.READ_BUS: "a read was answered with an error; address: linear byte offset of the beat",
            ErrorCode.WRITE_BUS: "a write was answered with an error; address: linear byte offset of the burst",
            ErrorCode.WATCHDOG: "WATCHDOG cycles without an instruction retiring or a beat moving; address: 0",
        },
    ),
)


@dataclass(frozen=True)
class Field:
    name: str
    bits: int
    doc: str
    signed: bool = False

    @property
    def limit(self) -> int:
        """The largest value that it holds."""
        return (1 << self.bits - self.signed) - 1


FIELDS = (
    Field("opcode", 4, "Opcode: what it does"),
    Field("wait_stream", 1, "do not stream before every earlier instruction has written its results"),
    Field(
        "wait_load",
        1,
        "do not read stationary operands on chip before every earlier instruction has written its results",
    ),
    Field(
        "probabilities",
        1,
        "stream weights from score memory, made of scores as `attention` says, instead of activation words",
    ),
    Field("stationary", 2, "Stationary: what the array holds"),
    Field("gather", 1, "streamed rows follow the expert's queue; rows = its length"),
    Field("scatter", 1, "destination rows follow the expert's queue; rows = its length"),
    Field("queued", 1, "rows = length of the expert's queue, but rows are dense (0, 1, ...)"),
    Field("memory", 2, "Memory: destination of MATMUL and LOAD, source of STORE"),
    Field("residual", 1, "add the destination's old word (memory = RESIDUAL)"),
    Field("copy", 1, "write the result to activation memory too, at copy_base"),
    Field("scale", 2, "Scale: the factor of a whole output row"),
    Field("bias_first", 1, "bias enters the accumulator (scaled with the row) instead of the result"),
    Field("activation", 3, "Activation: the function applied to the result"),
    Field("reset_queues", 1, "ROUTE: empty all queues first"),
    Field(
        "accumulator_shift",
        ACCUMULATOR_SHIFT_BITS,
        "right shift of the 48-bit sum; the exponent of the row's scale is added to it",
        signed=True,
    ),
    Field("bias_shift", 5, "left shift of the bias when bias_first"),
    Field("residual_shift", 4, "left shift of the residual word"),
    Field("output_shift", 4, "right shift of the sum before it becomes 16 bit"),
    Field("exponent_shift", 4, "left shift that brings scores to 12 fractional bits"),
    Field("rows", 16, "rows streamed, stored or loaded; patches of IMAGE"),
    Field("row_base", 16, "absolute row of row 0 (row tables)"),
    Field("chunks", 10, "input chunks of `lanes` channels"),
    Field(
        "columns",
        10,
        "output blocks of `lanes` channels; words a row for LOAD, STORE and IMAGE; words a row of logits for ROUTE",
    ),
    Field(
        "keys",
        16,
        "keys that exist: KEYS, VALUES and probabilities take zero for others, row maxima (memory = SCORE) ignore them",
    ),
    Field("stream_base", 20, "streamed operand (or ROUTE's logits)"),
    Field("stream_stride", 10, "words from a streamed row to the next"),
    Field("stationary_base", 20, "keys or values"),
    Field("stationary_stride", 10, "words from a key, or a value, to the next"),
    Field("destination_base", 20, "destination of MATMUL, LOAD, IMAGE; source of STORE"),
    Field("destination_stride", 10, "words from a row of the destination (STORE: of the source) to the next"),
    Field("copy_base", 20, "the copy in activation memory"),
    Field("copy_stride", 10, "words from a row of the copy to the next"),
    Field("address", 40, "DRAM byte offset; a multiple of 64"),
    Field("beats", 24, "bus beats of a weight stream or of IMAGE; LOAD and STORE move what rows and columns say"),
    Field("expert_stride", 32, "added to address once per expert index inside an EXPERTS body"),
    Field("elements", 12, "LAYERNORM: channels of a row"),
    Field("epsilon", EPSILON_BITS, "LAYERNORM: added to elements^2 * variance, in squared units of the residual"),
    Field("experts", 8, "ROUTE: experts of this layer"),
    Field("top_k", 4, "ROUTE: experts a token"),
    Field("length", 8, "EXPERTS: instructions of the body"),
    Field("across", 10, "IMAGE: patches side by side"),
    Field("down", 10, "IMAGE: patches one below the other"),
    Field("channels", 4, "IMAGE: planes of 8-bit pixels"),
    Field("patch", 6, "IMAGE: pixels a patch side"),
    Field("uncentred", 1, "LAYERNORM: leave the rows' sums out, as RMSNorm does"),
    Field("append", 1, "row maxima (memory = SCORE) or row sums go on from those that are there"),
    Field("attention", 3, "Attention: what a weight is; a build of softmax alone does not look at it"),
    Field(
        "score_bias",
        16,
        "added in the score's own unit: to every score (SIGMOID), or to what is left of it (PERFORMER); COSFORMER: "
        "bits 15 and 14 are Turn, the others s of a token's step, (1 + s/2^14) 2^-exponent_shift of a quarter turn",
        signed=True,
    ),
    Field("among_chosen", 1, "ROUTE: scores are the softmax over the chosen experts, not over all of them"),
    Field(
        "packed",
        1,
        "WEIGHTS8 without `probabilities`: streamed words are rounded to 9 bits, and two output words are computed at "
        "a time; a build without `packed` takes no notice",
    ),
    Field("steps", 2, "packed: table of maxima that the streamed rows' steps come from; 0: their step is 1"),
    Field("steps_base", 16, "packed: row 0's place in that table, unless `gather`"),
    Field("maxima", 2, "table that keeps the maxima of rows written to activation memory, result or copy; 0: none"),
    Field(
        "row_sums",
        1,
        "keep the sums of the rows that are written, for LAYERNORM, whatever the memory; a build without `head_norms` "
        "takes no notice",
    ),
    Field(
        "of_heads",
        1,
        "LAYERNORM: scales go into a table of their own, `scale` = NORM: come from it; a build without `head_norms` "
        "takes no notice",
    ),
    Field(
        "raised",
        1,
        "results of the activation function are raised so that none is below zero; a build without `packed` takes no "
        "notice",
    ),
    Field("unsigned", 1, "packed: streamed words are rounded to 0 to 511, in steps half as large"),
    Field(
        "follow",
        1,
        "wait_stream, but for the first row of the last column that the MATMUL before writes, not for all of it, and "
        "of a LAYERNORM in between for no more than its start; LAYERNORM, ROUTE: likewise; a build without `packed` "
        "takes no notice",
    ),
)
OFFSETS = {f.name: sum(g.bits for g in FIELDS[:i]) for i, f in enumerate(FIELDS)}
BY_NAME: Mapping[str, Field] = {f.name: f for f in FIELDS}
assert sum(f.bits for f in FIELDS) <= 8 * INSTRUCTION_BYTES


@dataclass
class Instruction:
    """One instruction and the name that progress bars and listings show for it."""

    opcode: Opcode
    values: dict[str, int] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if name not in BY_NAME:
                raise EdgemoeError(f"instruction {self.label or self.opcode.name}: no field {name!r}")
            bits, signed = BY_NAME[name].bits, BY_NAME[name].signed
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
            if not low <= value <= high:
                raise EdgemoeError(
                    f"instruction {self.label or self.opcode.name}: {name} is {value}, the field holds {low}..{high}"
                )

    def __getattr__(self, name: str) -> int:
        if name in BY_NAME:
            return self.values.get(name, 0)
        raise AttributeError(name)

    def encode(self) -> bytes:
        word = 0
        for name, value in {**self.values, "opcode": int(self.opcode)}.items():
            word |= (int(value) & ((1 << BY_NAME[name].bits) - 1)) << OFFSETS[name]
        return word.to_bytes(INSTRUCTION_BYTES, "little")

    @classmethod
    def decode(cls, data: bytes, label: str = "") -> "Instruction":
        word = int.from_bytes(data[:INSTRUCTION_BYTES], "little")
        values = {}
        for f in FIELDS:
            value = word >> OFFSETS[f.name] & ((1 << f.bits) - 1)
            if f.signed and value >> f.bits - 1:
                value -= 1 << f.bits
            if value and f.name != "opcode":
                values[f.name] = value
        code = word & 15
        if code not in Opcode.__members__.values():
            raise EdgemoeError(f"illegal instruction: opcode {code}")
        return cls(Opcode(code), values, label)

    def __str__(self) -> str:
        return " ".join([self.opcode.name, *(f"{k}={v}" for k, v in self.values.items() if v)])


def place(f: Field) -> str:
    """Its bits in the instruction, as documents name them."""
    low = OFFSETS[f.name]
    return str(low) if f.bits == 1 else f"{low + f.bits - 1}..{low}"


def enumeration_table(enumeration: Enumeration) -> list[str]:
    """Markdown lines of a table of values."""
    rows = [f"| {int(value)} | {value.name} | {meaning} |" for value, meaning in enumeration.meanings.items()]
    return [f"| {enumeration.name} | name | {enumeration.doc} |", "|---|---|---|", *rows]


def to_markdown() -> str:
    """The instruction set as a document: the values of its enumerations, then the fields with their place in the 64
    bytes.
    """
    lines = ["# Instruction set", "", "64 bytes an instruction, little-endian, fields from bit 0 upwards."]
    for enumeration in ENUMERATIONS:
        lines += ["", *enumeration_table(enumeration)]
    lines += ["", "| bits | field | meaning |", "|---|---|---|"]
    for f in FIELDS:
        lines.append(f"| {place(f)} | {f.name}{' (signed)' if f.signed else ''} | {f.doc} |")
    return "\n".join(lines) + "\n"
