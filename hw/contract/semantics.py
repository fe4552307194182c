# SPDX-License-Identifier: Apache-2.0
"""What each instruction does to a `machine`, in plain Python: the reference that the manual prints.

It is written to be read: one number at a time, in Python's own integers. It says what a program leaves behind, not
when; `Operation` says what an instruction waits for. A test runs it against the emulator, which is what runs models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgemoe.hw.contract.isa import (
    FEATURES,
    INSTRUCTION_BYTES,
    Activation,
    Attention,
    ErrorCode,
    Instruction,
    Memory,
    Opcode,
    Scale,
    Stationary,
    Turn,
)
from edgemoe.hw.contract.machine import (
    Machine,
    Refused,
    activated,
    exp2,
    gated,
    position_factor,
    reciprocal,
    reweighted,
    round_shift,
    rsqrt,
    saturate,
    sigmoid,
    whole_exponent,
    wrap,
)
from edgemoe.hw.contract.rules import Place, violated
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers import arithmetic

# ---------------------------------------------------------------------------------------------------- rows


def rows_of(m: Machine, i: Instruction, e: int) -> list[tuple[int, int, int]]:
    """Of each row of an instruction: the row that it reads, the row that it writes, the router's score."""
    if i.gather or i.scatter or i.queued:
        return [(row if i.gather else n, row if i.scatter else n, score) for n, (row, score) in enumerate(m.queues[e])]
    return [(n, n, 0) for n in range(i.rows)]


def transferred_rows(m: Machine, i: Instruction, e: int) -> list[int]:
    """Rows on chip of LOAD and STORE; gather and scatter are the same here."""
    return [written if i.scatter else read for read, written, _ in rows_of(m, i, e)]


# ---------------------------------------------------------------------------------------------------- operations


def load(m: Machine, i: Instruction, e: int) -> None:
    address = i.address + e * i.expert_stride
    for row in transferred_rows(m, i, e):
        numbers = [m.number(address + 2 * n, 2) for n in range(i.columns * m.lanes)]
        m.write_row(i.memory, i.destination_base + row * i.destination_stride, numbers)
        address += 2 * len(numbers)


def store(m: Machine, i: Instruction, e: int) -> None:
    address = i.address + e * i.expert_stride
    for row in transferred_rows(m, i, e):
        for number in m.row(i.memory, i.destination_base + row * i.destination_stride, i.columns):
            m.dram[address : address + 2] = (number & 0xFFFF).to_bytes(2, "little")
            address += 2
    while (address - i.address - e * i.expert_stride) % m.config.bus_bytes:
        m.dram[address] = 0  # zeros fill the last beat
        address += 1


def image(m: Machine, i: Instruction, e: int) -> None:
    if i.beats == 0:
        return
    width, height, pixel = i.across * i.patch, i.down * i.patch, i.address
    for channel in range(i.channels):
        for y in range(height):
            for x in range(width):
                row = y // i.patch * i.across + x // i.patch
                place = (channel * i.patch + y % i.patch) * i.patch + x % i.patch
                word = i.destination_base + row * i.destination_stride + place // m.lanes
                m.memory[Memory.ACTIVATION][word][place % m.lanes] = m.dram[pixel]  # other lanes keep their value
                pixel += 1


def matmul(m: Machine, i: Instruction, e: int) -> None:
    weights, bias, multiplier = stationary(m, i, e)
    smoothing = [b >> 27 & 7 if m.config.packed else 0 for b in bias]
    bias = [wrap(b, 27) if m.config.packed else b for b in bias]
    packed = m.config.packs(i)
    for n, (read, written, score) in enumerate(rows_of(m, i, e)):
        if i.probabilities:
            x = probabilities(m, i, n)
        else:
            x = m.row(Memory.ACTIVATION, i.stream_base + read * i.stream_stride, i.chunks)
        scale = scale_of(m, i, n, read, score)
        destination = i.destination_base + written * i.destination_stride
        old = m.row(Memory.RESIDUAL, destination, i.columns) if i.memory == Memory.RESIDUAL else []
        sums = packed_sums(m, i, read, x, weights) if packed else plain_sums(x, weights)
        result, streamed = [], []
        for c in range(i.columns * m.lanes):
            start = bias[c] << i.bias_shift if i.bias_first else 0
            total = wrap(start + sums[c], 48)
            streamed.append(wrap(total >> 14, 16))
            added = old[c] << i.residual_shift if i.residual else 0 if i.bias_first else bias[c]
            result.append(epilogue(i, total, scale, multiplier[c], added, m.config.packed & i.raised))
        copied = [round_shift(y, shift) for y, shift in zip(result, smoothing, strict=False)]
        m.write_row(i.memory, destination, copied if i.memory == Memory.ACTIVATION else result)
        if i.copy:
            m.write_row(Memory.ACTIVATION, i.copy_base + written * i.copy_stride, copied)
        if m.config.packed and i.maxima and (i.memory == Memory.ACTIVATION or i.copy):
            keep_maximum(m, i, n, written, copied)
        if i.memory == Memory.SCORE:
            keep_scores(m, i, n, result[: i.keys])
        if i.activation == Activation.GATED:
            keep_statistics(m, i, n, n, [], streamed)
        elif i.memory == Memory.RESIDUAL or m.config.sums_rows(i):
            keep_statistics(m, i, n, written, old, result)


def keep_scores(m: Machine, i: Instruction, n: int, scores: list[int]) -> None:
    """What is kept of row n of the scores: the maximum, or the sum of 2^score as scores come out, word by word."""
    maximum = m.maximum[n] if i.append else -32768
    if m.config.weighs(i.attention) == Attention.TWO_PASS:
        total = m.running[n] if i.append else 0
        for k in range(0, len(scores), m.lanes):
            word = scores[k : k + m.lanes]
            grown = max([maximum, *(whole_exponent(s, i.exponent_shift) for s in word)])
            octaves = min((grown - maximum << i.exponent_shift) >> 12, 31)
            added = sum(exp2(grown - s, i.exponent_shift) for s in word)
            maximum, total = grown, (round_shift(total, octaves) + added) % (1 << 30)
        m.maximum[n], m.running[n] = maximum, total
        return
    if m.config.weighs(i.attention) == Attention.SOFTPLUS:
        m.total[n] = wrap((m.total[n] if i.append else 0) + sum(scores), 30)
    m.maximum[n] = max([maximum, *scores])


def plain_sums(x: list[int], weights: list[list[int]]) -> list[int]:
    return [sum(x[k] * weights[k][c] for k in range(len(x))) for c in range(len(weights[0]))]


def packed_sums(m: Machine, i: Instruction, read: int, x: list[int], weights: list[list[int]]) -> list[int]:
    """Sums of a row rounded to 9 bits, in eighths; `unsigned`: to 9 bits without a sign, in sixteenths. A multiplier
    adds up two of them in chains of inputs, one in 19 bits below the other, which gets what is beyond.
    """
    row = (read if i.gather else i.steps_base + read) % m.config.table_rows
    mantissa, exponent = row_step(m.codes[i.steps][row] if i.steps else 0)
    factor = int(arithmetic.step_table()[mantissa - 8])  # 8 / mantissa in units of 2^-15
    narrow = [saturate(round_shift(number * factor, 15 + exponent), 9) for number in x]
    if i.unsigned:
        narrow = [min(max(0, round_shift(2 * number * factor, 15 + exponent)), 511) for number in x]
    sums = [0] * len(weights[0])
    length = min(16, m.config.inputs)
    for start in range(0, len(x), length):
        chain = range(start, min(start + length, len(x)))
        for c in range(len(sums)):
            if c // m.lanes % 2 == 0:
                low, high = (sum(narrow[k] * weights[k][d] for k in chain) for d in (c, c + m.lanes))
                sums[c] += wrap(low, 19)
                sums[c + m.lanes] += high + (low - wrap(low, 19) >> 19)
    return [wrap(total, 24) * mantissa << exponent for total in sums]


def row_step(code: int) -> tuple[int, int]:
    """Of a row whose maximum has this code: mantissa x 2^exponent / 8."""
    mantissa, exponent = arithmetic.row_step(code)
    return int(mantissa), int(exponent)


def keep_maximum(m: Machine, i: Instruction, n: int, written: int, new: list[int]) -> None:
    """Of a row of activation memory: afresh, or, with `append`, with what it had before."""
    row = (written if i.scatter else i.row_base + n) % m.config.table_rows
    code = int(arithmetic.maximum_code(max(abs(number) for number in new)))
    m.codes[i.maxima][row] = max(code, m.codes[i.maxima][row]) if i.append else code


def scale_of(m: Machine, i: Instruction, n: int, read: int, score: int) -> tuple[int, int]:
    """The factor of row n, in units of 2^-15: (mantissa, exponent)."""
    match i.scale:
        case Scale.NORM:
            table = m.head_sigma if m.config.head_norms and i.of_heads else m.sigma
            return table[read if i.gather else i.row_base + n]
        case Scale.SOFTMAX:
            return m.softmax[n]
        case Scale.EXPERT:
            return score, 0
    return 1 << 15, 0


def stationary(m: Machine, i: Instruction, e: int) -> tuple[list[list[int]], list[int], list[int]]:
    """weights[input][output], bias[output], multiplier[output]; the array holds them block by block."""
    inputs, outputs = range(i.chunks * m.lanes), range(i.columns * m.lanes)
    if i.stationary in (Stationary.WEIGHTS16, Stationary.WEIGHTS8):
        return weight_stream(m, i, e)
    words = i.chunks if i.stationary == Stationary.KEYS else i.columns
    vectors = [m.row(Memory.KEY_VALUE, i.stationary_base + k * i.stationary_stride, words) for k in range(i.keys)]
    if i.stationary == Stationary.KEYS:  # output c is key c
        weights = [[vectors[c][k] if c < i.keys else 0 for c in outputs] for k in inputs]
    else:  # input k is key k
        weights = [[vectors[k][c] if k < i.keys else 0 for c in outputs] for k in inputs]
    return weights, [0 for _ in outputs], [1 << 15 for _ in outputs]


def weight_stream(m: Machine, i: Instruction, e: int) -> tuple[list[list[int]], list[int], list[int]]:
    """The same from DRAM: for each column block the biases' low halves, high halves, multipliers, then its weights."""
    if m.config.packs(i):
        return packed_stream(m, i, e)
    word = 2 * m.lanes
    size = 1 if i.stationary == Stationary.WEIGHTS8 else 2
    weights: list[list[int]] = [[] for _ in range(i.chunks * m.lanes)]
    bias, multiplier = [], []
    address = i.address + e * i.expert_stride
    for _ in range(i.columns):
        for lane in range(0, word, 2):
            low, high = m.number(address + lane, 2, False), m.number(address + word + lane, 2)
            bias.append(high << 16 | low)
            multiplier.append(m.number(address + 2 * word + lane, 2, False))
        address += m.config.parameter_words * word  # whole beats
        for row in weights:
            row += [m.number(address + size * lane, size) for lane in range(m.lanes)]
            address += size * m.lanes
    return weights, bias, multiplier


def packed_stream(m: Machine, i: Instruction, e: int) -> tuple[list[list[int]], list[int], list[int]]:
    """The same of two column blocks at a time: the parameters of either, then pairs of weights, of which the second is
    one less than it means where the first is negative. Behind an odd last block comes one that fills up.
    """
    word = 2 * m.lanes
    weights: list[list[int]] = [[] for _ in range(i.chunks * m.lanes)]
    bias, multiplier = [], []
    address = i.address + e * i.expert_stride
    for _ in range(0, i.columns, 2):
        for _ in range(2):
            for lane in range(0, word, 2):
                low, high = m.number(address + lane, 2, False), m.number(address + word + lane, 2)
                bias.append(high << 16 | low)
                multiplier.append(m.number(address + 2 * word + lane, 2, False))
            address += m.config.parameter_words * word
        for row in weights:
            pairs = [(m.number(address + lane, 1), m.number(address + lane + 1, 1)) for lane in range(0, word, 2)]
            row += [first for first, _ in pairs]
            row += [second + (first < 0) for first, second in pairs]
            address += word
    return weights, bias, multiplier


def probabilities(m: Machine, i: Instruction, n: int) -> list[int]:
    """Weights of row n of the scores, in units of 2^-15. Their sum is taken of finer ones, in 2^-18."""
    scores = m.row(Memory.SCORE, i.stream_base + n * i.stream_stride, i.chunks)
    fine = [weight(m, i, n, k, s) if k < i.keys else 0 for k, s in enumerate(scores)]
    kind = m.config.weighs(i.attention)
    if kind not in FEATURES or i.scale != Scale.SOFTMAX:
        m.softmax[n] = reciprocal(max(1, m.running[n] if kind == Attention.TWO_PASS else sum(fine)))
    return [min(round_shift(p, 3), 32767) for p in fine]


def weight(m: Machine, i: Instruction, n: int, k: int, score: int) -> int:
    """What becomes of score k of row n."""
    match m.config.weighs(i.attention):
        case Attention.SIGMOID:
            return sigmoid(score + i.score_bias, i.exponent_shift)
        case Attention.RELU | Attention.RELA:
            return max(score, 0) << 3
        case Attention.SOFTPLUS:
            return reweighted(score, m.maximum[n], m.total[n], i.keys)
        case Attention.PERFORMER:
            return min(max(0, max(score, 0) + i.score_bias), 32767) << 3
        case Attention.COSFORMER:
            return round_shift(max(score, 0) * factor_of(m, i, n, k), 13)
    return exp2(m.maximum[n] - score, i.exponent_shift)


def factor_of(m: Machine, i: Instruction, n: int, k: int) -> int:
    """The sine or cosine of COSFORMER's score k of row n, in units of 2^-16."""
    turn = i.score_bias >> 14 & 3
    match turn:
        case Turn.ROWS:
            return position_factor(i.row_base + n + 1, i.score_bias, i.exponent_shift, k >= (i.chunks >> 1) * m.lanes)
        case Turn.SINE | Turn.COSINE:
            return position_factor(k + 1, i.score_bias, i.exponent_shift, turn == Turn.COSINE)
    return 1 << 16


def epilogue(i: Instruction, total: int, scale: tuple[int, int], multiplier: int, added: int, raised: int = 0) -> int:
    """From a 48-bit sum to a 16-bit word. raised: by as much as the function falls below zero."""
    mantissa, exponent = scale
    a = saturate(round_shift(total, max(0, i.accumulator_shift + exponent)), 27)
    b = saturate(round_shift(a * mantissa, 15), 27)
    m = saturate(round_shift(b * multiplier, 15), 27)
    if i.activation == Activation.GATED:
        return gated(wrap(total >> 14, 16), m)
    w = m + added
    least = arithmetic.raised(Activation(i.activation).function) if raised else 0
    return saturate(round_shift(activated(w, i.activation) + least, i.output_shift), 16)


def keep_statistics(m: Machine, i: Instruction, n: int, written: int, old: list[int], new: list[int]) -> None:
    """The sums of a row: afresh, or, with `append`, those of more channels; where rows are scattered, changed by the
    difference.
    """
    row = written if i.scatter else i.row_base + n
    before = old if i.scatter else []
    goes_on = i.scatter or i.append
    m.sums[row] = (m.sums[row] if goes_on else 0) + sum(new) - sum(before)
    m.squares[row] = (m.squares[row] if goes_on else 0) + sum(x * x for x in new) - sum(x * x for x in before)


def layernorm(m: Machine, i: Instruction, e: int) -> None:
    for row in range(i.row_base, i.row_base + i.rows):
        total = 0 if i.uncentred else m.sums[row]
        table = m.head_sigma if m.config.head_norms and i.of_heads else m.sigma
        table[row] = rsqrt(max(1, i.elements * m.squares[row] - total * total + i.epsilon))


def route(m: Machine, i: Instruction, e: int) -> None:
    if i.reset_queues:
        m.queues = [[] for _ in m.queues]
    choices = []
    for n in range(i.rows):
        logits = m.row(Memory.SCORE, i.stream_base + n * i.stream_stride, i.columns)[: i.experts]
        p = [exp2(max(logits) - logit, i.exponent_shift) for logit in logits]
        best = sorted(range(i.experts), key=lambda k: -logits[k])[: i.top_k]  # of equal ones the lowest comes first
        mantissa, exponent = reciprocal(sum(p[k] for k in best) if i.among_chosen else sum(p))
        choices.append([(k, min(round_shift(p[k] * mantissa, exponent + 1), 65535)) for k in best])
    for choice in range(i.top_k):  # all first choices stand before all second ones
        for n in range(i.rows):
            expert, score = choices[n][choice]
            m.queues[expert].append((i.row_base + n, score))


def experts(m: Machine, i: Instruction, body: int) -> int:
    """`body`: where the next instruction stands. Returns where the program goes on."""
    for e in range(len(m.queues)):
        if m.queues[e]:
            for n in range(i.length):
                inner = fetch(m, body + n * INSTRUCTION_BYTES, looping=True, e=e)
                perform(m, inner, e)
    return body + i.length * INSTRUCTION_BYTES


def fetch(m: Machine, address: int, looping: bool = False, e: int = 0) -> Instruction:
    """The instruction at a byte offset, unless a rule refuses it."""
    try:
        i = Instruction.decode(bytes(m.dram[address : address + INSTRUCTION_BYTES]))
    except EdgemoeError:
        raise Refused(ErrorCode.ILLEGAL_INSTRUCTION) from None
    for rule in violated(i, m.config, Place.of(i, looping, e)):
        raise Refused(rule.error)
    return i


def perform(m: Machine, i: Instruction, e: int = 0) -> None:
    """One instruction, for expert e, if it is in a body."""
    does = OPERATIONS[i.opcode].does
    assert does is not None
    does(m, i, e)


def run(m: Machine, program: int = 0) -> None:
    """A program, from its byte offset to END."""
    while True:
        i = fetch(m, program)
        program += INSTRUCTION_BYTES
        if i.opcode == Opcode.END:
            return
        if i.opcode == Opcode.EXPERTS:
            program = experts(m, i, program)
        else:
            perform(m, i)


# ---------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Operation:
    """Beside `isa.ENUMERATIONS`, which says in a line what an opcode does.

    does    the function above that executes it; None: `run` does. shown: the functions of its page
    waits   for what, before it begins
    cycles  how long it takes, from when it may begin
    units   files that do it, below hw/
    beside  fields that it reads beside those in the functions: when it runs, how far it reads, whether it is legal
    """

    does: Callable[[Machine, Instruction, int], None] | None
    shown: tuple[Callable, ...]
    waits: str
    cycles: str
    units: tuple[str, ...]
    beside: tuple[str, ...] = ()


ALONE = "Everything before it is complete. It runs alone: the next instruction begins when it is complete."
FOLLOWS = (
    " With `follow` the MATMUL before it may be writing its last column, row by row: set it where row i takes from "
    "there what is written as row i or sooner."
)
DMA = ("memory/dma.py", "memory/gearbox.py")

OPERATIONS: Mapping[Opcode, Operation] = {
    Opcode.END: Operation(
        None,
        (run,),
        "Everything before it is complete.",
        "None beyond the wait.",
        ("control/sequencer.py", "control/run.py"),
    ),
    Opcode.LOAD: Operation(
        load,
        (load, transferred_rows),
        ALONE,
        "A word a cycle, or as fast as beats come: max(rows x columns, bytes / bus bytes), and the memory's latency.",
        (*DMA, "memory/reader.py"),
    ),
    Opcode.STORE: Operation(
        store,
        (store, transferred_rows),
        ALONE,
        "A word a cycle, or as fast as beats go: max(rows x columns, bytes / bus bytes), and the memory's latency. It "
        "is complete when the last burst is answered.",
        (*DMA, "memory/writer.py"),
    ),
    Opcode.IMAGE: Operation(
        image,
        (image,),
        ALONE,
        "Pixels / G, G pixels a cycle: the largest power of two that divides `patch`, at most 16, the lanes of a word "
        "and the bytes of a beat.",
        ("memory/image.py", "memory/dma.py", "memory/reader.py"),
        ("memory", "rows", "columns"),
    ),
    Opcode.MATMUL: Operation(
        matmul,
        (matmul, plain_sums, packed_sums, row_step, rows_of, stationary, weight_stream, packed_stream, probabilities,
         weight, factor_of, scale_of, epilogue, keep_maximum, keep_scores, keep_statistics),
        "At most one MATMUL is under way before it, which drains while this one streams; whatever came before that "
        "one is complete. With `wait_stream` none is: set it where a streamed word, the residual's old word, or a "
        "row's maximum or scale comes from the MATMUL before. With `follow` as well that one may be writing its "
        "last column, row by row: set it where row i takes from there what is written as row i or sooner. A LAYERNORM "
        "before it is complete, without `follow`; with it, it only has begun, and goes through its rows one by one: "
        "set it where row i takes the scale of its row i or sooner, and changes no sums that it takes. With "
        "`wait_load` the first key or value is read when everything before is complete; without, the loader is at "
        "most one block ahead of the array. Weights are fetched without waiting. Without `probabilities` it begins "
        "when the last probability before it has passed.",
        "`columns` x `chunks` blocks, each max(`rows`, lanes) cycles, of 8-bit weights max(`rows`, lanes / 2 + 1), on "
        "a build with `packed` max(`rows`, lanes / 2), and two more than a row is on its way to the array at least; "
        "packed ones are half as many, and `rows` cycles follow the last two columns, or every two if `chunks` is 1; a "
        "block of KEYS at least 2 lanes, as its columns enter only behind the wave of rows. An array of twice as many "
        "rows as columns takes two chunks at a time: blocks are half as many, and their least cycles, but for those of "
        "KEYS (3 lanes), twice as many. With weights no less than `beats` beats on the bus. The next MATMUL streams "
        "while this one drains.",
        (
            "control/streamer.py",
            "control/loader.py",
            "memory/weights.py",
            "compute/softmax.py",
            "compute/score_functions.py",
            "compute/running_sums.py",
            "compute/reweighting.py",
            "compute/narrow.py",
            "compute/array.py",
            "compute/accumulator.py",
            "compute/row_step.py",
            "compute/row_maxima.py",
            "compute/epilogue.py",
            "compute/gate.py",
            "control/row_pipeline.py",
            "control/writeback.py",
        ),
        ("wait_stream", "follow", "wait_load", "beats", "packed", "row_sums"),
    ),
    Opcode.LAYERNORM: Operation(
        layernorm,
        (layernorm,),
        ALONE + FOLLOWS + " A MATMUL with `follow` right behind it begins beside it; what is next, when both have.",
        "`rows` + SWEEP_DELAY of the unit; beside a MATMUL none but its start.",
        ("compute/layernorm.py", "compute/rsqrt.py"),
        ("follow",),
    ),
    Opcode.ROUTE: Operation(
        route,
        (route,),
        ALONE + FOLLOWS + " It has as many rows, then, and that MATMUL no `probabilities`.",
        "passes x max(`rows` x `columns`, `columns` + TURN) + `rows` x `columns` + DRAIN, the constants of the unit; "
        "`top_k` passes, with `among_chosen` twice as many.",
        ("compute/router.py", "compute/logit_scan.py", "compute/expert_choice.py", "compute/expert_score.py",
         "compute/expert_queues.py"),
        ("follow",),
    ),
    Opcode.EXPERTS: Operation(
        None,
        (experts,),
        "Everything before it is complete. Each instruction of the body then waits as it would elsewhere, also for the "
        "body of the expert before.",
        "Two to look up each expert that has tokens, two at the end, and a jump's fetch each; none for experts without "
        "tokens.",
        ("control/sequencer.py", "compute/expert_queues.py"),
    ),
}  # fmt: skip
