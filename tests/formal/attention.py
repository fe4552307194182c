# SPDX-License-Identifier: Apache-2.0
"""Proofs of the units that weigh scores in place of softmax: what they keep of rows, whatever comes in between, and
laws of what comes out of their tables. (All its values are held against the twins.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from amaranth.hdl import Mux, Signal, Value, signed
from edgemoe.hw.compute.cosformer import CosFormer
from edgemoe.hw.compute.gate import Gate
from edgemoe.hw.compute.logarithm import Logarithm
from edgemoe.hw.compute.performer import Performer
from edgemoe.hw.compute.reweighting import Reweighting
from edgemoe.hw.compute.running_sums import RunningSums
from edgemoe.hw.compute.score_functions import ScoreFunctions
from edgemoe.hw.compute.sigmoid import Sigmoid
from edgemoe.hw.contract.isa import Attention
from edgemoe.models.numbers.arithmetic import LOGARITHM_FRACTION
from edgemoe.models.numbers.words import FINE_PROBABILITY_BITS, PROBABILITY_BITS, SCORE_FRACTION

from ..mutants import Mutant
from .configurations import small
from .runner import Proof, Property

TWO = small("two lanes", lanes=2, tokens=2)
FUNCTIONS = replace(small("functions", lanes=1), attention="softmax,sigmoid,relu,rela,performer,cosformer")
BEYOND = FINE_PROBABILITY_BITS - PROBABILITY_BITS


def ago(p: Property, value: Any, cycles: int) -> Any:
    """The value so many cycles ago."""
    for _ in range(cycles):
        value = p.past(value)
    return value


def since_reset(p: Property, most: int) -> Signal:
    """Cycles behind the reset, up to `most`."""
    age = Signal(range(most + 1), name="age")
    with p.m.If(age != most):
        p.m.d.sync += age.eq(age + 1)
    return age


def logarithm(p: Property, unit: Any) -> None:
    """Two numbers, each shifted by any amount, in any order: a place more is one more, whatever comes in between."""
    numbers = [p.constant(5, name) for name in ("number", "other")]
    which, places, value = p.free(1, "which"), p.free(5, "places"), Signal(unit.VALUE_BITS)
    p.assume((numbers[0] != 0) & (numbers[1] != 0) & (places <= unit.VALUE_BITS - 5))
    p.m.d.comb += value.eq(Mux(which, *numbers) << places)
    dut = p.unit(unit(), value=value)
    moved = ago(p, Value.cast(places - p.past(places)).as_signed(), unit.LATENCY)
    same = ago(p, which == p.past(which), unit.LATENCY) & (since_reset(p, unit.LATENCY + 1) == unit.LATENCY + 1)
    more = (dut.result - p.past(dut.result))[: len(dut.result)]
    p.check(~same | (more == (moved << LOGARITHM_FRACTION)[: len(more)]))
    p.cover(same & (moved == 1) & (numbers[0] == 1))
    p.cover(same & (moved == -20) & (numbers[0] == 31) & p.past(~same))


def running_sums(p: Property, unit: Any) -> None:
    """Of a query among others, in any order: M is halved, and rounded, as often as E grows by an octave, before a
    weight is added; `first` forgets. Scores are E itself, which weighs 1, or do not count.
    """
    m, latency, weight = p.m, unit(TWO).LATENCY, 1 << FINE_PROBABILITY_BITS
    index = p.constant(1, "index")
    exponent, counts = p.free(5, "exponent"), p.free(1, "counts")
    largest, before = p.register(5, "largest"), Signal(5)
    dut = p.unit(unit(TWO), shift=SCORE_FRACTION, word=exponent, exponent=exponent, before=before, mask=counts)
    mine, age = dut.valid & (dut.index == index), since_reset(p, latency)
    m.d.comb += before.eq(Mux(mine, largest, exponent))
    p.assume(~mine | dut.first | (exponent >= largest))
    begun, total, growth = p.register(1, "begun"), p.register(30, "total"), Signal(5)
    m.d.comb += growth.eq(exponent - largest)
    with m.If(mine):
        kept = Mux(dut.first, 0, (total << 1 >> growth) + 1 >> 1)
        m.d.sync += [largest.eq(exponent), begun.eq(begun | dut.first), total.eq(kept + Mux(counts, weight, 0))]
    # What is asked for has seen the words of `latency` cycles ago.
    known, expected = ago(p, begun, latency - 1), ago(p, total, latency - 1)
    told = (age == latency) & p.past(dut.asked & (dut.asked_index == index) & known)
    p.check(~told | (dut.sum == p.past(expected)))
    p.cover(told & (dut.sum == weight + weight // 4))
    p.cover(told & (dut.sum == weight // 8) & p.past(p.past(dut.asked & (dut.asked_index != index))))


def reweighting(p: Property, unit: Any) -> None:
    """Of a query among others, in any order, the sum of its scores that count: a score is above the mean where keys
    times it are more than that.
    """
    m, dut = p.m, p.unit(unit(TWO))
    index, keys = p.constant(1, "index"), p.constant(2, "keys")
    words = [dut.score_word[lane] for lane in range(2)] + [dut.word[lane] for lane in range(2)]
    for word in words:
        p.assume((word >= -4) & (word < 4))
    p.assume(dut.keys == keys)
    begun, total = p.register(1, "begun"), Signal(signed(8), name="total")
    added = [Mux(dut.score_mask[lane], dut.score_word[lane], 0) for lane in range(2)]
    with m.If(dut.score_valid & (dut.score_index == index)):
        m.d.sync += [begun.eq(begun | dut.score_first), total.eq(Mux(dut.score_first, 0, total) + sum(added))]
    known, seen = ago(p, begun, dut.SUM_DELAY - 1), ago(p, total, dut.SUM_DELAY - 1)
    late = unit.LATENCY + dut.SUM_DELAY
    asked = ago(p, dut.valid & (dut.index == index) & known, unit.LATENCY) & (since_reset(p, late) == late)
    for lane in range(2):
        above = Signal(name=f"expected_{lane}")
        m.d.comb += above.eq(keys * dut.word[lane] > seen)
        p.check(~asked | (dut.counts[lane] == ago(p, above, unit.LATENCY)))
    p.cover(asked & (dut.counts == 1) & (ago(p, seen, unit.LATENCY) == -5))
    p.cover(asked & (dut.counts == 2) & (ago(p, seen, unit.LATENCY) == 5) & p.past(dut.counts == 1))


def score_functions(p: Property, unit: Any) -> None:
    """Each word gets its own kind's weights: those without a table exactly; of the sigmoid, that both sides of 0 add
    up to 1 and that it ends there; and a lane that does not count has none.
    """
    m, dut, latency = p.m, p.unit(unit(FUNCTIONS)), unit.LATENCY

    def late(value: Any) -> Any:
        return ago(p, value, latency)

    score, fine = dut.word[0], dut.fine[0]
    kind, mask, age = late(dut.kind), late(dut.mask), since_reset(p, latency + 1)
    given = late(dut.valid) & (age >= latency)
    p.assume(dut.shift == 10)
    built = [Attention.SIGMOID, Attention.RELU, Attention.RELA, Attention.PERFORMER, Attention.COSFORMER]
    chosen = sum(kind == code for code in built) != 0
    p.check(~given | (dut.chosen == chosen))
    p.check(~(given & chosen & ~mask) | ((fine == 0) & (dut.probability[0] == 0)))
    positive, feature, x = Signal(15), Signal(15), Signal(signed(17))
    more = Mux(score > 0, score, 0) + dut.bias
    m.d.comb += [
        positive.eq(Mux(score > 0, score, 0)),
        feature.eq(Mux(more < 0, 0, Mux(more > 32767, 32767, more))),
        x.eq(score + dut.bias),
    ]
    plain = (kind == Attention.RELU) | (kind == Attention.RELA) | ((kind == Attention.COSFORMER) & late(dut.angle.none))
    p.check(~(given & mask & plain) | (fine == late(positive) << BEYOND))
    p.check(~(given & mask & (kind == Attention.PERFORMER)) | (fine == late(feature) << BEYOND))
    sigmoid = given & mask & (kind == Attention.SIGMOID)
    both = (
        (age > latency)
        & p.past(sigmoid)
        & sigmoid
        & (late(x) > 0)
        & (late(x + p.past(x)) == 0)
        & late(dut.shift == p.past(dut.shift))
    )
    p.check(~both | (fine + p.past(fine) == 1 << FINE_PROBABILITY_BITS))
    far = late((Mux(x < 0, -x, x) << dut.shift) >= 16 << SCORE_FRACTION)
    p.check(~(sigmoid & far) | (fine == Mux(late(x) < 0, 0, 1 << FINE_PROBABILITY_BITS)))
    p.check(~(given & chosen & (fine < 1 << FINE_PROBABILITY_BITS)) | (dut.probability[0] == rounded(fine)))
    p.cover(both & ~far & (p.past(fine) < 1 << FINE_PROBABILITY_BITS - 2) & (p.past(fine) > 5))
    p.cover(given & mask & (kind == Attention.PERFORMER) & (fine == 3 << BEYOND) & p.past(sigmoid & far))
    p.cover(given & mask & plain & (kind == Attention.COSFORMER) & (fine == 9 << BEYOND))


def gate(p: Property, unit: Any) -> None:
    """Numbers meet their own values; both sides of a value share a number; far out it is there whole or not at all."""
    m, latency = p.m, unit.LATENCY
    dut = p.unit(unit(1), number=Mux(p.free(1, "negative"), -1, 1) << 14)  # no solver sees through other products
    value, number, word, age = dut.value[0], dut.number[0], dut.word[0], since_reset(p, latency + 1)
    p.assume(value[:4] == 0)  # where the lines of the table begin, and in their middles
    given = (age == latency + 1) & ago(p, dut.valid, latency)
    far = ago(p, Mux(value < 0, -value, value) >= 1 << 15, latency)
    whole = ago(p, Mux(value < 0, 0, number), latency)
    p.check(~(given & far) | (word == whole))
    both = given & p.past(given) & ago(p, (value + p.past(value) == 0) & (number == p.past(number)), latency)
    more = Signal(signed(18))
    m.d.comb += more.eq(word + p.past(word) - ago(p, number, latency))
    p.check(~both | (more == 0) | (more == 1))  # halves are rounded up, both of them
    p.check(~given | ago(p, value != 0, latency) | (word == ago(p, number >> 1, latency)))
    p.cover(given & far & (word == -1 << 14) & p.past(far & (word == 0)))
    p.cover(both & ~far & (word > 1 << 12) & (word < 1 << 13))
    p.cover(both & ~far & (more == 1))


def rounded(fine: Value) -> Value:
    """Of less than 1, 1.0 being held as the number below it."""
    whole = (fine + (1 << BEYOND - 1)) >> BEYOND
    return Mux(whole > 32767, 32767, whole)


PROOFS = [
    Proof(
        "logarithm",
        logarithm,
        Logarithm,
        8,
        {
            "the exponent is another number's": Mutant('delay(m, Cat(read.data.start, exponent_2), 1, name="whole")',
                                                       'delay(m, Cat(read.data.start, exponent_2), 2, name="whole")'),
            "a shift by two is lost": Mutant('value_1, (2, 1), name="fine"', 'value_1, (1, 1), name="fine"'),
        },
        tables=True,
    ),
    Proof(
        "running sums",
        running_sums,
        RunningSums,
        13,
        {
            "a sum never starts afresh": Mutant(
                'Mux(delay(m, self.first, self.LATENCY, name="first"), 0, kept)', "kept"
            ),
            "sums are cut": Mutant("round_shift(read.data, late)", "read.data >> late"),
            "growth is of the word before": Mutant(
                'self.LATENCY - 2, name="amount"', 'self.LATENCY - 1, name="amount"'
            ),
            "a sum just written is not seen": Mutant("sums.read_port(transparent_for=[write])", "sums.read_port()"),
        },
        full=True,
        tables=True,
    ),
    Proof(
        "reweighting",
        reweighting,
        Reweighting,
        15,
        {
            "lanes that do not count do": Mutant("Mux(self.score_mask[lane], self.score_word[lane], 0)",
                                                 "Mux(self.score_mask[lane] | 1, self.score_word[lane], 0)"),
            "the mean is above itself": Mutant("counts.append(excess > 0)", "counts.append(excess >= 0)"),
            "sums are of the query before": Mutant('delay(m, self.sums(m).data, 1, name="total")',
                                                   'delay(m, self.sums(m).data, 2, name="total")'),
            "a sum just written is not seen": Mutant("sums.read_port(transparent_for=[write])", "sums.read_port()"),
        },
    ),
    Proof(
        "score functions",
        score_functions,
        ScoreFunctions,
        10,
        {
            "a kind is that of the word before": Mutant("delay(m, self.kind, self.LATENCY, ",
                                                        "delay(m, self.kind, self.LATENCY + 1, "),
            "what is below zero counts": Mutant("self.mask[lane] & (score >= 0)", "self.mask[lane]"),
            "features come a cycle late": Mutant("self.LATENCY - Performer.LATENCY,",
                                                 "self.LATENCY - Performer.LATENCY + 1,"),
            "features are not limited": Mutant("saturate(above + bias, WORD_BITS)", "(above + bias)[:16].as_signed()",
                                               Performer),
            "the sigmoid has one side": Mutant("Mux(above[4], (1 << FINE_PROBABILITY_BITS) - line_4, line_4)", "line_4",
                                               Sigmoid),
            "the sigmoid has no end": Mutant("Mux(end_3, 0, interpolate", "Mux(end_3 & 0, 0, interpolate", Sigmoid),
            "no angle is one": Mutant("Mux(angles[1].none, one, ", "Mux(angles[1].none & 0, one, ", CosFormer),
        },
        full=True,
        tables=True,
    ),
    Proof(
        "gate",
        gate,
        Gate,
        13,
        {
            "numbers meet the value before": Mutant('self.STAGES.after("product") - 1, name="number"',
                                                    'self.STAGES.after("product") - 2, name="number"'),
            "values wrap": Mutant("saturate(self.value[lane], WORD_BITS)", "self.value[lane][:WORD_BITS].as_signed()"),
            "halves are cut": Mutant("round_shift(product, FINE_PROBABILITY_BITS)", "product >> FINE_PROBABILITY_BITS"),
        },
        full=True,
        tables=True,
    ),
]  # fmt: skip
