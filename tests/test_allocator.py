"""The caching allocator's rules, one by one (c10/cuda/CUDACachingAllocator.cpp)."""

from __future__ import annotations

import pytest

from memcalc.allocator import MIB, CachingAllocator, ExpandableAllocator


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


@pytest.mark.parametrize("size", [512, 3 * MIB, 11 * MIB, 12 * MIB + 512])
def test_asking_for_many_is_the_same_as_one_after_the_other(size: int) -> None:
    one, many = CachingAllocator(), CachingAllocator()
    for allocator in (one, many):
        allocator.free(allocator.malloc(40 * MIB))
    for _ in range(9):
        one.malloc(size)
    many.several(size, 9)
    assert one.reserved == many.reserved
    one.malloc(2 * MIB)
    many.malloc(2 * MIB)
    assert one.reserved == many.reserved


def test_of_many_like_blocks_one_is_told_apart_where_only_one_is_used() -> None:
    allocator = CachingAllocator()
    held = allocator.several(32 * MIB, 5)
    allocator.free(held)
    one, rest = allocator.malloc(20 * MIB), allocator.several(32 * MIB, 4)
    assert allocator.reserved == 160 * MIB
    allocator.malloc(12 * MIB)  # beside the one
    assert allocator.reserved == 160 * MIB
    allocator.free(rest)
    allocator.free(one)
    allocator.several(32 * MIB, 4)
    allocator.malloc(20 * MIB)
    assert allocator.reserved == 160 * MIB


def test_what_shares_a_segment_with_a_part_is_given_back_whole() -> None:
    allocator = CachingAllocator()
    first, second = allocator.several(32 * MIB, 4), None
    allocator.free(first)
    first, second = allocator.several(8 * MIB, 4), allocator.several(8 * MIB, 4)
    allocator.several(16 * MIB, 1)  # takes the rest of one of the four segments: its neighbours are told apart, too
    allocator.free(first)
    allocator.free(second)
    allocator.several(32 * MIB, 3)
    assert allocator.reserved == 128 * MIB


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
        allocator.several(64 * MIB, 4)
    assert usual.reserved == 512 * MIB
    assert expandable.reserved == 260 * MIB
