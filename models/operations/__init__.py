# SPDX-License-Identifier: Apache-2.0
"""The kinds of operations that a model is made of, one file each: tensors, float forward, folding, quantisation, steps
of the array.
"""
