"""Blocks that are taken for good, where nothing that waits would do: what they take of new segments, turn after turn."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class Turn(NamedTuple):
    """How things stood before a turn: its number, bytes of segments, how many pieces of each size nobody takes."""

    number: int
    reserved: int
    left: Counter[int]


class Segments:
    """New segments, and what is left of them: `open` are the pieces that may be taken yet, `left` counts the others by size.

    `segment` says how large one is for a request; `split` must be left over for a piece of its own.
    """

    def __init__(self, sizes: Sequence[int], segment: Callable[[int], int], split: int, waiting: Iterable[int]) -> None:
        self.sizes, self.least, self.segment, self.split = sizes, min(sizes), segment, split
        self.reserved = 0
        self.open = sorted(waiting)
        self.left: Counter[int] = Counter()

    def turns(self, times: int) -> None:
        """A block of each size, so many times over: what is open as it was some turns before comes again and again."""
        seen: dict[tuple[int, ...], Turn] = {}
        number = 0
        while number < times:
            past = seen.get(tuple(self.open))
            if past:
                number += self._again(past, number, times)
                seen = {}
                continue
            seen[tuple(self.open)] = Turn(number, self.reserved, Counter(self.left))
            for size in self.sizes:
                self.take(size)
            number += 1

    def _again(self, past: Turn, number: int, times: int) -> int:
        """What has come since an earlier turn, as often as it fits into those to come; how many turns that is."""
        period = number - past.number
        more = (times - number) // period
        self.reserved += more * (self.reserved - past.reserved)
        for size, count in self.left.items():
            self.left[size] += more * (count - past.left[size])
        return more * period

    def take(self, size: int) -> None:
        """A block from the smallest piece that fits, or from a new segment."""
        at = bisect_left(self.open, size)
        if at < len(self.open):
            room = self.open.pop(at)
        else:
            room = self.segment(size)
            self.reserved += room
        rest = room - size
        if rest <= self.split:
            return
        if rest < self.least:
            self.left[rest] += 1
        else:
            insort(self.open, rest)

    @property
    def rests(self) -> Counter[int]:
        """How many pieces of each size are left."""
        return self.left + Counter(self.open)
