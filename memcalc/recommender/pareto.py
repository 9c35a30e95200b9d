"""Pareto: the candidates that no other beats in memory, pace, cost, GPUs and intrusiveness at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

T = TypeVar("T")
Point = tuple[float, ...]


def front(items: Iterable[T], point: Callable[[T], Point], group: Callable[[T], Hashable] | None = None) -> list[T]:
    """The items whose points (lower is better in every coordinate) no other's equal or beat, by their points; of equals the first.

    `group` tells items apart that differ in nothing but the first two coordinates: their front is found first, in
    n log n, and only what is left is compared pair by pair.
    """
    left = list(items)
    if group:
        groups: dict[Hashable, list[T]] = {}
        for item in left:
            groups.setdefault(group(item), []).append(item)
        left = [item for members in groups.values() for item in _plane(members, point)]
    kept: list[tuple[Point, T]] = []
    for own, item in sorted(((point(item), item) for item in left), key=lambda pair: pair[0]):
        if not any(_beats(other, own) for other, _ in kept):  # what beats an item comes before it
            kept.append((own, item))
    return [item for _, item in kept]


def _plane(items: Sequence[T], point: Callable[[T], Point]) -> list[T]:
    """The front in the first two coordinates."""
    kept: list[T] = []
    lowest = float("inf")
    for item in sorted(items, key=lambda item: point(item)[:2]):
        second = point(item)[1]
        if second < lowest:
            kept.append(item)
            lowest = second
    return kept


def _beats(other: Point, own: Point) -> bool:
    """Whether another point is nowhere worse."""
    for a, b in zip(other, own, strict=True):  # noqa: SIM110 - a generator takes twice as long, a hundred thousand times
        if a > b:
            return False
    return True


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most so many items, evenly over their order, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
