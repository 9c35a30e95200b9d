"""Rows of like layers that are followed at once, against the same layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.replay import rows
from memcalc.replay.allocator import END, MIB, CachingAllocator
from memcalc.replay.rows import Row, Stream, given_whole

if TYPE_CHECKING:
    from memcalc.replay.allocator import Block, Pool
    from memcalc.replay.rows import Asked

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


def test_a_row_of_whole_segments_is_served_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[int] = []
    before = rows._serve  # noqa: SLF001 - to look on

    def serve(pool: Pool, asked: dict[int, Asked], times: int) -> None:
        served.append(times)
        before(pool, asked, times)

    monkeypatch.setattr(rows, "_serve", serve)
    alive: list[Block] = [END] * 100
    Stream([], [Row([0], [30 * MIB] * 100, 100, 1)]).follow(allocator := CachingAllocator(), alive)
    assert served == [100]
    assert allocator.reserved == 100 * 30 * MIB


@pytest.mark.parametrize(
    ("mib", "given"), [(0.5, 0), (5, 0), (10.5, 0), (11, 12), (9.5, 0), (19.5, 20), (30, 30), (28.5, 0)]
)
def test_segments_given_whole(mib: float, given: float) -> None:
    """At most 1 MiB is left of them (should_split)."""
    assert given_whole(int(mib * MIB)) == given * MIB
