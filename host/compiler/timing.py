# SPDX-License-Identifier: Apache-2.0
"""How many cycles a program will take: a model of the core that knows sizes and no data, and needs no simulator.

What happens in order is followed in order: instructions are fetched and issued, bursts of weights asked for, blocks
loaded into the array's shadow registers, rows streamed past them. Of each of these the model keeps the cycle in which
the last one happened, and gives the next one the latest of the cycles that it has to wait for. So it sees what the
hardware overlaps - prefetch across instructions, a block that loads beside one that streams, an instruction that drains
beside the next - and takes microseconds a block.

Left out: stalls of the memory, and that LOAD, STORE, IMAGE and the fetch share the bus with weights (the prefetch has
mostly filled its memory by then).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Instruction, Opcode, Stationary
from edgemoe.models.compatibility import StrEnum

# What the hardware's units say of themselves; they need Amaranth, so it is repeated here, and a test compares.
STREAM = 6  # from the issue of a row to its word: Streamer.LATENCY
PROBABILITY = 8  # through the exponentials: Softmax.LATENCY
REWEIGHTING = 7  # more, in builds with softplus attention: WAIT of the softmax unit
ACCUMULATE = 3  # Accumulator.LATENCY
EPILOGUE = 21  # Epilogue.LATENCY
SPACING = 4  # from a block's first row to the next one's, at least: Accumulator.REVISIT
SWEEP = 23  # of LAYERNORM beyond a cycle a row: LayerNorm.SWEEP_DELAY
NARROW = 3  # rounding before the array, where products are packed: Narrow.LATENCY
ROW_STEP = 3  # and its undoing behind the accumulators: RowStep.LATENCY
COPY = 1  # what the epilogue has more for the residual's copy
APART = 1  # of packed sums: what Array.LATENCY has more
PREFETCH = 4  # from a beat to the row that may be taken: Weights.LATENCY
SWAP = 2  # from a block's swap to that of its first row: loader.SWAP_DELAY
IN_FLIGHT = 2  # MATMULs at once: hazards.IN_FLIGHT
QUEUED = 4  # instructions issued and not begun: top.QUEUED_JOBS
AHEAD = 2  # instructions fetched and not taken: fetch.AHEAD
MOST_PIXELS = 16  # of IMAGE, a cycle: image.MOST_PIXELS

# How their states follow one another.
FETCH = 4  # from an instruction's last beat to its taking
CHECK = 10  # from an instruction's taking to its issue
BEGIN = 2  # from an instruction's last row to the first of the next
ADDRESS = 2  # from the choice of a burst to its address on the bus
ROOM = 2  # from a row's leaving the prefetch memory to a burst in its place
TRANSFER = 18  # of LOAD, STORE and IMAGE, besides what they move and the memory's answer


@dataclass(frozen=True)
class Dram:
    """The memory. latency: cycles from a read's address to its first beat; beat: cycles a beat takes on every port."""

    latency: int = 64
    beat: float = 1.0

    def cycles(self, beats: int) -> int:
        """Of so many beats one after the other."""
        return math.ceil(beats * self.beat)


STEADY = Dram()


class Limit(StrEnum):
    """What cycles are spent on."""

    ARRAY = "array"  # rows stream, or blocks of more rows than stream past them are loaded
    BUS = "bus"  # data move, or a busy bus has not brought the weights
    LATENCY = "latency"  # the memory, or a unit's pipeline, has not answered
    DEPENDENCY = "dependency"  # earlier instructions have not written their results


@dataclass
class Cost:
    """What one instruction takes; in the body of EXPERTS, all its repetitions together.

    rows: streamed or moved; blocks: that the array held; read, written: bytes over the bus; spent: cycles from the end
    of the instruction before, by what they went into.
    """

    rows: int = 0
    blocks: int = 0
    read: int = 0
    written: int = 0
    spent: dict[Limit, int] = field(default_factory=lambda: dict.fromkeys(Limit, 0))

    @property
    def cycles(self) -> int:
        return sum(self.spent.values())

    @property
    def limit(self) -> Limit:
        """What most cycles went into."""
        return max(Limit, key=self.spent.__getitem__)

    def add(self, other: Cost) -> None:
        """This one and another together."""
        self.rows, self.blocks = self.rows + other.rows, self.blocks + other.blocks
        self.read, self.written = self.read + other.read, self.written + other.written
        self.spent = {limit: cycles + other.spent[limit] for limit, cycles in self.spent.items()}


def tree_stages(lanes: int) -> int:
    """Of a tree that combines four lanes to one a stage: compute.lane_tree.tree_stages."""
    return -(-(lanes - 1).bit_length() // 2)


def read_latency(hardware: HardwareConfig) -> int:
    """From a beat on the bus to its client: Reader.LATENCY."""
    return 1 + (hardware.masters > 1)


def answer(hardware: HardwareConfig, dram: Dram) -> int:
    """From the choice of a burst to its first beat at the client."""
    return ADDRESS + max(1, dram.latency) + read_latency(hardware)


def settle(hardware: HardwareConfig) -> int:
    """From results to tables: those of LayerNorm and softmax, and of the steps of rows."""
    return max(2 + tree_stages(hardware.lanes) + hardware.packed, 4)


def drain(hardware: HardwareConfig) -> int:
    """From the issue of a row to its results, settled in all tables; the rounding of activations left aside."""
    packed = (APART + ROW_STEP + COPY) * hardware.packed
    return STREAM + hardware.inputs + 3 + ACCUMULATE + EPILOGUE + settle(hardware) + packed


class Prefetch:
    """Weights on their way: bursts asked for as the prefetch memory has room, beats as the bus brings them."""

    def __init__(self, hardware: HardwareConfig, dram: Dram) -> None:
        self.hardware, self.dram, self.answer = hardware, dram, answer(hardware, dram)
        self.capacity = hardware.prefetch_beats // hardware.beats_per_word * hardware.beats_per_word
        self.beats = 0  # asked for since the start
        self.asked = self.bus = 0  # when the last burst was asked for; when the bus is free
        self.flight = deque([0] * hardware.outstanding, hardware.outstanding)  # when the last bursts had come
        self.come: deque[tuple[int, int, Limit]] = deque()  # beats since the start, when the last came, why not sooner
        self.gone: deque[tuple[int, int]] = deque()  # beats since the start, when they had been taken

    def request(self, issued: int, address: int, beats: int) -> Iterator[None]:
        """The weights of a matrix, burst by burst, as they are wanted."""
        limit, position = self.hardware.burst_limit, address // self.hardware.bus_bytes
        self.asked = max(self.asked, issued)
        while beats:
            length = min(beats, limit - position % limit)
            position, beats, self.beats = position + length, beats - length, self.beats + length
            while self.gone and self.gone[0][0] < self.beats - self.capacity:
                self.gone.popleft()
            room = self.gone[0][1] if self.beats > self.capacity else 0
            self.asked = max(self.asked + 1, room + ROOM, self.flight[0] + 1)
            first = self.asked + self.answer
            why = Limit.BUS if self.bus >= first else Limit.LATENCY
            self.bus = max(self.bus, first) + self.dram.cycles(length)
            self.flight.append(self.bus - read_latency(self.hardware))
            self.come.append((self.beats, self.bus - 1, why))
            yield

    def arrival(self, beats: int, requests: Iterator[None]) -> tuple[int, Limit]:
        """When the rows of so many beats since the start may be taken, and why not sooner."""
        while not self.come or self.come[-1][0] < beats:
            next(requests)
        while self.come[0][0] < beats:
            self.come.popleft()
        end, cycle, why = self.come[0]
        return cycle - self.dram.cycles(end - beats) + PREFETCH, why


class Core:
    """The units' states: for each the cycle, since the start, of its last deed."""

    def __init__(self, hardware: HardwareConfig, dram: Dram = STEADY) -> None:
        self.hardware, self.dram = hardware, dram
        self.answer, self.drain = answer(hardware, dram), drain(hardware)
        self.prefetch = Prefetch(hardware, dram)
        # Sequencer: it is free; when the next instructions were asked for.
        self.sequencer, self.asked = 0, deque([0] * AHEAD, AHEAD)
        # Streamer: it is free; when the last instructions were taken, and complete, the very last one up to the first
        # row of its last column; the sweep beside them, and one that a MATMUL has passed by; the last block's first
        # row; the last row that took the long way.
        self.streamer = self.complete = self.led = self.swept = self.passed = 0
        self.taken, self.done = deque([0] * QUEUED, QUEUED), deque([0] * IN_FLIGHT, IN_FLIGHT)
        self.weigh = PROBABILITY + (REWEIGHTING if "softplus" in hardware.weighings else 0)
        self.block, self.probability = -SPACING, -self.weigh - 3
        # Loader: it is free; the last block's swap; when the banks of parameters were given back.
        self.loader, self.swap, self.banks = 0, -hardware.lanes - SWAP - 1, deque([0] * (4 if hardware.packed else 2))

    def jump(self, cycle: int) -> None:
        """What was fetched is dropped."""
        self.sequencer, self.asked = cycle, deque([cycle, cycle + 2], AHEAD)

    def issue(self) -> int:
        """The next instruction is fetched, checked and with streamer, loader and prefetch: from this cycle on."""
        beats = self.dram.cycles(INSTRUCTION_BYTES // self.hardware.bus_bytes)
        start = max(self.sequencer, self.asked.popleft() + self.answer + beats + FETCH)
        self.asked.append(start + 1)
        self.sequencer = max(start + CHECK, self.taken[0]) + 1
        return self.sequencer

    def end(self, cycle: int) -> None:
        """An instruction is complete."""
        self.complete = max(self.complete, cycle)
        self.done.append(self.complete)

    def moved(self, beats: int) -> int:
        """From the first burst's choice to the last beat of a transfer, for which two bursts have room at a time."""
        limit, ends = self.hardware.burst_limit, deque([0, 0], 2)
        for start in range(0, beats, limit):
            ends.append(max(ends[1], ends[0] + self.answer + ROOM) + self.dram.cycles(min(limit, beats - start)))
        return ends[1]

    def operation(self, i: Instruction, cost: Cost, issued: int, rows: int) -> None:
        """All but MATMUL: alone, when everything before it is complete."""
        h = self.hardware
        self.taken.append(max(self.streamer, issued + 1))
        complete = max(self.complete, self.swept)
        if i.follow and h.packed and i.opcode in (Opcode.LAYERNORM, Opcode.ROUTE) and self.led:
            complete = self.led
        start = max(self.taken[-1] + 1, complete + 1)
        words, bus = rows * i.columns, 0
        if i.opcode == Opcode.LAYERNORM:
            cycles = rows + SWEEP
        elif i.opcode == Opcode.ROUTE:  # as Router says
            stages = (h.lanes - 1).bit_length() - 1
            passes = i.top_k * (1 + i.among_chosen)
            cycles = passes * max(words, i.columns + 4 + stages) + words + 23 + stages
        else:
            beats = -(-words * h.word_bytes // h.bus_bytes)
            if i.opcode == Opcode.IMAGE:
                group = math.gcd(i.patch, min(h.lanes, h.bus_bytes, MOST_PIXELS))
                beats, words = i.beats, i.across * i.down * i.channels * i.patch**2 // group
            bus = max(words, self.dram.cycles(beats))
            if i.opcode == Opcode.STORE:
                cycles, cost.written = bus + self.dram.latency + TRANSFER, cost.written + beats * h.bus_bytes
            else:
                cycles = max(words + self.answer, self.moved(beats)) + TRANSFER
                cost.read += beats * h.bus_bytes
        cost.rows += rows
        cost.spent[Limit.DEPENDENCY] += start - self.streamer
        if i.opcode == Opcode.LAYERNORM and h.packed:
            cost.spent[Limit.LATENCY] += 1
            self.streamer, self.swept = start + 1, start + cycles
            return
        cost.spent[Limit.BUS] += bus
        cost.spent[Limit.LATENCY] += cycles + 1 - bus
        self.streamer, self.led = start + cycles + 1, 0
        self.end(start + cycles)

    def matmul(self, i: Instruction, cost: Cost, issued: int, rows: int, address: int) -> None:
        """Block after block: loaded when the shadow registers are free and its words there, streamed behind the one
        before.
        """
        h, lanes, spent, prefetch = self.hardware, self.hardware.lanes, cost.spent, self.prefetch
        on_chip, by_column = i.stationary in (Stationary.KEYS, Stationary.VALUES), i.stationary == Stationary.KEYS
        packed = h.packs(i)
        together = 2 if packed else 1  # column blocks
        parts = -(-i.columns // together)
        # from a row's issue to the array
        way = STREAM + (self.weigh if i.probabilities else 0) + NARROW * h.packed
        loader = max(self.loader, issued + 1) + 1
        if on_chip:
            loader = max(loader, self.complete if i.wait_load else 0) + 1
        else:
            cost.read += i.beats * h.bus_bytes
        pairs = i.stationary == Stationary.WEIGHTS8 and not packed
        bits, whole = (8, lanes // 2) if pairs else (16, lanes)  # of a chunk, its words; of a packed one as many
        parameters, weights = (size // h.bus_bytes for size in (h.parameter_words * h.word_bytes, lanes**2 * bits // 8))
        beats, requests = prefetch.beats, prefetch.request(issued + 2, address, i.beats)

        self.taken.append(max(self.streamer, issued + 1))
        ready = self.taken[-1] + BEGIN
        follows = i.follow and h.packed
        waited = (min(self.complete, self.led) if follows else self.complete) if i.wait_stream else 0
        waited = max(waited, self.done[0], self.passed if follows else self.swept)
        free = max(ready, waited + 2)  # a row may be issued
        self.passed = self.swept
        if not i.probabilities:
            free = max(free, self.probability + self.weigh + 3)
        spent[Limit.LATENCY if free == ready else Limit.DEPENDENCY] += free - self.streamer
        steps = range(0, i.chunks, h.words_at_once)  # blocks of a column, by their first chunk
        swap, block, streaming = self.swap, self.block, rows * len(steps) * parts
        leave = way + self.drain - STREAM - settle(h)  # from a row's issue to its end
        for part in range(parts):
            for _ in range(0 if on_chip else together):
                beats += parameters
                loader = max(loader, prefetch.arrival(beats, requests)[0], self.banks.popleft()) + h.parameter_words
                prefetch.gone.append((beats, loader))
            for chunk in steps:
                load, why = loader, Limit.ARRAY
                chunks = min(h.words_at_once, i.chunks - chunk)
                released = swap + (lanes + SWAP + 1 if by_column else h.inputs // 2 - h.packed if pairs else 1)
                if released > load:
                    load, why = released, Limit.LATENCY
                if on_chip:
                    announced = load + (lanes if by_column else 1) + (not h.packed)
                else:
                    beats += chunks * weights
                    arrival, late = prefetch.arrival(beats, requests)
                    early = (STREAM + NARROW) * bool(h.packed and pairs)  # the loader's lead
                    announced = max(swap + 1, released - early, loader - early * (chunk > 0))
                    if arrival > announced:
                        announced, why = arrival, late
                    load = max(load, announced)
                    prefetch.gone.append((beats, load + chunks * whole))
                loader = load + chunks * whole
                start = max(free, announced + 1, block + SPACING)
                spent[why] += start - free
                block, swap, free = start, start + way, start + rows
                leader = start
                if packed and part and chunk == 0 and len(steps) > 1:
                    self.banks.append(free + leave)
            if not on_chip:
                self.banks.append(free + leave)
            if packed and (part == parts - 1 or len(steps) == 1):  # upper sums, which no other rows accompany
                start = max(free, block + SPACING)
                spent[Limit.LATENCY] += start - free
                block, free, streaming = start, start + rows, streaming + rows
                leader = start if i.columns % 2 == 0 else leader
                self.banks.append(free + leave)
        spent[Limit.ARRAY] += streaming
        cost.rows, cost.blocks = cost.rows + rows, cost.blocks + i.columns * len(steps)
        for _ in requests:  # padding behind the last block
            pass
        if not on_chip:
            prefetch.gone.append((prefetch.beats, loader))
        self.loader, self.swap, self.block, self.streamer = loader, swap, block, free
        if i.probabilities:
            self.probability = free - 1
        self.led = leader + way - STREAM + self.drain
        self.end(free - 1 + way - STREAM + self.drain)

    def execute(self, i: Instruction, cost: Cost, expert: int = 0, length: int | None = None) -> None:
        """One instruction; in a body for an expert and the length of its queue."""
        cost.read += INSTRUCTION_BYTES
        issued = self.issue()
        rows = i.rows if length is None or not (i.gather or i.scatter or i.queued) else length
        if i.opcode == Opcode.MATMUL:
            self.matmul(i, cost, issued, rows, i.address + i.expert_stride * expert)
        elif i.opcode in (Opcode.EXPERTS, Opcode.END):  # the sequencer itself waits
            self.sequencer = max(issued, self.complete + 1, self.swept + 1)
            if i.opcode == Opcode.END:
                cost.spent[Limit.DEPENDENCY] += self.sequencer - self.streamer
        else:
            self.operation(i, cost, issued, rows)


@dataclass(frozen=True)
class Execution:
    """An instruction, executed once. number: in the program; expert, rows: of the queue that it is repeated for."""

    number: int
    cost: Cost
    expert: int | None = None
    rows: int | None = None


def follow(
    instructions: Sequence[Instruction],
    hardware: HardwareConfig,
    queues: Sequence[Sequence[int]] = (),
    dram: Dram = STEADY,
) -> Iterator[Execution]:
    """Every execution, in order. queues: of each EXPERTS, in order, how many rows every expert gets."""
    core, lengths, number = Core(hardware, dram), iter(queues), 0

    def execute(number: int, expert: int | None = None, rows: int | None = None) -> Execution:
        cost = Cost()
        core.execute(instructions[number], cost, expert or 0, rows)
        return Execution(number, cost, expert, rows)

    core.jump(1)
    while number < len(instructions):
        i = instructions[number]
        yield execute(number)
        number += 1
        if i.opcode == Opcode.EXPERTS:
            body = range(number, number + i.length)
            for expert, length in enumerate(next(lengths)):
                if length:
                    core.jump(core.sequencer + 2)
                    for inner in body:
                        yield execute(inner, expert, length)
            core.jump(core.sequencer + 2)
            number = body.stop


def predict(
    instructions: Sequence[Instruction],
    hardware: HardwareConfig,
    queues: Sequence[Sequence[int]] = (),
    dram: Dram = STEADY,
) -> list[Cost]:
    """What each instruction takes, all its executions (as `follow` gives them) together."""
    costs = [Cost() for _ in instructions]
    for execution in follow(instructions, hardware, queues, dram):
        costs[execution.number].add(execution.cost)
    return costs
