"""The pool of a stream of its own, replayed: what is made and let go of beside a step, periods that come again left out.

A period that leaves the pool as it has found it takes nothing from the device however often it comes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memcalc.allocator import END, CachingAllocator, ExpandableAllocator, parted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.allocator import Block, Parted, Pool

FEW = 8  # times that a period is followed without a look at what it changes
Place: TypeAlias = "tuple[int, int]"  # of a block: the segment's name, which block of it


class Again(NamedTuple):
    """The moves [start, stop) come `times` more.

    They make `births` blocks; `alive` are the numbers of those that are there when they end, which each time stand for
    what the time before had left.
    """

    start: int
    stop: int
    times: int
    births: int
    alive: tuple[int, ...]


class Stream(NamedTuple):
    """Moves of a stream: bytes for a birth, ~n for the death of the n-th born; and what of them comes again, in order."""

    moves: tuple[int, ...]
    again: tuple[Again, ...] = ()


def pooled(stream: Stream, *, expandable: bool = False) -> int:
    """Bytes of the stream's pool after two steps."""
    sizes = [move for move in stream.moves if move >= 0]
    births = iter(range(len(sizes)))
    moves = [next(births) if move >= 0 else move for move in stream.moves]
    allocator = ExpandableAllocator() if expandable else CachingAllocator()
    for _ in range(2):
        alive = [END] * len(sizes)
        at = 0
        for again in stream.again:
            _follow(allocator, parted(moves[at : again.stop], sizes), sizes, alive)
            _repeated(allocator, parted(moves[again.start : again.stop], sizes), sizes, alive, again)
            at = again.stop
        allocator.follow(parted(moves[at:], sizes), sizes, alive)
    return allocator.reserved


def _follow(allocator: CachingAllocator, moves: Parted, sizes: list[int], alive: list[Block]) -> None:
    """Births and deaths in turn; what is dead is alive no more."""
    allocator.follow(moves, sizes, alive)
    for part in moves:
        for move in part:
            if move < 0:
                alive[~move] = END


def _repeated(allocator: CachingAllocator, moves: Parted, sizes: list[int], alive: list[Block], again: Again) -> None:
    """Follow a period again, as often as it comes: once the pool is as it was some time before, the rest of the cycle alone."""
    left = again.times
    while left and again.times <= FEW:
        _period(allocator, moves, sizes, alive, again)
        left -= 1
    seen = [layout(allocator, alive)] if left else []
    while left:
        _period(allocator, moves, sizes, alive, again)
        left -= 1
        now = layout(allocator, alive)
        if now in seen:
            for _ in range(left % (len(seen) - seen.index(now))):
                _period(allocator, moves, sizes, alive, again)
            return
        seen.append(now)


def _period(allocator: CachingAllocator, moves: Parted, sizes: list[int], alive: list[Block], again: Again) -> None:
    for number in again.alive:
        alive[number - again.births], alive[number] = alive[number], END
    _follow(allocator, moves, sizes, alive)


def layout(allocator: CachingAllocator, alive: list[Block]) -> object:
    """What tells two states of an allocator apart: its segments, who has what of them, and the order of what is free.

    Segments are named by what they hold; one that is free as a whole is like any other of its size.
    """
    owners = {id(block): number for number, block in enumerate(alive) if block is not END}
    segments: dict[int, tuple[int, ...]] = {}
    places: dict[int, Place] = {}
    for block in alive:
        if block is not END and id(block) not in places:
            name = owners[id(block)]
            segments[name] = tuple(_named(block, name, owners, places))
    pools = (allocator.small, allocator.large)
    free = [[(size, [places.get(id(b), (-1, 0)) for b in blocks]) for size, blocks in _waiting(pool)] for pool in pools]
    return allocator.reserved, segments, free


def _named(block: Block, name: int, owners: dict[int, int], places: dict[int, Place]) -> Iterator[int]:
    """The sizes of a segment's blocks, and each one's owner; where they are is noted in `places`."""
    one, count = block, 0
    while one.before is not END:
        one = one.before
    while one is not END:
        places[id(one)] = name, count
        yield one.size
        yield owners.get(id(one), -1)
        one, count = one.behind, count + 1


def _waiting(pool: Pool) -> Iterable[tuple[int, list[Block]]]:
    return sorted((size, blocks) for size, blocks in pool.waiting.items() if blocks)
