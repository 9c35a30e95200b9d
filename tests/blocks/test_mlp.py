"""Mixtures: what a router holds, what of a mixture runs when."""

from __future__ import annotations

from memcalc.blocks.base import Param, Sequence
from memcalc.blocks.basic import Linear, Norm
from memcalc.blocks.mlp import Experts, LinearRouter, Mlp, Moe, Router
from memcalc.tensors import tensors


def test_a_routers_table_and_correction_are_buffers() -> None:
    router = Router("gate", 8, 4, bias=True, correction="fix", table=(10, 2), extra=(Param("more", (1,)),))
    found = [(t.name, t.shape, t.buffer, t.dtype) for t in tensors(router)]
    assert found == [
        ("gate.weight", (4, 8), False, ""), ("gate.bias", (4,), False, ""), ("gate.fix", (4,), True, "fp32"),
        ("gate.tid2eid", (10, 2), True, "int64"), ("gate.more", (1,), False, ""),
    ]  # fmt: skip


def test_only_a_router_that_is_a_linear_counts_as_one() -> None:
    assert {t.role for t in tensors(Router("gate", 8, 4))} == {"parameter"}
    assert {t.role for t in tensors(LinearRouter("gate", 8, 4))} == {"linear"}


def test_stacked_experts_are_neither() -> None:
    assert {t.role for t in tensors(Experts("experts", params=(Param("up_proj", (4, 2, 2)),)))} == {"expert"}


def test_a_mixture_narrows_what_it_sends_and_norms_the_sum() -> None:
    block = Moe(
        "mlp", Router("gate"), Experts("experts"), Mlp("shared"), Linear("shared_gate", 1, 1),
        into=Linear("into", 1, 1), out_of=Linear("out_of", 1, 1), norm=Norm("norm", 1),
    )  # fmt: skip
    order = ["gate", "into", "experts", "out_of", "shared", "shared_gate", "norm"]
    assert [part.name for part in block.parts()] == order


def test_a_gate_runs_before_the_projection_it_scales() -> None:
    gate, up, down = Linear("gate", 1, 1), Linear("up", 1, 1), Linear("down", 1, 1)
    assert Sequence("", Mlp("", up, down, gate).parts()).blocks == (gate, up, down)
