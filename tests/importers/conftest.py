# SPDX-License-Identifier: Apache-2.0
"""The command line within this process."""

from ..host.conftest import edgemoe, own_signals

__all__ = ["edgemoe", "own_signals"]
