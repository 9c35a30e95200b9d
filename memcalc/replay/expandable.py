"""The caching allocator with expandable segments (PYTORCH_ALLOC_CONF=expandable_segments:True): one grows for each pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.replay.allocator import END, LARGE_SEGMENT, SMALL_SEGMENT, Block, CachingAllocator, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Growing(Pool):
    """The pool of a segment that grows, page by page; its last block can grow, and so is the last to be taken."""

    __slots__ = ("last", "page")

    def __init__(self, page: int) -> None:
        super().__init__(0)
        self.page, self.last = page, END

    def put(self, block: Block) -> None:
        """A block waits; the last one waits for no size."""
        if block.behind is END:
            block.free, self.last = True, block
        else:
            super().put(block)

    def drop(self, block: Block) -> None:
        """A block waits no more."""
        if block is not self.last:
            super().drop(block)

    def follow(self, moves: Iterable[int], sizes: Sequence[int], alive: list[Block]) -> None:
        """Births and deaths in turn: n for the birth of `alive[n]`, ~n for its death."""
        for move in moves:
            if move >= 0:
                alive[move] = self.take(sizes[move])
            else:
                self.give(alive[~move])

    def grow(self, size: int) -> Block:
        """The end of the segment, which grows by what it lacks."""
        last = self.last
        block = last if last.free else Block(self, 0, last, END)
        if block is not last and last is not END:
            last.behind = block
        block.free = False
        grown = -(-max(size - block.size, 0) // self.page) * self.page
        self.reserved += grown
        block.size += grown
        self.last = block
        return block


class ExpandableAllocator(CachingAllocator):
    """One segment for small requests, one for large ones.

    They grow at their ends, by pages of 2 MiB and of 20 MiB (try_allocate_expandable_block, map_block); any remainder is
    split off (should_split); where several blocks fit alike the oldest is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = Growing(SMALL_SEGMENT), Growing(LARGE_SEGMENT)
