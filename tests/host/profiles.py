# SPDX-License-Identifier: Apache-2.0
"""A small profile for tests of its numbers and of its page."""

from __future__ import annotations

from functools import cache
from typing import Any

from edgemoe.host.studies.profile.gather import profile
from edgemoe.hw.contract.config import preset
from edgemoe.models.numbers.calibrate import unseen_images

from ..models.support import TINY, random_checkpoint

CHECKPOINT = random_checkpoint(TINY)
IMAGE = unseen_images(TINY, 1)[0]
HARDWARE = preset("tiny")


@cache
def found(rtl: bool) -> dict[str, Any]:
    """The same picture on the simulated core, and as planned."""
    return profile(CHECKPOINT, IMAGE, hardware=HARDWARE, weight_bits="16", rtl=rtl, name="a <picture>").summary()
