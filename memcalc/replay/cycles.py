"""The pool of a stream of its own, replayed: what is made and let go of beside a step, periods that come again left out.

A period that leaves the pool as it has found it takes nothing from the device however often it comes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.replay.allocator import END, CachingAllocator, parted
from memcalc.replay.expandable import ExpandableAllocator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.replay.allocator import Block, Parted, Pool
    from memcalc.tape.laid import Again, Stream

FEW = 16  # times that a period is followed without a look at what it changes


def pooled(stream: Stream, *, expandable: bool = False) -> int:
    """Bytes of the stream's pool after two steps."""
    sizes = [move for move in stream.moves if move >= 0]
    births = iter(range(len(sizes)))
    moves = [next(births) if move >= 0 else move for move in stream.moves]
    stops = [0, *(again.stop for again in stream.again)]
    before = [parted(moves[at : again.stop], sizes) for at, again in zip(stops, stream.again, strict=False)]
    periods = [parted(moves[again.start : again.stop], sizes) for again in stream.again]
    last = parted(moves[stops[-1] :], sizes)
    allocator = ExpandableAllocator() if expandable else CachingAllocator()
    for _ in range(2):
        alive = [END] * len(sizes)
        for first, period, again in zip(before, periods, stream.again, strict=True):
            _follow(allocator, first, sizes, alive)
            _repeated(allocator, period, sizes, alive, again)
        allocator.follow(last, sizes, alive)
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
    ended = [alive[end] for _, end in again.alive]
    for _, end in again.alive:
        alive[end] = END
    for (begun, _), block in zip(again.alive, ended, strict=True):
        alive[begun] = block
    _follow(allocator, moves, sizes, alive)


def layout(allocator: CachingAllocator, alive: list[Block]) -> object:
    """What tells two states of an allocator apart: who has what, beside whom, and what is free, between whom and in which order.

    What is free as a whole segment is like any other of its size; no two free blocks are neighbours.
    """
    owners = {block: number for number, block in enumerate(alive) if block is not END}
    owner = owners.get
    taken = [(number, block.size, owner(block.before)) for number, block in enumerate(alive) if block is not END]
    pools = (allocator.small, allocator.large)
    free = [
        (size, [(owner(block.before), owner(block.behind)) for block in blocks])
        for pool in pools
        for size, blocks in _waiting(pool)
    ]
    return allocator.reserved, taken, free


def _waiting(pool: Pool) -> Iterable[tuple[int, list[Block]]]:
    return sorted((size, blocks) for size, blocks in pool.waiting.items() if blocks)
