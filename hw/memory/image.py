# SPDX-License-Identifier: Apache-2.0
"""Picture bytes -> patches: which pixels come next, and where they belong."""

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from edgemoe.hw.contract.config import HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME
from edgemoe.hw.contract.layouts import COLUMN_BITS
from edgemoe.hw.memory.axi import bus_bits
from edgemoe.hw.memory.pipeline import delay

MOST_PIXELS = 16  # a cycle
ACROSS_BITS, DOWN_BITS, CHANNEL_BITS, PATCH_BITS = (
    BY_NAME[name].bits for name in ("across", "down", "channels", "patch")
)
TOKEN_BITS = BY_NAME["rows"].bits
PLACE_BITS = 16  # of q: as many pixels as a patch's row of COLUMN_BITS words has lanes, at most


class ImagePixels(wiring.Component):
    """Walks a CHW picture in the order of its bytes, G pixels a cycle: pixel (channel, y, x) belongs to patch
    t = (y // P) across + x // P, place q = channel P^2 + (y % P) P + x % P, that is word q // N, lane q % N of that
    patch's row.

    G is the largest power of two, at most MOST_PIXELS, that divides P and fits into a word and a beat: then no group of
    pixels meets the end of a patch, a word or a beat. No division: only counters.

    Ports:
        start (in): pulse; what is left of a beat is dropped.
        across, down, channels, patch (in): patches side by side and below each other, planes, P; standing still from
            `start` to `last`.
        data_valid, data (in): a beat,
        data_taken (out): taken when used up.
        valid, token, word (out): in this cycle G pixels go to patch `token`, word `word`;
        last (out): they are the last of the picture.
        pixels, lanes (out): LATENCY cycles later: the pixels at every place where the lanes may want them, and the
            lanes that are meant.
    Latency: LATENCY = 2 cycles from data to pixels: the beat, which comes late out of block RAM, and the pixels picked
        from it; `valid` is combinational in it.
    Interval: INTERVAL = 1 cycle between groups of G pixels.
    Format: pixels unsigned 8 bit.
    Limits: across, down, channels and patch are at least 1.
    Twin: `models.numbers.twins.image_patches`.
    """

    LATENCY = 2
    INTERVAL = 1

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "across": In(ACROSS_BITS),
                "down": In(DOWN_BITS),
                "channels": In(CHANNEL_BITS),
                "patch": In(PATCH_BITS),
                "data_valid": In(1),
                "data": In(bus_bits(config)),
                "data_taken": Out(1),
                "valid": Out(1),
                "token": Out(TOKEN_BITS),
                "word": Out(COLUMN_BITS),
                "pixels": Out(8 * config.lanes),
                "lanes": Out(config.lanes),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        levels = exact_log2(min(self.config.lanes, self.config.bus_bytes, MOST_PIXELS))
        # wider[k]: G > 2^k. The command stands long before its first beat.
        wider, step = Signal(levels), Signal(levels + 1)
        m.d.sync += wider.eq(Cat(~self.patch[: k + 1].any() for k in range(levels)))
        m.d.comb += step.eq(Cat(Const(1, 1), wider) & Cat(~wider, Const(1, 1)))
        place, byte = Signal(PLACE_BITS), Signal(range(self.config.bus_bytes))
        self._walk(m, place, byte, step, wider)
        m.d.comb += self.word.eq(place >> exact_log2(self.config.lanes))
        beat, begins, lane = (
            delay(m, value, 1, name=name) for value, name in ((self.data, "beat"), (byte, "begins"), (place, "place"))
        )
        self._spread(m, lane, self._pick(beat, begins, levels), wider)
        return m

    def _walk(self, m: Module, place: Signal, byte: Signal, step: Signal, wider: Signal) -> None:
        """Counters, from the innermost on: pixel in its row of the patch, patch, row of pixels, row of patches,
        channel.

        They count what is left, so that an end is a comparison and not a sum.
        """
        x_left, patches_left, y_left = Signal(PATCH_BITS), Signal(ACROSS_BITS), Signal(PATCH_BITS)
        down_left, channels_left = Signal(DOWN_BITS), Signal(CHANNEL_BITS)
        row_token = Signal(TOKEN_BITS)  # first patch of this row of patches
        # q of this row's and of this channel's first pixel in their patch
        row_place, channel_place = Signal(PLACE_BITS), Signal(PLACE_BITS)
        next_token, next_row_place = Signal(TOKEN_BITS), Signal(PLACE_BITS)
        patch_ends = x_left == step
        row_ends = patch_ends & (patches_left == 1)
        patch_row_ends = row_ends & (y_left == 1)
        channel_ends = patch_row_ends & (down_left == 1)
        m.d.comb += [
            self.valid.eq(self.data_valid),
            self.last.eq(channel_ends & (channels_left == 1)),
            # byte + G is the whole beat: from G on all bits of `byte` are set
            self.data_taken.eq(self.data_valid & (byte | wider).all()),
            next_token.eq(self.token + 1),
            next_row_place.eq(row_place + self.patch),
        ]
        token = Signal(TOKEN_BITS)
        m.d.comb += self.token.eq(token)
        with m.If(self.valid):
            m.d.sync += [
                byte.eq(Mux(self.data_taken, 0, byte + step)),
                x_left.eq(x_left - step),
                place.eq(place + step),
            ]
            with m.If(patch_ends):
                m.d.sync += [
                    x_left.eq(self.patch),
                    place.eq(row_place),
                    token.eq(next_token),
                    patches_left.eq(patches_left - 1),
                ]
            with m.If(row_ends):
                m.d.sync += [patches_left.eq(self.across), token.eq(row_token), y_left.eq(y_left - 1)]
                m.d.sync += [row_place.eq(next_row_place), place.eq(next_row_place)]
            with m.If(patch_row_ends):
                m.d.sync += [
                    y_left.eq(self.patch),
                    token.eq(next_token),
                    row_token.eq(next_token),
                    down_left.eq(down_left - 1),
                ]
                m.d.sync += [row_place.eq(channel_place), place.eq(channel_place)]
            with m.If(channel_ends):
                m.d.sync += [down_left.eq(self.down), token.eq(0), row_token.eq(0), channels_left.eq(channels_left - 1)]
                m.d.sync += [place.eq(next_row_place), row_place.eq(next_row_place), channel_place.eq(next_row_place)]
        with m.If(self.start):
            m.d.sync += [counter.eq(0) for counter in (byte, token, row_token, place, row_place, channel_place)]
            m.d.sync += [x_left.eq(self.patch), y_left.eq(self.patch)]
            m.d.sync += [patches_left.eq(self.across), down_left.eq(self.down), channels_left.eq(self.channels)]

    def _pick(self, beat: Signal, byte: Signal, levels: int) -> list[Value]:
        """The beat's bytes from `byte` on, as many as G at most; G is a power of two and divides `byte`.

        Halves are chosen from the largest downwards: where only the lower half moves, no G reaches into the upper one.
        """
        ahead = [beat.word_select(i, 8) for i in range(self.config.bus_bytes)]
        for k in reversed(range(len(byte))):
            ahead = [Mux(byte[k], ahead[i + (1 << k)], ahead[i]) for i in range(1 << k)] + ahead[1 << k :]
        return ahead[: 1 << levels]

    def _spread(self, m: Module, place: Signal, ahead: list[Value], wider: Signal) -> None:
        """Every aligned run of G lanes shows the same G pixels; `lanes` picks one run."""
        lanes = self.config.lanes
        held = Signal(8 * len(ahead), reset_less=True)
        lane = Signal(exact_log2(lanes), reset_less=True)
        m.d.sync += [held.eq(Cat(*ahead)), lane.eq(place)]
        run: list[Value] = [held[:8]]
        for k in range(len(wider)):
            upper = (held.word_select(i, 8) for i in range(1 << k, 2 << k))
            run += [Mux(wider[k], own, below) for own, below in zip(upper, list(run), strict=True)]
        m.d.comb += self.pixels.eq(Cat(*run).replicate(lanes // len(run)))
        for i in range(lanes):
            same = ~(lane ^ Const(i, len(lane)))
            m.d.comb += self.lanes[i].eq((same | wider).all())
