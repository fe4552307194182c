# SPDX-License-Identifier: Apache-2.0
"""Word lengths and fractions of the datapath, each named once. A fraction f means value = integer * 2^-f."""

WORD_BITS = 16  # one activation, and one lane of the weight stream
ACCUMULATOR_BITS = 48  # a DSP48E2's sum: exact for every product chain that fits
FINE_BITS = 27  # the wide operand of a DSP48E2: biases, and values inside the epilogue between multiplications
MULTIPLIER_BITS = 16  # unsigned: column and row scales, router scores

SCALE_FRACTION = 15  # of multipliers and mantissas
RECIPROCAL_FRACTION = 16  # of the mantissas that 1/x and 1/sqrt(x) give
PROBABILITY_BITS = 15  # fraction of a probability where it is multiplied; 1.0 is held as 32767
FINE_PROBABILITY_BITS = 18  # where it is added up
PROBABILITY_SUM_BITS = 30  # of the sum of a row
MOST_KEYS = (1 << PROBABILITY_SUM_BITS - FINE_PROBABILITY_BITS) - 1  # each of at most 1.0
SCORE_FRACTION = 12  # of an exponent after alignment
DISTANCE_BITS = 17  # of an exponent of a weight, before alignment: the difference of two scores
SHARPNESS = 15  # power to which softplus attention takes what is above the mean
LOWEST_SCORE = -(1 << WORD_BITS - 1)  # the maximum of no scores
ACTIVATION_FRACTION = 16  # of an activation function's argument and value
GATE_FRACTION = 14  # of the ones on the diagonal of a gate's matrix
GATE_ARGUMENT_FRACTION = 11  # of what its sigmoid is taken of, which 16 bits hold up to 16
PIXEL_FRACTION = 8  # an image's value is pixel / 256

NARROW_BITS = 9  # an activation of which two products share a multiplier
NARROW_LIMIT = 1 << NARROW_BITS - 1
UNSIGNED_LIMIT = (1 << NARROW_BITS) - 1  # of one that has no sign
PACKED_BITS = 19  # of a sum of such products below the other one
PACKED_CHAIN = 16  # products that are added up before the two are taken apart
PACKED_SUM_BITS = 24  # of a sum of chains: two in an accumulator
SMOOTHING_BITS = 3  # right shift of a channel where the residual is copied
STEP_FRACTION = 3  # of the step of a row: mantissa 8..16 times 2^exponent / 8; of rows without a sign half of that

EPSILON_BITS = 48  # what is added to n^2 * variance

SCALE_ONE = 1 << SCALE_FRACTION
WORD_LIMIT = (1 << WORD_BITS - 1) - 1
FINE_LIMIT = 1 << FINE_BITS - 1  # magnitudes inside the epilogue stay below
MULTIPLIER_LIMIT = (1 << MULTIPLIER_BITS) - 1
ACCUMULATOR_SHIFT_BITS = 7  # signed: the right shift of a sum
ACCUMULATOR_SHIFT_LIMIT = (1 << ACCUMULATOR_SHIFT_BITS - 1) - 1
