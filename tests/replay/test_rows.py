"""Rows of like layers that are followed at once, against the same layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.replay import rows
from memcalc.replay.allocator import END, MIB, CachingAllocator, Pool
from memcalc.replay.rows import Row, Shown, Stream

if TYPE_CHECKING:
    from memcalc.replay.allocator import Block

RUNS: list[dict[str, Any]] = [
    {"model": "llama-3-70b"},
    {"model": "llama-3-70b", "checkpointing": "full"},
    {"model": "qwen2-72b", "optimizer": "sgd", "batch_size": 3, "seq_len": 1000},
    {"model": "llama-3-70b", "grad_accum": 4, "precision": "bf16", "keep_outputs": True},
]


@pytest.mark.parametrize("run", RUNS)
def test_layers_at_once_take_what_they_take_one_by_one(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for many in (4, 10**9):
        forget()
        monkeypatch.setattr(rows, "MANY", many)
        found.append(estimate(run).memory)
    assert found[0] == found[1]


@pytest.mark.parametrize("waiting", [(), (30,) * 7, (30,) * 300, (40, 40), (64, 70), (20, 20)])
@pytest.mark.parametrize("step", [4, -4])
def test_a_row_leaves_the_pool_as_its_layers_do(
    waiting: tuple[int, ...], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer keeps 30 and 22 MiB, and lets go of another 30 that it has made and of the 22 of the layer before."""
    times, first = 60, 4 if step > 0 else 4 * 60
    sizes = [size * MIB for size in (30, 30, 22, 22)] * (times + 2)
    moves = [first, first + 1, ~first, first + 2, ~(first + 2 - step)]
    pools = []
    for many in (4, 10**9):
        monkeypatch.setattr(rows, "MANY", many)
        allocator, alive = CachingAllocator(), [END] * len(sizes)
        allocator.free(*allocator.several(size * MIB for size in waiting))
        alive[first + 2 - step] = allocator.malloc(22 * MIB)
        Stream([], [Row(moves, sizes, times, step)]).follow(allocator, alive)
        allocator.free(*(block for number, block in enumerate(alive) if number % 4 == 1 and block is not END))
        free = {size: len(blocks) for size, blocks in allocator.large.waiting.items() if blocks}
        pools.append((allocator.reserved, free))
    assert pools[0] == pools[1]


@pytest.mark.parametrize(
    ("layer", "followed"),
    [
        ([0], 1),  # a segment that stays
        ([0, 1, 2, ~1, ~2], 20),  # beside those that come back, of which one is cut off another: they wait from then on
        ([2], 8),  # what stays is a part of a segment
    ],
)
def test_moves_that_are_followed_until_the_others_are_known(
    layer: list[int], followed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    watched, follow = rows._watched, Pool.follow  # noqa: SLF001 - to look on

    def look(pool: Pool, moves: list[int], sizes: list[int], alive: list[Block]) -> Shown:
        seen.extend(moves)
        return watched(pool, moves, sizes, alive)

    def go(pool: Pool, moves: list[int], sizes: list[int], alive: list[Block]) -> None:
        seen.extend(moves)
        follow(pool, moves, sizes, alive)

    monkeypatch.setattr(rows, "_watched", look)
    monkeypatch.setattr(Pool, "follow", go)
    monkeypatch.setattr(rows, "MANY", 4)
    alive: list[Block] = [END] * 400
    Stream([], [Row(layer, [30 * MIB, 14 * MIB, 5 * MIB] * 100, 8, 3)]).follow(CachingAllocator(), alive)
    assert len(seen) == followed
