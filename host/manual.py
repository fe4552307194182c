# SPDX-License-Identifier: Apache-2.0
"""The programmer's manual, hw/MANUAL.md: `python -m edgemoe.host.manual` writes it.

Fields, values, registers, rules and pseudocode come from hw/contract, the layer's listing from the compiler; the text
between them is manual.in.md.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from edgemoe.host import compiler
from edgemoe.host.compiler.packing import stream_of
from edgemoe.host.runtime.program import CompiledProgram
from edgemoe.hw.contract import isa, machine, registers, semantics
from edgemoe.hw.contract.config import HardwareConfig, preset
from edgemoe.hw.contract.isa import BY_NAME, FIELDS, Activation, Instruction, Memory, Opcode, Scale, Stationary
from edgemoe.hw.contract.rules import RULES
from edgemoe.hw.contract.semantics import OPERATIONS
from edgemoe.models import checkpoint
from edgemoe.models.numbers.quantise import QuantisedModel, quantise

PROSE = Path(__file__).with_name("manual.in.md")
DOCUMENT = Path(__file__).resolve().parents[1] / "hw" / "MANUAL.md"
MODEL, TASK, HARDWARE, LAYER = "m3vit-nano", "depth", "schoko", 1
WIDTH = 120
ARITHMETIC = (
    machine.round_shift,
    machine.saturate,
    machine.wrap,
    machine.exp2,
    machine.reciprocal,
    machine.rsqrt,
    machine.activated,
)

REGISTERS = {
    "BASE_0": "bus address of the memory, a multiple of 4096, one for each master",
    "PROGRAM": "byte offset of the first instruction",
    "WATCHDOG": "cycles without progress after which a run is given up; 0: never",
    "GIE": "1, to get interrupts",
    "IER": "which: done, error",
    "CTRL": "START",
}

#: what the steps of a layer are for, by the end of their labels
NOTES = {
    "norm 1": "Nothing is normalised here: the residual is streamed as it is, and 1/sigma multiplies finished rows.",
    "keys and values": "Both at once, side by side in a row: as a word is N channels, neither is ever transposed.",
    "queries": "No wait: it reads what the instruction before read. The factor 1/sqrt(head width) is in the weights.",
    "head 0 scores": "Queries stream past the keys. The running maximum of each row is kept as the scores come out. "
    "The keys have just been written, and the queries before that: both waits are needed.",
    "scores": "No wait: keys and queries are complete, and scores are written when the values before have streamed.",
    "values": "The scores stream as probabilities past the values; their sum is taken on the way and divides the row.",
    "projection": "Adds to the residual, whose copy in activation memory is what router and experts stream next.",
    "norm 2": "The sums of the rows are those that the projection has just written.",
    "router of task depth": "Logits, a row of them for each token, into score memory.",
    "top 2": "Each token's row and score join the queues of its two best experts.",
    "experts": "Repeats the next two instructions for each expert that some token has chosen.",
    "expert 1": "Gathers: row r streams the token that the queue's entry r names. Results are dense rows.",
    "expert 2": "Scatters: row r goes to the token's own row, times its score, added to the residual.",
}


def fields_read(function: Callable) -> set[str]:
    """Fields of `i` that a function of the reference machine looks at, itself or in those that it hands `i` to."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(function))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "i":
            found.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            given = {argument.id for argument in node.args if isinstance(argument, ast.Name)}
            if "i" in given and node.func.id not in ("perform", "experts"):
                found |= fields_read(getattr(semantics, node.func.id))
    return found & BY_NAME.keys() - {"opcode"}


def fields_of(opcode: Opcode) -> list[isa.Field]:
    """All that this instruction reads, in the order of the word."""
    operation = OPERATIONS[opcode]
    names = set(operation.beside).union(*map(fields_read, operation.shown))
    return [f for f in FIELDS if f.name in names]


def source(functions: Sequence[Callable]) -> str:
    """Their text, as code."""
    return "```python\n" + "\n\n\n".join(inspect.getsource(function).rstrip() for function in functions) + "\n```"


def page(opcode: Opcode) -> str:
    """An instruction's page."""
    operation = OPERATIONS[opcode]
    meaning = next(e.meanings for e in isa.ENUMERATIONS if e.name == "opcode")[opcode]
    parts = [f"### {opcode.name} ({int(opcode)})", f"{meaning[0].upper()}{meaning[1:]}."]
    rows = [f"| {f.name} | {isa.place(f)} | {f.doc} |" for f in fields_of(opcode)]
    if rows:
        parts.append("\n".join(["| field | bits | meaning |", "|---|---|---|", *rows]))
    parts.append(source(operation.shown))
    rules = [rule for rule in RULES if opcode in rule.opcodes and rule.name != "opcode"]
    parts.append("Refused unless")
    parts.append(";\n".join(f"- {rule.text} ({rule.error.name})" for rule in rules) + ".")
    parts += [f"**Waits.** {operation.waits}", f"**Cycles.** {operation.cycles}"]
    parts.append("**Units.** " + ", ".join(f"[{Path(unit).name}]({unit})" for unit in operation.units))
    return "\n\n".join(parts) + "\n"


def registers_to_start() -> str:
    """Which registers, in which order, as the map has them."""
    offsets = {r.name.removesuffix("_LO"): r.offset for r in registers.REGISTERS if not r.name.endswith("_HI")}
    rows = [f"| {offsets[name]:#04x} | {name} | {what} |" for name, what in REGISTERS.items()]
    return "\n".join(["| offset | register | write |", "|---|---|---|", *rows])


def told(i: Instruction, h: HardwareConfig) -> str:
    """An instruction in words and numbers."""
    memory = Memory(i.memory).name.lower()
    written = f"{memory}[{i.destination_base} + {i.destination_stride} {'row(r)' if i.scatter else 'r'}]"
    match i.opcode:
        case Opcode.LAYERNORM:
            return f"1/sigma of rows {i.row_base} to {i.row_base + i.rows - 1}, {i.elements} channels each."
        case Opcode.ROUTE:
            empty = "the queues are emptied first" if i.reset_queues else "the queues go on"
            return (
                f"score[{i.stream_base} + {i.stream_stride} r], {i.experts} logits, for {i.rows} rows; the best "
                f"{i.top_k} of each{', weighed among themselves' if i.among_chosen else ''}; {empty}."
            )
        case Opcode.EXPERTS:
            return f"A body of {i.length} instructions."
    assert i.opcode == Opcode.MATMUL
    stream = "score" if i.probabilities else "activation"
    row = "row(r)" if i.gather else "r"
    streamed = f"{stream}[{i.stream_base} + {i.stream_stride} {row}], {i.chunks} words"
    if i.probabilities:
        streamed = f"2^(s - maximum) of {streamed}"
    held = {
        Stationary.WEIGHTS16: f"{i.chunks * h.lanes} x {i.columns * h.lanes} weights of 16 bits",
        Stationary.WEIGHTS8: f"{i.chunks * h.lanes} x {i.columns * h.lanes} weights of 8 bits",
        Stationary.KEYS: f"{i.keys} keys, key_value[{i.stationary_base} + {i.stationary_stride} k], {i.chunks} words",
        Stationary.VALUES: f"{i.keys} values, key_value[{i.stationary_base} + {i.stationary_stride} k], "
        f"{i.columns} words",
    }[Stationary(i.stationary)]
    if not i.stationary & 2:
        share = f" + {i.expert_stride} e" if i.expert_stride else ""
        held += f" at {i.address:#x}{share}, {i.beats} beats"
    scale = {Scale.NORM: ", x 1/sigma", Scale.SOFTMAX: ", x 1/sum", Scale.EXPERT: ", x score", Scale.NONE: ""}
    how = [f"{streamed}; past {held}; {'added ' if i.residual else ''}into {written}, {i.columns} words"]
    how[0] += scale[Scale(i.scale)] + (f", through {Activation(i.activation).name}" if i.activation else "")
    if i.copy:
        how.append(f"copy to activation[{i.copy_base} + {i.copy_stride} {'row(r)' if i.scatter else 'r'}]")
    waits = [name for name in ("wait_stream", "wait_load") if getattr(i, name)]
    if waits:
        how.append(
            "waits for results before it streams" + (" and before it loads keys" if "wait_load" in waits else "")
        )
    return "; ".join(how) + "."


def note(label: str) -> str:
    """Why the step is as it is."""
    return next(text for end, text in NOTES.items() if label.endswith(end))


def layer_of(program: CompiledProgram) -> range:
    """The instructions of the layer that is shown."""
    numbers = [n for n, i in enumerate(program.instructions) if i.label.startswith(f"layer {LAYER} ")]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    return range(numbers[0], numbers[-1] + 1)


def listing(program: CompiledProgram) -> str:
    """The layer: of each instruction why, the instruction, what."""
    parts = []
    for n in layer_of(program):
        i = program.instructions[n]
        label = i.label.removeprefix(f"layer {LAYER} ").split(": ")[-1]
        parts.append(f"**{n}. {label}.** {note(i.label)}")
        parts.append("```\n" + textwrap.fill(str(i), WIDTH, subsequent_indent="    ") + "\n```")
        parts.append(told(i, program.hardware))
    return "\n\n".join(parts)


def pixel(program: CompiledProgram) -> dict[str, object]:
    """The way of a pixel, in numbers."""
    c, h, channel, y, x = program.config, program.hardware, 1, 37, 70
    n, i = next((n, i) for n, i in enumerate(program.instructions) if i.opcode == Opcode.IMAGE)
    embedding = program.instructions[n + 1]
    side, height = i.patch, i.down * i.patch
    patch, place = y // side * i.across + x // side, (channel * side + y % side) * side + x % side
    row = patch + (i.destination_base - embedding.stream_base) // i.destination_stride
    residual = embedding.destination_base + row * embedding.destination_stride
    strips = f"Here it comes in strips of {height} and {c.image_height - height} lines."
    return dict(
        channel=channel, y=y, x=x, strips=strips if height < c.image_height else "", strip_height=height,
        address=i.address, byte=i.address + (channel * height + y) * c.image_width + x, image=n, beats=i.beats,
        side=side, across=i.across, patch=patch, place=place, base=i.destination_base, stride=i.destination_stride,
        word=i.destination_base + patch * i.destination_stride + place // h.lanes, lane=place % h.lanes,
        chunk=place // h.lanes, matmul=n + 1, row=row, columns=embedding.columns, chunks=embedding.chunks,
        residual=residual, residual_end=residual + embedding.columns - 1,
    )  # fmt: skip


def weight(program: CompiledProgram, model: QuantisedModel) -> dict[str, object]:
    """The way of a weight, in numbers; it is where they say."""
    h, expert, row, output = program.hardware, 2, 5, 70
    n = next(n for n in layer_of(program) if program.instructions[n].gather)
    i, key = program.instructions[n], program.keys[n]
    assert key is not None
    linear = model.linear(key)
    stream = stream_of(linear, h)
    value, size = int(linear.weights[expert, row, output]), linear.bits // 8
    column, lane = divmod(output, h.lanes)
    byte = i.address + expert * i.expert_stride + column * stream.block + stream.parameter_bytes
    byte += (row * h.lanes + lane) * size
    assert int.from_bytes(program.memory[byte : byte + size].tobytes(), "little", signed=True) == value
    return dict(
        expert=expert, input=row, output=output, matmul=n, tensor=f"blocks.{LAYER}.mlp.experts.htoh4.weight",
        bits=linear.bits, value=value, inputs=i.chunks * h.lanes, outputs=i.columns * h.lanes, column=column,
        parameters=stream.parameter_bytes, lane=lane, size=size, address=i.address, expert_stride=i.expert_stride,
        block=stream.block, byte=byte, chunk=row // h.lanes, cell=row % h.lanes,
    )  # fmt: skip


def flow(text: str) -> str:
    """Paragraphs and items of a list in lines of WIDTH; tables, headings and code as they are."""
    lines: list[str] = []
    block: list[str] = []

    def flush() -> None:
        if block:
            item = re.match(r"(\d+\.|-) ", block[0])
            indent = " " * len(item[0] if item else "")
            joined = " ".join(line.strip() for line in block)
            lines.extend(textwrap.wrap(joined, WIDTH, subsequent_indent=indent, break_long_words=False,
                                       break_on_hyphens=False))  # fmt: skip
            block.clear()

    code = False
    for line in text.split("\n"):
        fence = line.startswith("```")
        if code or fence or not line.strip() or line[0] in "|#":
            flush()
            lines.append(line)
            code ^= fence
            continue
        if re.match(r"(\d+\.|-) ", line):
            flush()
        block.append(line)
    flush()
    return "\n".join(lines)


def manual() -> str:
    """The whole document."""
    model = quantise(checkpoint.load(MODEL))
    program = compiler.compile(model, [(0, TASK)], preset(HARDWARE))
    values = dict(
        contents=", ".join(f"[{o.name}](#{o.name.lower()}-{int(o)})" for o in Opcode),
        start=registers_to_start(),
        pages="\n".join(page(opcode) for opcode in Opcode),
        arithmetic=source(ARITHMETIC),
        layer=LAYER,
        task=TASK,
        c=program.config,
        h=program.hardware,
        words=program.hardware.words(program.config.width),
        listing=listing(program),
        p=pixel(program),
        w=weight(program, model),
        word=isa.to_markdown().replace("# Instruction set", "## The instruction word", 1).rstrip(),
    )
    return flow(PROSE.read_text().format_map(values))


if __name__ == "__main__":
    DOCUMENT.write_text(manual())
