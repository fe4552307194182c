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
each; `streamer.Streamer` *gathers*, as the queue says, the rows that the first product reads;
`row_pipeline.RowPipeline` *scatters* the second one's rows, times their scores, into the residual. Queues take the
tokens of several streams (two tasks of an image, several images), so that an expert's weights cross the bus once for
all of them.
"""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from edgemoe.hw.compute.expert_choice import ExpertChoice
from edgemoe.hw.compute.expert_queues import ExpertQueues
from edgemoe.hw.compute.expert_score import ExpertScore
from edgemoe.hw.compute.logit_scan import ADDRESS_BITS, STRIDE_BITS, LogitScan
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.layouts import count_shape, index_shape
from edgemoe.hw.contract.ports import EntryPort, QueueQuery, ReadPort
from edgemoe.hw.memory.pipeline import delay


class RouterCommand(wiring.Signature):
    """The instruction ROUTE, as who orders it sees it: `start` (pulse) with `reset_queues`; all the rest is held until
    `done` (pulse), when all entries can be read.
    """

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__(
            {
                "start": Out(1),
                "rows": Out(count_shape(config.tokens)),
                "row_base": Out(index_shape(config.rows)),
                "base": Out(ADDRESS_BITS),
                "stride": Out(STRIDE_BITS),
                "columns": Out(range(config.words(config.experts) + 1)),
                "experts": Out(range(config.experts + 1)),
                "top_k": Out(count_shape(config.top_k)),
                "shift": Out(4),
                "reset_queues": Out(1),
                "among_chosen": Out(1),
                "done": In(1),
            }
        )


class Router(wiring.Component):
    """For `rows` rows: p_e = 2^(l_e - max l), the `top_k` largest logits, score_e = round_shift(p_e * mantissa,
    exponent + 1) of 1 / sum p = (mantissa, exponent); the sum is over all experts, or with `among_chosen` over the
    `top_k`.

    The score memory is read once for the maxima of the rows, then once for each choice (so the queues' order is pass-
    major). With `among_chosen` the choices are made twice: first to know the worst, then to score them. Eligible in a
    pass are the logits behind the row's last choice in the order (larger logit, lower expert): no set of chosen experts
    is kept. Choices compare logits, not the probabilities rounded from them.

    Ports:
        command (in RouterCommand): the logits of row i are the first `experts` lanes of score memory's words base + i *
            stride + 0..columns - 1, in units of 2^(shift - 12); its queue entries have the row row_base + i.
        logits (out ReadPort): score memory.
        entry (in EntryPort): reads an entry of a queue.
        query (in QueueQuery): asks for lengths of queues.
    Latency: varies: from start to done passes * max(rows * columns, columns + TURN) + rows * columns + DRAIN, with
        passes = top_k, or 2 * top_k with `among_chosen`, TURN = 4 + stages cycles and DRAIN = 23 + stages cycles.
    Interval: none (one command at a time).
    Format: logits signed 16 bit; score unsigned 16 bit, 2^15 is 1.0.
    Limits: 1 <= rows <= config.tokens; 1 <= top_k <= experts <= min(config.experts, columns * lanes); config.rows
        entries a queue between resets; no `start` between a `start` and its `done`.
    Twin: `models.numbers.twins.route`, into `models.numbers.twins.ExpertQueues`.
    """

    def __init__(self, config: HardwareConfig):
        self.config = config
        self.choice = ExpertChoice(config)
        self.scores = ExpertScore(config, choice_delay=self.choice.LATENCY - ExpertChoice.SEEN)
        # least cycles between a row's last address of one pass and its first of the next, less one
        self.stages, self.TURN = self.choice.stages, self.choice.TURN
        self.scan = LogitScan(config, self.TURN)
        self.PUSH = ExpertChoice.SEEN + self.scores.LATENCY  # address of a row's last word to the queue
        self.DRAIN = self.PUSH + ExpertQueues.PUSH_DELAY
        super().__init__(
            {
                "command": In(RouterCommand(config)),
                "logits": Out(ReadPort(config)),
                "entry": In(EntryPort()),
                "query": In(QueueQuery()),
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
        command, query = self.command, self.query
        m.d.comb += [
            scan.start.eq(command.start),
            scan.rows.eq(command.rows),
            scan.columns.eq(command.columns),
            scan.base.eq(command.base),
            scan.stride.eq(command.stride),
            scan.top_k.eq(command.top_k),
            scan.among_chosen.eq(command.among_chosen),
            self.logits.address.eq(scan.address),
            command.done.eq(delay(m, scan.finished, self.DRAIN - 1, name="finish", reset_less=False)),
            choice.valid.eq(scan.valid),
            choice.token.eq(scan.token),
            choice.word.eq(self.logits.data),
            choice.experts.eq(command.experts),
            scores.experts.eq(command.experts),
            scores.among_chosen.eq(command.among_chosen),
            scores.shift.eq(command.shift),
            scores.row_base.eq(command.row_base),
            queues.reset.eq(command.start & command.reset_queues),
            queues.push.eq(scores.scored),
            queues.push_expert.eq(scores.expert),
            queues.push_entry.row.eq(scores.row),
            queues.push_entry.score.eq(scores.score),
            queues.entry_expert.eq(self.entry.expert),
            queues.entry_index.eq(self.entry.index),
            self.entry.row.eq(queues.entry.row),
            self.entry.score.eq(queues.entry.score),
            queues.count_expert.eq(query.count_expert),
            query.count.eq(queues.count),
            queues.next_from.eq(query.next_from),
            query.next_found.eq(queues.next_found),
            query.next_expert.eq(queues.next_expert),
        ]
        seen = ("seen_valid", "seen_token", "seen_word", "seen_maximum", "seen_worst")
        for name in (*seen, "chosen", "choice", "chosen_maximum"):
            m.d.comb += getattr(scores, name).eq(getattr(choice, name))
        return m
