# SPDX-License-Identifier: Apache-2.0
"""What each kind of step becomes; importing a file registers its kinds."""

from edgemoe.host.compiler.steps import attention, embedding, experts, landmark_attention, linear_attention, products

__all__ = ["attention", "embedding", "experts", "landmark_attention", "linear_attention", "products"]
