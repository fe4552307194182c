# SPDX-License-Identifier: Apache-2.0
"""Hardware configurations: what is refused, and what the refusal says."""

from dataclasses import asdict, replace

import pytest
from edgemoe.hw.contract.config import CHOICES, LISTS, MESSAGE_LENGTH, PRESETS, RANGES, HardwareConfig
from edgemoe.models.errors import EdgemoeError

BASE = PRESETS["base"]
#: A build in which every field may take either end of its range, the others being adapted.
ROOMY = HardwareConfig("roomy", lanes=32, rows=1, tokens=1, width=1, hidden=1, prefetch_beats=4096)


def refusal(**values: object) -> str:
    with pytest.raises(EdgemoeError) as caught:
        HardwareConfig.from_fields(values, BASE)
    text = str(caught.value)
    assert "\n" not in text and len(text) <= MESSAGE_LENGTH
    return text


def test_every_field_has_its_limits():
    assert {"name", *CHOICES, *LISTS, *RANGES} == set(asdict(BASE))


@pytest.mark.parametrize("name", RANGES)
def test_ranges(name):
    least, most = RANGES[name]
    for value in (least - 1, most + 1, True, None, 4.0, "16"):
        assert f"{name} must be an integer of {least} to {most}, not {value!r}" in refusal(**{name: value})
        with pytest.raises(EdgemoeError, match=f"{name} must be an integer"):
            replace(BASE, **{name: value})


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("lanes", "4, 8, 16 or 32"), ("weight_bits", "'16', '8', 'mixed', 'fast', 'fast-trunk' or 'sage'")],
)
def test_choices(name, allowed):
    for value in (5, True, None, "4", "five"):
        assert f"{name} must be {allowed}, not {value!r}" in refusal(**{name: value})
    for value in CHOICES[name]:
        assert getattr(replace(ROOMY, **{name: value}), name) == value


@pytest.mark.parametrize("name", LISTS)
def test_lists(name):
    known = LISTS[name]
    for value in (5, None, "", "five", f"{known[0]};{known[1]}", f"{known[0]},"):
        assert f"{name} must be some of {', '.join(known)}, with commas between them, not {value!r}" in refusal(
            **{name: value}
        )
    backwards, twice = (replace(BASE, **{name: text}) for text in (", ".join(known[::-1]), ",".join(known * 2)))
    assert backwards == twice == replace(BASE, **{name: ",".join(known)})


def test_another_function_is_other_hardware():
    one, other = (replace(BASE, activations=name) for name in ("gelu", "silu"))
    assert (one.functions, other.functions) == (("gelu",), ("silu",)) and one.hash != other.hash


def test_rows_of_the_array():
    """As many as columns go without saying; twice as many are other hardware, and so are its blocks."""
    deep = replace(BASE, array_rows=32)
    assert replace(BASE, array_rows=16) == BASE and "array_rows" not in BASE.sizes
    assert (deep.array, deep.inputs, deep.words_at_once, deep.multipliers) == ("32 x 16", 32, 2, 512)
    assert (BASE.array, BASE.inputs, BASE.words_at_once, BASE.multipliers) == ("16 x 16", 16, 1, 256)
    assert deep.hash != BASE.hash and deep.sizes == BASE.sizes | {"array_rows": 32}


def test_either_end_of_every_range_that_can_stand_alone():
    for name in ("rows", "width", "hidden", "experts", "top_k", "outstanding"):
        for value in RANGES[name]:
            assert getattr(replace(ROOMY, **{name: value}), name) == value
    assert replace(ROOMY, rows=4095, tokens=4095).tokens == 4095
    assert replace(ROOMY, burst_beats=256, prefetch_beats=1024).burst_limit == 256


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"lanes": 8, "width": 20000}, ["width must be an integer of 1 to 4095, not 20000"]),
        ({"lanes": 8, "width": 4095}, ["width must be at most 4088 with 8 lanes", "not 4095"]),
        ({"lanes": 4, "hidden": 4093}, ["hidden must be at most 4092 with 4 lanes (a row in 1023 words), not 4093"]),
        (
            {"rows": 4096, "hidden": 4096},
            ["activation memory has 1146880 words, an address reaches 1048576: fewer rows"],
        ),
        ({"tokens": 300}, ["tokens must be 1..rows (264), not 300"]),
        ({"lanes": 4, "data_bits": 256}, ["a bus of 32 bytes is wider than two words of 4 lanes"]),
        (
            {"data_bits": 256, "burst_beats": 200},
            ["a burst must be at most 4 KiB: burst_beats at most 128, not 200", "hold four bursts, 800"],
        ),
        ({"name": ""}, ["name must be a text of one line, not ''"]),
        (
            {"lanes": 32, "data_bits": 64, "prefetch_beats": 128, "burst_beats": 16},
            ["a 16-bit block and a burst, 296 beats, not 128"],
        ),
        (
            {"lanes": 3, "outstanding": 0, "top_k": 9},
            ["lanes must be 4", "outstanding must be an integer of 1", "top_k must be"],
        ),
        (
            {"lane": 8, "widht": 3, "rows": 0},
            ["no field 'lane', perhaps 'lanes'", "no field 'widht', perhaps 'width'", "rows must be"],
        ),
        ({"quux": 1}, ["no field 'quux', they are name, lanes,"]),
        ({"array_rows": 24}, ["array_rows must be lanes or twice as many, 16 or 32, not 24"]),
        (
            {"array_rows": 32, "attention": "softmax,relu"},
            ["an array of more rows than columns has softmax attention alone, not 'softmax,relu'"],
        ),
        (
            {"lanes": 32, "array_rows": 64, "data_bits": 64, "prefetch_beats": 300, "burst_beats": 16},
            ["a 16-bit block and a burst, 552 beats, not 300"],
        ),
    ],
)
def test_all_shortages_at_once(values, texts):
    text = refusal(**values)
    assert all(part in text for part in texts), text


def test_a_long_list_is_counted():
    assert refusal(**dict.fromkeys(["name", *RANGES, "lanes", "masters", "data_bits"], 0)).endswith("more")


def test_fields_over_a_base_and_alone():
    assert HardwareConfig.from_fields({"lanes": 8, "weight_bits": 8}, BASE) == replace(BASE, lanes=8, weight_bits="8")
    assert HardwareConfig.from_fields({"name": "own", "lanes": 8}) == HardwareConfig("own", lanes=8)
    assert all(HardwareConfig.from_fields(asdict(c)) == c for c in PRESETS.values())
    with pytest.raises(EdgemoeError, match="hardware 'own': lanes is missing; rows must be"):
        HardwareConfig.from_fields({"name": "own", "rows": 0})
