"""What lies over a log, against putting it into the log."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from memcalc.tape.laid import Laid
from memcalc.timeline.overlay import Heights, alone, highest, parts, spread
from memcalc.timeline.slices import Slice

SIGNED = [5, -2, 7, -4, 1, -6]


@pytest.mark.parametrize("seed", range(40))
def test_heights_as_if_it_were_in_the_log(seed: int) -> None:
    chance = random.Random(seed)
    signed = [chance.randint(-9, 9) for _ in range(chance.randint(1, 12))]
    piece = Slice(0, len(signed), "forward")
    places = sorted(chance.randint(0, len(signed)) for _ in range(chance.randint(1, 5)))
    laid = [Laid(at, "buffers", chance.randint(-9, 9)) for at in places]
    heights, path = Heights(signed), [0, *accumulate(spread(signed, piece, laid))]
    assert heights.over(piece, laid) == (max(path), path[-1])
    stop, items = heights.peak(piece, laid)
    assert sum(signed[:stop]) + sum(item.nbytes for item in laid[:items]) == max(path)


def test_places_are_those_of_the_log() -> None:
    piece = Slice(2, 5, "backward")
    laid = [Laid(3, "gradients", 10), Laid(5, "buffers", -3)]
    assert spread(SIGNED, piece, laid) == [7, 10, -4, 1, -3]
    assert Heights(SIGNED).over(piece, laid) == (17, 11)
    assert parts(laid) == {"gradients": 10, "buffers": -3}


def test_the_most_at_a_time() -> None:
    overlay = {
        3: [Laid(9, "buffers", -4)],
        1: [Laid(2, "buffers", 4), Laid(2, "temporary", 6), Laid(2, "temporary", -6)],
    }
    assert highest(overlay) == 10


def test_what_is_laid_without_a_log() -> None:
    overlay = {1: [Laid(2, "buffers", 4), Laid(2, "buffers", 3), Laid(3, "buffers", -5)], 2: [Laid(9, "buffers", -2)]}
    assert alone(overlay, 4) == [(0, 0), (7, 2), (2, 0), (0, 0)]
