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
    """A stretch of a segment, in use or free, between its neighbours; `entry` is its place in the pool while free.

    It stands for `times` like stretches, each in a segment of its own; all blocks of a segment have the same `times`.
    `holder` is the list of what was asked for together, while in use.
    """

    __slots__ = ("before", "behind", "entry", "holder", "size", "small", "times")

    def __init__(
        self, size: int, small: bool, times: int, before: Block | None = None, behind: Block | None = None
    ) -> None:
        self.size, self.small, self.times, self.before, self.behind = size, small, times, before, behind
        self.entry = 0
        self.holder: list[Block] | None = None


class CachingAllocator:
    """`reserved` is what it has taken from the device so far.

    A pool is a sorted list of entries, size and serial number in one integer: the smallest that fits, the oldest first.
    """

    def __init__(self) -> None:
        self.reserved = self._serial = 0
        self._small: list[int] = []
        self._large: list[int] = []
        self._free: dict[int, Block] = {}

    def malloc(self, size: int, times: int = 1) -> list[Block]:
        """`times` blocks for `size` bytes each, a multiple of 512, one after the other."""
        small = size <= SMALL
        pool = self._small if small else self._large
        holder: list[Block] = []
        while times:
            at = bisect_left(pool, size << SERIAL)
            if at < len(pool):
                block = self._free.pop(pool.pop(at))
                block.entry = 0
                if block.times > times:
                    self._part(block, times)
            else:
                block = self._segment(size, small, times)
            times -= block.times
            block.holder = holder
            holder.append(block)
            rest = block.size - size
            if rest > SMALL or (small and rest):
                behind = block.behind
                block.behind = tail = Block(rest, small, block.times, block, behind)
                block.size = size
                if behind is not None:
                    behind.before = tail
                self._serial += 1
                tail.entry = entry = rest << SERIAL | self._serial
                self._free[entry] = tail
                insort(pool, entry)
        return holder

    def _segment(self, size: int, small: bool, times: int) -> Block:
        """New segments, so many that `times` blocks fill them, or one."""
        own = -(-size // ROUND_SEGMENT) * ROUND_SEGMENT
        taken = SMALL_SEGMENT if small else LARGE_SEGMENT if size < OWN_SEGMENT else own
        segments = max(1, times // (taken // size))
        self.reserved += taken * segments
        return Block(taken, small, segments)

    def _part(self, block: Block, times: int) -> None:
        """Tell the first `times` of like segments apart from the others; `block` is in no pool just now."""
        one: Block | None = block
        while one and one.before:
            one = one.before
        last = None
        while one:
            other = Block(one.size, one.small, one.times - times, last)
            one.times = times
            if last:
                last.behind = other
            if one.holder is not None:
                other.holder = one.holder
                one.holder.append(other)
            else:
                self._put(other)
            last, one = other, one.behind

    def free(self, holder: list[Block]) -> None:
        """Give blocks back; they merge with free neighbours of their segment."""
        for piece in holder:
            block, before, behind = piece, piece.before, piece.behind
            block.holder = None
            pool = self._small if block.small else self._large
            if before is not None and before.entry:
                del pool[bisect_left(pool, before.entry)], self._free[before.entry]
                before.size += block.size
                before.behind = behind
                if behind is not None:
                    behind.before = before
                block = before
            if behind is not None and behind.entry:
                del pool[bisect_left(pool, behind.entry)], self._free[behind.entry]
                block.size += behind.size
                block.behind = behind.behind
                if behind.behind is not None:
                    behind.behind.before = block
            self._serial += 1
            block.entry = entry = block.size << SERIAL | self._serial
            self._free[entry] = block
            insort(pool, entry)

    def _put(self, block: Block) -> None:
        self._serial += 1
        block.entry = entry = block.size << SERIAL | self._serial
        self._free[entry] = block
        insort(self._small if block.small else self._large, entry)
