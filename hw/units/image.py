# SPDX-License-Identifier: Apache-2.0
"""Picture bytes -> patches: which pixels come next, and where they belong."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import HardwareConfig
from .axi import bus_bits

GROUP_LANES = 4  # granularity of the activation memory's write enables; patch sides are multiples of it


class ImagePixels(wiring.Component):
    """Walks a CHW picture in the order of its bytes, G pixels a cycle: pixel (channel, y, x) belongs to patch
    t = (y // P) (W / P) + x // P, place q = channel P^2 + (y % P) P + x % P, that is word q // N, lane q % N of that patch's row.

    Ports: `width`, `height`, `channels`, `patch` (P; a multiple of GROUP_LANES that divides width and height) stand still while `start`
    (pulse) .. `last`; `data_valid`, `data`, `data_taken`: bus beats, taken when used up; `valid`: in this cycle G pixels go to patch
    `token`, word `word`: `pixels` holds them at every place where the lanes may want them, `groups` enables the lanes that are meant;
    `last`: they are the last of the picture (what is left of the beat is dropped).

    G is the largest of 16, 8, 4 that divides P and fits into a word and a beat. No division: only counters. Combinational in `data_valid`.
    Twin: the emulator's IMAGE instruction.
    """

    def __init__(self, config: HardwareConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(1),
                "width": In(12),
                "height": In(12),
                "channels": In(4),
                "patch": In(6),
                "data_valid": In(1),
                "data": In(bus_bits(config)),
                "data_taken": Out(1),
                "valid": Out(1),
                "token": Out(16),
                "word": Out(10),
                "pixels": Out(8 * config.lanes),
                "groups": Out(config.lanes // GROUP_LANES),
                "last": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, bus_bytes = self.config.lanes, self.config.bus_bytes
        sizes = [size for size in (4, 8, 16) if size <= min(lanes, bus_bytes)]
        fits = [True] + [self.patch[: size.bit_length() - 1] == 0 for size in sizes[1:]]
        step = Signal(range(sizes[-1] + 1))
        byte = Signal(range(bus_bytes))
        m.d.sync += step.eq(4)  # the command stands long before its first beat
        for size, fit in list(zip(sizes, fits, strict=True))[1:]:
            with m.If(fit):
                m.d.sync += step.eq(size)

        # Pixels to lanes: every aligned run of G lanes shows the same G pixels; `groups` picks one run.
        place = Signal(16)
        lane = place[: (lanes - 1).bit_length()]
        ahead = self.data >> Cat(Const(0, 5), byte[2:])  # G is a multiple of 4
        for size, fit in zip(sizes, fits, strict=True):
            with m.If(fit):
                run = (1 << size // GROUP_LANES) - 1
                m.d.comb += self.pixels.eq(ahead[: 8 * size].replicate(lanes // size))
                m.d.comb += self.groups.eq(run << lane[2:] if lanes > 4 else 1)

        # Counters, from the innermost on: x in its patch, patch in its row, y in its patch, row of patches, channel. Those of the whole
        # picture count what is left: `last` is then a comparison with a constant, not a sum.
        x_left, y_left, channels_left = Signal(12), Signal(12), Signal(4)
        patch_x, patch_y = Signal(6), Signal(6)
        column, row_start = Signal(16), Signal(16)  # patch in its row of patches; number of that row's first patch
        row_place, channel_place = Signal(16), Signal(16)  # q of the present pixel row's x % P = 0; q of the channel's first pixel
        patch_ends = patch_x + step == self.patch
        row_ends = x_left == step
        patch_row_ends = patch_y + 1 == self.patch
        channel_ends = y_left == 1
        next_row_place = Signal(16)
        m.d.comb += [
            place.eq(row_place + patch_x),
            self.valid.eq(self.data_valid),
            self.token.eq(row_start + column),
            self.word.eq(place >> (lanes - 1).bit_length()),
            self.last.eq(row_ends & channel_ends & (channels_left == 1)),
            self.data_taken.eq(self.data_valid & ((byte + step == bus_bytes) | self.last)),
            next_row_place.eq(row_place + self.patch),
        ]
        with m.If(self.valid):
            m.d.sync += [byte.eq(Mux(self.data_taken, 0, byte + step)), x_left.eq(x_left - step), patch_x.eq(patch_x + step)]
            with m.If(patch_ends):
                m.d.sync += [patch_x.eq(0), column.eq(column + 1)]
            with m.If(row_ends):
                m.d.sync += [x_left.eq(self.width), column.eq(0), y_left.eq(y_left - 1)]
                m.d.sync += [patch_y.eq(patch_y + 1), row_place.eq(next_row_place)]
                with m.If(patch_row_ends):
                    m.d.sync += [patch_y.eq(0), row_start.eq(row_start + column + 1), row_place.eq(channel_place)]
                with m.If(channel_ends):
                    m.d.sync += [y_left.eq(self.height), row_start.eq(0), channels_left.eq(channels_left - 1)]
                    m.d.sync += [row_place.eq(next_row_place), channel_place.eq(next_row_place)]
        with m.If(self.start):
            counters = (byte, patch_x, patch_y, column, row_start, row_place, channel_place)
            m.d.sync += [counter.eq(0) for counter in counters]
            m.d.sync += [x_left.eq(self.width), y_left.eq(self.height), channels_left.eq(self.channels)]
        return m
