"""Segments that are taken from turn after turn, against the same turns one by one."""

from __future__ import annotations

import pytest

from memcalc.replay.allocator import MIB, CachingAllocator
from memcalc.replay.expandable import ExpandableAllocator
from memcalc.replay.turns import Segments, keep
from memcalc.tape.values import SMALL


@pytest.mark.parametrize("sizes", [[6, 6, 3, 3], [12, 12, 6, 6], [3, 2], [7], [2, 31], [19], [9, 5, 2, 11]])
@pytest.mark.parametrize("times", [1, 2, 3, 57, 1000])
def test_turns_that_come_again_take_as_much(sizes: list[int], times: int) -> None:
    requests = [size * MIB for size in sizes]
    one, all_of = (Segments(requests, SMALL, {4 * MIB: 1}) for _ in range(2))
    for size in requests * times:
        one.take(size)
    all_of.turns(times)
    assert all_of.reserved == one.reserved
    assert all_of.there == one.there


@pytest.mark.parametrize("sizes", [[6, 6, 3, 3], [12, 12, 6, 6], [3, 2], [7], [19], [9, 5, 2, 11], [5, 5, 26, 26, 26]])
@pytest.mark.parametrize("waiting", [{5: 300, 26: 40}, {12: 9, 13: 70}, {2: 1, 3: 400, 6: 11, 40: 33}, {100: 60}])
def test_what_waits_is_taken_until_it_gives_out(sizes: list[int], waiting: dict[int, int]) -> None:
    requests, pieces = [size * MIB for size in sizes], {size * MIB: count for size, count in waiting.items()}
    one, all_of = (Segments(requests, SMALL, pieces) for _ in range(2))
    for size in requests * 200:
        one.take(size)
    all_of.turns(200)
    assert all_of.reserved == one.reserved
    assert all_of.there == one.there


def test_turns_that_take_of_the_same_sizes_are_one() -> None:
    """126 turns of 2 of 128 MiB and 3 of 416: two turns show what all but the last do."""
    taken = []

    class Watched(Segments):
        def take(self, size: int) -> None:
            taken.append(size)
            super().take(size)

    segments = Watched([128 * MIB] * 2 + [416 * MIB] * 3, SMALL, {208 * MIB: 506, 416 * MIB: 378, 512 * MIB: 2})
    segments.turns(126)
    assert (segments.reserved, segments.there) == (0, {208 * MIB: 254, 80 * MIB: 252, 512 * MIB: 2})
    assert len(taken) == 3 * 5


def test_three_blocks_of_six_in_a_segment_of_twenty() -> None:
    segments = Segments([6 * MIB], SMALL, {})
    segments.turns(301)
    assert segments.reserved == 101 * 20 * MIB
    assert segments.there == {2 * MIB: 100, 14 * MIB: 1}


@pytest.mark.parametrize("kind", [CachingAllocator, ExpandableAllocator])
@pytest.mark.parametrize("size", [512, 3 * MIB, 10 * MIB + 512, 11 * MIB, 20 * MIB, 24 * MIB + 512])
def test_what_is_kept_for_good_is_made_one_after_the_other(kind: type[CachingAllocator], size: int) -> None:
    one, kept = kind(), kind()
    for allocator in (one, kept):
        allocator.free(allocator.malloc(40 * MIB))
    sizes = [size, 8 * MIB, size] * 5
    one.several(sizes)
    keep(kept, sizes)
    assert one.reserved == kept.reserved
    one.malloc(2 * MIB)
    kept.malloc(2 * MIB)
    assert one.reserved == kept.reserved


def test_blocks_held_in_segments_of_their_own() -> None:
    one, held = CachingAllocator(), CachingAllocator()
    one.several([21 * MIB, 21 * MIB, 20 * MIB + 600_064] * 2)
    keep(held, [21 * MIB], 4)
    keep(held, [20 * MIB + 600_064], 2)
    assert one.reserved == held.reserved
    one.malloc(MIB + 100 * 512)
    held.malloc(MIB + 100 * 512)  # what the last two have left
    assert one.reserved == held.reserved


@pytest.mark.parametrize("kind", [CachingAllocator, ExpandableAllocator])
@pytest.mark.parametrize(
    "turn", [[6, 6, 3, 3], [12, 12, 6, 6], [3, 1.5], [7], [2, 31, 0.25], [19.5], [0.5, 0.125, 0.75]]
)
@pytest.mark.parametrize("waiting", [(), (40,), (5, 5, 9, 20)])
def test_what_is_kept_for_good_turn_after_turn(
    kind: type[CachingAllocator], turn: list[float], waiting: tuple[int, ...]
) -> None:
    sizes = [int(size * MIB) for size in turn]
    one, kept = kind(), kind()
    for allocator in (one, kept):
        for block in [allocator.malloc(mib * MIB) for mib in waiting for _ in range(2)][::2]:
            allocator.free(block)
    one.several(sizes * 101)
    keep(kept, sizes, 101)
    assert one.reserved == kept.reserved
    for size in [512, MIB, 3 * MIB // 2, 2 * MIB, 5 * MIB, 11 * MIB] * 40:  # what is left of the segments
        assert one.malloc(size).size == kept.malloc(size).size
        assert one.reserved == kept.reserved
