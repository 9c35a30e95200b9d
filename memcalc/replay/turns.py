"""Blocks that are taken for good, turn after turn: in new segments, once nothing waits that would do, turns repeat."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from memcalc.replay.allocator import END, segment
from memcalc.replay.expandable import Growing
from memcalc.tape.values import SMALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcalc.replay.allocator import Block, CachingAllocator, Pool

FEW = 8  # blocks that wait: fewer may be told apart by their sizes alone


def keep(allocator: CachingAllocator, sizes: Sequence[int], times: int = 1) -> None:
    """Blocks for good, one of each size in turn, so many times over."""
    small, large = [size for size in sizes if size <= SMALL], [size for size in sizes if size > SMALL]
    for pool, own in ((allocator.small, small), (allocator.large, large)):
        if isinstance(pool, Growing):
            for size in own * times:
                pool.take(size)
        elif own:
            _keep(pool, own, times)


def _keep(pool: Pool, sizes: Sequence[int], times: int) -> None:
    least = min(sizes)
    for turn in range(times):
        if not turn % FEW:  # a look now and then
            fitting = list(islice(_fitting(pool, least), FEW))
            if len(fitting) < FEW and all(block.before is block.behind is END for block in fitting):
                _extend(pool, sizes, times - turn, fitting)
                return
        for size in sizes:
            _hold(pool, size)


def _hold(pool: Pool, size: int) -> None:
    """A block for good: what is left of the one it is taken from has no neighbour there any more."""
    sizes, waiting = pool.sizes, pool.waiting
    while sizes and not waiting[sizes[-1]]:
        del waiting[sizes.pop()]
    if sizes and size <= sizes[-1]:
        rest = pool.take(size).behind
        if rest.free:
            rest.before = END
            if rest.behind is END:
                waiting[rest.size][-1] = pool.wholes[rest.size]
        return
    taken = segment(size)
    pool.reserved += taken
    if taken - size > pool.least:
        pool.lay(taken - size, 1)


def _fitting(pool: Pool, size: int) -> Iterator[Block]:
    """The blocks of at least `size` bytes that wait."""
    for known in pool.sizes[bisect_left(pool.sizes, size) :]:
        yield from pool.waiting[known]


def _extend(pool: Pool, sizes: Sequence[int], times: int, fitting: Iterable[Block]) -> None:
    """Blocks for good from new segments, and from those that wait: none of these has neighbours, nor what is left."""
    for block in fitting:
        pool.drop(block)
    segments = Segments(sizes, pool.least, [block.size for block in fitting])
    segments.turns(times)
    pool.reserved += segments.reserved
    for size, count in segments.rests.items():
        pool.lay(size, count)


class Turn(NamedTuple):
    """How things stood before a turn: its number, bytes of segments, how many pieces of each size nobody takes."""

    number: int
    reserved: int
    left: dict[int, int]


class Segments:
    """New segments, and what is left of them: `open` are the pieces that may be taken yet, `left` counts the others by size.

    More than `split` must be left over for a piece of its own.
    """

    def __init__(self, sizes: Sequence[int], split: int, waiting: Iterable[int]) -> None:
        self.sizes, self.least, self.split = sizes, min(sizes), split
        self.reserved = 0
        self.open = sorted(waiting)
        self.left: dict[int, int] = defaultdict(int)

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
            seen[tuple(self.open)] = Turn(number, self.reserved, dict(self.left))
            for size in self.sizes:
                self.take(size)
            number += 1

    def _again(self, past: Turn, number: int, times: int) -> int:
        """What has come since an earlier turn, as often as it fits into those to come; how many turns that is."""
        period = number - past.number
        more = (times - number) // period
        self.reserved += more * (self.reserved - past.reserved)
        for size, count in self.left.items():
            self.left[size] += more * (count - past.left.get(size, 0))
        return more * period

    def take(self, size: int) -> None:
        """A block from the smallest piece that fits, or from a new segment."""
        at = bisect_left(self.open, size)
        if at < len(self.open):
            room = self.open.pop(at)
        else:
            room = segment(size)
            self.reserved += room
        rest = room - size
        if rest <= self.split:
            return
        if rest < self.least:
            self.left[rest] += 1
        else:
            insort(self.open, rest)

    @property
    def rests(self) -> dict[int, int]:
        """How many pieces of each size are left."""
        found = self.left.copy()
        for size in self.open:
            found[size] += 1
        return found
