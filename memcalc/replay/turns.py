"""Blocks that are taken for good, turn after turn: in new segments, once nothing waits that would do, turns repeat."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, NamedTuple

from memcalc.replay.allocator import END, segment
from memcalc.replay.expandable import Growing
from memcalc.tape.values import SMALL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from memcalc.replay.allocator import CachingAllocator, Pool

OFTEN = 8  # turns, between which there is no look at whether the others follow


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
        if not turn % OFTEN and (fitting := _alone(pool, least)) is not None:
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


def _alone(pool: Pool, size: int) -> dict[int, int] | None:
    """How many blocks of each size wait, from that size on, if none of them has neighbours."""
    known = pool.sizes[bisect_left(pool.sizes, size) :]
    for fitting in known:
        if not all(block.before is block.behind is END for block in set(pool.waiting[fitting])):
            return None
    return {size: len(pool.waiting[size]) for size in known if pool.waiting[size]}


def _extend(pool: Pool, sizes: Sequence[int], times: int, fitting: dict[int, int]) -> None:
    """Blocks for good from new segments, and from those that wait: none of these has neighbours, nor what is left."""
    for size in fitting:
        pool.waiting[size].clear()
    segments = Segments(sizes, pool.least, fitting)
    segments.turns(times)
    pool.reserved += segments.reserved
    for size, count in segments.there.items():
        pool.lay(size, count)


class Turn(NamedTuple):
    """How things stood before a turn: its number, bytes of segments, how many pieces there were of each size."""

    number: int
    reserved: int
    there: dict[int, int]


class Segments:
    """New segments, and what is left of them: how many pieces of each size are `there`, of `known` sizes in their order.

    More than `split` must be left over for a piece of its own. `lowest` is how few of a size a turn has left when it took one.
    """

    def __init__(self, sizes: Sequence[int], split: int, waiting: Mapping[int, int]) -> None:
        self.sizes, self.least, self.split = sizes, min(sizes), split
        self.reserved = 0
        self.there, self.known = dict(waiting), sorted(waiting)
        self.lowest: dict[int, int] = {}

    def turns(self, times: int) -> None:
        """A block of each size, so many times over: turns that find what another has found do the same."""
        seen: dict[tuple[tuple[int, int], ...], Turn] = {}
        number = 0
        while number < times:
            now = Turn(number, self.reserved, self.there.copy())
            past = seen.setdefault(self._open(), now)
            if past is not now:
                number += self._again(past, (times - number) // (number - past.number)) * (number - past.number)
                seen = {}
                continue
            self.lowest = {}
            for size in self.sizes:
                self.take(size)
            number += 1 + self._again(now, self._lasting(now.there, times - number - 1))

    def _open(self) -> tuple[tuple[int, int], ...]:
        """The pieces that may be taken."""
        return tuple([(size, self.there[size]) for size in self.known[bisect_left(self.known, self.least) :]])

    def _lasting(self, before: dict[int, int], most: int) -> int:
        """How many more turns find pieces of all sizes that this one has found, and no others, until one of these gives out."""
        if before.keys() != self.there.keys() or not all(self.lowest.get(size, 1) for size in before):
            return 0
        less = ((size, count - self.there[size]) for size, count in before.items())
        return min([most, *((self.lowest[size] - 1) // gone for size, gone in less if gone > 0)])

    def _again(self, past: Turn, more: int) -> int:
        """What has come and gone since an earlier turn, so many times more."""
        self.reserved += more * (self.reserved - past.reserved)
        for size, count in self.there.items() if more else ():
            self.there[size] += more * (count - past.there.get(size, 0))
        return more

    def take(self, size: int) -> None:
        """A block from the smallest piece that fits, or from a new segment."""
        at = bisect_left(self.known, size)
        if at < len(self.known):
            room = self.known[at]
            left = self.there[room] - 1
            self.lowest[room] = min(left, self.lowest.get(room, left))
            if left:
                self.there[room] = left
            else:
                del self.there[room], self.known[at]
        else:
            room = segment(size)
            self.reserved += room
        rest = room - size
        if rest > self.split:
            if rest not in self.there:
                insort(self.known, rest)
            self.there[rest] = self.there.get(rest, 0) + 1
