# SPDX-License-Identifier: Apache-2.0
"""Router: the patch reordering's first half. Each token's best experts are found, and its row joins their queues.

A token wants k of E experts. Going from token to token would fetch weights again and again; so the tokens are put in
the order of the experts instead (Edge-MoE, ICCAD 2023: patch reordering). Nothing is moved for it: a queue holds row
numbers and scores.

    logits in score memory                          queue of expert 0   row 3  0.61 | row 7  0.55 | ...
    (tokens x experts)     LogitScan                queue of expert 1   (empty: its weights are never fetched)
          |                   |                     queue of expert 2   row 0  0.93 | row 3  0.20 | ...
          +--> ExpertChoice --+--> ExpertScore -->  ...
               argmax, k times     softmax          ExpertQueues

The second half: `sequencer.Sequencer` walks the experts whose queues are not empty and repeats two matrix products for
each; `streamer.Streamer` *gathers*, as the queue says, the rows that the first product reads; `writeback.Writeback`
*scatters* the second one's rows, times their scores, into the residual. Queues take the tokens of several streams (two
tasks of an image, several images), so that an expert's weights cross the bus once for all of them.
"""

from amaranth.hdl import Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.expert_choice import ExpertChoice
from edgemoe.hw.compute.expert_queues import SCORE_BITS, ExpertQueues
from edgemoe.hw.compute.expert_score import ExpertScore
from edgemoe.hw.compute.logit_scan import ADDRESS_BITS, STRIDE_BITS, LogitScan
from edgemoe.hw.compute.pipeline import delay
from edgemoe.hw.contract.config import WORD_BITS, HardwareConfig
from edgemoe.hw.contract.layouts import count_shape, index_shape

EXPERT_BITS = ExpertQueues.EXPERT_BITS


class Router(wiring.Component):
    """For `rows` rows: p_e = 2^(l_e - max l), the `top_k` largest logits, score_e = round_shift(p_e * mantissa,
    exponent + 1) of 1 / sum p.

    The score memory is read once for the maxima of the rows, then once for each choice (so the queues' order is
    pass-major). Eligible in a pass are the logits behind the row's last choice in the order (larger logit, lower
    expert): no set of chosen experts is kept.

    Ports, command:
        start; rows, row_base, base, stride, columns, experts, top_k, shift (all held until `done`); reset_queues
        (sampled with `start`). done: one cycle, when all entries can be read.
        Logits of row i: score memory words base + i * stride + 0..columns - 1, the first `experts` lanes of them.
        Queue entries: row = row_base + i.
    Ports, score memory:
        score_address -> score_data one cycle later.
    Ports, queues (see `ExpertQueues`):
        entry_expert, entry_index -> entry_row, entry_score one cycle later; count_expert -> count combinational;
        next_from -> next_found, next_expert one cycle later.

    Cycles from start to done: top_k * max(rows * columns, columns + TURN) + rows * columns + DRAIN.
    Format: logits signed 16 bit, unit 2^(shift - 12); score unsigned 16 bit, 2^15 is 1.0.
    Limits: 1 <= rows <= config.tokens; 1 <= top_k <= experts <= min(config.experts, columns * lanes); config.rows
        entries a queue between resets; no `start` between a `start` and its `done`. Choices compare logits, not the
        probabilities rounded from them.
    Twin: `models.numbers.twins.route`.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.choice = ExpertChoice(config)
        self.scores = ExpertScore(config, choice_delay=self.choice.LATENCY - ExpertChoice.SEEN)
        self.TURN = (
            self.choice.LATENCY
        )  # least cycles between a row's last address of one pass and its first of the next, less one
        self.scan = LogitScan(config, self.TURN)
        self.PUSH = ExpertChoice.SEEN + self.scores.LATENCY  # address of a row's last word to the queue
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
        m.submodules.scan, m.submodules.choice, m.submodules.scores = scan, choice, scores = (
            self.scan,
            self.choice,
            self.scores,
        )
        m.submodules.queues = queues = ExpertQueues(self.config)
        m.d.comb += [
            scan.start.eq(self.start),
            scan.rows.eq(self.rows),
            scan.columns.eq(self.columns),
            scan.base.eq(self.base),
            scan.stride.eq(self.stride),
            scan.top_k.eq(self.top_k),
            self.score_address.eq(scan.address),
            self.done.eq(delay(m, scan.finished, self.DRAIN - 1, name="finish", reset_less=False)),
            choice.valid.eq(scan.valid),
            choice.token.eq(scan.token),
            choice.word.eq(self.score_data),
            choice.experts.eq(self.experts),
            scores.experts.eq(self.experts),
            scores.shift.eq(self.shift),
            scores.row_base.eq(self.row_base),
            queues.reset.eq(self.start & self.reset_queues),
            queues.push.eq(scores.scored),
            queues.push_expert.eq(scores.expert),
            queues.push_entry.row.eq(scores.row),
            queues.push_entry.score.eq(scores.score),
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
        for name in ("seen_valid", "seen_token", "seen_word", "seen_maximum", "chosen", "choice", "chosen_maximum"):
            m.d.comb += getattr(scores, name).eq(getattr(choice, name))
        return m
