# SPDX-License-Identifier: Apache-2.0
"""Numbers: word lengths and formats, integer twins of the hardware's units, and the way from float weights to
integers.
"""
