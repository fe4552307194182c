# SPDX-License-Identifier: Apache-2.0
"""The compiler's passes, each on its own: who has which rows, which words, which waits."""

import dataclasses

import pytest
from edgemoe.host.compiler.allocate import Activations, allocate
from edgemoe.host.compiler.draft import At, Draft, Lowered, Operand, Room
from edgemoe.host.compiler.link import locate
from edgemoe.host.compiler.streams import Run, place
from edgemoe.host.compiler.waits import mark_waits
from edgemoe.host.compiler.walk import KINDS
from edgemoe.host.runtime.program import Stream
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import Opcode
from edgemoe.models.errors import EdgemoeError
from edgemoe.models.steps import Step

TINY = preset("tiny")


@pytest.mark.parametrize(
    ("streams", "slots", "followers"),
    [
        ([(0, 0)], (0,), ()),
        ([(0, 0), (0, 1)], (0, 1), (Run(1, 0, 1),)),
        ([(0, 0), (1, 0), (0, 1), (1, 1)], (0, 1, 2, 3), (Run(2, 0, 2),)),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], (0, 2, 1, 3), (Run(2, 0, 2),)),
        ([(5, 0), (3, 0), (3, 1), (3, 2)], (0, 1, 2, 3), (Run(2, 1, 1), Run(3, 1, 1))),
        ([(0, 0), (1, 0), (1, 1), (0, 1), (0, 2)], (0, 1, 3, 2, 4), (Run(2, 0, 2), Run(4, 0, 1))),
    ],
)
def test_leaders_come_first_and_followers_in_runs(streams, slots, followers):
    placement = place([Stream(*s) for s in streams], parts=True)
    assert (placement.slot_of, placement.followers) == (slots, followers)
    assert placement.leaders == len({image for image, _ in streams}) and placement.slots == len(streams)


def test_streams_that_never_part_share_their_leaders_rows():
    placement = place([Stream(4, 0), Stream(2, 0), Stream(4, 1)], parts=False)
    assert (placement.slot_of, placement.slots, placement.leaders, placement.followers) == ((0, 1, 0), 2, 2, ())


def test_first_fit():
    memory = Activations(20)
    assert [memory.take(5), memory.take(5), memory.take(5)] == [0, 5, 10]
    memory.free(5)
    assert memory.take(6) is None and memory.take(4) == 5 and memory.used == 14
    assert memory.take(6, high=True) is None and memory.take(5, high=True) == 15
    memory.free(0)
    assert memory.take(5, high=True) is None  # the end is taken


def drafts(*rooms_of: tuple[int, list[Room]]) -> list[Draft]:
    """Instructions that use rooms; the number is the loop's."""
    return [
        Draft(Opcode.MATMUL, "x", {f"field{i}": At(room, 1) for i, room in enumerate(rooms)}, group=group)
        for group, rooms in rooms_of
    ]


def test_rooms_live_from_first_to_last_use():
    a, b, c = (Room(name, 2, 3) for name in "abc")
    listed = drafts((0, [a]), (0, [a, b]), (0, [b]), (0, [b, c]))
    allocate(listed, "m", TINY)
    assert (a.base, b.base, c.base) == (0, 6, 0)  # a is gone when c comes
    assert [list(draft.fields.values()) for draft in listed] == [[1], [1, 7], [7], [7, 1]]


def test_what_a_loop_uses_lives_as_long_as_the_loop():
    a, b, c = (Room(name, 2, 3) for name in "abc")
    allocate(drafts((0, [a]), (1, [a]), (1, [b]), (0, [c])), "m", TINY)
    assert (a.base, b.base, c.base) == (0, 6, 0)
    # Two loops one after the other are two.
    d, e = Room("d", 2, 3), Room("e", 2, 3)
    allocate(drafts((1, [d]), (2, [e])), "m", TINY)
    assert (d.base, e.base) == (0, 0)


def test_rooms_at_opposite_ends():
    a = Room("a", 2, 3)
    b = Room("b", 2, 3, opposite=a)
    c = Room("c", 2, 3, opposite=b)
    allocate(drafts((0, [a, b]), (0, [b, c])), "m", TINY)
    assert (a.base, b.base, c.base) == (0, TINY.activation_words - 6, 0)


def test_words_that_are_not_there_are_named():
    small = dataclasses.replace(TINY, rows=20)
    with pytest.raises(
        EdgemoeError, match=rf"activation words at once \(9999 for the rows\), the limit is {small.activation_words} \("
    ):
        allocate(drafts((0, [Room("the rows", 9999, 1)])), "m", small)


def wait(opcode: Opcode = Opcode.MATMUL, **operands) -> Draft:
    return Draft(opcode, "x", {}, **operands)


def test_waits():
    """MATMULs wait for unfinished operands, the others for everything.

    Two that do not depend on one another overlap.
    """
    room = Room("x", 1, 1)
    listed = [
        wait(Opcode.LAYERNORM, writes=[Operand.NORM]),
        wait(reads=[Operand.NORM], writes=[Operand.KEY_VALUE]),
        wait(writes=[room]),
        wait(reads=[room], holds=[Operand.KEY_VALUE], writes=[Operand.SCORE]),
        wait(reads=[Operand.SCORE], holds=[Operand.KEY_VALUE]),
        wait(reads=[room]),
        wait(Opcode.STORE),
        wait(reads=[room], holds=[room]),
    ]
    mark_waits(listed)
    assert [tuple(sorted(draft.fields)) for draft in listed] == [
        (),
        ("wait_stream",),
        (),
        ("wait_load", "wait_stream"),
        ("wait_stream",),
        (),
        (),
        (),
    ]


def test_a_loop_begins_with_nothing_unfinished():
    room = Room("x", 1, 1)
    listed = [
        wait(writes=[room]),
        wait(Opcode.EXPERTS),
        wait(reads=[room], writes=[Operand.SCORE]),
        wait(reads=[Operand.SCORE]),
    ]
    mark_waits(listed)
    assert [bool(draft.fields) for draft in listed] == [False, False, False, True]


def test_every_kind_of_step_becomes_instructions():
    assert set(KINDS) == set(Step.__subclasses__())


def test_nothing_that_the_hardware_refuses_leaves_the_compiler():
    scores = Draft(Opcode.LOAD, "a load", dict(memory=3, rows=1, columns=1))
    with pytest.raises(AssertionError, match=r"a load: LOAD memory=3 .*`memory` is not SCORE"):
        locate(Lowered([], [], [scores]), [], TINY)
