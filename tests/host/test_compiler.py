# SPDX-License-Identifier: Apache-2.0
"""Programs as such: layout, packing, waits, what does not fit, floors."""

import dataclasses

import numpy as np
import pytest
from edgemoe.host import compiler
from edgemoe.host.compiler.floor import floor
from edgemoe.host.compiler.packing import pack
from edgemoe.host.runtime.program import disassemble, memory_image
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import INSTRUCTION_BYTES, Instruction, Opcode, Stationary
from edgemoe.hw.contract.weight_stream import WeightStream
from edgemoe.models.config import PRESETS
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.graph import graph
from edgemoe.models.keys import Key, Role
from edgemoe.models.numbers import quantise
from edgemoe.models.numbers.linear import Linear
from edgemoe.models.numbers.sketch import sketch

from ..models.support import ODD, PLAIN, TINY, random_checkpoint


def program(config=TINY, streams=((0, 0),), hardware="tiny", weight_bits="16", **options):
    hardware = preset(hardware) if isinstance(hardware, str) else hardware
    return compiler.compile(quantise.quantise(random_checkpoint(config), weight_bits), streams, hardware, **options)


@pytest.mark.parametrize("hardware", ["tiny", "base", "zcu102"])
def test_weights_lie_in_the_order_of_their_use_and_do_not_overlap(hardware):
    compiled = program(hardware=hardware)
    end = 0
    for i in compiled.instructions:
        if i.opcode == Opcode.MATMUL and i.stationary in (Stationary.WEIGHTS16, Stationary.WEIGHTS8):
            assert i.address % 64 == 0 and i.address >= end
            size = i.beats * compiled.hardware.bus_bytes
            assert size == WeightStream(compiled.hardware, i.chunks, i.columns, 16).size
            end = i.address + (i.expert_stride * (TINY.experts - 1) if i.expert_stride else 0) + size
    assert end <= compiled.memory.size <= compiled.images[0][0].offset
    assert compiled.memory_size >= max(b.offset + b.size for r in compiled.results for b in (r.head, r.tokens) if b)


def test_program_decodes_and_lists():
    compiled = program(trace=True, streams=((0, 0), (0, 1)))
    code = compiled.memory[compiled.program :]
    for index, instruction in enumerate(compiled.instructions):
        decoded = Instruction.decode(code[index * INSTRUCTION_BYTES : (index + 1) * INSTRUCTION_BYTES].tobytes())
        assert decoded.opcode == instruction.opcode
        assert {k: v for k, v in instruction.values.items() if v} == decoded.values
        assert instruction.label
    listing = disassemble(compiled)
    assert "layer 1 expert 2" in listing and "EXPERTS" in listing
    bare = disassemble(code)
    assert bare.count("\n") == len(compiled.instructions) and bare.splitlines()[-1].split()[1] == "END"


def test_pack_is_what_the_array_takes():
    hardware = preset("tiny")  # 4 lanes, two words a beat: parameters take four words
    rng = np.random.default_rng(0)
    weights, bias = rng.integers(-9, 9, (6, 10)).astype(np.int16), rng.integers(-(1 << 26), 1 << 26, 10)
    linear = Linear(Key(Role.PATCH), weights, bias, np.arange(1, 11), 16, 0, 0, groups=2)
    words = pack(linear, hardware)[0].view("<i2").reshape(-1, 4)
    block = 4 + 2 * 4
    for group in range(2):
        for column in range(2):
            part = words[(2 * group + column) * block :][:block]
            for lane in range(4):
                output = 4 * column + lane
                value = group * 5 + output
                inside = output < 5
                bias = (int(part[0, lane]) & 0xFFFF) | int(part[1, lane]) << 16
                assert bias == (linear.bias[value] if inside else 0)
                assert part[2, lane] == (linear.multiplier[value] if inside else 0) and part[3, lane] == 0
                column_weights = np.append(linear.weights[:, value] if inside else np.zeros(6), [0, 0])
                assert (part[4:, lane] == column_weights).all()


@pytest.mark.parametrize(
    "config, hardware", [(TINY, "tiny"), (ODD, "base"), (PLAIN, "base")], ids=lambda x: getattr(x, "name", x)
)
@pytest.mark.parametrize("task", [0, 1])
def test_multiplications_are_the_graphs(config, hardware, task):
    """Of the instructions, and of the operations: the same number."""
    assert program(config, ((0, task),), hardware).macs == graph(config).multiplications(config.tasks[task].name)


def test_what_rotates_tokens_back_is_none_of_the_models_multiplications():
    rotated = compiler.compile(sketch(TINY, "fast"), [(0, 0)], preset("zcu102"), save_tokens=True)
    assert any("rotated back" in label for label in rotated.labels)
    assert rotated.macs == graph(TINY).multiplications(TINY.tasks[0].name)


def test_m3vit_t_multiplications():
    assert round(graph(PRESETS["m3vit-t"]).multiplications("task0") / 1e6, 1) == 782.7


def test_waits_only_where_something_is_unfinished():
    compiled = program(PLAIN, hardware="base")
    by_label = {i.label: i for i in compiled.instructions}
    first, second = by_label["layer 0 head 0 scores"], by_label["layer 0 head 1 scores"]
    assert first.wait_stream and first.wait_load and not second.wait_stream and not second.wait_load
    values = by_label["layer 0 head 0 values"]
    # its values have long been there: they load while scores come out
    assert values.wait_stream and not values.wait_load
    assert by_label["layer 0 MLP 2"].wait_stream and not by_label["layer 0 queries"].wait_stream


def test_streams_of_an_image_share_what_comes_before_the_first_router():
    one, two = program(), program(streams=((0, 0), (0, 1)))
    labels = two.labels
    assert labels.count("layer 0 queries") == labels.count("layer 1 queries") == 1
    assert "layer 1 projection to slot 1" in labels and "layer 0 projection to slot 1" not in labels
    assert two.macs < 2 * one.macs and two.slots == [0, 1]
    assert program(PLAIN, ((0, 0), (0, 1)), "base").slots == [0, 0]  # no router: one row of slots serves all tasks
    assert program(ODD, ((0, 0), (1, 0), (0, 1), (1, 1)), "base").slots == [0, 1, 2, 3]
    assert program(ODD, ((0, 0), (0, 1), (1, 0), (1, 1)), "base").slots == [0, 2, 1, 3]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(experts=5), r"it needs 6 experts, the limit is 5 \(1 too many\)"),
        (dict(top_k=2), r"it needs 3 experts a token \(top_k\), the limit is 2 \(1 too many\)"),
        (
            dict(rows=4, tokens=4),
            r"it needs 8 token rows of a tile, the limit is 4 .*; it fits with --set rows=8",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(EdgemoeError, match=message):
        program(streams=((0, 0), (0, 1)), hardware=dataclasses.replace(preset("tiny"), **change))


@pytest.mark.parametrize(
    "change, why, tiles",
    [
        (dict(tokens=16), "17 tokens a stream, the limit is 16 (1 too many)", 2),
        (dict(rows=20), "34 token rows (2 x 17), the limit is 20 (14 too many)", 2),
        (dict(width=20), "204 residual words, the limit is 200 (4 too many)", 2),
        (dict(hidden=16), "activation words at once", 2),
    ],
)
def test_what_does_not_fit_in_one_piece_is_cut(change, why, tiles):
    hardware = dataclasses.replace(preset("tiny"), **change)
    cut = compiler.outline(sketch(TINY), ((0, 0), (0, 1)), hardware).split
    assert cut and why in str(cut.why[0]) and len(cut.tiles) == tiles


def test_bad_calls():
    with pytest.raises(EdgemoeError, match="at least one stream"):
        program(streams=())
    with pytest.raises(EdgemoeError, match="has no task 'x'"):
        program(streams=((0, "x"),))
    compiled = program()
    with pytest.raises(EdgemoeError, match="the program is for 1 images, got 2"):
        memory_image(compiled, [np.zeros((3, 16, 16), np.uint8)] * 2)
    with pytest.raises(EdgemoeError, match="expected uint8"):
        memory_image(compiled, [np.zeros((3, 16, 8), np.uint8)])


@pytest.mark.parametrize(
    "hardware, weight_bits, one, two",
    [("base", "16", 3.97, 3.09), ("base", "8", 3.09, 3.09), ("zcu102", "16", 0.99, 0.78), ("zcu102", "8", 0.78, 0.78)]
    + [("zcu102", "mixed", 0.78, 0.78), ("zcu102", "fast", 0.54, 0.44), ("zcu102", "fast-trunk", 0.55, 0.55)],
)
def test_floors_of_balanced_queues(hardware, weight_bits, one, two):
    """In millions of cycles an image."""
    config, h = PRESETS["m3vit-t"], preset(hardware)
    assert round(floor(config, h, weight_bits) / 1e6, 2) == pytest.approx(one)
    assert round(floor(config, h, weight_bits, streams=2) / 2e6, 2) == pytest.approx(two)


#: Tokens of each expert for the published image and stand-in experts of seed 7, per task, layers 1, 3, ...
QUEUES = (
    "0 6 0 32 0 27 15 24 22 19 0 22 11 33 32 15,24 19 18 11 18 12 1 18 12 17 0 17 32 32 5 22,1 0 16 6 10 39 9 4 38 22 "
    "30 3 24 4 27 25,"
    "30 12 0 39 0 16 11 37 13 21 6 13 10 33 12 5,23 12 31 0 22 0 6 35 9 48 15 13 0 23 14 7,47 0 0 17 1 0 0 5 122 50 0 "
    "11 0 2 0 3",
    "0 17 0 41 1 22 16 25 2 19 0 23 16 1 51 24,15 15 22 8 22 38 7 18 13 7 0 4 30 22 19 18,13 2 12 4 3 22 44 1 41 25 11 "
    "3 28 12 16 21,"
    "19 17 4 43 0 17 24 20 1 20 0 11 15 27 1 39,1 12 26 0 27 0 0 3 3 58 50 22 0 36 20 0,30 1 0 12 8 2 0 12 109 60 0 11 "
    "0 9 0 4",
)


def test_floors_of_real_queues():
    config = PRESETS["m3vit-t"]
    tasks = [{2 * n + 1: np.array(q.split(), int) for n, q in enumerate(text.split(","))} for text in QUEUES]
    both = {n: (tasks[0][n] + tasks[1][n]).tolist() for n in tasks[0]}
    for hardware, weight_bits, one, two in (
        ("base", "16", 3.73, 3.27),
        ("zcu102", "16", 0.92, 0.81),
        ("zcu102", "8", 0.79, 0.79),
        ("zcu102", "fast", 0.50, 0.45),
    ):
        h = preset(hardware)
        assert round(float(floor(config, h, weight_bits, tasks[0])) / 1e6, 2) == pytest.approx(one)
        assert round(floor(config, h, weight_bits, both, streams=2) / 2e6, 2) == pytest.approx(two)
