# SPDX-License-Identifier: Apache-2.0
"""The register map is consistent, and its renderings name every register."""

import json

from edgemoe.hw import registers
from edgemoe.hw.config import PRESETS


def test_offsets_follow_the_convention():
    expected = {"CTRL": 0, "GIE": 4, "IER": 8, "ISR": 12, "PROGRAM": 0x10, "WATCHDOG": 0x18, "BASE_0": 0x20, "BASE_1": 0x28}
    assert {name: registers.offset(name) for name in expected} == expected
    assert all(r.offset % 4 == 0 and r.offset < 1 << registers.ADDRESS_BITS for r in registers.REGISTERS)
    control = registers.BY_NAME["CTRL"]
    assert {f.name: f.low for f in control.fields} == {"START": 0, "DONE": 1, "IDLE": 2, "READY": 3, "SOFT_RESET": 8}


def test_fields_do_not_overlap():
    for r in registers.REGISTERS:
        seen = 0
        for f in r.fields:
            assert not seen & f.mask, f"{r.name}.{f.name} overlaps"
            seen |= f.mask
        assert seen < 1 << 32 and 0 <= r.writable < 1 << 32


def test_constants_describe_the_build():
    values = registers.constants(PRESETS["tiny"])
    assert values["MAGIC"].to_bytes(4, "little") == b"EMOE"
    assert (values["LANES"], values["ROWS"], values["CONFIG_HASH"]) == (4, 40, PRESETS["tiny"].hash)
    assert len({registers.constants(c)["CONFIG_HASH"] for c in PRESETS.values()}) == len(PRESETS)
    assert all(0 <= v < 1 << 32 and name in registers.BY_NAME for c in PRESETS.values() for name, v in registers.constants(c).items())


def test_renderings_are_complete():
    listed = json.loads(registers.to_json())
    assert [r["name"] for r in listed] == [r.name for r in registers.REGISTERS]
    markdown, header = registers.to_markdown(), registers.to_c_header()
    for r in registers.REGISTERS:
        assert f"| 0x{r.offset:03X} | {r.name} |" in markdown
        assert f"#define EDGEMOE_{r.name} 0x{r.offset:03X}u" in header
