"""The front: what no other point beats, and a few of it."""

from __future__ import annotations

from memcalc.recommender.pareto import front, thinned


def test_a_front_is_what_no_other_beats() -> None:
    points = [(float(a), float(b), float((a * 7 + b * 3) % 5)) for a in range(7) for b in range(7)]
    kept = front(points, lambda p: p)
    for point in points:
        beaten = any(all(x <= y for x, y in zip(other, point, strict=True)) and other != point for other in points)
        assert (point in kept) != beaten
    assert front(points, lambda p: p, lambda p: p[2]) == sorted(kept, key=lambda p: (p[2], p)) or sorted(
        front(points, lambda p: p, lambda p: p[2])
    ) == sorted(kept)


def test_equal_points_stay_once() -> None:
    assert front([(1.0, 1.0), (1.0, 1.0), (2.0, 0.0)], lambda p: p) == [(1.0, 1.0), (2.0, 0.0)]
    assert thinned(list(range(100)), 4) == [0, 33, 66, 99]
