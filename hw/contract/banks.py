# SPDX-License-Identifier: Apache-2.0
"""How deep memories are divided into banks."""

BANK_WORDS = 4096  # as many as block RAM of FPGAs gives side by side, in parts of 9 bits
LEAST_WORDS = 512  # and in parts of 72


def banks_of(depth: int) -> list[int]:
    """Depths of the banks, the largest first: powers of two, each as deep as block RAM is in some shape, so that tools
    need nothing between block RAM and register. Of a bank more than a quarter is not left empty, unless it is small.
    """
    if depth > BANK_WORDS:
        return [BANK_WORDS, *banks_of(depth - BANK_WORDS)]
    whole = 1 << (depth - 1).bit_length()
    if whole <= LEAST_WORDS or depth > whole * 3 // 4:
        return [whole]
    return [whole // 2, *banks_of(depth - whole // 2)]


__all__ = ["BANK_WORDS", "banks_of"]
