"""PyTorch's CUDA caching allocator, replayed: how many bytes it takes from the device for a given order of events.

The rules are those of c10/cuda/CUDACachingAllocator.cpp (native backend, default settings): sizes in multiples of 512
bytes; requests up to 1 MiB served from 2 MiB segments, up to 10 MiB from 20 MiB segments, larger ones from segments of
their own in multiples of 2 MiB; the smallest free block that fits is taken, and split where enough remains; free
neighbours merge; nothing goes back to the device.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, NamedTuple

from memcalc.tape.values import SMALL

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MANY = 16  # blocks that come or go one after the other
MIB = 2**20
SMALL_SEGMENT, LARGE_SEGMENT, OWN_SEGMENT, ROUND_SEGMENT = 2 * MIB, 20 * MIB, 10 * MIB, 2 * MIB


class Block:
    """A stretch of a segment, in use or free, between its neighbours; END is none: beyond the first and the last.

    A segment in one piece is like any other of its size, so that one block may stand for many of them: it is never changed.
    """

    __slots__ = ("before", "behind", "free", "pool", "size")

    def __init__(self, pool: Pool, size: int, before: Block, behind: Block) -> None:
        self.pool, self.size, self.before, self.behind = pool, size, before, behind
        self.free = False


class Wholes(dict[int, Block]):
    """What stands for all segments of a size that are in one piece, by size."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __missing__(self, size: int) -> Block:
        made = self[size] = Block(self.pool, size, END, END)
        return made


class Pool:
    """The segments of small, or of large requests: `waiting` are their free blocks by size, of each the newest last.

    `sizes` are all that are waited in, or have been, in order; `least` must be left over for a block to be split. `wholes`
    stand for segments in one piece, by size.
    """

    __slots__ = ("least", "reserved", "sizes", "waiting", "wholes")

    def __init__(self, least: int) -> None:
        self.least, self.reserved = least, 0
        self.sizes: list[int] = []
        self.waiting: dict[int, list[Block]] = {}
        self.wholes = Wholes(self)

    def take(self, size: int) -> Block:
        """A block for `size` bytes: the smallest that fits, or a new segment's."""
        sizes, waiting = self.sizes, self.waiting
        at = bisect_left(sizes, size)
        while at < len(sizes):
            alike = waiting[sizes[at]]
            if alike:
                block = alike.pop(0)
                block.free = False
                break
            del waiting[sizes.pop(at)]
        else:
            block = self.grow(size)
        return self.split(block, size) if block.size - size > self.least else block

    def grow(self, size: int) -> Block:
        """A new segment, or as many side by side as hold many small requests."""
        taken = -(-size // SMALL_SEGMENT) * SMALL_SEGMENT if not self.least else segment(size)
        self.reserved += taken
        return self.wholes[taken]

    def lay(self, size: int, count: int) -> None:
        """So many blocks wait that have no neighbours."""
        blocks = [self.wholes[size]] * count
        if size in self.waiting:
            self.waiting[size] += blocks
        else:
            self.waiting[size] = blocks
            insort(self.sizes, size)

    def split(self, block: Block, size: int) -> Block:
        """A block of `size` bytes; what the given one has beyond is a free block of its own."""
        more, behind = block.size - size, block.behind
        if behind is block.before:
            block = Block(self, size, END, END)
        block.behind = behind.before = rest = Block(self, more, block, behind)
        block.size = size
        self.put(rest)
        return block

    def give(self, block: Block) -> None:
        """A block comes back, and is one with its free neighbours."""
        before, behind = block.before, block.behind
        if before.free:
            self.drop(before)
            before.size += block.size
            before.behind, behind.before = behind, before
            block = before
        if behind.free:
            self.drop(behind)
            block.size += behind.size
            block.behind = behind = behind.behind
            behind.before = block
        self.put(block)

    def put(self, block: Block) -> None:
        """A block waits."""
        block.free = True
        if block.before is block.behind:
            block = self.wholes[block.size]
        alike = self.waiting.get(block.size)
        if alike is None:
            self.waiting[block.size] = [block]
            insort(self.sizes, block.size)
        else:
            alike.append(block)

    def drop(self, block: Block) -> None:
        """A block waits no more."""
        self.waiting[block.size].remove(block)

    def follow(  # noqa: C901, PLR0912, PLR0915 - a call here is paid for ten thousand times
        self, moves: Iterable[int], sizes: Sequence[int], alive: list[Block]
    ) -> None:
        """Births and deaths in turn: n for the birth of `alive[n]`, ~n for its death.

        It is `take` and `give` for each of them, written out in one loop, without calls and with the blocks that merging has
        done away with (`spare`) for the next ones that are split off: much of the time that an estimate takes goes by here.
        """
        waiting, known, least, spare = self.waiting, self.sizes, self.least, list[Block]()
        for move in moves:
            if move >= 0:
                size = sizes[move]
                alike = waiting.get(size)
                if alike:
                    alive[move] = block = alike.pop(0)
                    block.free = False
                    continue
                at = bisect_right(known, size)
                while at < len(known):
                    alike = waiting[known[at]]
                    if alike:
                        block = alike.pop(0)
                        break
                    del waiting[known.pop(at)]
                else:
                    block = self.grow(size)
                more = block.size - size
                if more <= least:
                    block.free, alive[move] = False, block
                    continue
                behind = block.behind
                if behind is block.before:
                    block = spare.pop() if spare else Block(self, size, END, END)
                    block.before = END
                rest = spare.pop() if spare else Block(self, more, block, behind)
                rest.before, rest.behind = block, behind
                behind.before = block.behind = rest
                block.size, block.free, alive[move] = size, False, block
                block, size = rest, more
            else:
                block = alive[~move]
                size, before, behind = block.size, block.before, block.behind
                if before is not behind:
                    if behind.free:
                        waiting[behind.size].remove(behind)
                        spare.append(behind)
                        size += behind.size
                        block.behind = behind = behind.behind
                        behind.before = block
                    if before.free:
                        waiting[before.size].remove(before)
                        spare.append(block)
                        size += before.size
                        before.behind = behind
                        behind.before = block = before
                    if behind is block.before:
                        spare.append(block)
                        block = self.wholes[size]
            block.free, block.size = True, size
            alike = waiting.get(size)
            if alike is None:
                waiting[size] = [block]
                insort(known, size)
            else:
                alike.append(block)


END = Block(Pool(0), 0, None, None)  # type: ignore[arg-type]  # nothing is beyond it


def segment(size: int) -> int:
    """Bytes of a new segment for a request."""
    if size >= OWN_SEGMENT:
        return -(-size // ROUND_SEGMENT) * ROUND_SEGMENT
    return SMALL_SEGMENT if size <= SMALL else LARGE_SEGMENT


class Parted(NamedTuple):
    """Births and deaths of small requests, and of large ones: they never meet."""

    small: list[int]
    large: list[int]


def parted(moves: list[int], sizes: Sequence[int]) -> Parted:
    """Moves of numbered births of these sizes, by the pool they are served from."""
    if min(sizes, default=0) > SMALL:
        return Parted([], moves)
    small = [move for move in moves if sizes[move if move >= 0 else ~move] <= SMALL]
    return Parted(small, [move for move in moves if sizes[move if move >= 0 else ~move] > SMALL] if small else moves)


class CachingAllocator:
    """Two pools; requests are multiples of 512 bytes."""

    def __init__(self) -> None:
        self.small, self.large = Pool(0), Pool(SMALL)

    @property
    def reserved(self) -> int:
        """Bytes taken from the device so far."""
        return self.small.reserved + self.large.reserved

    def malloc(self, size: int) -> Block:
        """A block for `size` bytes."""
        return (self.small if size <= SMALL else self.large).take(size)

    def several(self, sizes: Iterable[int]) -> list[Block]:
        """A block for each, one after the other."""
        wanted = list(sizes)
        if len(wanted) < MANY:
            return [self.malloc(size) for size in wanted]
        made = [END] * len(wanted)
        self.follow(parted(list(range(len(wanted))), wanted), wanted, made)
        return made

    def free(self, *blocks: Block) -> None:
        """Give blocks back, one after the other."""
        if len(blocks) < MANY:
            for block in blocks:
                block.pool.give(block)
            return
        alike = Counter(blocks)
        if all(block.pool.wholes.get(block.size) is block for block in alike):
            for block, count in alike.items():
                block.pool.lay(block.size, count)
            return
        deaths: dict[Pool, list[int]] = defaultdict(list)  # those of other streams have pools of their own
        for number, block in enumerate(blocks):
            deaths[block.pool].append(~number)
        for pool, own in deaths.items():
            pool.follow(own, (), list(blocks))

    def follow(self, moves: Parted, sizes: Sequence[int], alive: list[Block]) -> None:
        """Births and deaths, in turn within each pool."""
        self.small.follow(moves.small, sizes, alive)
        self.large.follow(moves.large, sizes, alive)
