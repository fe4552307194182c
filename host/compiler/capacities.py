# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits a build, before anything is compiled; and with what build it would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from edgemoe.host.compiler.landmarks import Spaces
from edgemoe.hw.contract.config import CHOICES, PRESETS, HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME
from edgemoe.models.config import LANDMARK_KIND, ModelConfig
from edgemoe.models.errors import EdgemoeError, listing
from edgemoe.models.numbers.words import MOST_KEYS
from edgemoe.models.operations.feature_maps import MAPS


@dataclass(frozen=True)
class Need:
    """How much of a capacity a model needs, and how much of it there is.

    remedy: hardware fields, and the least values that give room for what is short; none if no field does.
    """

    what: str
    amount: int
    limit: int
    remedy: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def short(self) -> bool:
        return self.amount > self.limit

    def __str__(self) -> str:
        return f"{self.amount} {self.what}, the limit is {self.limit} ({self.amount - self.limit} too many)"


class Missing(Need):
    """A function that the build does not have."""

    def __str__(self) -> str:
        return f"{self.what}, which is not built in"


class Shortage(EdgemoeError):
    """A model does not fit; needs: all that were counted, also those that are met; remedy: that of the first shortage,
    as those behind it often follow from it.
    """

    def __init__(self, model: str, hardware: HardwareConfig, needs: Iterable[Need]) -> None:
        self.needs = list(needs)
        short = [need for need in self.needs if need.short]
        named = listing(map(str, short), "; ", length=MOST)
        super().__init__(f"model {model} does not fit hardware {hardware.name!r}: it needs {named}")
        self.remedy = dict(short[0].remedy)
        self.changes: dict[str, int | str] = {}

    def advised(self, changes: Mapping[str, int | str]) -> Shortage:
        """The same, saying with which hardware fields the model fits; none of them: that no such hardware is known."""
        self.changes = dict(changes)
        advice = "choose a larger hardware preset, fewer streams or a smaller model"
        if changes:
            advice = "it fits with " + " ".join(f"--set {name}={value}" for name, value in changes.items())
        self.args = (f"{self}; {advice}",)
        return self


MOST = 120  # characters that shortages take in a message


def limits(config: ModelConfig, hardware: HardwareConfig) -> Iterator[Need]:
    """Capacities that a model must fit however it is cut."""
    c, h = config, hardware
    yield Need("tokens a stream", c.tokens, MOST_KEYS)
    if c.moe_layers:
        yield Need("experts", c.experts, h.experts, dict(experts=c.experts))
        yield Need("experts a token (top_k)", c.top_k, h.top_k, dict(top_k=c.top_k))
    if c.attention not in (*h.weighings, LANDMARK_KIND):  # that needs softmax's exponentials alone
        built = next((p.name for p in PRESETS.values() if c.attention in p.weighings), "none")
        kinds = ",".join((*h.weighings, c.attention))
        yield Missing(f"{c.attention} attention (preset {built!r} has it)", 1, 0, dict(attention=kinds))
    if c.qk_norm and not h.head_norms:
        built = next((p.name for p in PRESETS.values() if p.head_norms), "none")
        yield Missing(f"norms of queries and keys (preset {built!r} has them)", 1, 0, dict(head_norms=1))
    if c.activation not in h.functions:
        functions = ",".join((*h.functions, c.activation))
        yield Missing(f"the activation function {c.activation}", 1, 0, dict(activations=functions))
    yield Need("channels of a row", c.width, BY_NAME["elements"].limit)
    widest, most = max(_inside(c, h), *(t.head_outputs for t in c.tasks)), BY_NAME["columns"].limit
    yield Need("words a row", h.words(widest), most, _more_lanes(lambda n: n > h.lanes and -(-widest // n) <= most))
    yield Need("pixels a patch side", c.patch, BY_NAME["patch"].limit)
    yield Need("image channels", c.image_channels, BY_NAME["channels"].limit)


def needs(config: ModelConfig, hardware: HardwareConfig, slots: int) -> Iterator[Need]:
    """Capacities of the memories but for activation words, which are `allocate`'s matter, in one piece.

    slots: streams with rows of their own.
    """
    c, h = config, hardware
    lanes, rows = h.lanes, slots * c.tokens
    head_words = h.words(c.head_width)
    yield Need("tokens a stream", c.tokens, h.tokens, dict(tokens=c.tokens, rows=max(rows, h.rows)))
    yield Need(f"token rows ({slots} x {c.tokens})", rows, h.rows, dict(rows=rows))
    residual, key_value = rows * h.words(c.width), rows * _held(c) * c.heads * head_words + _summary(c, h)
    yield Need("residual words", residual, h.residual_words, dict(width=-(-residual // h.wide_rows) * lanes))
    yield Need("key/value words", key_value, h.key_value_words, dict(width=-(-key_value // (2 * h.wide_rows)) * lanes))
    scores = h.words(max(c.tokens, c.experts))
    yield Need("score words", c.tokens * scores, h.score_words)


def streams_together(config: ModelConfig, hardware: HardwareConfig) -> int:
    """Streams of the model that a pass has room for: rows for their tokens, words in every memory for the rows."""
    c, h = config, hardware
    residual, key_value = h.words(c.width), _held(c) * c.heads * h.words(c.head_width)
    activation = residual + h.words(_inside(c, h))
    vectors = MAPS[c.attention](c).rows * h.words(c.head_width) if c.attention in MAPS else 0
    vectors += Spaces(c, h).activation if c.attention == LANDMARK_KIND else 0
    words = min(
        h.residual_words // residual,
        (h.key_value_words - _summary(c, h)) // key_value,
        (h.activation_words - vectors) // activation,
    )
    return min(h.rows, words if vectors else max(h.wide_rows, words)) // c.tokens


def _held(c: ModelConfig) -> int:
    """Values of a head that a token has in key/value memory: a key, unless that is another's, and a value."""
    return 1 if c.attention == LANDMARK_KIND else 2


def _summary(c: ModelConfig, h: HardwareConfig) -> int:
    """Words of key/value memory that linear attention's sums take, or a head that is weighed by landmarks."""
    if c.attention == LANDMARK_KIND:
        return Spaces(c, h).words
    if c.attention not in MAPS:
        return 0
    features = MAPS[c.attention](c)
    rows = (features.parts - 1) * h.words(features.rows) * h.lanes + features.rows
    return rows * (h.words(c.head_width) + 1)


def _inside(c: ModelConfig, h: HardwareConfig) -> int:
    """Channels of the widest row within a layer, or of a patch."""
    return max(c.hidden, c.expert_hidden, c.patch_size_words, 2 * c.heads * h.words(c.head_width) * h.lanes)


def _more_lanes(suits: Callable[[int], bool]) -> dict[str, int]:
    """The remedy that a larger array is; none if none suits."""
    return next(({"lanes": lanes} for lanes in map(int, CHOICES["lanes"]) if suits(lanes)), {})


def remedy_of(
    shortage: Shortage, attempt: Callable[[HardwareConfig], object], hardware: HardwareConfig
) -> dict[str, int | str]:
    """Hardware fields to change, and to what, so that `attempt` succeeds.

    None if no legal hardware was found that way.
    """
    changes: dict[str, int | str] = {}
    while shortage.remedy and shortage.remedy.items() - changes.items():
        changes |= shortage.remedy
        try:
            attempt(HardwareConfig.from_fields(changes, hardware))
        except Shortage as further:
            shortage = further
        except EdgemoeError:  # no such hardware can be built
            return {}
        else:
            return changes
    return {}
