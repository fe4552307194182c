# SPDX-License-Identifier: Apache-2.0
"""Who is served first: one tree, and an arbiter made of it."""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2


def first(flags: Sequence[ValueLike]) -> tuple[Value, Value, Value]:
    """Of the first flag that is set: (there is one, its number, the flag alone, one bit for each). A tree of two to
    one.
    """
    nodes = [(Value.cast(f), Const(k, max(1, ceil_log2(len(flags)))), Value.cast(f)) for k, f in enumerate(flags)]
    while len(nodes) > 1:
        pairs, odd = zip(nodes[::2], nodes[1::2], strict=False), nodes[len(nodes) & ~1 :]
        nodes = [(a | b, Mux(a, i, j), Cat(x, Mux(a, 0, y))) for (a, i, x), (b, j, y) in pairs] + odd
    return nodes[0]


class Arbiter(wiring.Component):
    """Clients that ask, one of which is served: a lower number first; the last `turns` take turns instead, the one
    behind the last served before the others.

    A client that takes turns waits for at most one of every other that does, and for those of lower number.

    Ports:
        asks (in): one bit for each client.
        serves (in): there is a place for one in this cycle.
        grant (out): one bit for each: who is served in this cycle.
        chosen (out): number of the one who is, or would be.
    Latency: LATENCY = 0 cycles.
    Interval: INTERVAL = 1 cycle between grants.
    Limits: `turns` is at most `clients`.
    Twin: none (no arithmetic).
    """

    LATENCY = 0
    INTERVAL = 1

    def __init__(self, clients: int, turns: int = 0) -> None:
        self.clients, self.turns = clients, turns
        numbers = range(max(2, clients))
        super().__init__({"asks": In(clients), "serves": In(1), "grant": Out(clients), "chosen": Out(numbers)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        asks = list(self.asks)
        _, chosen, grant = first(asks)
        if self.turns > 1:
            least = self.clients - self.turns
            turn = Signal(range(self.clients), init=least)  # of those who take turns, from this one on
            # (Of the last one `turn <= k` always holds.)
            waits = (ask & (turn <= k) if least <= k < self.clients - 1 else ask for k, ask in enumerate(asks))
            found, early, alone = first(list(waits))
            chosen, grant = Mux(found, early, chosen), Mux(found, alone, grant)
            with m.If(self.grant[least:].any()):
                m.d.sync += turn.eq(Mux(self.chosen == self.clients - 1, least, self.chosen + 1))
        m.d.comb += [self.chosen.eq(chosen), self.grant.eq(Mux(self.serves, grant, 0))]
        return m
