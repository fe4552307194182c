# SPDX-License-Identifier: Apache-2.0
"""What one build of the hardware can hold: the single set of sizes that hardware, compiler and driver share."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from edgemoe.hw.contract.isa import BY_NAME, FEATURES, INSTRUCTION_BYTES, Attention, Stationary
from edgemoe.models.config import LANDMARK_KIND
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.numbers.activation import ACTIVATIONS, GATE, OF_SCORES
from edgemoe.models.numbers.formats import WeightFormat
from edgemoe.models.numbers.words import ACCUMULATOR_BITS, FINE_BITS, MOST_KEYS, WORD_BITS

NAME = "edgemoe"  # of the core's module unless another is asked for: the names of all others begin with it
PARAMETER_WORDS = 3  # per column block in the weight stream: bias low halves, bias high halves, multipliers
PAGE_BYTES = 4096  # no AXI4 burst crosses a page
MESSAGE_LENGTH = 400  # characters of an error line; further shortages are counted

CHOICES: Mapping[str, tuple[int | str, ...]] = {
    "lanes": (4, 8, 16, 32),
    "masters": (1, 2, 4),
    "data_bits": (64, 128, 256),
    "weight_bits": tuple(f.value for f in WeightFormat),
    "packed": (0, 1),
    "head_norms": (0, 1),
}
ATTENTION: tuple[str, ...] = tuple(kind.kind for kind in Attention)  # in the order of their codes
# Texts: some of these, with commas between them.
LISTS: Mapping[str, tuple[str, ...]] = {"attention": ATTENTION, "activations": ACTIVATIONS}
RANGES: Mapping[str, tuple[int, int]] = {
    "rows": (1, 4096),  # layouts.ROW_BITS
    "full_rows": (0, 4096),
    "array_rows": (0, 64),
    "tokens": (1, MOST_KEYS),
    "width": (1, BY_NAME["elements"].limit),
    "hidden": (1, BY_NAME["columns"].limit * 32),
    "experts": (1, 64),  # layouts.EXPERT_BITS, and an order of logits and experts in 23 bits
    "top_k": (1, 8),
    "prefetch_beats": (1, 1 << 16),
    "burst_beats": (16, 256),  # AXI4
    "outstanding": (1, 256),
}


def _joined(head: str, found: Sequence[str]) -> str:
    """One line of all shortages; those that would make it too long are counted."""
    shown = head + found[0]
    for index, text in enumerate(found[1:], 1):
        if len(shown) + len(text) > MESSAGE_LENGTH - 20:
            return f"{shown}; and {len(found) - index} more"
        shown += f"; {text}"
    return shown


@dataclass(frozen=True)
class HardwareConfig:
    """Sizes of one build. Every memory is addressed in words of `lanes` x 16 bit.

    A word written by the epilogue is a word that the array can stream: no regrouping stands between two layers. The
    array has as many columns as a word has lanes, and as many rows (`inputs`), or twice as many: then two neighbouring
    words of a row enter it at a time. Programs are the same for both.
    """

    name: str
    lanes: int  # columns of the array
    masters: int = 1  # AXI4 masters of `data_bits` each; the core sees one bus of their joint width
    data_bits: int = 128
    rows: int = 264  # token rows over all streams of a pass
    full_rows: int = 0  # of them, so many may be `width` and `hidden` wide at once, narrower ones more; 0: all
    tokens: int = 136  # tokens of one stream: bounds the attention's score memory
    width: int = 192
    hidden: int = 768  # widest of: MLP hidden, 2 x width + head padding, channels x side^2 of a patch
    experts: int = 16
    top_k: int = 4
    prefetch_beats: int = 512  # weight FIFO
    burst_beats: int = 64
    outstanding: int = 8  # read bursts in flight
    activations: str = ",".join(ACTIVATIONS)  # functions of the epilogue, with commas between them
    weight_bits: str = WeightFormat.SIXTEEN  # the format of programs unless told otherwise
    attention: str = ATTENTION[0]  # kinds of weights that it can make of scores, with commas between them
    packed: int = 0  # 1: a multiplier can take two products of 9-bit activations and 8-bit weights a cycle
    array_rows: int = 0  # rows of the array, `lanes` or twice as many; 0: as many as columns
    head_norms: int = 0  # 1: queries and keys of a head can be normalised

    def __post_init__(self) -> None:
        found = self.shortages()
        if found:
            raise EdgemoeError(_joined(f"hardware {self.name!r}: ", found))
        for name, known in LISTS.items():  # in one order: two builds with the same functions are the same hardware
            given = [part.strip() for part in getattr(self, name).split(",")]
            object.__setattr__(self, name, ",".join(part for part in known if part in given))
        if self.array_rows == self.lanes:
            object.__setattr__(self, "array_rows", 0)

    @classmethod
    def from_fields(cls, values: Mapping[str, object], base: HardwareConfig | None = None) -> HardwareConfig:
        """The configuration with these fields, the others as in `base` (or their defaults; name and lanes have none).

        Numbers are integers, names texts; weight_bits may be the integer 16 or 8, too. EdgemoeError names every unknown
        field (with the field that was probably meant), every wrong type and every shortage at once.
        """
        known = {f.name: f for f in fields(cls)}
        found = []
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1)
                found.append(
                    f"no field {name!r}, " + (f"perhaps {near[0]!r}" if near else f"they are {', '.join(known)}")
                )
        given: dict[str, Any] = {} if base is None else {name: getattr(base, name) for name in known}
        given |= {name: value for name, value in values.items() if name in known}
        if type(given.get("weight_bits")) is int and given["weight_bits"] in (8, 16):
            given["weight_bits"] = str(given["weight_bits"])
        missing = [f.name for f in known.values() if f.default is MISSING and f.name not in given]
        found += [f"{name} is missing" for name in missing]
        trial = object.__new__(cls)  # unchecked, so that its shortages can be named beside the misspelt fields
        for name, field in known.items():
            object.__setattr__(trial, name, given.get(name, field.default))
        found += trial.shortages(ignored=missing)
        if found:
            raise EdgemoeError(_joined(f"hardware {given.get('name', 'of these fields')!r}: ", found))
        return cls(**given)

    def shortages(self, ignored: Sequence[str] = ()) -> list[str]:
        """All that cannot be built, a phrase each: fields outside their range, or else sizes that do not go together.

        ignored: fields that are not given, and said to be missing elsewhere.
        """
        found = []
        if "name" not in ignored and not (isinstance(self.name, str) and self.name and self.name.isprintable()):
            found.append(f"name must be a text of one line, not {self.name!r}")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if name not in ignored and (
                not isinstance(value, int | str) or isinstance(value, bool) or value not in choices
            ):
                allowed = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
                found.append(f"{name} must be {allowed}, not {value!r}")
        for name, known in LISTS.items():
            value = getattr(self, name)
            parts = {part.strip() for part in value.split(",")} if isinstance(value, str) else set()
            if name not in ignored and not (parts and parts <= {*known}):
                every = f" ({LANDMARK_KIND} takes softmax's unit)" if LANDMARK_KIND in parts else ""
                found.append(
                    f"{name} must be some of {', '.join(known)}, with commas between them, not {value!r}{every}"
                )
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                found.append(f"{name} must be an integer of {least} to {most}, not {value!r}")
        return found if found or ignored else [text for holds, text in self._rules() if not holds]

    def _rules(self) -> list[tuple[bool, str]]:
        """What must hold between the sizes, given that each is within its range: (holds, what is wrong otherwise)."""
        row, address = BY_NAME["destination_stride"].limit, BY_NAME["destination_base"].limit + 1
        memories = {
            "activation": (self.activation_words, "rows, width or hidden"),
            "key/value": (self.key_value_words, "rows or width"),
            "residual": (self.residual_words, "rows or width"),
            "score": (self.score_words, "tokens or experts"),
        }
        block = (self.inputs + self.parameter_words) * self.word_bytes // self.bus_bytes + self.burst_limit
        held = self.prefetch_beats // self.beats_per_word * self.beats_per_word
        return [
            (
                self.bus_bytes <= 4 * self.lanes,
                f"a bus of {self.bus_bytes} bytes is wider than two words of {self.lanes} lanes",
            ),
            (
                self.array_rows in (0, self.lanes, 2 * self.lanes),
                f"array_rows must be lanes or twice as many, {self.lanes} or {2 * self.lanes}, not {self.array_rows}",
            ),
            (
                self.words_at_once == 1 or self.weighings == ATTENTION[:1],
                f"an array of more rows than columns has {ATTENTION[0]} attention alone, not {self.attention!r}",
            ),
            (
                ATTENTION[0] in self.weighings,
                f"attention must have {ATTENTION[0]} among its kinds, not {self.attention!r} alone",
            ),
            (
                self.bus_bytes <= INSTRUCTION_BYTES,
                f"a bus of {self.bus_bytes} bytes is wider than an instruction of {INSTRUCTION_BYTES}",
            ),
            (self.tokens <= self.rows, f"tokens must be 1..rows ({self.rows}), not {self.tokens}"),
            (self.full_rows <= self.rows, f"full_rows must be 0..rows ({self.rows}), not {self.full_rows}"),
            (
                2 * self.words(self.width) <= row,
                f"width must be at most {row // 2 * self.lanes} with {self.lanes} lanes (keys and values of a row in "
                f"{row} words), "
                f"not {self.width}",
            ),
            (
                self.words(self.hidden) <= row,
                f"hidden must be at most {row * self.lanes} with {self.lanes} lanes (a row in {row} words), not "
                f"{self.hidden}",
            ),
            *(
                (words <= address, f"{name} memory has {words} words, an address reaches {address}: fewer {less}")
                for name, (words, less) in memories.items()
            ),
            (
                self.burst_beats * self.data_bits // 8 <= PAGE_BYTES,
                f"a burst must be at most {PAGE_BYTES // 1024} KiB: burst_beats at most "
                f"{PAGE_BYTES * 8 // self.data_bits}, "
                f"not {self.burst_beats}",
            ),
            (
                self.prefetch_beats >= 4 * self.burst_beats,
                f"prefetch_beats must hold four bursts, {4 * self.burst_beats} beats, not {self.prefetch_beats}",
            ),
            # A loader that waits for a whole block would wait for ever.
            (
                held >= block,
                f"prefetch_beats must hold a 16-bit block and a burst, {block} beats, not {self.prefetch_beats}",
            ),
        ]

    @property
    def bus_bytes(self) -> int:
        """Bytes a cycle of all masters together: one beat as the core sees it."""
        return self.masters * self.data_bits // 8

    @property
    def burst_limit(self) -> int:
        """Beats of the longest burst: the largest power of two that configuration and page allow.

        Aligned bursts then never cross a page.
        """
        return 1 << (min(self.burst_beats, PAGE_BYTES * 8 // self.data_bits).bit_length() - 1)

    @property
    def word_bytes(self) -> int:
        return self.lanes * WORD_BITS // 8

    @property
    def inputs(self) -> int:
        """Rows of the array: inputs that it multiplies a cycle."""
        return self.array_rows or self.lanes

    @property
    def words_at_once(self) -> int:
        """Words of a row that enter the array in a cycle."""
        return self.inputs // self.lanes

    @property
    def multipliers(self) -> int:
        """Of the array."""
        return self.inputs * self.lanes

    @property
    def array(self) -> str:
        """Rows x columns, as people read it."""
        return f"{self.inputs} x {self.lanes}"

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
    def functions(self) -> tuple[str, ...]:
        """`activations`, one by one, and what a kind of attention brings with it."""
        own = {Attention.SOFTPLUS: OF_SCORES, Attention.RELA: GATE}
        return (*self.activations.split(","), *(function for kind, function in own.items() if kind in self.kinds))

    @property
    def wide_rows(self) -> int:
        """Rows that the memories hold at full width."""
        return self.full_rows or self.rows

    @property
    def activation_words(self) -> int:
        """Activation memory: the residual copy (width) and the widest intermediate (hidden) of every full row."""
        return self.wide_rows * (self.words(self.width) + self.words(self.hidden))

    @property
    def key_value_words(self) -> int:
        return self.wide_rows * 2 * self.words(self.width)

    @property
    def residual_words(self) -> int:
        return self.wide_rows * self.words(self.width)

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
    def sizes(self) -> dict[str, int | str]:
        """What the generated hardware depends on: not its name, nor the format of the programs that it runs. Softmax
        goes without saying, as does all that a build does not have, and a square array.
        """
        options = ("packed", "array_rows", "head_norms")
        found = {k: v for k, v in asdict(self).items() if k not in ("name", "weight_bits", "attention", *options)}
        found |= {"attention": self.attention} if len(self.weighings) > 1 else {}
        return found | {name: value for name in options if (value := getattr(self, name))}

    @property
    def weighings(self) -> tuple[str, ...]:
        """`attention`, one by one."""
        return tuple(kind.strip() for kind in self.attention.split(","))

    def packs(self, i: Any) -> bool:
        """Whether an instruction's products are packed on this build."""
        packed = self.packed and i.packed and i.stationary == Stationary.WEIGHTS8 and not i.probabilities
        return bool(packed)

    @property
    def table_rows(self) -> int:
        """Rows of a table of maxima, or of one half of a table of two: rows beyond begin again at its first."""
        return 1 << (self.rows - 1).bit_length()

    @property
    def scale_rows(self) -> int:
        """Rows of LayerNorm's table of scales; those of heads, if there are any, begin at its half."""
        return 2 * max(2, self.table_rows) if self.head_norms else self.rows

    @property
    def keeps_row_sums(self) -> bool:
        """Whether sums can be kept of other rows than the residual's."""
        return bool(self.head_norms)

    def sums_rows(self, i: Any) -> bool:
        """Whether an instruction keeps the sums of rows that are not the residual's on this build."""
        return bool(self.keeps_row_sums and i.row_sums)

    def weighs(self, code: int) -> Attention:
        """The kind of attention that a field of an instruction asks for, as this build does it."""
        return next((kind for kind in self.kinds if kind == code), Attention.SOFTMAX)

    @property
    def keeps_scores(self) -> bool:
        """Whether some kind of attention keeps more of a row of scores than its maximum."""
        return bool({Attention.TWO_PASS, Attention.SOFTPLUS} & {*self.kinds})

    @property
    def gates(self) -> bool:
        """Whether a kind of attention gates its results."""
        return Attention.RELA in self.kinds

    @property
    def kinds(self) -> tuple[Attention, ...]:
        """`attention`, by their codes."""
        return tuple(map(Attention.of, self.weighings))

    @property
    def features(self) -> tuple[Attention, ...]:
        """Of the kinds, those that are features of tokens."""
        return tuple(kind for kind in self.kinds if kind in FEATURES)


__all__ = ["ACCUMULATOR_BITS", "FINE_BITS", "PARAMETER_WORDS", "PRESETS", "WORD_BITS", "HardwareConfig", "preset"]

_ZCU102 = HardwareConfig(
    "zcu102",
    lanes=32,
    masters=4,
    rows=528,
    full_rows=264,
    tokens=264,
    width=384,
    hidden=1536,
    prefetch_beats=2048,
    weight_bits=WeightFormat.MIXED,
    packed=1,
)
PRESETS = {
    c.name: c
    for c in (
        # Room for DeiT-S, ViT-S or DINOv2-S at 224 x 224 (up to 264 tokens, 384 wide) in one piece.
        HardwareConfig("base", lanes=16, tokens=264, width=384, hidden=1536),
        # `base`, with room to spare on the board of this name.
        HardwareConfig("kv260", lanes=16, tokens=264, width=384, hidden=1536),
        # Packed products on that board, in the largest array that fits: for 32 x 32 it has too few multipliers.
        replace(
            _ZCU102,
            name="kv260-fast",
            lanes=16,
            array_rows=32,
            masters=2,
            prefetch_beats=512,
            weight_bits=WeightFormat.FAST,
        ),
        # Two images of m3vit-t in both tasks at once.
        _ZCU102,
        # The same with twice the multipliers: what a ZCU102 has room for.
        replace(_ZCU102, name="zcu102-large", array_rows=64),
        HardwareConfig("small", lanes=8, rows=264, width=96, hidden=768, experts=8, top_k=2, prefetch_beats=256),
        # One stream of m3vit-t, in two thirds of a small Zynq's block RAM.
        HardwareConfig("ultra96", lanes=8, rows=136, prefetch_beats=256),
        # A Zynq-7020's ports have 64 bits and bursts of 16 beats; its block RAM holds m3vit-micro in one piece.
        HardwareConfig("pynqz2", lanes=8, data_bits=64, rows=136, hidden=512, prefetch_beats=256, burst_beats=16),
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
            activations="gelu",
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
            activations="gelu",
        ),
        HardwareConfig(
            "tiny",
            lanes=4,
            rows=40,
            tokens=20,
            width=32,
            hidden=64,
            experts=8,
            top_k=4,
            prefetch_beats=64,
            burst_beats=16,
        ),
        # Every kind of attention, queries and keys normalised or not, for models of the sizes of m3vit-micro.
        HardwareConfig(
            "family",
            lanes=8,
            rows=264,
            tokens=136,
            width=96,
            hidden=768,
            experts=8,
            top_k=2,
            prefetch_beats=256,
            attention=",".join(ATTENTION),
            head_norms=1,
        ),
    )
}


def preset(name: str) -> HardwareConfig:
    if name not in PRESETS:
        raise EdgemoeError(f"unknown hardware {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def sizes(config: HardwareConfig) -> dict[str, object]:
    """What a written file says of its configuration: name, sizes, the hash that CONFIG_HASH shows."""
    return {"hardware": config.name, "config_hash": f"0x{config.hash:08X}", **config.sizes}
