# SPDX-License-Identifier: Apache-2.0
"""Top-k routing: softmax over the router's logits, the best experts of each row into the experts' queues."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2
from edgemoe.hw.config import WORD_BITS, HardwareConfig
from edgemoe.hw.layouts import count_shape, index_shape
from edgemoe.hw.units.expert_queues import SCORE_BITS, ExpertQueues
from edgemoe.hw.units.exponential import FINE_BITS, Exponential
from edgemoe.hw.units.fixed import half_shift, round_half
from edgemoe.hw.units.lane_tree import add, larger, reduce_lanes, tree_stages
from edgemoe.hw.units.normalise import EXPONENT_BITS, MANTISSA_BITS
from edgemoe.hw.units.pipeline import chain, delay
from edgemoe.hw.units.reciprocal import Reciprocal

ADDRESS_BITS = 20
STRIDE_BITS = 10
EXPERT_BITS = ExpertQueues.EXPERT_BITS
KEY = signed(WORD_BITS + EXPERT_BITS)  # logit above, inverted expert number below: the larger logit wins, ties go to the lower expert
LOWEST_KEY = -(1 << WORD_BITS + EXPERT_BITS - 1)  # belongs to no expert below 64


class Router(wiring.Component):
    """For `rows` rows: p_e = 2^(l_e - max l), the `top_k` largest logits, score_e = round_shift(p_e * mantissa, exponent + 1) of 1 / sum p.

    The score memory is read once for the maxima of the rows, then once for each choice (so the queues' order is pass-major). Eligible in a
    pass are the logits behind the row's last choice in the order (larger logit, lower expert): no set of chosen experts is kept.

    Ports, command:
        start; rows, row_base, base, stride, columns, experts, top_k, shift (all held until `done`); reset_queues (sampled with `start`).
        done: one cycle, when all entries can be read.
        Logits of row i: score memory words base + i * stride + 0..columns - 1, the first `experts` lanes of them.
        Queue entries: row = row_base + i.
    Ports, score memory:
        score_address -> score_data one cycle later.
    Ports, queues (see `ExpertQueues`):
        entry_expert, entry_index -> entry_row, entry_score one cycle later; count_expert -> count combinational;
        next_from -> next_found, next_expert one cycle later.

    Cycles from start to done: top_k * max(rows * columns, columns + TURN) + rows * columns + DRAIN.
    Format: logits signed 16 bit, unit 2^(shift - 12); score unsigned 16 bit, 2^15 is 1.0.
    Limits: 1 <= rows <= config.tokens; 1 <= top_k <= experts <= min(config.experts, columns * lanes); config.rows entries a queue between
        resets; no `start` between a `start` and its `done`. Choices compare logits, not the probabilities rounded from them.
    Twin: `models.emulator.route`.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.stages = tree_stages(config.lanes)
        self.CHOICE = 4 + self.stages  # address of a row's last word to its choice
        self.TURN = self.CHOICE  # least cycles between a row's last address of one pass and its first of the next, less one
        self.SUM = 4 + Exponential.LATENCY + self.stages  # address of a row's last word to the sum of its probabilities
        self.PUSH = self.SUM + Reciprocal.LATENCY + 2  # ... to the queue
        self.DRAIN = self.PUSH + ExpertQueues.PUSH_DELAY
        word, row = data.ArrayLayout(signed(WORD_BITS), config.lanes), index_shape(config.rows)
        expert = index_shape(config.experts)
        super().__init__(
            {
                "start": In(1),
                "rows": In(count_shape(config.tokens)),
                "row_base": In(row),
                "base": In(ADDRESS_BITS),
                "stride": In(STRIDE_BITS),
                "columns": In(range(config.words(config.experts) + 1)),
                "experts": In(range(config.experts + 1)),
                "top_k": In(count_shape(config.top_k)),
                "shift": In(4),
                "reset_queues": In(1),
                "done": Out(1),
                "score_address": Out(ADDRESS_BITS),
                "score_data": In(word),
                "entry_expert": In(expert),
                "entry_index": In(row),
                "entry_row": Out(row),
                "entry_score": Out(SCORE_BITS),
                "count_expert": In(expert),
                "count": Out(range(config.rows + 1)),
                "next_from": In(EXPERT_BITS),
                "next_found": Out(1),
                "next_expert": Out(EXPERT_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self.route(m, *self.scan(m))
        return m

    def scan(self, m: Module):
        """Address generation: (valid, token); the token says what the word at this cycle's score_address is, and travels beside it."""
        config = self.config
        token = Signal(
            data.StructLayout(
                {
                    "row": index_shape(config.tokens),
                    "column": index_shape(config.words(config.experts)),
                    "first": 1,  # word of the row
                    "last": 1,
                    "fresh": 1,  # nothing of the row has been chosen yet
                    "maximum": 1,  # the pass that finds the maxima
                }
            )
        )
        running, choice, row_address = Signal(), Signal.like(self.top_k), Signal(ADDRESS_BITS)
        row, column = Signal.like(token.row, name="row"), Signal.like(token.column, name="column")
        elapsed = Signal(range(2 * self.TURN + config.words(config.experts)))
        streaming = Signal()
        last_word, last_row, last_pass = Signal(), Signal(), Signal()
        m.d.comb += [
            last_word.eq(column + 1 == self.columns),
            last_row.eq(row + 1 == self.rows),
            last_pass.eq(choice == self.top_k),
            self.score_address.eq(row_address + column),
            token.row.eq(row),
            token.column.eq(column),
            token.first.eq(column == 0),
            token.last.eq(last_word),
            token.maximum.eq(choice == 0),
            token.fresh.eq(choice <= 1),
        ]
        ready = Signal()  # the table holds what the next pass reads of its first row
        m.d.comb += ready.eq(elapsed >= self.columns + (self.TURN - 1))
        with m.If(elapsed != (1 << len(elapsed)) - 1):
            m.d.sync += elapsed.eq(elapsed + 1)
        restart = Signal()
        with m.If(streaming):
            with m.If(~last_word):
                m.d.sync += column.eq(column + 1)
            with m.Elif(~last_row):
                m.d.sync += [column.eq(0), row.eq(row + 1), row_address.eq(row_address + self.stride)]
            with m.Elif(ready | last_pass):
                m.d.comb += restart.eq(1)
            with m.Else():
                m.d.sync += streaming.eq(0)
        with m.Elif(running):
            m.d.comb += restart.eq(ready)
        with m.If(restart):
            m.d.sync += [column.eq(0), row.eq(0), row_address.eq(self.base), choice.eq(choice + 1), elapsed.eq(0)]
            m.d.sync += [streaming.eq(~last_pass), running.eq(~last_pass)]
        with m.If(self.start):
            m.d.sync += [column.eq(0), row.eq(0), row_address.eq(self.base), choice.eq(0), elapsed.eq(0), streaming.eq(1), running.eq(1)]
        m.d.sync += self.done.eq(delay(m, restart & last_pass, self.PUSH + ExpertQueues.PUSH_DELAY - 1, name="finish", reset_less=False))
        return streaming, token

    def route(self, m: Module, valid, token) -> None:
        config, lanes, stages = self.config, self.config.lanes, self.stages
        # 0: row tables: maximum (written by the first pass), last choice
        m.submodules.maxima = maxima = Memory(shape=signed(WORD_BITS), depth=max(2, config.tokens), init=[])
        m.submodules.choices = choices = Memory(shape=KEY, depth=max(2, config.tokens), init=[])
        write_maximum, read_maximum = maxima.write_port(), maxima.read_port()
        write_choice, read_choice = choices.write_port(), choices.read_port()
        m.d.comb += [read_maximum.addr.eq(token.row), read_maximum.en.eq(valid), read_choice.addr.eq(token.row), read_choice.en.eq(valid)]
        tokens = chain(m, token, self.PUSH, name="token")  # fields that nobody reads any more are removed by synthesis
        valids = chain(m, valid, self.PUSH, name="valid", reset_less=False)
        # 1: memory outputs -> registers
        word, chosen = Signal.like(self.score_data, reset_less=True), Signal(KEY, reset_less=True)
        maximum = Signal(signed(WORD_BITS), reset_less=True)
        with m.If(valids[1]):
            m.d.sync += [word.eq(self.score_data), maximum.eq(read_maximum.data), chosen.eq(read_choice.data)]
        # 2: keys of the eligible, distances
        m.submodules.exponential = exponential = Exponential(lanes)
        keys, distances, present = [], Signal(exponential.distance.shape(), reset_less=True), Signal(lanes, reset_less=True)
        for lane in range(lanes):
            expert = Cat(Const(lane, ceil_log2(lanes)), tokens[2].column)
            candidate, key = Signal(KEY, name=f"candidate_{lane}"), Signal(KEY, name=f"key_{lane}", reset_less=True)
            exists = expert < self.experts
            m.d.comb += candidate.eq(Cat(~(expert | Const(0, EXPERT_BITS)), word[lane]).as_signed())
            with m.If(valids[2]):
                m.d.sync += [
                    key.eq(Mux(exists & (tokens[2].fresh | (candidate < chosen)), candidate, LOWEST_KEY)),
                    distances[lane].eq(maximum - word[lane]),
                    present[lane].eq(exists),
                ]
            keys.append(key)
        # 3..: the row's choice
        best = reduce_lanes(m, valids[3], keys, larger, name="best")
        choice = Signal(KEY, reset_less=True)
        with m.If(valids[3 + stages]):
            m.d.sync += choice.eq(Mux(tokens[3 + stages].first | (best > choice), best, choice))
        at = self.CHOICE
        m.d.comb += [
            write_choice.addr.eq(tokens[at].row),
            write_choice.data.eq(choice),
            write_choice.en.eq(valids[at] & tokens[at].last),
            write_maximum.addr.eq(tokens[at].row),
            write_maximum.data.eq(choice[EXPERT_BITS:]),
            write_maximum.en.eq(valids[at] & tokens[at].last & tokens[at].maximum),
        ]
        # 3..: sum of the row's probabilities and its reciprocal
        m.d.comb += [exponential.valid.eq(valids[3] & ~tokens[3].maximum), exponential.distance.eq(distances)]
        m.d.comb += [exponential.mask.eq(present), exponential.shift.eq(self.shift)]
        at = 3 + Exponential.LATENCY
        partial = reduce_lanes(m, exponential.out_valid, [exponential.fine[lane] for lane in range(lanes)], add, name="sum")
        total = Signal(FINE_BITS + ceil_log2(config.experts + 1), reset_less=True)
        with m.If(valids[at + stages]):
            m.d.sync += total.eq(partial + Mux(tokens[at + stages].first, 0, total))
        at = self.SUM
        scored = valids[at] & tokens[at].last & ~tokens[at].maximum
        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.d.comb += [reciprocal.valid.eq(scored), reciprocal.value.eq(total)]
        self.push(m, valids, tokens, choice, delay(m, maximum, self.CHOICE - 2, name="maximum"), reciprocal)

    def push(self, m: Module, valids, tokens, choice: Signal, maximum: Signal, reciprocal: Reciprocal) -> None:
        """Probability of the choice, times 1/sum, into the queue."""
        config = self.config
        at, product_at = self.CHOICE, self.SUM + Reciprocal.LATENCY
        valid = valids[at] & tokens[at].last & ~tokens[at].maximum
        m.submodules.single = single = Exponential(1)
        distance = Signal(single.distance.shape(), reset_less=True)
        with m.If(valid):
            m.d.sync += distance[0].eq(maximum - choice[EXPERT_BITS:].as_signed())
        m.d.comb += [single.valid.eq(delay(m, valid, 1, name="single_valid", reset_less=False)), single.distance.eq(distance)]
        m.d.comb += [single.mask.eq(1), single.shift.eq(self.shift)]
        probability = delay(m, single.fine[0], product_at - (at + 1 + Exponential.LATENCY), name="probability")
        expert = delay(m, ~choice[:EXPERT_BITS], product_at + 2 - at, name="expert")
        product, exponent = Signal(FINE_BITS + MANTISSA_BITS, reset_less=True), Signal(EXPONENT_BITS, reset_less=True)
        score = Signal(SCORE_BITS, reset_less=True)
        with m.If(reciprocal.out_valid):
            m.d.sync += [product.eq(probability * reciprocal.mantissa), exponent.eq(reciprocal.exponent)]
        rounded = round_half(half_shift(product, 1) >> exponent)
        with m.If(valids[product_at + 1]):
            m.d.sync += score.eq(Mux(rounded[SCORE_BITS:].any(), (1 << SCORE_BITS) - 1, rounded))

        m.submodules.queues = queues = ExpertQueues(config)
        token = tokens[self.PUSH]
        row = Signal.like(self.row_base, reset_less=True)
        m.d.sync += row.eq(self.row_base + tokens[self.PUSH - 1].row)
        m.d.comb += [
            queues.reset.eq(self.start & self.reset_queues),
            queues.push.eq(valids[self.PUSH] & token.last & ~token.maximum),
            queues.push_expert.eq(expert),
            queues.push_entry.row.eq(row),
            queues.push_entry.score.eq(score),
            queues.entry_expert.eq(self.entry_expert),
            queues.entry_index.eq(self.entry_index),
            self.entry_row.eq(queues.entry.row),
            self.entry_score.eq(queues.entry.score),
            queues.count_expert.eq(self.count_expert),
            self.count.eq(queues.count),
            queues.next_from.eq(self.next_from),
            self.next_found.eq(queues.next_found),
            self.next_expert.eq(queues.next_expert),
        ]
