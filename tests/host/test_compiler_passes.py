# SPDX-License-Identifier: Apache-2.0
"""The compiler's passes, each on its own: who has which rows, which words, which waits."""

import dataclasses
from collections.abc import Sequence

import pytest
from edgemoe.host.compiler.allocate import Activations, allocate
from edgemoe.host.compiler.draft import At, Draft, Lowered, Operand, Room
from edgemoe.host.compiler.link import locate
from edgemoe.host.compiler.streams import Run, place
from edgemoe.host.compiler.waits import mark_waits
from edgemoe.host.compiler.walk import KINDS
from edgemoe.host.runtime.program import Stream
from edgemoe.hw.contract.config import preset
from edgemoe.hw.contract.isa import Activation, Memory, Opcode
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


def test_rows_follow():
    """Where the MATMUL before writes what is streamed, row by row, and all else that is read is complete."""
    room = Room("x", 8, 3)

    def writer(base: int = 30, **fields: int) -> Draft:
        return Draft(Opcode.MATMUL, "w", dict(destination_base=base, destination_stride=3) | fields, writes=[room])

    def reader(base: int = 30, more: Sequence[Operand] = (), **fields: int) -> Draft:
        return Draft(
            Opcode.MATMUL, "r", dict(stream_base=base, stream_stride=3, chunks=2) | fields, reads=[room, *more]
        )

    def follows(*drafts: Draft) -> bool:
        mark_waits(drafts, follow=True)
        assert drafts[-1].fields["wait_stream"]
        return bool(drafts[-1].fields.get("follow"))

    scores = dict(memory=Memory.SCORE, destination_base=1, destination_stride=5)
    weighed = dict(probabilities=1, stream_stride=5, chunks=5)
    assert follows(
        Draft(Opcode.MATMUL, "s", scores, writes=[Operand.SCORE]),
        Draft(Opcode.MATMUL, "p", weighed, reads=[Operand.SCORE]),
    )
    assert follows(writer(), reader()) and follows(writer(gather=1), reader(scatter=1))
    assert follows(writer(31), reader()) and follows(writer(33), reader()), "a row's words, sooner rows"
    assert not follows(writer(), reader(33)), "row i is the writer's row i + 1"
    assert not follows(writer(), reader(chunks=4)), "row i is the writer's rows i and i + 1"
    assert not follows(writer(), reader(stream_stride=2)) and not follows(writer(scatter=1), reader())
    assert not follows(writer(), reader(gather=1)) and not follows(writer(memory=Memory.RESIDUAL, copy=1), reader())
    assert follows(writer(row_base=2), reader(steps=1, steps_base=2))
    assert not follows(writer(row_base=2), reader(steps=1, steps_base=3)), "its step is of the writer's next row"
    residual = wait(writes=[Operand.RESIDUAL])
    assert not follows(residual, writer(), reader(more=[Operand.RESIDUAL])), "more than the streamed rows is unfinished"
    listed = [writer(), reader()]
    mark_waits(listed)
    assert "follow" not in listed[1].fields, "a build that cannot"


def test_rows_are_scaled_beside_their_norm() -> None:
    """A LAYERNORM follows who writes its rows, and who is scaled follows both; neither where rows come in another
    order, nor where sums would change under way.
    """
    copy = Room("copy", 8, 3)

    def flags(read: dict[str, int], norm: int = 2, follow: bool = True, **wrote: int) -> tuple[int, ...]:
        fields = dict(memory=Memory.RESIDUAL, copy=1, copy_base=30, copy_stride=3, row_base=2) | wrote
        listed = [
            Draft(Opcode.MATMUL, "w", fields, writes=[Operand.RESIDUAL, copy]),
            Draft(Opcode.LAYERNORM, "n", dict(row_base=norm), writes=[Operand.NORM]),
            Draft(
                Opcode.MATMUL,
                "r",
                dict(stream_base=30, stream_stride=3, chunks=2, row_base=2) | read,
                reads=[copy, Operand.NORM],
                writes=[Operand.KEY_VALUE],
            ),
            Draft(Opcode.MATMUL, "k", {}, holds=[Operand.KEY_VALUE, copy]),
        ]
        mark_waits(listed, follow)
        assert listed[2].fields["wait_stream"] and listed[3].fields["wait_load"]
        return tuple(draft.fields.get("follow", 0) for draft in listed)

    assert flags({}) == (0, 1, 1, 0)
    assert flags({}, follow=False) == (0, 0, 0, 0), "a build that cannot"
    assert flags({}, scatter=1) == (0, 0, 1, 0), "rows in any order: the norm waits, but not who is scaled"
    assert flags({}, norm=3) == (0, 0, 1, 0), "its row i is the writer's row i + 1"
    assert flags(dict(row_base=3)) == (0, 1, 0, 0), "row i has the scale of row i + 1"
    assert flags(dict(stream_base=33)) == (0, 1, 0, 0)
    assert flags(dict(stream_base=33), norm=3) == (0, 0, 1, 0), "the writer is complete"
    for sums in (dict(memory=Memory.RESIDUAL), dict(row_sums=1), dict(activation=Activation.GATED)):
        assert flags(sums) == (0, 1, 0, 0), "it changes sums that are still to be read"


def test_experts_are_chosen_as_logits_are_written() -> None:
    def follows(read: dict[str, int], **wrote: int) -> int:
        fields = dict(memory=Memory.SCORE, destination_stride=1, rows=9) | wrote
        route = dict(stream_stride=1, columns=1, rows=9) | read
        listed = [
            Draft(Opcode.MATMUL, "w", fields, writes=[Operand.SCORE]),
            Draft(Opcode.ROUTE, "c", route, writes=[Operand.QUEUES]),
            Draft(Opcode.MATMUL, "r", {}, reads=[Operand.SCORE]),
        ]
        mark_waits(listed, follow=True)
        assert "wait_stream" not in listed[2].fields, "the logits are complete"
        return listed[1].fields.get("follow", 0)

    assert follows({}) and not follows(dict(rows=8)) and not follows(dict(stream_stride=2))
    assert not follows({}, probabilities=1) and not follows({}, memory=Memory.ACTIVATION)
    assert not follows(dict(columns=2)) and follows(dict(columns=2, stream_stride=2), destination_stride=2)


def test_a_followed_writer_is_not_complete_for_the_loader() -> None:
    """What it follows may still be written when it streams, so keys of that are waited for."""
    room = Room("x", 8, 3)

    def loads(follow: bool) -> int:
        fields = dict(destination_stride=3, stream_stride=3)
        listed = [
            Draft(Opcode.MATMUL, "w", dict(fields), writes=[room, Operand.KEY_VALUE]),
            Draft(Opcode.MATMUL, "r", dict(fields), reads=[room]),
            wait(holds=[Operand.KEY_VALUE]),
        ]
        mark_waits(listed, follow)
        assert listed[1].fields.get("follow", 0) == follow
        return listed[2].fields.get("wait_load", 0)

    assert loads(follow=True) and not loads(follow=False)


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
