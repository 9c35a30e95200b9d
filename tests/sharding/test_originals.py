"""Original parameters beside flat ones: what the optimizer of one rank is given."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from memcalc.sharding.fsdp1 import Flattened
from memcalc.sharding.originals import Stretch, Views, fullest
from memcalc.tensors import Tensor


def layers(*shapes: tuple[int, ...], trainable: bool = True) -> tuple[Tensor, ...]:
    """Tensors of four layers."""
    return tuple(
        Tensor(f"layers.{{0..3}}.{place}", shape, 4, trainable=trainable) for place, shape in enumerate(shapes)
    )


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_the_first_rank_has_what_comes_first(ranks: int) -> None:
    tensors = (Tensor("table", (100, 8), role="embedding"), *layers((8, 24), (24,), (24, 8)), Tensor("norm", (8,)))
    how = Flattened("fsdp", ranks, shards=ranks, visible=True, param_dtype="bf16", paths=("layers",))
    states = how.place(tensors).states
    shard = -(-(8 * 24 + 24 + 24 * 8) // ranks)
    own = [tensor for tensor in states if tensor.name.startswith("layers")]
    assert sum(prod(tensor.shape) for tensor in own) == shard
    assert {tensor.count for tensor in own} == {4}
    whole = [192, 24, 192]
    taken: list[int] = []
    for elements in whole:
        taken.append(min(elements, shard - sum(taken)))
    assert [tensor.shape for tensor in own] == [(elements,) for elements in taken if elements]
    assert states[0].shape == (-(-808 // ranks),)


def test_without_original_parameters_there_is_one_shard_for_each_unit() -> None:
    how = Flattened("fsdp", 2, shards=2, visible=False, paths=("layers",))
    place = how.place(layers((8, 24), (24,)))
    assert [tensor.shape for tensor in place.states] == [((8 * 24 + 24) // 2,)]
    assert place.states == place.weights


def test_the_fullest_rank_has_the_most_that_learns() -> None:
    frozen, learning = Tensor("a", (60,), trainable=False), Tensor("b", (40,))
    mixed = Views("root", 1, 25, (Stretch(frozen, 0, 60), Stretch(learning, 60, 100)))
    assert [mixed.stretches[1].inside(rank, 25) for rank in range(4)] == [0, 0, 15, 25]
    assert fullest([mixed]) == 3
    assert [tensor.shape for tensor in mixed.of(3)] == [(25,)]
    assert (
        fullest([mixed._replace(stretches=(Stretch(replace(frozen, trainable=True), 0, 60), mixed.stretches[1]))]) == 0
    )
