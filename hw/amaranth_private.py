# SPDX-License-Identifier: Apache-2.0
"""All that is used of Amaranth without being documented there. Nobody else imports a private name of it
(tests/hw/test_house.py), so that a new release of Amaranth is read against this file alone.

PortDirection: which way a port of the outermost module points. Without it `rtlil.convert` guesses from what is driven,
and an output that a build never drives would become an input.

rtlil_to_verilog: `verilog.convert` takes a design and no RTLIL. Here RTLIL comes first, as the key of a cache, and the
slow half of the way to Verilog is gone only when that text is new.
"""

from amaranth.back.verilog import _convert_rtlil_text
from amaranth.hdl._ir import PortDirection

__all__ = ["PortDirection", "rtlil_to_verilog"]


def rtlil_to_verilog(text: str) -> str:
    """RTLIL to Verilog-2005 as Yosys writes it."""
    return _convert_rtlil_text(text, strip_internal_attrs=True)
