# SPDX-License-Identifier: Apache-2.0
"""The register map is consistent, and its renderings name every register."""

import dataclasses
import json
import re

import pytest
from edgemoe.hw.contract import isa, registers
from edgemoe.hw.contract.config import PRESETS


def test_offsets_follow_the_convention():
    expected = {
        "CTRL": 0,
        "GIE": 4,
        "IER": 8,
        "ISR": 12,
        "PROGRAM": 0x10,
        "WATCHDOG": 0x18,
        "BASE_0": 0x20,
        "BASE_1": 0x28,
    }
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
    # Presets of the same sizes, as base and kv260, are the same hardware.
    sizes = {tuple(c.sizes.items()) for c in PRESETS.values()}
    assert len({registers.constants(c)["CONFIG_HASH"] for c in PRESETS.values()}) == len(sizes) > 5
    assert all(
        0 <= v < 1 << 32 and name in registers.BY_NAME
        for c in PRESETS.values()
        for name, v in registers.constants(c).items()
    )


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_renderings_are_complete(config):
    """Every register, every value of an instruction's field and every error code, the build's own sizes:
    in JSON, C and Markdown.
    """
    listed = json.loads(registers.to_json(config, "left"))
    assert [r["name"] for r in listed["registers"]] == [r.name for r in registers.REGISTERS]
    assert listed["module"] == "left" and listed["constants"] == registers.constants(config)
    assert listed["hardware"] == {"hardware": config.name, "config_hash": f"0x{config.hash:08X}", **config.sizes}
    markdown, header = registers.to_markdown(config), registers.to_c_header(config, "left")
    for r in registers.REGISTERS:
        assert f"| 0x{r.offset:03X} | {r.name} |" in markdown
        assert f"#define LEFT_{r.name} 0x{r.offset:03X}u" in header
    values = dict(re.findall(r"#define LEFT_(\w+) (\w+)u", header))
    assert {name: int(values[f"{name}_VALUE"], 0) for name in registers.constants(config)} == registers.constants(
        config
    )
    kinds = {
        "opcode": isa.Opcode,
        "memory": isa.Memory,
        "stationary": isa.Stationary,
        "turn": isa.Turn,
        "scale": isa.Scale,
        "activation": isa.Activation,
        "attention": isa.Attention,
        "error_code": isa.ErrorCode,
    }
    assert set(listed["enumerations"]) == set(kinds) == {e.name for e in isa.ENUMERATIONS}
    for name, kind in kinds.items():
        assert {v["name"]: v["value"] for v in listed["enumerations"][name]} == {v.name: v.value for v in kind}
        assert all(v["doc"] for v in listed["enumerations"][name])
        for value in kind:
            assert int(values[f"{name.upper()}_{value.name}"]) == value
            assert f"| {int(value)} | {value.name} |" in (markdown if name == "error_code" else isa.to_markdown())
    assert f"config_hash 0x{config.hash:08X}" in markdown and f"{config.residual_words} |" in markdown


def test_a_name_cannot_end_a_comment():
    """Names come from the command line."""
    header = registers.to_c_header(dataclasses.replace(PRESETS["tiny"], name="a*/b"))
    assert "a*/b" not in header
