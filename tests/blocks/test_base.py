"""How blocks nest: names, numbered layers, branches."""

from __future__ import annotations

from memcalc.blocks.base import Stack, Unused, parallel, repeat, residual, sequence, stack
from memcalc.blocks.basic import Linear, Norm
from memcalc.tensors import tensors

A, B, NORM = Linear("a", 2, 3), Linear("b", 2, 5), Norm("norm", 2)


def names(*blocks: Linear | Norm) -> list[str]:
    return [f"{block.name}.weight" for block in blocks]


def test_nothing_is_left_out_but_none() -> None:
    assert sequence(A, None, B).blocks == (A, B)
    assert residual(None, A).blocks == (A,)
    assert parallel(A, None).branches == (A,)


def test_a_nameless_block_adds_nothing_to_the_names_below_it() -> None:
    assert [t.name for t in tensors(sequence(residual(NORM, A)))] == names(NORM, A)
    assert [t.name for t in tensors(sequence(residual(A), name="model"))] == ["model.a.weight"]


def test_branches_may_share_a_norm_that_runs_first() -> None:
    assert [t.name for t in tensors(parallel(A, B, norm=NORM))] == names(NORM, A, B)
    assert [t.name for t in tensors(parallel(A, B))] == names(A, B)


def test_repeated_layers_are_one_value() -> None:
    layers = repeat("layers", 100, A)
    assert len({id(layer) for layer in layers.layers}) == 1
    assert [(list(indices or ()), part) for indices, part in layers.groups()] == [(list(range(100)), sequence(A))]


def test_groups_come_in_the_order_of_their_first_layer() -> None:
    first, second = sequence(A), sequence(B)
    groups = list(stack("layers", [first, second, second, first]).groups())
    assert [(indices, part) for indices, part in groups] == [([0, 3], first), ([1, 2], second)]


def test_equal_layers_of_two_makers_are_one_group() -> None:
    groups = list(Stack("layers", (sequence(A), sequence(B), sequence(A))).groups())
    assert [indices for indices, _ in groups] == [[0, 2], [1]]


def test_what_does_not_run_still_has_its_tensors() -> None:
    assert [t.name for t in tensors(Unused("cross", (A,)))] == ["cross.a.weight"]
