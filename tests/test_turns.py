"""Segments that are taken from turn after turn, against the same turns one by one."""

from __future__ import annotations

import pytest

from memcalc.allocator import MIB, SMALL, segment
from memcalc.turns import Segments


@pytest.mark.parametrize("sizes", [[6, 6, 3, 3], [12, 12, 6, 6], [3, 2], [7], [2, 31], [19], [9, 5, 2, 11]])
@pytest.mark.parametrize("times", [1, 2, 3, 57, 1000])
def test_turns_that_come_again_take_as_much(sizes: list[int], times: int) -> None:
    requests = [size * MIB for size in sizes]
    one, all_of = (Segments(requests, segment, SMALL, [4 * MIB]) for _ in range(2))
    for size in requests * times:
        one.take(size)
    all_of.turns(times)
    assert all_of.reserved == one.reserved
    assert all_of.rests == one.rests


def test_three_blocks_of_six_in_a_segment_of_twenty() -> None:
    segments = Segments([6 * MIB], segment, SMALL, [])
    segments.turns(301)
    assert segments.reserved == 101 * 20 * MIB
    assert segments.rests == {2 * MIB: 100, 14 * MIB: 1}
