"""A model described as blocks, as raw tensors, or as a bare size; and everything that can be wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcalc.architectures import build
from memcalc.architectures.inline import inline, nominal
from memcalc.blocks.base import Parallel, Residual
from memcalc.errors import RunInvalid

LLAMA = {
    "context": 4096,
    "blocks": [
        {"embed": {"rows": 32000, "width": 4096}},
        {
            "repeat": 32,
            "blocks": [
                {"residual": [{"norm": {"width": 4096}}, {"attention": {"width": 4096, "heads": 32}}]},
                {"residual": [{"norm": {"width": 4096}}, {"mlp": {"width": 4096, "inner": 11008}}]},
            ],
        },
        {"norm": {"width": 4096}},
        {"linear": {"inputs": 4096, "outputs": 32000, "name": "head"}},
    ],
}


def faults(given: Any) -> dict[str, str]:
    """What is wrong with a description: {place: what}."""
    with pytest.raises(RunInvalid) as caught:
        inline(given)
    return {fault.where: fault.what for fault in caught.value.faults}


def wrong(kind: str, keys: Any) -> dict[str, str]:
    return faults({"blocks": [{kind: keys}]})


def shapes(*blocks: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in inline({"blocks": list(blocks)}).tensors}


def test_a_llama_written_out_has_a_llamas_tensors() -> None:
    model, real = inline(LLAMA), build("llama", {})
    assert model.parameters == real.parameters == 6_738_415_616
    assert sorted((t.shape, t.count, t.role) for t in model.tensors) == sorted(
        (t.shape, t.count, t.role) for t in real.tensors
    )
    assert (model.kind, model.context) == ("causal-lm", 4096)


def test_blocks_are_named_by_kind_numbered_where_several_stand_together() -> None:
    norm = {"norm": {"width": 4}}
    assert list(shapes(norm, {"linear": {"inputs": 4, "outputs": 2}}, norm, {"norm": {"width": 4, "name": "last"}})) == [
        "norm_1.weight", "linear.weight", "norm_2.weight", "last.weight",
    ]  # fmt: skip


KINDS = [
    ({"embed": {"rows": 7, "width": 4, "index": "positions"}}, {"embed.weight": (7, 4)}),
    ({"linear": {"inputs": 4, "outputs": 2, "bias": True}}, {"linear.weight": (2, 4), "linear.bias": (2,)}),
    ({"norm": {"width": 4, "kind": "layer"}}, {"norm.weight": (4,), "norm.bias": (4,)}),
    (
        {"attention": {"width": 8, "heads": 4, "kv_heads": 2, "bias": True, "qk_norm": True}},
        {
            "attention.q_proj.weight": (8, 8), "attention.q_proj.bias": (8,), "attention.k_proj.weight": (4, 8),
            "attention.k_proj.bias": (4,), "attention.v_proj.weight": (4, 8), "attention.v_proj.bias": (4,),
            "attention.q_norm.weight": (2,), "attention.k_norm.weight": (2,),
            "attention.o_proj.weight": (8, 8), "attention.o_proj.bias": (8,),
        },
    ),
    (
        {"attention": {"width": 8, "heads": 3, "head_dim": 4, "fused": True, "out_bias": True}},
        {
            "attention.qkv_proj.weight": (36, 8), "attention.o_proj.weight": (8, 12), "attention.o_proj.bias": (8,),
        },
    ),
    (
        {"mlp": {"width": 4, "inner": 6, "gated": False, "bias": True}},
        {"mlp.up_proj.weight": (6, 4), "mlp.up_proj.bias": (6,), "mlp.down_proj.weight": (4, 6), "mlp.down_proj.bias": (4,)},
    ),
    (
        {"moe": {"width": 4, "inner": 6, "experts": 8, "top_k": 2, "shared": 5}},
        {
            "moe.gate.weight": (8, 4), "moe.experts.gate_up_proj": (8, 12, 4), "moe.experts.down_proj": (8, 4, 6),
            "moe.shared_expert.gate_proj.weight": (5, 4), "moe.shared_expert.up_proj.weight": (5, 4),
            "moe.shared_expert.down_proj.weight": (4, 5),
        },
    ),
    ({"conv": {"inputs": 3, "outputs": 8, "kernel": [16, 16], "bias": False}}, {"conv.weight": (8, 3, 16, 16)}),
    ({"conv": {"inputs": 8, "outputs": 8, "kernel": 3, "groups": 8}}, {"conv.weight": (8, 1, 3), "conv.bias": (8,)}),
    ({"parameter": {"shape": [1, 8]}}, {"parameter": (1, 8)}),
    ({"dropout": {"p": 0.1}}, {}),
    ({"activation": {"function": "gelu"}}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("block", "expected"), KINDS, ids=lambda value: next(iter(value), ""))
def test_each_kind_has_its_tensors(block: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    assert shapes(block) == expected


def test_a_token_meets_top_k_experts() -> None:
    model = inline({"blocks": [{"moe": {"width": 4, "inner": 6, "experts": 8, "top_k": 2}}]})
    assert (model.parameters, model.active) == (32 + 8 * 72, 32 + 2 * 72)


def test_branches_and_rows_nest() -> None:
    norm = {"norm": {"width": 4}}
    model = inline(
        {"blocks": [{"parallel": [{"sequence": [norm, {"mlp": {"width": 4, "inner": 8}}]}, {"residual": [norm]}]}]}
    )
    (branches,) = model.body.parts()
    assert isinstance(branches, Parallel)
    assert isinstance(branches.parts()[1], Residual)


def test_a_head_may_share_the_embeddings_memory() -> None:
    blocks = [{"embed": {"rows": 9, "width": 4}}, {"linear": {"inputs": 4, "outputs": 9, "tied_to": "embed"}}]
    assert inline({"blocks": blocks}).parameters == 36
    assert "does not exist" in faults({"blocks": [blocks[1]]})["model"]
    crooked = {"linear": {"inputs": 5, "outputs": 9, "tied_to": "embed"}}
    assert "has the shape [9, 4]" in faults({"blocks": [blocks[0], crooked]})["model"]


def test_raw_tensors_stand_beside_or_instead_of_blocks() -> None:
    model = inline({
        "tensors": {
            "layers.{0..3}.weight": [8, 4],
            "positions": {"shape": [16, 4], "trainable": False, "role": "embedding"},
            "mean": {"shape": 4, "buffer": True, "dtype": "float32"},
        }
    })  # fmt: skip
    assert model.kind == "tensors"
    assert model.parameters == 4 * 32 + 64
    assert [(t.count, t.role, t.trainable, t.dtype) for t in model.tensors] == [
        (4, "linear", True, ""), (1, "embedding", False, ""), (1, "parameter", True, "fp32"),
    ]  # fmt: skip
    assert inline({**LLAMA, "tensors": {"scale": [3]}}).parameters == 6_738_415_616 + 3


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({}, "model", "neither blocks nor tensors"),
    ({"blocks": [], "kidn": "causal-lm"}, "model.kidn", "did you mean kind"),
    ({"blocks": {"norm": {}}}, "model.blocks", "a list of blocks"),
    ({"blocks": [5]}, "model.blocks[0]", "a block belongs here"),
    ({"blocks": [{}]}, "model.blocks[0]", "a block belongs here"),
    ({"blocks": [{"norm": {"width": 4}, "mlp": {}}]}, "model.blocks[0]", "one block at a time"),
    ({"blocks": [{"atention": {}}]}, "model.blocks[0]", "did you mean attention"),
    ({"blocks": [{"repeat": 2}]}, "model.blocks[0].blocks", "a list of blocks"),
    ({"blocks": [{"repeat": 0, "blocks": []}]}, "model.blocks[0].repeat", "from 1 to 10,000"),
    ({"blocks": [{"repeat": 2, "blocks": [], "x": 1}]}, "model.blocks[0].x", "no such key"),
    ({"tensors": [1]}, "model.tensors", "names and their shapes"),
    ({"tensors": {"w": [4, 0]}}, "model.tensors[w].shape[1]", "whole number"),
    ({"tensors": {"w": "4x4"}}, "model.tensors[w].shape", "whole number"),
    ({"tensors": {"w": [10**9, 10**9]}}, "model.tensors[w].shape", "elements"),
    ({"tensors": {"w.{0..": [4]}}, "model.tensors[w.{0..]", "{0..31}"),
    ({"tensors": {"w.{0..9999999}": [4]}}, "model.tensors[w.{0..9999999}]", "10000000 tensors"),
    ({"tensors": {"w": {"shape": [4], "role": "liner"}}}, "model.tensors[w].role", "did you mean linear"),
    ({"tensors": {"w": {"shape": [4], "dtype": "fp33"}}}, "model.tensors[w].dtype", "fp32"),
    ({"tensors": {"w": {"trainable": True}}}, "model.tensors[w].shape", "missing"),
    ({"tensors": {"w": [4]}, "kind": "causal"}, "model.kind", "did you mean causal-lm"),
    ({"tensors": {"w": [4]}, "context": -1}, "model.context", "whole number"),
    ({"blocks": [{"norm": {"width": 4, "name": "w"}}], "tensors": {"w.weight": [4]}}, "model", "two tensors"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "where", "says"), WRONG)
def test_a_fault_is_told_with_its_place(given: dict[str, Any], where: str, says: str) -> None:
    assert says in faults(given)[where]


KEYS: list[tuple[str, Any, str, str]] = [
    ("norm", 4, "", "the keys of the block"),
    ("norm", {}, ".width", "missing"),
    ("norm", {"width": 4, "kind": "rsm"}, ".kind", "did you mean rms"),
    ("norm", {"width": True}, ".width", "whole number"),
    ("norm", {"widht": 4, "width": 4}, ".widht", "did you mean width"),
    ("linear", {"inputs": 4, "outputs": 2, "bias": "no"}, ".bias", "true or false"),
    ("linear", {"inputs": 4, "outputs": 2, "tied_to": 3}, ".tied_to", "not text"),
    ("attention", {"width": 10, "heads": 3}, ".heads", "3 heads do not divide"),
    ("attention", {"width": 12, "heads": 4, "kv_heads": 3}, ".kv_heads", "3 key/value heads"),
    ("attention", {"width": 12, "heads": 4, "dropout": 2}, ".dropout", "from 0 to 1"),
    ("moe", {"width": 4, "inner": 4, "experts": 2, "top_k": 3}, ".top_k", "3 of 2 experts"),
    ("conv", {"inputs": 3, "outputs": 4, "kernel": [3, "x"]}, ".kernel[1]", "whole number"),
    ("conv", {"inputs": 3, "outputs": 4, "kernel": 3, "groups": 2}, ".groups", "must divide"),
    ("embed", {"rows": 3, "width": 4, "index": "token"}, ".index", "did you mean tokens"),
]


@pytest.mark.parametrize(("kind", "keys", "key", "says"), KEYS)
def test_a_key_of_a_block_is_told_with_its_place(kind: str, keys: Any, key: str, says: str) -> None:
    assert says in wrong(kind, keys)[f"model.blocks[0].{kind}{key}"]


def test_all_faults_are_told_at_once_with_their_depth() -> None:
    inner = [{"attention": {"width": 8}}, {"mlp": {"width": -1, "inner": 4}}]
    found = faults({"blocks": [{"norm": {}}, {"repeat": 2, "blocks": [{"residual": inner}]}]})
    assert list(found) == [
        "model.blocks[0].norm.width",
        "model.blocks[1].blocks[0].residual[0].attention.heads",
        "model.blocks[1].blocks[0].residual[1].mlp.width",
    ]


def test_lists_nest_only_so_deep() -> None:
    nested: dict[str, Any] = {"norm": {"width": 4}}
    for _ in range(2000):
        nested = {"residual": [nested]}
    assert any("less deeply nested" in what for what in faults({"blocks": [nested]}).values())


@settings(deadline=None)
@given(st.integers(1, 10**13))
def test_a_bare_size_has_exactly_so_many_parameters(size: int) -> None:
    model = nominal(size)
    assert model.parameters == size
    assert model.nominal
    assert all(max(t.shape) <= 4096 for t in model.tensors)


def test_a_bare_size_is_as_many_squares_as_fit() -> None:
    """7e9 = 417 * 4096² + 952 * 4096 + 1536."""
    assert [(t.shape, t.count) for t in nominal(7_000_000_000).tensors] == [
        ((4096, 4096), 417),
        ((952, 4096), 1),
        ((1536,), 1),
    ]


@pytest.mark.parametrize("size", [0, -1, 10**16])
def test_a_size_that_no_model_has_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="not a number of parameters"):
        nominal(size)
