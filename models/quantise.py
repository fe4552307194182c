# SPDX-License-Identifier: Apache-2.0
"""From float weights to the integers that the hardware multiplies. Needs no PyTorch.

A tensor with exponent f holds round(value * 2^f). Activations have 16 bits and one exponent per tensor, found by running the float model on
calibration images (`calibration`). Weights have 16 or 8 bits and a factor per output channel: a power of two for 16 bits, any factor for
8 bits. What is folded into them beforehand: `folding`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .calibration import calibrate, default_images, outlier
from .checkpoint import Checkpoint
from .config import ModelConfig
from .errors import EdgemoeError
from .folding import fold, norm_bits, value_boost, weight_scale
from .numbers.formats import WeightFormat
from .numbers.words import GELU_FRACTION, PIXEL_FRACTION, SCALE_ONE, SCORE_FRACTION
from .rounding import decode_rounding

HEADROOM = 1.05  # calibrated maxima times this must fit 16 bits: other images reach a little further
GUARD_BITS = 6  # below the output's last bit, inside the epilogue


@dataclass
class Linear:
    """One matrix as the hardware takes it.

    weights     [inputs, outputs], or [experts, inputs, outputs]; int16 or int8 (`bits`)
    bias        [outputs] or [experts, outputs], 27 bits: in units of the epilogue's fine result, or, with bias_first, of the
                accumulator >> bias_shift
    multiplier  like bias, 0..65535, 2^15 = 1.0
    groups      outputs come in this many groups (heads), each padded to whole words on its own; input_groups likewise
    """

    name: str
    weights: NDArray
    bias: NDArray[np.int64]
    multiplier: NDArray[np.int64]
    bits: int
    accumulator_shift: int
    output_shift: int
    residual_shift: int = 0
    bias_shift: int = 0
    bias_first: bool = False
    gelu: bool = False
    groups: int = 1
    input_groups: int = 1


@dataclass
class Attention:
    """Shifts of the two matmuls of attention and of the exponential between them."""

    score_accumulator_shift: int
    score_output_shift: int
    exponent_shift: int
    value_accumulator_shift: int
    value_output_shift: int


@dataclass
class Router:
    linear: Linear
    exponent_shift: int


@dataclass
class Layer:
    epsilon1: int
    query: Linear
    key_value: Linear
    attention: Attention
    projection: Linear
    epsilon2: int
    first: Linear
    second: Linear
    routers: list[Router] = field(default_factory=list)  # one per task; empty: no MoE layer


@dataclass
class Head:
    epsilon: int
    linear: Linear


@dataclass
class QuantisedModel:
    """Integers and exponents of a whole model; independent of the array's size.

    position   [tokens, width] int16: position embedding with the patch bias added to the patches' rows
    exponents  tensor -> f. Tensors: position, residual.embed, blocks.N.{query,key,value,scores,attention,hidden}, blocks.N.logits.TASK,
               blocks.N.residual.{attention,mlp}, heads.TASK.output
    saturated  weights and biases that did not fit and were limited
    widened    matrices that have 16 bits although the format says 8, as sums of 8-bit weights would be too coarse
    """

    config: ModelConfig
    weight_bits: str
    position: NDArray[np.int16]
    patch: Linear
    layers: list[Layer]
    heads: dict[str, Head]
    exponents: dict[str, int]
    saturated: int = 0
    widened: list[str] = field(default_factory=list)

    @property
    def token_exponent(self) -> int:
        return self.exponents[f"blocks.{self.config.layers - 1}.residual.mlp"]


def _exponent(reach: float, low: int = -8, high: int = 24) -> int:
    """The largest f with reach * HEADROOM * 2^f inside 16 bits."""
    if reach <= 0:
        return high
    return max(low, min(high, math.floor(math.log2(32767 / (reach * HEADROOM)))))


def bits_of(name: str, weight_bits: str) -> int:
    """Weight bits of a matrix in a format: "mixed" is 8-bit experts and 16 bits elsewhere; a name of experts ends in "+experts"."""
    return WeightFormat(weight_bits).bits(name.endswith("+experts"))


class _Quantiser:
    def __init__(self, checkpoint: Checkpoint, weight_bits: str, calibration: Mapping[str, Any]) -> None:
        self.config, self.weight_bits, self.calibration = checkpoint.config, weight_bits, calibration
        self.folded = fold(checkpoint, calibration)
        self.checkpoint = checkpoint
        self.exponents: dict[str, int] = {}
        self.saturated = 0
        self.widened: list[str] = []
        self.rounding: Mapping[str, Any] = calibration.get("rounding", {}).get(weight_bits, {})

    def reach(self, name: str) -> float:
        return self.calibration["ranges"][name]

    def linear(
        self,
        name: str,
        *,
        fraction: int,
        reach: float,
        output: int | NDArray,
        old: int | None = None,
        fine: int | None = None,
        experts: bool = False,
        lowest_exponent: int = 0,
        **more: Any,
    ) -> Linear:
        """Round one matrix and choose its shifts.

        fraction: sums = value / weight step * 2^fraction. reach: largest |value| without bias (with it where a residual is added).
        output: exponent of the result (per channel if an array). old: exponent of the residual that is added. fine: exponent inside the
        epilogue if that is given (GELU). lowest_exponent: the smallest that LayerNorm's row scale takes: accumulator_shift + exponent must
        not become negative, as sums are never shifted left.
        """
        f = self.folded[name]
        key = name + ("+experts" if experts else "")
        bias_first = old is not None  # the adder after the multiplications takes the residual or the bias, not both
        bits = bits_of(key, self.weight_bits)
        # GELU's argument has a fixed unit, which sums of 8-bit weights cannot be brought to where weights are large and rows quiet.
        if fine is not None and bits == 8 and fine > self.cap(name, fraction, lowest_exponent, experts) + 1:
            bits = 16
            self.widened.append(name)
        step = weight_scale(f.weight, bits)
        top = float(1 << 26)
        for guard in range(GUARD_BITS, -1, -1):
            at = np.asarray(fine if fine is not None else np.maximum(output, old if old is not None else -99) + guard)
            largest = reach * HEADROOM * np.exp2(at.astype(float).max())  # of the fine result
            product = step * np.exp2(at.astype(float))
            limit = SCALE_ONE if bits == 16 else 65535
            shift = min(63, math.floor(math.log2(limit / SCALE_ONE / product.max()) + fraction + 1e-9))  # what the field holds
            least = largest / top * SCALE_ONE  # a smaller multiplier would let the 27 bits before it overflow
            multiplier = product * np.exp2(15 + shift - fraction)
            fits = multiplier.min() >= least and largest < top and shift + lowest_exponent >= 0
            if fits or fine is not None:
                break
        low = multiplier < least
        if low.any():  # coarser steps for the channels of the smallest weights
            factor = least / multiplier
            step = np.where(low, step * (np.exp2(np.ceil(np.log2(np.maximum(factor, 1)))) if bits == 16 else factor), step)
            multiplier = step * np.exp2(at.astype(float)) * np.exp2(15 + shift - fraction)
        multiplier = np.clip(np.round(multiplier), 1, 65535).astype(np.int64)
        exact = f.weight / step[..., None]
        bound = (1 << bits - 1) - 1
        rounded = np.round(exact)
        correction: float | NDArray[Any] = 0.0
        stored = self.rounding.get(name)
        if stored is not None and bits == 8:
            delta, correction = decode_rounding(name, stored, rounded.shape, f.bias.shape)
            rounded = np.where(low[..., None], rounded, rounded + delta)
        self.saturated += int(np.count_nonzero(np.abs(rounded) > bound))
        weights = np.clip(rounded, -bound, bound).astype(np.int16 if bits == 16 else np.int8)
        bias = f.bias + correction
        bias_shift = 0
        if bias_first:
            accumulated = bias / step * 2.0**fraction
            bias_shift = max(0, math.ceil(math.log2(max(1.0, float(np.abs(accumulated).max())) / (top - 1))))
            integer = np.round(accumulated / (1 << bias_shift))
        else:
            integer = np.round(bias * np.exp2(at.astype(float)))
        self.saturated += int(np.count_nonzero(np.abs(integer) > top - 1))
        integer = np.clip(integer, -top, top - 1).astype(np.int64)
        output_shift = int((at - output).ravel()[0])
        return Linear(
            name=name,
            weights=np.ascontiguousarray(np.moveaxis(weights, -1, -2)),
            bias=integer,
            multiplier=multiplier,
            bits=bits,
            accumulator_shift=shift,
            output_shift=output_shift,
            residual_shift=int(at) - old if old is not None else 0,
            bias_shift=bias_shift,
            bias_first=bias_first,
            gelu=fine is not None,
            **more,
        )

    def residual_exponent(self, *names: str) -> int:
        """The common exponent of residual tensors that makes rounding and limiting errors together least over the calibration.

        The residual's few outliers are what decides its range, and its rounding is the largest error of all; no headroom is given away.
        """
        tails = [self.calibration["clipped"][name] for name in names]

        def cost(f: int) -> float:
            return sum(tail.get(str(15 - f), 0.0) + tail["count"] * 4.0**-f / 12 for tail in tails)

        return min(range(-7, 23), key=cost)

    def cap(self, name: str, fraction: int, lowest_exponent: int = 0, experts: bool = False) -> int:
        """The largest exponent that a result can have: the sums' own precision, as they are never shifted left (matters for 8 bits)."""
        bits = bits_of(name + ("+experts" if experts else ""), self.weight_bits)
        step = weight_scale(self.folded[name].weight, bits).max()
        return math.floor(fraction + lowest_exponent - math.log2(step) + 1e-9)

    def run(self) -> QuantisedModel:
        c, exponents = self.config, self.exponents
        tensors = self.checkpoint.tensors
        position = tensors["pos_embed"].astype(np.float64).copy()
        position[1:] += tensors["patch_embed.proj.bias"].astype(np.float64)
        exponents["position"] = _exponent(float(np.abs(position).max()) / HEADROOM)
        residual = exponents["residual.embed"] = min(self.residual_exponent("residual.embed"), self.cap("patch", PIXEL_FRACTION))
        position_exponent = exponents["position"] = min(exponents["position"], residual)
        patch = self.linear("patch", fraction=PIXEL_FRACTION, reach=self.reach("patch.output"), output=residual, old=position_exponent)
        norm_fraction = 1 - norm_bits(c.width)
        layers = []
        for n in range(c.layers):
            b = f"blocks.{n}"
            channel = {k: np.array(v) for k, v in self.calibration["channels"][b].items()}

            def norm(name: str, residual: int) -> tuple[int, int]:
                """(epsilon, smallest exponent of the row scale)."""
                sigma = self.calibration["smallest"][f"{name}.sigma"]
                return self.epsilon(residual), self.lowest(sigma, residual)

            epsilon1, lowest = norm(f"{b}.norm1", residual)
            both = np.sqrt(channel["query"] * channel["key"])  # their common reach once balanced
            cap = min(self.cap(f"{b}.query", norm_fraction, lowest), self.cap(f"{b}.key_value", norm_fraction, lowest))
            query = exponents[f"{b}.query"] = min(cap, _exponent(float(both.max())))
            key = exponents[f"{b}.key"] = query
            boosted = channel["value"] * value_boost(channel)
            value = exponents[f"{b}.value"] = min(cap, _exponent(float(boosted.max())))
            common: dict[str, Any] = dict(fraction=norm_fraction, lowest_exponent=lowest, groups=c.heads)
            q_reach = self.without_bias(f"{b}.query", both)
            kv_reach = max(self.without_bias(f"{b}.key_value", np.concatenate([both, boosted])), 0.0)
            q = self.linear(f"{b}.query", reach=q_reach, output=query, **common)
            common["groups"] = 2 * c.heads
            kv = self.linear(f"{b}.key_value", reach=kv_reach, output=np.repeat([key, value], c.width), **common)

            scores = exponents[f"{b}.scores"] = min(SCORE_FRACTION, query + key, _exponent(self.reach(f"{b}.scores"), low=-3))
            guard = min(GUARD_BITS, query + key - scores)
            attended = channel["attention"] * value_boost(channel)
            attention = exponents[f"{b}.attention"] = min(_exponent(float(attended.max())), value + 4)
            # Probabilities times 16-bit values are 3 bits shorter than the sum of probabilities, whose exponent shifts them: 10 more bits
            # than the value fill the 27.
            shifts = Attention(
                score_accumulator_shift=query + key - scores - guard,
                score_output_shift=guard,
                exponent_shift=SCORE_FRACTION - scores,
                value_accumulator_shift=-13,
                value_output_shift=value + 11 - attention,
            )
            moe = c.is_moe(n)
            hidden = exponents[f"{b}.hidden"] = _exponent(self.reach(f"{b}.hidden"), low=1, high=GELU_FRACTION)
            old = residual
            names = f"{b}.residual.attention", f"{b}.residual.mlp"
            after, end = (self.residual_exponent(name) for name in names)
            if moe:  # experts add in place, so the exponent must suit the sum before they come
                after = end = self.residual_exponent(*names)
            after = min(after, self.cap(f"{b}.projection", attention))
            end = min(end, self.cap(f"{b}.second", hidden, experts=moe))
            if moe:
                after = end = min(after, end)
            exponents[f"{b}.residual.attention"], exponents[f"{b}.residual.mlp"] = after, end
            projection = self.linear(
                f"{b}.projection", fraction=attention, reach=self.reach(f"{b}.projection"), output=after, old=old, input_groups=c.heads
            )
            epsilon2, lowest = norm(f"{b}.norm2", after)
            common = dict(fraction=norm_fraction, lowest_exponent=lowest)
            routers = []
            for task in range(len(c.tasks) if moe else 0):
                reach = self.reach(f"{b}.logits.{task}")
                cap = self.cap(f"{b}.router.{task}", norm_fraction, lowest)
                logits = exponents[f"{b}.logits.{task}"] = min(cap, _exponent(reach, low=-3, high=SCORE_FRACTION))
                bias = float(np.abs(self.folded[f"{b}.router.{task}"].bias).max())
                linear = self.linear(f"{b}.router.{task}", reach=reach + bias, output=logits, **common)
                routers.append(Router(linear, SCORE_FRACTION - logits))
            bias = float(np.abs(self.folded[f"{b}.first"].bias).max())
            first = self.linear(f"{b}.first", reach=self.reach(f"{b}.fc1") + bias, output=hidden, fine=GELU_FRACTION, experts=moe, **common)
            second = self.linear(f"{b}.second", fraction=hidden, reach=self.reach(f"{b}.fc2"), output=end, old=after, experts=moe)
            residual = end
            layers.append(Layer(epsilon1, q, kv, shifts, projection, epsilon2, first, second, routers))
        heads = {}
        for owner in c.tasks:
            if owner.head_outputs:
                h = f"heads.{owner.name}"
                # The final norm's row scale, as above; its sigma is that of the last residual.
                sigma = self.calibration["smallest"][f"{h}.norm.sigma"]
                lowest = self.lowest(sigma, residual)
                output = exponents[f"{h}.output"] = min(_exponent(self.reach(f"{h}.output")), self.cap(h, norm_fraction, lowest))
                bias = float(np.abs(self.folded[h].bias).max())
                reach = self.reach(f"{h}.output") + bias
                linear = self.linear(h, fraction=norm_fraction, reach=reach, output=output, lowest_exponent=lowest)
                heads[owner.name] = Head(self.epsilon(residual), linear)
        integer = np.clip(np.round(position * 2.0**position_exponent), -32768, 32767).astype(np.int16)
        return QuantisedModel(c, self.weight_bits, integer, patch, layers, heads, exponents, self.saturated, self.widened)

    def lowest(self, sigma: float, residual: int) -> int:
        """The smallest exponent of LayerNorm's row scale, floor(log2(n * sigma)), for rows up to twice quieter than any calibrated one."""
        return math.floor(math.log2(max(1.0, self.config.width * sigma * 2.0 ** (residual - 1))))

    def without_bias(self, name: str, reach: NDArray) -> float:
        """Bound of a result before its bias is added, from its calibrated bound (per channel) after."""
        return float((reach + np.abs(self.folded[name].bias)).max())

    def epsilon(self, residual: int) -> int:
        """eps in the units of V = n^2 * variance, at the residual's exponent; 48 bits."""
        return min((1 << 48) - 1, round(self.config.eps * self.config.width**2 * 4.0**residual))


# What an instruction's fields hold (a test compares them with the instruction set's).
FIELDS = {
    "accumulator_shift": (-64, 63),
    "bias_shift": (0, 31),
    "residual_shift": (0, 15),
    "output_shift": (0, 15),
    "exponent_shift": (0, 15),
}


def _misfit(model: QuantisedModel) -> str:
    """The first shift that its field cannot hold, in words; empty if all fit."""
    parts: list[tuple[str, Any]] = [("patch", model.patch)]
    for n, layer in enumerate(model.layers):
        linears = [layer.query, layer.key_value, layer.projection, layer.first, layer.second, *(r.linear for r in layer.routers)]
        parts += [(f"blocks.{n}.attention", layer.attention), *((x.name, x) for x in linears), *((r.linear.name, r) for r in layer.routers)]
    parts += [(head.linear.name, head.linear) for head in model.heads.values()]
    for owner, part in parts:
        for field_name, value in vars(part).items():
            ending = next((ending for ending in FIELDS if field_name.endswith(ending)), None)
            if ending and not FIELDS[ending][0] <= value <= FIELDS[ending][1]:
                low, high = FIELDS[ending]
                return f"{owner} would need a {field_name.replace('_', ' ')} of {value}, {low} to {high} can be"
    return ""


def quantise(checkpoint: Checkpoint, weight_bits: str = "16") -> QuantisedModel:
    """The integers of a checkpoint in one of the formats; without a calibration of its own it is calibrated first.

    That calibration, which is not kept, sees 8 pictures. EdgemoeError if the weights are so far apart that the formats cannot hold them.
    """
    chosen = WeightFormat.of(weight_bits)
    formats = (chosen,) if chosen.coarse else ()
    calibration = checkpoint.calibration or calibrate(checkpoint, default_images(checkpoint.config, 8), error_aware=formats)
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            model = _Quantiser(checkpoint, chosen, calibration).run()
        misfit = _misfit(model)
    except (OverflowError, ValueError) as error:  # of a logarithm or an exponent beyond floating point
        misfit = str(error)
    if misfit:
        raise EdgemoeError(
            f"model {checkpoint.config.name} has no {weight_bits}-bit form: {misfit}. Among the weights, {outlier(checkpoint)}; "
            "mend that tensor and calibrate again"
        )
    return model
