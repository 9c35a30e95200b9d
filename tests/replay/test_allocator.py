"""The caching allocator's rules, one by one (c10/cuda/CUDACachingAllocator.cpp)."""

from __future__ import annotations

from itertools import accumulate
from random import Random

import pytest

from memcalc.replay.allocator import END, MANY, MIB, Block, CachingAllocator, Parted, parted
from memcalc.replay.expandable import ExpandableAllocator


@pytest.mark.parametrize(
    ("size", "segment"),
    [(512, 2 * MIB), (MIB, 2 * MIB), (MIB + 512, 20 * MIB), (10 * MIB - 512, 20 * MIB), (10 * MIB, 10 * MIB),
     (11 * MIB, 12 * MIB)],
)  # fmt: skip
def test_segments(size: int, segment: int) -> None:
    allocator = CachingAllocator()
    allocator.malloc(size)
    assert allocator.reserved == segment


def test_small_requests_share_a_segment() -> None:
    allocator = CachingAllocator()
    for _ in range(4096):
        allocator.malloc(512)
    assert allocator.reserved == 2 * MIB
    allocator.malloc(512)
    assert allocator.reserved == 4 * MIB


def test_a_large_block_is_split_where_more_than_a_mebibyte_remains() -> None:
    allocator = CachingAllocator()
    allocator.malloc(19 * MIB)
    allocator.malloc(MIB + 512)  # 19 MiB took a segment of 20: the last one is too small to be split off
    assert allocator.reserved == 40 * MIB


def test_the_smallest_block_that_fits_is_taken_and_neighbours_merge() -> None:
    allocator = CachingAllocator()
    big, small = allocator.malloc(64 * MIB), allocator.malloc(32 * MIB)
    allocator.free(big)
    allocator.free(small)
    parts = [allocator.malloc(16 * MIB) for _ in range(6)]
    assert allocator.reserved == 96 * MIB
    for part in parts:
        allocator.free(part)
    allocator.malloc(64 * MIB)
    assert allocator.reserved == 96 * MIB


@pytest.mark.parametrize("kind", [CachingAllocator, ExpandableAllocator])
def test_moves_are_followed_as_they_are_made_one_by_one(kind: type[CachingAllocator]) -> None:
    rolls = Random(7)
    sizes = [512 * rolls.choice((1, 3, 700, 2049, 5000, 9000, 30000, rolls.randrange(1, 60000))) for _ in range(600)]
    moves: list[int] = []
    for number in range(len(sizes)):
        moves.append(number)
        ended = rolls.randrange(number + 1)
        if ~ended not in moves:
            moves.append(~ended)
    one, followed = kind(), kind()
    blocks: dict[int, Block] = {}
    for move in moves:
        if move >= 0:
            blocks[move] = one.malloc(sizes[move])
        else:
            one.free(blocks[~move])
    followed.follow(parted(moves, sizes), sizes, [END] * len(sizes))
    assert followed.reserved == one.reserved
    assert one.reserved >= max(accumulate(sizes[move] if move >= 0 else -sizes[~move] for move in moves))


@pytest.mark.parametrize("kind", [CachingAllocator, ExpandableAllocator])
@pytest.mark.parametrize("count", [MANY - 1, MANY])
def test_many_blocks_go_as_each_does_whichever_streams_pools_they_are_from(
    kind: type[CachingAllocator], count: int
) -> None:
    pools, size = (kind(), kind()), 700 * 2**10
    blocks = [pools[number % 2].malloc(size) for number in range(2 * count)]
    taken = [pool.reserved for pool in pools]
    pools[0].free(*blocks)
    for pool in pools:
        pool.several([size] * count)
    assert [pool.reserved for pool in pools] == taken  # from what was given back


@pytest.mark.parametrize(
    ("sizes", "reserved"),
    [((512,), 2 * MIB), ((MIB, MIB), 2 * MIB), ((MIB, MIB, 512), 4 * MIB), ((MIB + 512,), 20 * MIB),
     ((11 * MIB, 9 * MIB), 20 * MIB), ((25 * MIB, 14 * MIB), 40 * MIB), ((25 * MIB, 16 * MIB, 512), 62 * MIB)],
)  # fmt: skip
def test_an_expandable_segment_grows_by_pages(sizes: tuple[int, ...], reserved: int) -> None:
    allocator = ExpandableAllocator()
    for size in sizes:
        allocator.malloc(size)
    assert allocator.reserved == reserved


def test_an_expandable_segment_grows_by_what_its_end_lacks() -> None:
    allocator = ExpandableAllocator()
    first, second = allocator.malloc(30 * MIB), allocator.malloc(10 * MIB)
    allocator.free(second)
    allocator.malloc(50 * MIB)  # 10 MiB are free at the end
    assert allocator.reserved == 80 * MIB
    allocator.free(first)
    allocator.malloc(31 * MIB)  # not in the 30 MiB before
    assert allocator.reserved == 120 * MIB


def test_the_end_of_an_expandable_segment_is_taken_last() -> None:
    allocator = ExpandableAllocator()
    first, second = allocator.malloc(16 * MIB), allocator.malloc(4 * MIB)
    third = allocator.malloc(8 * MIB)
    allocator.free(third)  # 20 MiB at the end
    allocator.free(first)
    allocator.malloc(8 * MIB)  # the larger block before it, for all that the end would fit
    allocator.malloc(20 * MIB)
    assert allocator.reserved == 40 * MIB
    allocator.free(second)
    allocator.malloc(12 * MIB)  # what is left of the first, and the second
    assert allocator.reserved == 40 * MIB


def test_expandable_segments_leave_no_holes_of_whole_segments() -> None:
    usual, expandable = CachingAllocator(), ExpandableAllocator()
    for allocator in (usual, expandable):
        small = [allocator.malloc(32 * MIB) for _ in range(8)]
        for block in small:
            allocator.free(block)
        allocator.several([64 * MIB] * 4)
    assert usual.reserved == 512 * MIB
    assert expandable.reserved == 260 * MIB


def test_many_small_requests_side_by_side_take_segments_of_small_ones() -> None:
    """As one block: 5 MiB in three segments of 2 MiB, what is left of the last one for others."""
    allocator = CachingAllocator()
    allocator.follow(Parted([0, 1], []), [5 * MIB, MIB], [END, END])
    assert allocator.small.reserved == allocator.reserved == 6 * MIB
