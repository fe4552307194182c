# SPDX-License-Identifier: Apache-2.0
"""Names that a board's folder gives to the core and its memory, and by which the driver finds them."""

from __future__ import annotations

VENDOR, LIBRARY = "edgemoe", "accelerator"  # of the packaged core; its name is the module's
UIO = "edgemoe"  # the node of the device tree, and so the UIO device
MEMORY = "edgemoe-memory"  # u-dma-buf devices, one a master: edgemoe-memory0, ...
