"""PyTorch's CUDA caching allocator, replayed: how many bytes it takes from the device for a given order of events.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (native backend, default settings): sizes in multiples of 512
bytes; requests up to 1 MiB served from 2 MiB segments, up to 10 MiB from 20 MiB segments, larger ones from segments of
their own in multiples of 2 MiB; the smallest free block that fits is taken, and split where enough remains; free
neighbours merge; nothing goes back to the device.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

MIB = 2**20
SMALL, SMALL_SEGMENT, LARGE_SEGMENT, OWN_SEGMENT, ROUND_SEGMENT = MIB, 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB


class Block:
    """A stretch of a segment, in use or free, between its neighbours.

    It stands for `times` like stretches, each in a segment of its own; all blocks of a segment have the same `times`.
    `holder` is the list of what was asked for together, while in use.
    """

    __slots__ = ("before", "behind", "free", "holder", "pool", "size", "times")

    def __init__(
        self, pool: Pool, size: int, times: int, before: Block | None = None, behind: Block | None = None
    ) -> None:
        self.pool, self.size, self.times, self.before, self.behind = pool, size, times, before, behind
        if behind is not None:
            behind.before = self
        self.holder: list[Block] | None = None
        self.free = False

    def release(self) -> None:
        """Free, and one with free neighbours in its segment."""
        block, pool, before, behind = self, self.pool, self.before, self.behind
        if before is not None and before.free:
            pool.drop(before)
            before.size += block.size
            before.behind = behind
            if behind is not None:
                behind.before = before
            block = before
        if behind is not None and behind.free:
            pool.drop(behind)
            block.size += behind.size
            block.behind = behind = behind.behind
            if behind is not None:
                behind.before = block
        pool.put(block)


Alive: TypeAlias = "Block | list[Block] | None"  # what was asked for at once, until it is given back


class Pool:
    """The free blocks of small, or of large segments: of each size the oldest first. `least` must remain for a split."""

    __slots__ = ("least", "sizes", "waiting")

    def __init__(self, least: int) -> None:
        self.least = least
        self.sizes: list[int] = []  # of all that wait, or have waited, in order
        self.waiting: dict[int, list[Block]] = {}

    def put(self, block: Block) -> None:
        """A block is free."""
        block.free = True
        alike = self.waiting.get(block.size)
        if alike is None:
            self.waiting[block.size] = [block]
            insort(self.sizes, block.size)
        else:
            alike.append(block)

    def drop(self, block: Block) -> None:
        """A free block waits no more: it merges with its neighbour."""
        self.waiting[block.size].remove(block)


class CachingAllocator:
    """`reserved` is what it has taken from the device so far."""

    def __init__(self) -> None:
        self.reserved = 0
        self._small: Pool = Pool(0)
        self._large: Pool = Pool(SMALL)

    def malloc(self, size: int, times: int = 1) -> Block:
        """A block for `size` bytes, a multiple of 512: the smallest that fits, no more than `times` of them."""
        pool = self._small if size <= SMALL else self._large
        sizes, waiting = pool.sizes, pool.waiting
        at = bisect_left(sizes, size)
        while at < len(sizes):
            alike = waiting[sizes[at]]
            if alike:
                block = alike.pop(0)
                break
            del waiting[sizes.pop(at)]
        else:
            block = self._segment(pool, size, times)
        block.free = False
        if block.times > times:
            _part(block, times)
        rest = block.size - size
        if rest > pool.least:
            block.behind = tail = Block(pool, rest, block.times, block, block.behind)
            block.size = size
            pool.put(tail)
        return block

    def several(self, size: int, times: int) -> list[Block]:
        """`times` blocks for `size` bytes each, one after the other."""
        holder: list[Block] = []
        while times:
            block = self.malloc(size, times)
            block.holder = holder
            holder.append(block)
            times -= block.times
        return holder

    def _segment(self, pool: Pool, size: int, times: int) -> Block:
        """New segments, so many that `times` blocks fill them, or one."""
        if size >= OWN_SEGMENT:
            taken = -(-size // ROUND_SEGMENT) * ROUND_SEGMENT
        else:
            taken = SMALL_SEGMENT if size <= SMALL else LARGE_SEGMENT
            times //= taken // size
        segments = times or 1
        self.reserved += taken * segments
        return Block(pool, taken, segments)

    def free(self, alive: Alive) -> None:
        """Give back what was asked for at once."""
        for block in alive if isinstance(alive, list) else (alive,) if alive else ():
            block.holder = None
            block.release()

    def follow(self, moves: Iterable[int], sizes: list[int], times: list[int], alive: list[Alive]) -> None:
        """Births and deaths in turn: n for the birth of `alive[n]`, ~n for its death, if it lives.

        What happens most often, a free block that fits to the byte, is dealt with in place.
        """
        malloc, small, large = self.malloc, self._small.waiting, self._large.waiting
        for move in moves:
            if move >= 0:
                size = sizes[move]
                if times[move] > 1:
                    alive[move] = self.several(size, times[move])
                    continue
                alike = (small if size <= SMALL else large).get(size)
                if alike and alike[0].times == 1:
                    block = alive[move] = alike.pop(0)
                    block.free = False
                else:
                    alive[move] = malloc(size)
            else:
                block = alive[~move]  # type: ignore[assignment]  # several blocks are told apart below
                if block.__class__ is Block:
                    block.release()
                else:
                    self.free(block)
                alive[~move] = None


class Growing(Pool):
    """The pool of a segment that grows, page by page; its last block can grow, and so is the last to be taken."""

    __slots__ = ("last", "page")

    def __init__(self, page: int) -> None:
        super().__init__(0)
        self.page = page
        self.last: Block | None = None

    def put(self, block: Block) -> None:
        """A block is free; the last one waits for no size."""
        if block.behind is None:
            block.free, self.last = True, block
        else:
            super().put(block)

    def drop(self, block: Block) -> None:
        """A free block waits no more."""
        if block is not self.last:
            super().drop(block)


class ExpandableAllocator(CachingAllocator):
    """The same with PYTORCH_ALLOC_CONF=expandable_segments:True: one segment for small requests, one for large ones.

    They grow at their ends, by pages of 2 MiB and of 20 MiB (try_allocate_expandable_block, map_block); any remainder is
    split off (should_split); where several blocks fit alike the oldest is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self._small, self._large = Growing(SMALL_SEGMENT), Growing(LARGE_SEGMENT)

    def _segment(self, pool: Pool, size: int, times: int) -> Block:  # noqa: ARG002 - one after the other
        """The end of the segment, which grows by what it lacks."""
        assert isinstance(pool, Growing)  # noqa: S101 - this allocator has no others
        last = pool.last
        block = last if last is not None and last.free else Block(pool, 0, 1, last)
        if last is not None and block is not last:
            last.behind = block
        lacking = max(size - block.size, 0)
        grown = -(-lacking // pool.page) * pool.page
        self.reserved += grown
        block.size += grown
        pool.last = block
        return block


def _part(block: Block, times: int) -> None:
    """Tell the first `times` of like segments apart from the others, whose blocks wait where theirs did."""
    one: Block | None = block
    while one and one.before:
        one = one.before
    last = None
    while one:
        other = Block(one.pool, one.size, one.times - times, last)
        one.times = times
        if last:
            last.behind = other
        if one.holder is not None:
            other.holder = one.holder
            one.holder.append(other)
        else:
            other.free = True
            alike = one.pool.waiting[one.size]
            alike.insert(0 if one is block else alike.index(one) + 1, other)
        last, one = other, one.behind
