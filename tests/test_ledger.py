"""The ledger: bytes that persist, summed by hand for small models, and laws that hold for all of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from memcalc import estimate
from memcalc.ledger import ledger
from memcalc.optimizers import resolve
from memcalc.precision import recipe
from memcalc.tensors import Tensor

# bytes per parameter of (weights, master copy, gradients, Adam states): the table of recipes; ZeRO paper, Megatron-LM
RECIPES = [
    ("fp32", 4, 0, 4, 8),
    ("bf16", 2, 0, 2, 4),
    ("fp16", 2, 0, 2, 4),
    ("bf16-autocast", 2, 0, 2, 4),
    ("amp-bf16", 4, 0, 4, 8),
    ("amp-fp16", 4, 0, 4, 8),
    ("mixed-bf16", 2, 4, 2, 8),
    ("mixed-fp16", 2, 4, 2, 8),
    ("megatron-bf16", 2, 4, 4, 8),
]


@pytest.mark.parametrize(("name", "weights", "master", "gradients", "states"), RECIPES)
def test_bytes_per_parameter_of_a_recipe(name: str, weights: int, master: int, gradients: int, states: int) -> None:
    n = 6_738_415_616  # llama-2-7b
    parts = estimate({"model": "llama-2-7b", "precision": name}).memory.components
    assert (parts.weights, parts.master_weights, parts.gradients) == (weights * n, master * n, gradients * n)
    assert parts.optimizer_states == states * n  # torch keeps the step counters on the host


def test_what_never_gets_a_gradient_has_states_where_a_master_copy_is_made_of_it_alone() -> None:
    idle = (Tensor("pooler.weight", (10, 10), idle=True), Tensor("dense.weight", (10, 10)))
    plain, mixed = (ledger(idle, recipe(name), resolve("adamw")) for name in ("bf16", "mixed-bf16"))
    assert [plain.total(name) for name in ("weights", "gradients", "optimizer_states")] == [400, 200, 400]
    assert [mixed.total(name) for name in ("weights", "gradients", "optimizer_states")] == [400, 400, 1600]


def test_a_tied_tensor_a_frozen_one_and_a_buffer() -> None:
    tensors = (
        Tensor("embed.weight", (100, 8), role="embedding"),
        Tensor("head.weight", (100, 8), role="linear", tied_to="embed.weight"),
        Tensor("positions.weight", (10, 8), trainable=False, role="embedding"),
        Tensor("running_mean", (8,), buffer=True, dtype="fp32"),
        Tensor("layers.{0..1}.weight", (8, 8), count=2, role="linear"),
    )
    book = ledger(tensors, recipe("bf16"), resolve("adamw"))
    assert book.total("weights") == 2 * 800 + 2 * 80 + 4 * 8 + 2 * 2 * 64
    assert book.total("gradients") == 2 * 800 + 2 * 2 * 64
    assert book.total("optimizer_states") == 2 * book.total("gradients")


def test_8_bit_states_follow_bitsandbytes_tensor_by_tensor() -> None:
    """Below 4096 elements two fp32 states; above, two bytes and two fp32 scales per block of 256; 2 kB of tables once."""
    tensors = (Tensor("a.weight", (64, 64), role="linear"), Tensor("b.weight", (4095,), role="norm"))
    book = ledger(tensors, recipe("bf16"), resolve("adamw-8bit"))
    assert book.total("optimizer_states") == (2 * 4096 + 2 * 4 * 16) + 8 * 4095 + 2 * 256 * 4


def test_optimizers_that_free_gradients_leave_none() -> None:
    memory = estimate({"model": "llama-2-7b", "precision": "bf16", "optimizer": "lomo"}).memory
    assert memory.components.gradients == 0
    assert memory.persistent == memory.components.weights


def test_fsdp_keeps_fp32_shards_in_place_of_a_master_copy() -> None:
    held = estimate({"model": "llama-2-7b", "gpus": 8, "sharding": "fsdp"}).memory.components
    n = 6_738_415_616
    assert (held.weights, held.master_weights, held.gradients) == (4 * n // 8, 0, 4 * n // 8)


RUNS: list[dict[str, Any]] = [
    {"precision": "bf16"},
    {"precision": "mixed-bf16", "optimizer": "adamw-8bit"},
    {"precision": "fp32", "optimizer": "adafactor"},
    {"precision": "bf16", "lora": {"rank": 8}},
]


@pytest.mark.parametrize("run", RUNS)
def test_the_parts_add_up(run: dict[str, Any]) -> None:
    memory = estimate({"model": "gpt2", **run, "gpu": "h100"}).memory
    parts = memory.components
    assert memory.persistent == parts.weights + parts.master_weights + parts.gradients + parts.optimizer_states
    assert sum(asdict(memory.at_peak).values()) == memory.peak_allocated
    assert memory.peak_allocated == max(asdict(memory.phases).values())
    assert memory.total == memory.reserved + memory.outside_allocator.context + memory.outside_allocator.communicators


def test_several_gpus_have_a_communicator_outside_the_allocator() -> None:
    """The sizes are those of presets/overheads: 1100 MiB over NVSwitch, none for one GPU."""
    alone = estimate({"model": "gpt2", "gpu": "h100"}).memory
    many = estimate({"model": "gpt2", "gpu": "h100", "gpus": 8}).memory
    assert alone.outside_allocator.communicators == 0
    assert many.outside_allocator.communicators == 1100 * 2**20
    assert many.total == many.reserved + many.outside_allocator.context + 1100 * 2**20
