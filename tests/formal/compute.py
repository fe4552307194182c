# SPDX-License-Identifier: Apache-2.0
"""Proofs of the compute side's bookkeeping: expert queues and router."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Mux, Signal
from edgemoe.hw.compute.expert_choice import ExpertChoice
from edgemoe.hw.compute.expert_queues import ExpertQueues
from edgemoe.hw.compute.expert_score import ExpertScore
from edgemoe.hw.compute.logit_scan import LogitScan
from edgemoe.hw.compute.router import Router

from ..mutants import Mutant
from .configurations import small
from .rules import counter
from .runner import Proof, Property

QUEUES = small("queues", rows=2, experts=4)  # powers of two: an address is then no product


def expert_queues(p: Property, unit: Any) -> None:
    """Counts are exact, and the n-th push to an expert is its entry n, for any expert and any n:
    nothing is lost, nothing comes twice.
    """
    m = p.m
    dut = p.unit(unit(QUEUES))
    expert, number = p.constant(len(dut.push_expert), "expert"), p.constant(len(dut.entry_index), "number")
    p.assume((expert < QUEUES.experts) & (number < QUEUES.rows))
    p.assume((dut.push_expert < QUEUES.experts) & (dut.count_expert < QUEUES.experts))
    counts = [p.register(3, f"count{i}") for i in range(QUEUES.experts)]
    mine, known = dut.push & (dut.push_expert == expert), []
    kept, age = p.register(len(dut.push_entry.as_value()), "kept"), p.register(2, "age")
    with m.If((age != 0) & (age != 3)):
        m.d.sync += age.eq(age + 1)
    for i, count in enumerate(counts):
        here = dut.push & (dut.push_expert == i)
        p.assume(~here | dut.reset | (count < QUEUES.rows))
        with m.If(here):
            m.d.sync += count.eq(count + 1)
            with m.If(mine & (count == number)):
                m.d.sync += [kept.eq(dut.push_entry), age.eq(1)]
        known.append(Mux(p.past(dut.reset), 0, p.past(count)))  # but for the push of the cycle before
        with m.If(p.settled & (dut.count_expert == i)):
            p.check(dut.count == known[i])
    with m.If(dut.reset):
        m.d.sync += [count.eq(0) for count in counts]
        m.d.sync += age.eq(0)
    # Readable PUSH_DELAY cycles after the push, by an expert that stood before, ENTRY_LATENCY cycles later at the
    # port; entries behind the count mean nothing.
    asked = p.later & p.past(dut.entry_expert == expert) & (dut.entry_expert == expert)
    asked &= (dut.entry_index == number) & (age >= unit.PUSH_DELAY)
    before = p.later & p.past(asked)
    p.check(~(p.later & p.past(before)) | (dut.entry.as_value() == p.past(p.past(kept))))
    # The lowest expert with entries, from next_from on.
    filled = [count != 0 for count in known]
    found, lowest = 0, 0
    for i in reversed(range(QUEUES.experts)):
        hit = filled[i] & (dut.next_from <= i)
        found, lowest = hit | found, Mux(hit, i, lowest)
    p.check(~p.settled | (dut.next_found == p.past(found)))
    p.check(~(p.settled & dut.next_found) | (dut.next_expert == p.past(lowest)))
    p.cover(p.past(before) & (expert == 2) & (number == 1) & (dut.entry.score == 7) & p.later)
    p.cover((counts[0] == 2) & (counts[3] == 2))
    p.cover(dut.next_found & (dut.next_expert == 2))
    p.cover(p.past(dut.reset) & p.past(p.past(counts[0] == 2)) & (dut.count == 0))
    p.cover(p.past(dut.reset & mine) & (age == 0) & (kept != 0))


ROUTING = small("routing", tokens=2)
LOGIT_BITS = 2


def router(p: Property, unit: Any) -> None:
    """Of a row with any logits: it is in the queues of its best experts, ties to the lower one, once each, and in no
    other; `done` comes in exactly the stated cycle. (More rows, and the scores, which are arithmetic, are held
    against the twin.)"""
    m = p.m
    top_k, experts = p.constant(2, "top_k"), p.constant(3, "experts")
    p.assume((top_k != 0) & (top_k <= ROUTING.top_k) & (experts >= top_k) & (experts <= ROUTING.experts))
    logits = [p.constant(LOGIT_BITS, f"logit{lane}").as_signed() for lane in range(ROUTING.lanes)]
    expert, word = p.constant(2, "expert"), Signal(16 * ROUTING.lanes)
    for lane, logit in enumerate(logits):
        m.d.comb += word[16 * lane : 16 * lane + 16].eq(logit)
    # Choices that are made twice take as long as two: one of them alone, or the proof would be twice as deep.
    among = p.constant(1, "among")
    p.assume(~among | (top_k == 1))
    settings = dict(
        rows=1, top_k=top_k, experts=experts, columns=1, stride=1, base=0, row_base=0, shift=0, reset_queues=1,
        among_chosen=among,
    )  # fmt: skip
    given = {f"command_{name}": value for name, value in settings.items()}
    dut = p.unit(unit(ROUTING), **given, logits_data=word, query_count_expert=expert)
    done, count = dut.command.done, dut.query.count
    begun = p.register(1, "begun")
    m.d.sync += begun.eq(begun | dut.command.start)
    p.assume(~dut.command.start | ~begun)
    elapsed = counter(p, 6, 1, clear=dut.command.start, name="elapsed")
    p.check(done == (begun & (elapsed + 1 == Mux((top_k == 2) | among, 2, 1) * (1 + dut.TURN) + 1 + dut.DRAIN)))
    mine, rank = 0, 0  # the expert's logit, and how many are before it in the order
    for other, logit in enumerate(logits):
        mine = Mux(expert == other, logit, mine)
    for other, logit in enumerate(logits):
        rank = rank + ((other < experts) & ((logit > mine) | (logit == mine) & (other < expert)))
    p.check(~done | (count == ((expert < experts) & (rank < top_k))))
    p.cover(done & (count == 1) & (expert == 3) & (experts == 4) & (logits[0] == logits[3]))
    p.cover(done & (count == 0) & (top_k == 2))
    p.cover(done & (count == 1) & among)


PROOFS = [
    Proof(
        "expert queues",
        expert_queues,
        ExpertQueues,
        11,
        {
            "a push right behind another is lost": Mutant("tally.en.eq(pushes)",
                                                          'tally.en.eq(pushes & ~delay(m, pushes, 1, name="f"))'),
            "a push takes the place of the one before": Mutant("Mux(again, newest, before)", "before"),
            "queues overlap": Mutant("Const(k * config.rows, entries.address_bits)",
                                    "Const(k * (config.rows - 1), entries.address_bits)"),
            "emptying spares an expert": Mutant("m.d.sync += filled.eq(0)", "m.d.sync += filled.eq(filled & 4)"),
            "a push wins over a reset": Mutant("self.push & ~self.reset", "self.push"),
            "there is room for half of the entries": Mutant("BankedMemory(layout.size, config.experts * config.rows)",
                                                            "BankedMemory(layout.size, config.experts)"),
            "entries arrive a cycle late": Mutant(
                'delay(m, pushes, 1, name="write"', 'delay(m, pushes, 2, name="write"'
            ),
            "the next expert is the next but one": Mutant("(self.next_from <= k)", "(self.next_from < k)"),
        },
    ),
    Proof(
        "router",
        router,
        Router,
        41,
        {
            "a tie is chosen twice": Mutant("(candidate < before)", "(candidate <= before)", ExpertChoice),
            "a tie goes to the higher expert": Mutant("strengths[i] >= strengths[j]", "strengths[i] > strengths[j]",
                                                      ExpertChoice),
            "equals behind a choice are those before it": Mutant("Cat(~(expert | Const(0, EXPERT_BITS)), logit)",
                                                      "Cat(expert | Const(0, EXPERT_BITS), logit)", ExpertChoice),
            "who is not eligible is chosen for its place": Mutant("eligible.replicate(", "(~eligible).replicate(",
                                                      ExpertChoice),
            "one that does not exist is chosen": Mutant(
                "(expert < self.experts) &", "(expert <= self.experts) &", ExpertChoice
            ),
            "the first row is forgotten": Mutant(
                "valids[-1] & tokens[-1].last", "valids[-1] & tokens[-1].row.any()", ExpertScore
            ),
            "done comes early": Mutant("self.DRAIN - 1, name", "self.DRAIN - 2, name"),
            "what is chosen first has a score at once": Mutant(
                "Mux(self.among_chosen, choice > self.top_k, choice != 0)", "choice != 0", LogitScan
            ),
            "a pass begins too early": Mutant(
                "self.columns + (self.turn - 1)", "self.columns + (self.turn - 3)", LogitScan
            ),
        },
    ),
]  # fmt: skip
