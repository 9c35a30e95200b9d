"""PyTorch's CUDA caching allocator, replayed: how many bytes it takes from the device for a given order of events.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (native backend, default settings): sizes in multiples of 512
bytes; requests up to 1 MiB served from 2 MiB segments, up to 10 MiB from 20 MiB segments, larger ones from segments of
their own in multiples of 2 MiB; the smallest free block that fits is taken, and split where enough remains; free
neighbours merge; nothing goes back to the device.
"""

from __future__ import annotations

from bisect import bisect_left, insort

MIB = 2**20
SMALL, SMALL_SEGMENT, LARGE_SEGMENT, OWN_SEGMENT, ROUND_SEGMENT, GRAIN = MIB, 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB, 512
SERIAL = 40  # bits of a serial number, below the size in an entry of a pool


class Block:
    """A stretch of a segment, in use or free, between its neighbours; `entry` is its place in the pool while free."""

    __slots__ = ("before", "behind", "entry", "size", "small")

    def __init__(self, size: int, small: bool, before: Block | None = None, behind: Block | None = None) -> None:
        self.size, self.small, self.before, self.behind, self.entry = size, small, before, behind, 0


class CachingAllocator:
    """`reserved` is what it has taken from the device so far.

    A pool is a sorted list of entries, size and serial number in one integer: the smallest that fits, the oldest first.
    """

    def __init__(self) -> None:
        self.reserved = self._serial = 0
        self._small: list[int] = []
        self._large: list[int] = []
        self._free: dict[int, Block] = {}

    def malloc(self, size: int) -> Block:
        """A block for `size` bytes, a multiple of 512."""
        small = size <= SMALL
        pool = self._small if small else self._large
        at = bisect_left(pool, size << SERIAL)
        if at < len(pool):
            block = self._free.pop(pool.pop(at))
            block.entry = 0
        else:
            taken = (
                SMALL_SEGMENT
                if small
                else LARGE_SEGMENT
                if size < OWN_SEGMENT
                else -(-size // ROUND_SEGMENT) * ROUND_SEGMENT
            )
            block = Block(taken, small)
            self.reserved += taken
        rest = block.size - size
        if rest > SMALL or (small and rest):
            tail = Block(rest, small, block, block.behind)
            if block.behind:
                block.behind.before = tail
            block.behind, block.size = tail, size
            self._put(tail)
        return block

    def keep(self, size: int, count: int) -> None:
        """`count` blocks of `size` bytes that are never given back; in one go from where no free block fits any more."""
        while count:
            pool = self._small if size <= SMALL else self._large
            if size >= OWN_SEGMENT and (not pool or pool[-1] < size << SERIAL):
                segment = -(-size // ROUND_SEGMENT) * ROUND_SEGMENT
                self.reserved += count * segment
                for _ in range(count if segment - size > SMALL else 0):
                    self._put(Block(segment - size, small=False))
                return
            self.malloc(size)
            count -= 1

    def free(self, block: Block) -> None:
        """Give a block back; it merges with free neighbours of its segment."""
        before, behind = block.before, block.behind
        if before is not None and before.entry:
            self._take(before)
            before.size += block.size
            before.behind = behind
            if behind is not None:
                behind.before = before
            block = before
        if behind is not None and behind.entry:
            self._take(behind)
            block.size += behind.size
            block.behind = behind.behind
            if behind.behind is not None:
                behind.behind.before = block
        self._put(block)

    def _put(self, block: Block) -> None:
        self._serial += 1
        block.entry = entry = block.size << SERIAL | self._serial
        self._free[entry] = block
        insort(self._small if block.small else self._large, entry)

    def _take(self, block: Block) -> None:
        pool = self._small if block.small else self._large
        del pool[bisect_left(pool, block.entry)]
        del self._free[block.entry]
        block.entry = 0
