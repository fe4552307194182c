# SPDX-License-Identifier: Apache-2.0
"""From float weights to the integers that the hardware multiplies. Needs no PyTorch.

A tensor with exponent f holds round(value * 2^f). Activations have 16 bits and one exponent per tensor, found by
running the float model on calibration images (`calibrate`). Weights have 16 or 8 bits and a factor per output channel:
a power of two for 16 bits, any factor for 8 bits. What is folded into them beforehand, and which exponents go together,
each operation says (`operations`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import Checkpoint
from ..config import ModelConfig
from ..errors import EdgemoeError, notice
from ..graph import Graph, graph
from ..keys import Key, Role
from ..operations.attention import Completion
from ..operations.operation import Matrix, Operation, Quantised
from ..steps import Inversion, Landmarks, Shift
from .arithmetic import raised
from .calibrate import TAIL_POWERS, calibrate, default_images, outlier
from .calibration import Calibration, Rounding
from .error_aware import Decoded, decode_rounding
from .folding import BYTE_LIMIT, Folded, weight_scale
from .formats import BYTE_BITS, WeightFormat
from .linear import TOLERANCE, Linear, Shifts, overfull
from .orthogonal import orthogonal
from .rotation import rotatable, rotated
from .smoothing import smoothed, smoothed_norm, smoothing
from .words import ACTIVATION_FRACTION, FINE_LIMIT, MULTIPLIER_LIMIT, STEP_FRACTION, WORD_BITS, WORD_LIMIT

COARSER = 1.001  # than the sums ask for: rounding may go the other way


@dataclass
class QuantisedModel:
    """Integers and exponents of a whole model; independent of the array's size.

    trunk      the operations that every stream goes through, in order
    back       what turns the rotated residual behind them back to the model's tokens (`rotation`); None: it is not
    heads      name of the task -> its head
    exponents  tensor -> f
    saturated  weights and biases that did not fit and were limited
    coarsened  output channels of packed matrices whose steps were made larger, so that their sums cannot overflow
    widened    matrices that have 16 bits although the format says 8, as sums of 8-bit weights would be too coarse
    """

    config: ModelConfig
    weight_bits: WeightFormat
    graph: Graph
    trunk: list[Quantised]
    heads: dict[str, Quantised]
    exponents: dict[Key, int]
    saturated: int = 0
    coarsened: int = 0
    widened: list[Key] = field(default_factory=list)
    back: Linear | None = None

    @property
    def token_exponent(self) -> int:
        return self.exponents[Key(Role.TOKENS) if self.back else self.graph.result]

    def linears(self) -> Iterator[Linear]:
        """Every matrix, in the order of use."""
        yield from (linear for operation in (*self.trunk, *self.heads.values()) for linear in operation.linears())
        yield from [self.back] if self.back else []

    def linear(self, key: Key) -> Linear:
        """One matrix."""
        return next(linear for linear in self.linears() if linear.key == key)


class Quantiser:
    """Rounds matrices and chooses exponents; operations say which."""

    GUARD_BITS = 6  # below the output's last bit, inside the epilogue
    LOWEST, HIGHEST = -8, 24  # exponents of tensors
    HEADROOM = 1.05  # calibrated maxima times this must fit their bits: other images reach a little further

    def __init__(self, checkpoint: Checkpoint, weight_format: WeightFormat, calibration: Calibration) -> None:
        self.config, self.format, self.calibration = checkpoint.config, weight_format, calibration
        self.graph = graph(checkpoint.config)
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in checkpoint.tensors.items()}
        self.folded = {
            key: folded
            for operation in self.graph.operations
            for key, folded in operation.fold(self.tensors, calibration).items()
        }
        self.exponents: dict[Key, int] = {}
        self.saturated = self.coarsened = 0
        self.widened: list[Key] = []
        self.rounding = {m.key: stored for _, m in self.graph.matrices() if (stored := self.rounding_of(m)) is not None}
        self.rotated = Key(Role.TOKENS) in calibration.clipped
        self.decoded: dict[Key, Decoded] = {}
        self.smoothing: dict[Key, NDArray[np.int64]] = {}  # result of an operation -> how often channels are halved
        if weight_format.fast:
            for before, operation in pairwise(self.graph.trunk):
                halved = smoothing(operation, before, self.folded, calibration)
                if halved is not None:
                    self.folded |= smoothed_norm(operation, self.folded, halved)
                    self.smoothing[before.result] = halved
        for _, matrix in self.graph.matrices():
            decoded = self.stored(matrix.key, self.format.bits(matrix.expert, matrix.unpacked))
            if decoded is not None and decoded.halved.any():
                self.folded[matrix.key] = smoothed(self.folded[matrix.key], decoded.halved)

    # ------------------------------------------------------------------------------------------------ what is known

    def rounding_of(self, matrix: Matrix) -> Rounding | None:
        """Its best error-aware rounding that is known."""
        for other in self.format.roundings:
            stored = self.calibration.rounding.get(other, {}).get(matrix.key)
            # Words that are not rounded are not halved, either.
            halved = matrix.sees.role is Role.HIDDEN and other.packed(matrix.expert)
            if stored and not (halved and not self.format.packed(matrix.expert)):
                return stored
        return None

    def scale(self, matrix: Matrix, factor: NDArray) -> None:
        """Multiply each of its outputs."""
        folded = self.folded[matrix.key]
        self.folded[matrix.key] = replace(folded, weight=folded.weight * factor[:, None], bias=folded.bias * factor)

    def reach(self, key: Key) -> float:
        """Largest calibrated magnitude."""
        return self.calibration.ranges[key]

    def sigma(self, norm: Key) -> float:
        """Smallest calibrated sigma."""
        return self.calibration.smallest[norm]

    def without_bias(self, matrix: Matrix, reach: NDArray) -> float:
        """Bound of a result before its bias is added, from its calibrated bound (per channel) after."""
        return float((reach + np.abs(self.folded[matrix.key].bias)).max())

    # ------------------------------------------------------------------------------------------------ exponents

    def note(self, key: Key, exponent: int) -> int:
        """A tensor's exponent is this."""
        self.exponents[key] = exponent
        return exponent

    def exponent(self, reach: float, low: int = LOWEST, high: int = HIGHEST, headroom: float = HEADROOM) -> int:
        """The largest f with reach * headroom * 2^f inside 16 bits."""
        if reach <= 0:
            return high
        return max(low, min(high, math.floor(math.log2(WORD_LIMIT / (reach * headroom)))))

    def operand_exponent(self, reach: float) -> int:
        """Of queries and keys, which may have 8 bits."""
        return self.exponent(reach * WORD_LIMIT / BYTE_LIMIT if self.format.byte_scores else reach)

    def residual_exponent(self, *keys: Key) -> int:
        """The common exponent of residual tensors that makes rounding and limiting errors together least over the
        calibration.

        The residual's few outliers are what decides its range, and its rounding is the largest error of all; no
        headroom is given away.
        """
        tails = [self.calibration.clipped[key] for key in keys]

        def cost(f: int) -> float:
            return sum(tail.beyond.get(WORD_BITS - 1 - f, 0.0) + tail.count * 4.0**-f / 12 for tail in tails)

        return min((WORD_BITS - 1 - k for k in reversed(TAIL_POWERS[1:])), key=cost)

    def cap(self, matrix: Matrix, fraction: int, lowest: int = 0) -> int:
        """The largest exponent that a result can have: the sums' own precision, as they are never shifted left (matters
        for 8 bits).
        """
        step = self.step(matrix.key, self.format.bits(matrix.expert, matrix.unpacked)).max()
        fraction += STEP_FRACTION * self.format.packed(matrix.expert, matrix.unpacked)
        return math.floor(fraction + lowest - math.log2(step) + TOLERANCE)

    # ------------------------------------------------------------------------------------------------ matrices

    def stored(self, key: Key, bits: int) -> Decoded | None:
        """The error-aware rounding of a matrix, if it has one."""
        if bits == WORD_BITS or key not in self.rounding:
            return None
        if key not in self.decoded:
            self.decoded[key] = decode_rounding(key, self.rounding[key], self.folded[key].weight.shape)
        return self.decoded[key]

    def step(self, key: Key, bits: int) -> NDArray:
        """Value of one step of a matrix's weights, per output channel."""
        step, stored = weight_scale(self.folded[key].weight, bits), self.stored(key, bits)
        return step if stored is None else step * stored.growth

    def linear(
        self,
        matrix: Matrix,
        *,
        fraction: int,
        reach: float,
        output: int | NDArray,
        old: int | None = None,
        fine: int | None = None,
        lowest: int = 0,
        raised: float = 0.0,
        raises: float = 0.0,
    ) -> Linear:
        """Round one matrix and choose its shifts.

        fraction: sums = value / weight step * 2^fraction. reach: largest |value| without bias (with it where a residual
        is added). output: exponent of the result (per channel if an array). old: exponent of the residual that is
        added. fine: exponent inside the epilogue if that is given (an activation function's). lowest: the smallest
        exponent that the norm's row scale takes. raised: by how much what it sees is, which its bias takes back;
        raises: by how much its own results are.
        """
        folded = self.folded[matrix.key]
        kind = (matrix.expert, matrix.unpacked)
        bits, packed = self.format.bits(*kind), self.format.packed(*kind)
        # An activation function's argument has a fixed unit, which sums of 8-bit weights cannot be brought to where
        # weights are large and rows quiet.
        if fine is not None and bits == BYTE_BITS and fine > self.cap(matrix, fraction, lowest) + 1:
            bits, packed = WORD_BITS, False
            self.widened.append(matrix.key)
        step, coarsened = self.step(matrix.key, bits), np.zeros(folded.weight.shape[:-1], bool)
        if packed:
            fraction += STEP_FRACTION + (raised > 0)
            step, coarsened = self.bounded(matrix, step, raised > 0)
        finest = np.maximum(output, output if old is None else old)
        shifts = self.shifts(step, bits, fraction, finest, reach, lowest, fine)
        at = shifts.at
        low, multiplier = shifts.low, shifts.multiplier
        plain = low | coarsened
        if low.any():  # coarser steps for the channels of the smallest weights
            step, multiplier = shifts.coarser(step, bits, fraction)
        weights, correction = self.rounded(matrix.key, folded.weight / step[..., None], bits, plain)
        bias = folded.bias + correction
        if raised:
            scale = 1.0 if folded.scale is None else folded.scale[..., None, :]
            bias = bias - raised * (weights * scale).sum(axis=-1) * step
        bias_shift = 0
        if old is None:
            integer = np.round(bias * np.exp2(at.astype(float)))
        else:  # the adder behind the multiplications takes the residual, so the bias goes into the accumulator
            accumulated = bias / step * 2.0**fraction
            bias_shift = max(0, math.ceil(math.log2(max(1.0, float(np.abs(accumulated).max())) / (FINE_LIMIT - 1))))
            integer = np.round(accumulated / (1 << bias_shift))
        self.saturated += int(np.count_nonzero(np.abs(integer) > FINE_LIMIT - 1))
        return Linear(
            key=matrix.key,
            weights=np.ascontiguousarray(np.moveaxis(weights, -1, -2)),
            bias=np.clip(integer, -FINE_LIMIT, FINE_LIMIT - 1).astype(np.int64),
            multiplier=np.clip(np.round(multiplier), 1, MULTIPLIER_LIMIT).astype(np.int64),
            bits=bits,
            accumulator_shift=shifts.shift,
            output_shift=int((at - output).ravel()[0]),
            residual_shift=0 if old is None else int(at) - old,
            bias_shift=bias_shift,
            bias_first=old is not None,
            activation="" if fine is None else self.config.activation,
            groups=matrix.groups,
            input_groups=matrix.input_groups,
            packed=packed,
            raised=raises > 0,
            unsigned=raised > 0,
        )

    def halved(self, second: Matrix) -> NDArray[np.int64] | None:
        """How often the activation function's results are halved for a matrix that sees them; None: not at all."""
        scale = self.folded[second.key].scale
        return None if scale is None else -np.log2(scale).astype(np.int64)

    def raised(self, second: Matrix) -> float:
        """By how much the activation function's results are raised for a packed matrix that sees them: so that they
        need no sign.
        """
        packed = self.format.packed(second.expert)
        return raised(self.config.activation) * 2.0**-ACTIVATION_FRACTION * packed

    def shifts(
        self,
        step: NDArray,
        bits: int,
        fraction: int,
        finest: int | NDArray,
        reach: float,
        lowest: int,
        fine: int | None = None,
    ) -> Shifts:
        """With as many guard bits below the results' exponents `finest` as fit; or with `fine`."""
        for guard in range(self.GUARD_BITS, -1, -1):
            at = np.asarray(finest + guard if fine is None else fine)
            shifts = Shifts.choose(step, bits, fraction, at, reach * self.HEADROOM, lowest)
            if fine is not None or shifts.fits():
                break
        return shifts

    def bounded(self, matrix: Matrix, step: NDArray, unsigned: bool) -> tuple[NDArray, NDArray]:
        """(steps of a packed matrix, which of them are larger than given, so that its sums cannot overflow)."""
        exact, saturated = self.folded[matrix.key].weight, self.saturated
        coarsened = np.zeros(step.shape, bool)
        while True:
            weights, _ = self.rounded(matrix.key, exact / step[..., None], BYTE_BITS, coarsened)
            self.saturated = saturated
            beyond = overfull(weights, matrix.input_groups, unsigned)
            if not (over := beyond > 1).any():
                self.coarsened += int(np.count_nonzero(step > weight_scale(exact, BYTE_BITS)))
                return step, coarsened
            step, coarsened = np.where(over, step * beyond * COARSER, step), coarsened | over

    def rounded(self, key: Key, exact: NDArray, bits: int, plain: NDArray) -> tuple[NDArray, NDArray | float]:
        """(weights in steps, rounded and limited; correction of the bias).

        Rounded as the error-aware rounding has it, but in `plain` channels.
        """
        weights: NDArray = np.round(exact)
        correction: NDArray | float = 0.0
        if (stored := self.stored(key, bits)) is not None:
            correction = stored.bias
            weights = np.where(plain[..., None], weights, weights + stored.delta)
        bound = (1 << bits - 1) - 1
        self.saturated += int(np.count_nonzero(np.abs(weights) > bound))
        return np.clip(weights, -bound, bound).astype(np.int16 if bits == WORD_BITS else np.int8), correction

    # ------------------------------------------------------------------------------------------------ the walk

    def run(self) -> QuantisedModel:
        trunk: list[Quantised] = []
        before = self.HIGHEST  # of nothing: the embedding is the first to write the residual
        for index, operation in enumerate(self.graph.trunk):
            quantised, before = operation.quantise(self, before, self.target(index, operation))
            for linear in quantised.linears():
                if linear.bias_first:  # it writes the residual
                    linear.smoothing = self.smoothing.get(operation.result)
            trunk.append(quantised)
        heads = {name: head.quantise(self, before, self.HIGHEST)[0] for name, head in self.graph.heads.items()}
        return QuantisedModel(
            self.config,
            self.format,
            self.graph,
            trunk,
            heads,
            self.exponents,
            self.saturated,
            self.coarsened,
            self.widened,
            self.back(before),
        )

    def back(self, before: int) -> Linear | None:
        """The product that rotates a residual of this exponent back, if it is rotated; in words of 16 bits."""
        if not self.rotated:
            return None
        tokens, width = Key(Role.TOKENS), self.config.width
        matrix = Matrix(Key(Role.BACK), self.graph.result, width, width)
        self.folded[matrix.key] = Folded(orthogonal(width), np.zeros(width))
        after = self.note(tokens, min(self.residual_exponent(tokens), self.cap(matrix, before)))
        return self.linear(matrix, fraction=before, reach=self.reach(tokens), output=after)

    def target(self, index: int, operation: Operation) -> int:
        """The best exponent of the residual after an operation: it must suit what later ones add in place, too."""
        following = []
        for later in self.graph.trunk[index + 1 :]:
            if not later.in_place:
                break
            following.append(later)
        best = self.residual_exponent(operation.result, *(later.result for later in following))
        return min([best, *(later.ceiling(self) for later in following)])


# What an instruction's fields hold (a test compares them with the instruction set's).
FIELDS = {
    "accumulator_shift": (-64, 63),
    "bias_shift": (0, 31),
    "residual_shift": (0, 15),
    "output_shift": (0, 15),
    "exponent_shift": (0, 15),
}


def _shifts(part: Any, owner: Key) -> Iterator[tuple[Key, str, int]]:
    """(whose it is, field, value) of every shift of a quantised operation."""
    for name, value in vars(part).items():
        if name.endswith("shift"):
            yield owner, name, value
        elif isinstance(value, list):
            for item in value:
                yield from _shifts(item, owner)
        elif isinstance(value, tuple) and value and isinstance(value[0], Shift):
            yield from ((owner, f"{part}_shift", shift) for each in value for part, shift in vars(each).items())
        elif isinstance(value, Shift):
            yield from ((owner, f"{part}_shift", shift) for part, shift in vars(value).items())
        elif isinstance(value, Linear):
            yield from _shifts(value, value.key)
        elif isinstance(value, Completion | Landmarks | Inversion):
            yield from _shifts(value, owner)


def _misfit(model: QuantisedModel) -> str:
    """The first shift that its field cannot hold, in words; empty if all fit."""
    operations = zip(model.graph.operations, (*model.trunk, *model.heads.values()), strict=True)
    for owner, name, value in (shift for operation, part in operations for shift in _shifts(part, operation.result)):
        low, high = next(limits for ending, limits in FIELDS.items() if name.endswith(ending))
        if not low <= value <= high:
            return f"{owner} would need a {name.replace('_', ' ')} of {value}, {low} to {high} can be"
    return ""


def quantise(checkpoint: Checkpoint, weight_bits: str = WeightFormat.SIXTEEN) -> QuantisedModel:
    """The integers of a checkpoint in one of the formats; without a calibration of its own it is calibrated first.

    That calibration, which is not kept, sees 8 pictures. EdgemoeError if the weights are so far apart that the formats
    cannot hold them.
    """
    chosen = WeightFormat.of(weight_bits)
    calibration = checkpoint.calibration or calibrate(
        checkpoint, default_images(checkpoint.config, 8), error_aware=(chosen,)
    )
    if chosen.fast and calibration.rotated is None and rotatable(checkpoint.config):
        notice(
            f"the calibration of model {checkpoint.config.name} knows no rotated residual, with which {chosen} is more "
            f"exact; calibrate again"
        )
    try:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            turned = calibration.rotated if chosen.fast else None
            quantiser = Quantiser(rotated(checkpoint), chosen, turned) if turned else None
            model = (quantiser or Quantiser(checkpoint, chosen, calibration)).run()
        misfit = _misfit(model)
    except (OverflowError, ValueError) as error:  # of a logarithm or an exponent beyond floating point
        misfit = str(error)
    if misfit:
        raise EdgemoeError(
            f"model {checkpoint.config.name} has no {chosen}-bit form: {misfit}. Among the weights, "
            f"{outlier(checkpoint)}; "
            "mend that tensor and calibrate again"
        )
    return model
