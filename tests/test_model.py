"""Model: its tensors, its parameters, and those a token meets."""

from __future__ import annotations

import pytest

from memcalc.blocks.base import Param, repeat, residual, sequence
from memcalc.blocks.basic import Embedding, Linear
from memcalc.blocks.mlp import Experts, Mlp, Moe
from memcalc.model import Model
from memcalc.models import load_model
from memcalc.tensors import Tensor


def mixture(experts: int, top_k: int) -> Moe:
    params = (Param("up", (experts, 8, 4)), Param("down", (experts, 4, 8)))
    router = Linear("gate", 4, experts)
    return Moe("mlp", router=router, experts=Experts("experts", experts, 8, params), top_k=top_k)


def test_tables_stand_beside_the_blocks() -> None:
    model = Model(Linear("head", 4, 2), tables=(Tensor("scale", (4,), 3),))
    assert [t.name for t in model.tensors] == ["head.weight", "scale"]
    assert model.parameters == 8 + 12


@pytest.mark.parametrize(("top_k", "met"), [(1, 1), (2, 2), (8, 8), (9, 8)])
def test_a_token_meets_its_experts_and_all_the_rest(top_k: int, met: int) -> None:
    model = Model(sequence(Embedding("embed", 10, 4), repeat("layers", 3, residual(mixture(8, top_k)))))
    assert model.parameters == 40 + 3 * (32 + 8 * 64)
    assert model.active == 40 + 3 * (32 + met * 64)


def test_experts_may_be_modules_of_their_own() -> None:
    expert = Mlp("", Linear("up", 4, 8), Linear("down", 8, 4))
    model = Model(Moe("mlp", router=Linear("gate", 4, 4), experts=repeat("experts", 4, expert), top_k=1))
    assert (model.parameters, model.active) == (16 + 4 * 64, 16 + 64)


def test_a_dense_model_is_active_in_all_its_parameters() -> None:
    model = Model(Linear("head", 4, 2))
    assert model.active == model.parameters == 8


# T5's first layers look up their positions, a decoder's have two each; Jamba's mixers stand before an MLP or experts
@pytest.mark.parametrize(
    ("name", "duty", "distinct"),
    [
        ("gpt2", "attention", 1),
        ("t5-small", "attention", 6),
        ("gpt2", "recurrence", 0),
        ("jamba-v0.1", "recurrence", 2),
    ],
)
def test_blocks_are_found_by_what_they_are_looked_for_as(name: str, duty: str, distinct: int) -> None:
    model = load_model(name)
    found = model.duties.get(duty, [])
    assert len(found) == distinct
    assert all(block.duty == duty for block in found)
