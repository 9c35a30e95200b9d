"""Periods of a stream that come again: as if each had been followed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcalc.replay.cycles import pooled
from memcalc.tape.laid import Again, Stream

MIB = 2**20
SIZES = st.integers(1, 40 * MIB // 512).map(lambda grains: 512 * grains)


def spelled(before: list[int], period: list[int], times: int) -> Stream:
    """Each period makes its blocks, and lets go of those that the one before has made, in turn."""
    moves, made = list(before), len(before)
    for _ in range(times):
        for place, size in enumerate(period):
            moves += [size, ~(made + place - len(period))]
        made += len(period)
    return Stream(tuple(moves))


@settings(deadline=None, max_examples=60)
@given(period=st.lists(SIZES, min_size=1, max_size=5), times=st.integers(1, 40), expandable=st.booleans())
def test_as_if_every_period_were_followed(period: list[int], times: int, *, expandable: bool) -> None:
    whole, once, width = spelled(period, period, times + 1), spelled(period, period, 1), len(period)
    again = Again(width, len(once.moves), times, tuple((number, number + width) for number in range(width)))
    short = Stream(once.moves, (again,))
    assert pooled(short, expandable=expandable) == pooled(whole, expandable=expandable)


def test_nothing_but_moves() -> None:
    assert pooled(Stream((MIB, ~0, 30 * MIB, ~1))) == 32 * MIB
    assert pooled(Stream(())) == 0


@pytest.mark.parametrize("times", [1, 8, 9, 10_000])
def test_many_periods_take_no_more_than_a_few(times: int) -> None:
    period = Again(1, 3, times, ((0, 1),))
    assert pooled(Stream((12 * MIB, 12 * MIB, ~0, ~1), (period,))) == 24 * MIB
