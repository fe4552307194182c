# SPDX-License-Identifier: Apache-2.0
"""The command line within this process, and libraries that begin with the same weights in whatever order tests run."""

import pytest
import torch

from ..host.conftest import edgemoe, own_signals

__all__ = ["edgemoe", "own_signals"]


@pytest.fixture(autouse=True)
def same_weights() -> None:
    torch.manual_seed(0)
