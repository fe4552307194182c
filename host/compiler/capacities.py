# SPDX-License-Identifier: Apache-2.0
"""Whether a model fits a build, before anything is compiled; and with what build it would."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgemoe.hw.contract.config import CHOICES, HardwareConfig
from edgemoe.hw.contract.isa import BY_NAME
from edgemoe.models.config import ModelConfig
from edgemoe.models.errors import EdgemoeError


class Shortage(EdgemoeError):
    """A model does not fit.

    remedy: hardware fields, and the least values that give room for what was short; none if no field does.
    """

    def __init__(self, message: str, remedy: Mapping[str, int]) -> None:
        super().__init__(message)
        self.remedy = dict(remedy)


def need(model: str, hardware: HardwareConfig, what: str, amount: int, limit: int, **remedy: int) -> None:
    """Shortage if more is needed than there is, with both and the difference."""
    if amount > limit:
        raise Shortage(
            f"model {model} does not fit hardware {hardware.name!r}: it needs {amount} {what}, the limit is {limit} "
            f"({amount - limit} too many)",
            remedy,
        )


def check_fit(config: ModelConfig, hardware: HardwareConfig, slots: int) -> None:
    """Shortage if a capacity is exceeded; activation words are `allocate`'s matter.

    slots: streams with rows of their own.
    """
    c, h = config, hardware
    lanes, rows = h.lanes, slots * c.tokens
    head_words = h.words(c.head_width)

    def check(what: str, amount: int, limit: int, **remedy: int) -> None:
        need(c.name, h, what, amount, limit, **remedy)

    check("tokens a stream", c.tokens, h.tokens, tokens=c.tokens, rows=max(rows, h.rows))
    check(f"token rows ({slots} x {c.tokens})", rows, h.rows, rows=rows)
    residual, key_value = rows * h.words(c.width), rows * 2 * c.heads * head_words
    check("residual words", residual, h.residual_words, width=-(-residual // h.rows) * lanes)
    check("key/value words", key_value, h.key_value_words, width=-(-key_value // (2 * h.rows)) * lanes)
    check("score words", c.tokens * h.words(c.tokens), h.score_words)
    if c.moe_layers:
        check("experts", c.experts, h.experts, experts=c.experts)
        check("experts a token (top_k)", c.top_k, h.top_k, top_k=c.top_k)
        check("score words", c.tokens * h.words(c.experts), h.score_words)
    check("channels of a row", c.width, h.width, width=c.width)
    inside = max(c.hidden, c.expert_hidden, c.patch_size_words, 2 * c.heads * head_words * lanes)
    widest, most = max(inside, *(t.head_outputs for t in c.tasks)), BY_NAME["columns"].limit
    check("words a row", h.words(widest), most, **_more_lanes(lambda n: n > lanes and -(-widest // n) <= most))
    check("pixels a patch side", c.patch, BY_NAME["patch"].limit)
    check("image channels", c.image_channels, BY_NAME["channels"].limit)


def _more_lanes(suits: Callable[[int], bool]) -> dict[str, int]:
    """The remedy that a larger array is; none if none suits."""
    return next(({"lanes": lanes} for lanes in map(int, CHOICES["lanes"]) if suits(lanes)), {})


def remedy_of(
    shortage: Shortage, attempt: Callable[[HardwareConfig], object], hardware: HardwareConfig
) -> dict[str, int]:
    """Hardware fields to change, and to what, so that `attempt` succeeds.

    None if no legal hardware was found that way.
    """
    changes: dict[str, int] = {}
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
