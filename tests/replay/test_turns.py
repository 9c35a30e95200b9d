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
    one, all_of = (Segments(requests, SMALL, [4 * MIB]) for _ in range(2))
    for size in requests * times:
        one.take(size)
    all_of.turns(times)
    assert all_of.reserved == one.reserved
    assert all_of.rests == one.rests


def test_three_blocks_of_six_in_a_segment_of_twenty() -> None:
    segments = Segments([6 * MIB], SMALL, [])
    segments.turns(301)
    assert segments.reserved == 101 * 20 * MIB
    assert segments.rests == {2 * MIB: 100, 14 * MIB: 1}


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
