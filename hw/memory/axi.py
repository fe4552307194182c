# SPDX-License-Identifier: Apache-2.0
"""What every DRAM unit shares: AXI4 signatures, requests in linear byte offsets, and their division into bursts."""

from amaranth import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.contract.config import PAGE_BYTES, HardwareConfig
from edgemoe.hw.contract.layouts import BEAT_COUNT_BITS, DRAM_OFFSET_BITS

ADDRESS_BITS = 64  # of a master
LENGTH_BITS, PROTECTION_BITS, RESPONSE_BITS = 8, 3, 2
ADDRESS_CHANNEL = {  # what an address channel carries, beside VALID and READY
    "addr": ADDRESS_BITS,
    "len": LENGTH_BITS,
    "size": 3,
    "burst": 2,
    "cache": 4,
    "prot": PROTECTION_BITS,
}
RELEASE_BITS = 4  # of a number of beats that a client frees in one cycle
BURST_INCR = 1


class Request(data.StructLayout):
    """A transfer of `beats` beats (0: none) from linear byte offset `address`, a multiple of the bus width."""

    def __init__(self) -> None:
        super().__init__({"address": DRAM_OFFSET_BITS, "beats": BEAT_COUNT_BITS})


class Burst(data.StructLayout):
    """One burst, the same on every master; `last` of its request."""

    def __init__(self, config: HardwareConfig) -> None:
        super().__init__({"address": DRAM_OFFSET_BITS, "beats": range(config.burst_limit + 1), "last": 1})


def bus_bits(config: HardwareConfig) -> int:
    """Width of a beat as the core sees it: all masters, master 0 in the low bits."""
    return 8 * config.bus_bytes


def master_address(base: Value, offset: Value) -> Value:
    """base + offset in a master's memory, which begins with a page: below that nothing is added. Above all offsets
    there is only a carry, for which both outcomes are made.
    """
    low, high = exact_log2(PAGE_BYTES), DRAM_OFFSET_BITS
    total = base[low:high] + offset[low:]
    return Cat(offset[:low], total[: high - low], Mux(total[high - low], base[high:] + 1, base[high:]))


class AxiRead(wiring.Signature):
    """The read half of an AXI4 master: one ID, INCR bursts only."""

    def __init__(self, data_bits: int) -> None:
        address = {f"ar{name}": Out(bits) for name, bits in ADDRESS_CHANNEL.items()}
        response = {"rdata": In(data_bits), "rresp": In(RESPONSE_BITS), "rlast": In(1)}
        super().__init__(
            {**address, "arvalid": Out(1), "arready": In(1), **response, "rvalid": In(1), "rready": Out(1)}
        )


class AxiWrite(wiring.Signature):
    """The write half of an AXI4 master: one ID, INCR bursts only."""

    def __init__(self, data_bits: int) -> None:
        address = {f"aw{name}": Out(bits) for name, bits in ADDRESS_CHANNEL.items()}
        payload = {"wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1)}
        response = {"bresp": In(RESPONSE_BITS), "bvalid": In(1), "bready": Out(1)}
        super().__init__(
            {**address, "awvalid": Out(1), "awready": In(1), **payload, "wvalid": Out(1), "wready": In(1), **response}
        )


class ReadClient(wiring.Signature):
    """Reading DRAM, as a client of the Reader sees it: what it asks for, and the beats that come, in that order.

    valid, data, last, fault   a beat; it is the last of its request; its response was not OKAY. There is no ready, for
                               a burst is requested only when the client can take it whole
    release                    beats of the client's buffer that are free again from this cycle on (0..15)
    """

    def __init__(self, config: HardwareConfig) -> None:
        beat = {"valid": In(1), "data": In(bus_bits(config)), "last": In(1), "fault": In(1)}
        super().__init__({"request": Out(stream.Signature(Request())), **beat, "release": Out(RELEASE_BITS)})


class WriteClient(wiring.Signature):
    """Writing DRAM, as the client of the Writer sees it: a request, its beats, and `done` (pulse) when every burst of
    it has been answered.
    """

    def __init__(self, config: HardwareConfig) -> None:
        beats = stream.Signature(bus_bits(config))
        super().__init__({"request": Out(stream.Signature(Request())), "beats": Out(beats), "done": In(1)})


class Failure(wiring.Signature):
    """`valid` (pulse): an access failed; the linear byte offset of its `address`."""

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "address": Out(DRAM_OFFSET_BITS)})


def _at_most(value: Value, power: int) -> Value:
    """value <= 2 ** power, without a carry."""
    return ~(value[power + 1 :].any() | value[power] & value[:power].any())


class BurstSplitter(wiring.Component):
    """Divides requests into bursts that end at multiples of the burst limit: the first one may be short, the last one
    too.

    A request of 0 beats yields no burst. `ready` of a request is a register, so that nobody who asks waits for the bus
    within a cycle; so is all of a burst before it is offered.

    Ports:
        request (in stream): transfers.
        burst (out stream): their bursts, in order.
        offers (out): pulse: one is offered from the next cycle on, of
        beats (out): so many beats.
        busy (out): a request is not yet wholly given out.
    Latency: LATENCY = 2 cycles from a request to its first burst.
    Interval: INTERVAL = 1 cycle between the bursts of a request; one more between requests.
    Limits: whole beats, fewer than 2^24, at linear byte offsets below 2^40.
    Twin: none (no arithmetic).
    """

    LATENCY = 2
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "request": In(stream.Signature(Request())),
                "burst": Out(stream.Signature(Burst(config))),
                "offers": Out(1),
                "beats": Out(range(config.burst_limit + 1)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        limit = self.config.burst_limit
        shift, place = exact_log2(self.config.bus_bytes), exact_log2(self.config.burst_limit)
        address = Signal(DRAM_OFFSET_BITS - shift)  # in beats
        rest = Signal(BEAT_COUNT_BITS + 1)  # from the boundary before the next burst on
        last, empty = Signal(), Signal(init=1)  # the next burst is the last; there is none
        m.d.comb += [
            self.offers.eq(~empty & (~self.burst.valid | self.burst.ready)),
            self.request.ready.eq(empty),
            self.busy.eq(~empty | self.burst.valid),
        ]
        with m.If(self.burst.ready):
            m.d.sync += self.burst.valid.eq(0)
        with m.If(self.offers):
            follows_last = _at_most(rest, place + 1)
            m.d.sync += [
                self.burst.valid.eq(1),
                self.burst.p.address.eq(address << shift),
                self.burst.p.beats.eq(self.beats),
                self.burst.p.last.eq(last),
                empty.eq(last),
                # Behind the last burst these mean nothing.
                address.eq(Cat(C(0, place), address[place:] + 1)),
                rest.eq(rest - limit),
                last.eq(follows_last),
                self.beats.eq(Mux(follows_last, rest - limit, limit)),
            ]
        with m.If(self.request.valid & self.request.ready):
            first, beats = self.request.p.address >> shift, self.request.p.beats
            short, before = beats[: place + 1], first[:place]
            is_last = ~beats[place + 1 :].any() & _at_most(short + before, place)
            m.d.sync += [
                address.eq(first),
                rest.eq(beats + before),
                last.eq(is_last),
                self.beats.eq(Mux(is_last, short, C(limit) - before)),
                empty.eq(beats == 0),
            ]
        return m
