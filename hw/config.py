# SPDX-License-Identifier: Apache-2.0
"""What one build of the hardware can hold: the single set of sizes that hardware, compiler and driver share."""

import hashlib
import json
from dataclasses import asdict, dataclass

from edgemoe.models.errors import EdgemoeError

WORD_BITS = 16  # one activation or weight lane
ACCUMULATOR_BITS = 48  # a DSP48E2's sum: exact for every product chain that fits
FINE_BITS = 27  # the wide operand of a DSP48E2: values inside the epilogue, between multiplications
PARAMETER_WORDS = 3  # per column block in the weight stream: bias low halves, bias high halves, multipliers


@dataclass(frozen=True)
class HardwareConfig:
    """Sizes of one build. Every memory is addressed in words of `lanes` x 16 bit.

    The array is square (rows = columns = `lanes`), so that a word written by the epilogue is a word that the array can stream:
    no regrouping stands between two layers.
    """

    name: str
    lanes: int  # array side
    masters: int = 1  # AXI4 masters of `data_bits` each; the core sees one bus of their joint width
    data_bits: int = 128
    rows: int = 264  # token rows over all streams of a pass
    tokens: int = 136  # tokens of one stream: bounds the attention's score memory
    width: int = 192
    hidden: int = 768  # widest of: MLP hidden, 2 x width + head padding, patch pixels
    experts: int = 16
    top_k: int = 4
    prefetch_beats: int = 512  # weight FIFO
    burst_beats: int = 64
    outstanding: int = 8  # read bursts in flight
    weight_bits: str = "16"  # the format that programs use unless told otherwise: 16, 8 or mixed (8-bit experts, 16-bit trunk)

    def __post_init__(self) -> None:
        def need(condition: bool, message: str) -> None:
            if not condition:
                raise EdgemoeError(f"hardware {self.name!r}: {message}")

        need(self.weight_bits in ("16", "8", "mixed"), f"weight_bits must be 16, 8 or mixed, not {self.weight_bits!r}")
        need(self.lanes in (4, 8, 16, 32), f"lanes must be 4, 8, 16 or 32, not {self.lanes}")
        need(self.masters in (1, 2), f"masters must be 1 or 2, not {self.masters}")
        need(self.data_bits in (64, 128, 256), f"data_bits must be 64, 128 or 256, not {self.data_bits}")
        need(self.bus_bytes <= 4 * self.lanes, f"a bus of {self.bus_bytes} bytes is wider than two words of {self.lanes} lanes")
        need(1 <= self.tokens <= self.rows, f"tokens must be 1..rows ({self.rows}), not {self.tokens}")
        need(self.tokens <= 500, f"tokens must be at most 500 (a softmax sum has 28 bits), not {self.tokens}")
        need(self.rows <= 4096, f"rows must be at most 4096, not {self.rows}")
        need(1 <= self.experts <= 64, f"experts must be 1..64, not {self.experts}")
        need(1 <= self.top_k <= 8, f"top_k must be 1..8, not {self.top_k}")
        need(self.prefetch_beats >= 4 * self.burst_beats, "prefetch_beats must hold four bursts")
        burst_bytes = self.burst_beats * self.data_bits // 8
        need(16 <= self.burst_beats <= 256 and burst_bytes <= 4096, "a burst must be 16..256 beats and at most 4 KiB")

    @property
    def bus_bytes(self) -> int:
        """Bytes a cycle of all masters together: one beat as the core sees it."""
        return self.masters * self.data_bits // 8

    @property
    def word_bytes(self) -> int:
        return self.lanes * WORD_BITS // 8

    @property
    def beats_per_word(self) -> int:
        return max(1, self.word_bytes // self.bus_bytes)

    @property
    def words_per_beat(self) -> int:
        return max(1, self.bus_bytes // self.word_bytes)

    @property
    def parameter_words(self) -> int:
        """PARAMETER_WORDS, rounded up so that a column block of the weight stream is a whole number of beats."""
        return -(-PARAMETER_WORDS // self.words_per_beat) * self.words_per_beat

    def words(self, elements: int) -> int:
        return -(-elements // self.lanes)

    @property
    def activation_words(self) -> int:
        """Activation memory: the residual copy (width) and the widest intermediate (hidden) of every row."""
        return self.rows * (self.words(self.width) + self.words(self.hidden))

    @property
    def key_value_words(self) -> int:
        return self.rows * 2 * self.words(self.width)

    @property
    def residual_words(self) -> int:
        return self.rows * self.words(self.width)

    @property
    def score_words(self) -> int:
        """Scores of one head of one stream, or router logits of one stream."""
        return self.tokens * max(self.words(self.tokens), self.words(self.experts))

    @property
    def master_names(self) -> tuple[str, ...]:
        return ("m_axi",) if self.masters == 1 else tuple(f"m_axi{i}" for i in range(self.masters))

    @property
    def hash(self) -> int:
        """32 bits that the identity registers show: a program compiled for other sizes is refused."""
        return int.from_bytes(hashlib.sha256(json.dumps(self.sizes, sort_keys=True).encode()).digest()[:4], "little")

    @property
    def sizes(self) -> dict[str, int]:
        """What the generated hardware depends on: not its name, nor the format of the programs that it runs."""
        return {k: v for k, v in asdict(self).items() if k not in ("name", "weight_bits")}


PRESETS = {
    c.name: c
    for c in (
        HardwareConfig("base", lanes=16),
        HardwareConfig("zcu102", lanes=32, masters=2, weight_bits="mixed"),
        HardwareConfig("small", lanes=8, rows=264, width=96, hidden=768, experts=8, top_k=2, prefetch_beats=256),
        # One stream of m3vit-t, in two thirds of a small Zynq's block RAM.
        HardwareConfig("ultra96", lanes=8, rows=136, prefetch_beats=256),
        # m3vit-micro's sizes; the widest of a row is its head (448 outputs): a picture's patches come in strips.
        HardwareConfig(
            "ulx3s",
            lanes=4,
            data_bits=64,
            rows=129,
            tokens=129,
            width=96,
            hidden=448,
            experts=8,
            top_k=2,
            prefetch_beats=64,
            burst_beats=16,
            outstanding=4,
        ),
        # The same for 112 x 112, for a 45 k ECP5.
        HardwareConfig(
            "schoko",
            lanes=4,
            data_bits=64,
            rows=50,
            tokens=50,
            width=96,
            hidden=448,
            experts=8,
            top_k=2,
            prefetch_beats=64,
            burst_beats=16,
            outstanding=4,
        ),
        HardwareConfig("tiny", lanes=4, rows=40, tokens=20, width=32, hidden=64, experts=8, top_k=4, prefetch_beats=64, burst_beats=16),
    )
}


def preset(name: str) -> HardwareConfig:
    if name not in PRESETS:
        raise EdgemoeError(f"unknown hardware {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
