# SPDX-License-Identifier: Apache-2.0
"""The register map: one list that the register file, the driver, the documentation and the C header share.

The first sixteen bytes are the `ap_ctrl_hs` block of Xilinx tools. All registers are 32 bits wide and little-endian; a
64-bit value stands in two of them, NAME_LO and NAME_HI. Reading a counter's low word freezes its high word for the read
that follows.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from edgemoe.hw.contract.config import NAME, PARAMETER_WORDS, HardwareConfig, sizes
from edgemoe.hw.contract.isa import ENUMERATIONS, enumeration_table

ADDRESS_BITS = 12
REGISTER_BITS = 32
MAGIC = int.from_bytes(b"EMOE", "little")
VERSION = 2 << 16 | 1  # major << 16 | minor: a driver refuses another major
BASE_ALIGNMENT = 4096  # of a master's memory base: no burst then crosses a 4 KiB page
MAX_MASTERS = 4


class Access(Enum):
    READ_ONLY = "ro"
    READ_WRITE = "rw"
    WRITE_ONE_TO_CLEAR = "w1c"
    CONTROL = "control"  # every bit as its field says


@dataclass(frozen=True)
class BitField:
    name: str
    low: int
    bits: int
    doc: str

    @property
    def mask(self) -> int:
        return ((1 << self.bits) - 1) << self.low


@dataclass(frozen=True)
class Register:
    name: str
    offset: int
    access: Access
    doc: str
    writable: int = 0  # mask of the bits that keep what is written
    fields: tuple[BitField, ...] = ()

    def field(self, name: str) -> BitField:
        return next(f for f in self.fields if f.name == name)


# One state a cycle, the first that holds, is counted while a run lasts; CYCLES is therefore their sum exactly.
STATE_COUNTERS: Mapping[str, str] = {
    "ARRAY_ACTIVE": "a word enters the array",
    "WAIT_WEIGHTS": "the array waits for weights from DRAM",
    "WAIT_OPERAND": "the array waits for stationary operands from on-chip memory",
    "WAIT_DRAIN": "an instruction waits for earlier results to be written",
    "DMA": "LOAD, STORE or IMAGE at work",
    "LAYERNORM": "LAYERNORM at work",
    "ROUTE": "ROUTE at work",
    "OTHER": "everything else: fetching, decoding, filling and emptying pipelines",
}
COUNTERS: Mapping[str, str] = {
    "CYCLES": "clock cycles from start to done: the sum of the eight that follow",
    **STATE_COUNTERS,
    "READ_BEATS": "beats read, of all masters together (one is MASTERS x DATA_BITS)",
    "WRITE_BEATS": "beats written, of all masters together",
    "INSTRUCTIONS": "instructions retired, every repetition of an EXPERTS body counted",
}
# The same cycles by kind of instruction, as far as the state does not tell it: 32 bits each, so a run of 2^32 cycles
# wraps.
MATMUL_KINDS: Mapping[str, str] = {
    "WEIGHTS": "a MATMUL with weights outside EXPERTS",
    "EXPERT": "a MATMUL with weights on an expert's queue",
    "KEYS": "a MATMUL with keys (scores)",
    "VALUES": "a MATMUL with values (attention's results)",
}
MATMUL_STATES = ("ARRAY_ACTIVE", "WAIT_WEIGHTS", "WAIT_OPERAND", "WAIT_DRAIN")
OPERATIONS = (
    "DMA",
    "LAYERNORM",
    "ROUTE",
)  # their work is counted by STATE_COUNTERS; here is how long they waited for results
KIND_COUNTERS: Mapping[str, tuple[str, str]] = {  # name -> (kind, state)
    **{f"{kind}_{state}": (kind, state) for kind in MATMUL_KINDS for state in MATMUL_STATES},
    **{f"{kind}_WAIT_DRAIN": (kind, "WAIT_DRAIN") for kind in OPERATIONS},
}
COUNTER_BASE = 0x100
KIND_BASE = 0x180


def _pair(name: str, offset: int, access: Access, doc: str, writable: int = 0) -> Iterator[Register]:
    yield Register(f"{name}_LO", offset, access, doc + ", bits 31..0", writable & 0xFFFFFFFF)
    yield Register(f"{name}_HI", offset + 4, access, doc + ", bits 63..32", writable >> 32)


def _constants(c: HardwareConfig | None) -> dict[str, tuple[int, str]]:
    """Name -> (value, meaning) of the read-only words that follow from the configuration, in order."""

    return {
        "MAGIC": (MAGIC, 'the letters "EMOE", low byte first'),
        "VERSION": (VERSION, "major << 16 | minor version of this register map and of the instruction set"),
        "CONFIG_HASH": (
            c.hash if c else 0,
            "hash of the build's sizes: a program compiled for other sizes must be refused",
        ),
        "LANES": (c.lanes if c else 0, "columns of the array; lanes of a word"),
        "MASTERS": (c.masters if c else 0, "AXI4 masters; memory is striped over them beat by beat"),
        "DATA_BITS": (c.data_bits if c else 0, "data bits of one AXI4 master"),
        "ROWS": (c.rows if c else 0, "token rows over all streams of a pass"),
        "TOKENS": (c.tokens if c else 0, "tokens of one stream"),
        "WIDTH": (c.width if c else 0, "channels of a residual row"),
        "HIDDEN": (c.hidden if c else 0, "channels of the widest intermediate row"),
        "EXPERTS": (c.experts if c else 0, "experts of a layer"),
        "TOP_K": (c.top_k if c else 0, "experts a token"),
        "ACTIVATION_WORDS": (c.activation_words if c else 0, "words of activation memory"),
        "KEY_VALUE_WORDS": (c.key_value_words if c else 0, "words of key/value memory"),
        "RESIDUAL_WORDS": (c.residual_words if c else 0, "words of residual memory"),
        "SCORE_WORDS": (c.score_words if c else 0, "words of score memory"),
    }


def constants(config: HardwareConfig) -> dict[str, int]:
    """What the identity and capacity registers of a build show."""
    return {name: value for name, (value, _) in _constants(config).items()}


def _map() -> Iterator[Register]:
    control = (
        BitField("START", 0, 1, "write 1: run the program; ignored unless idle. Reads 1 until the run is over"),
        BitField("DONE", 1, 1, "a run is over, by END or by an error; cleared by reading"),
        BitField("IDLE", 2, 1, "nothing runs and no bus transfer is outstanding"),
        BitField("READY", 3, 1, "as DONE: a new start is accepted; cleared by reading"),
        BitField(
            "SOFT_RESET",
            8,
            1,
            "write 1: abandon the run, drain the bus, forget an error. Reads 1 until idle; no DONE follows",
        ),
    )
    events = (
        BitField("DONE", 0, 1, "a run is over, by END or by an error"),
        BitField("ERROR", 1, 1, "the run stopped with an error"),
    )
    yield Register("CTRL", 0x00, Access.CONTROL, "control and status", 0, control)
    enable = BitField("ENABLE", 0, 1, "interrupt = ENABLE and (ISR & IER) != 0")
    yield Register("GIE", 0x04, Access.READ_WRITE, "global interrupt enable", 1, (enable,))
    yield Register("IER", 0x08, Access.READ_WRITE, "interrupt enable", 3, events)
    yield Register(
        "ISR", 0x0C, Access.WRITE_ONE_TO_CLEAR, "interrupt status: set by the event whether enabled or not", 0, events
    )
    yield from _pair(
        "PROGRAM",
        0x10,
        Access.READ_WRITE,
        "linear byte offset of the first instruction; a multiple of 64",
        (1 << 40) - 64,
    )
    doc = "cycles without an instruction retiring or a beat moving that are an error; 0: off"
    yield Register("WATCHDOG", 0x18, Access.READ_WRITE, doc, 0xFFFFFFFF)
    for m in range(MAX_MASTERS):
        doc = f"byte address of master {m}'s memory; the low 12 bits are zero"
        yield from _pair(f"BASE_{m}", 0x20 + 8 * m, Access.READ_WRITE, doc, (1 << 64) - BASE_ALIGNMENT)
    for i, (name, (_, doc)) in enumerate(_constants(None).items()):
        yield Register(name, 0x40 + 4 * i, Access.READ_ONLY, doc)
    yield Register(
        "ERROR_CODE",
        0x80,
        Access.READ_ONLY,
        "why the run stopped, see error_code; cleared by the next start or a soft reset",
    )
    yield Register("ERROR_INSTRUCTION", 0x84, Access.READ_ONLY, "index of the instruction at which the run stopped")
    yield from _pair(
        "ERROR_ADDRESS",
        0x88,
        Access.READ_ONLY,
        "linear byte offset of the failed beat or burst, or what the error code says",
    )
    yield Register(
        "INSTRUCTION", 0x90, Access.READ_ONLY, "index of the instruction at the sequencer, for progress bars"
    )
    for i, (name, doc) in enumerate(COUNTERS.items()):
        yield from _pair(name, COUNTER_BASE + 8 * i, Access.READ_ONLY, doc + "; cleared by start")
    for i, (name, (kind, state)) in enumerate(KIND_COUNTERS.items()):
        doc = f"cycles of {state} during {MATMUL_KINDS.get(kind, kind)}; cleared by start"
        yield Register(name, KIND_BASE + 4 * i, Access.READ_ONLY, doc)


REGISTERS: tuple[Register, ...] = tuple(_map())
BY_NAME: Mapping[str, Register] = {r.name: r for r in REGISTERS}
assert len(BY_NAME) == len(REGISTERS) == len({r.offset for r in REGISTERS}), "two registers share a name or an offset"
assert PARAMETER_WORDS == 3, "the stream layout belongs to VERSION"


def offset(name: str) -> int:
    """Byte offset of a register; of a 64-bit value, NAME means NAME_LO."""
    return (BY_NAME.get(name) or BY_NAME[f"{name}_LO"]).offset


def to_json(config: HardwareConfig, name: str = NAME) -> str:
    """The map for other languages.

    module, hardware (its name, sizes and hash), constants (what this build's read-only words show), enumerations (of
    instructions and of ERROR_CODE: values with their names and meanings), registers with their fields.
    """
    return json.dumps(
        {
            "module": name,
            "hardware": sizes(config),
            "constants": constants(config),
            "enumerations": {
                e.name: [{"name": value.name, "value": int(value), "doc": doc} for value, doc in e.meanings.items()]
                for e in ENUMERATIONS
            },
            "registers": [
                {
                    "name": r.name,
                    "offset": r.offset,
                    "access": r.access.value,
                    "writable": r.writable,
                    "doc": r.doc,
                    "fields": [{"name": f.name, "low": f.low, "bits": f.bits, "doc": f.doc} for f in r.fields],
                }
                for r in REGISTERS
            ],
        },
        indent=1,
    )


def to_markdown(config: HardwareConfig, name: str = NAME) -> str:
    """The map as a table, fields on lines of their own, with what the read-only words of this build show;
    then the error codes.
    """
    lines = [
        "# Registers",
        "",
        f"Module `{name}`: {', '.join(f'{key} {value}' for key, value in sizes(config).items())}.",
        "",
    ]
    lines += ["| offset | name | access | meaning |", "|---|---|---|---|"]
    shown = constants(config)
    for r in REGISTERS:
        value = f"; here {_shown(r.name, shown[r.name])}" if r.name in shown else ""
        lines.append(f"| 0x{r.offset:03X} | {r.name} | {r.access.value} | {r.doc}{value} |")
        for f in r.fields:
            bits = f"{f.low}" if f.bits == 1 else f"{f.low + f.bits - 1}..{f.low}"
            lines.append(f"| | bit {bits} {f.name} | | {f.doc} |")
    for enumeration in ENUMERATIONS:
        if enumeration.name == "error_code":
            lines += ["", *enumeration_table(enumeration)]
    return "\n".join(lines) + "\n"


def to_c_header(config: HardwareConfig, name: str = NAME) -> str:
    """The map as a C header; PREFIX is the module's name in capitals.

    PREFIX_<REGISTER>: offset. PREFIX_<REGISTER>_<FIELD>: mask. PREFIX_<REGISTER>_VALUE: what a read-only word of this
    build shows. PREFIX_<ENUMERATION>_<NAME>: a value of an instruction's field or of ERROR_CODE.
    """
    prefix, guard = name.upper(), f"{name.upper()}_REGISTERS_H"
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        f"/* Registers of module {name}: generated by edgemoe, do not edit. */",
        *(f"/* {key} = {str(value).replace('*/', '* /')} */" for key, value in sizes(config).items()),
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
    ]
    for r in REGISTERS:
        lines.append(f"#define {prefix}_{r.name} 0x{r.offset:03X}u /* {r.access.value}: {r.doc.replace('*/', '')} */")
        lines += [f"#define {prefix}_{r.name}_{f.name} 0x{f.mask:X}u" for f in r.fields]
    lines += ["", "/* What the read-only words of this build show. */"]
    lines += [f"#define {prefix}_{key}_VALUE {_shown(key, value)}u" for key, value in constants(config).items()]
    for e in ENUMERATIONS:
        lines += ["", f"/* {e.doc} */"]
        lines += [
            f"#define {prefix}_{e.name.upper()}_{value.name} {int(value)}u /* {doc} */"
            for value, doc in e.meanings.items()
        ]
    return "\n".join([*lines, "", f"#endif /* {guard} */", ""])


def _shown(name: str, value: int) -> str:
    """A constant as people read it."""
    return f"0x{value:08X}" if name in ("MAGIC", "VERSION", "CONFIG_HASH") else str(value)
