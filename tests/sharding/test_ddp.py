"""DDP's buckets and ZeroRedundancyOptimizer's partition; steps are held to recordings in tests/reference."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.sharding.ddp import Replicated, from_options, partition
from memcalc.sharding.strategy import Local
from memcalc.tensors import Tensor

P = 6_738_415_616


def memory(sharding: Any, **more: Any) -> Any:
    return estimate({"model": "llama-2-7b", "gpus": 8, "sharding": sharding, **more}).memory


def test_the_worked_example() -> None:
    """Llama 2 7B in fp32: 4P of weights, gradients and buckets each, 8P of states (reducer.cpp, initialize_buckets)."""
    held = memory("ddp", precision="fp32").components
    assert (held.weights, held.gradients, held.buffers, held.optimizer_states) == (4 * P, 4 * P, 4 * P, 8 * P)


def test_gradients_that_are_views_of_buckets_are_there_once() -> None:
    plain, views = (
        memory("ddp", precision="bf16"),
        memory({"strategy": "ddp", "gradient_as_bucket_view": True}, precision="bf16"),
    )
    assert views.components.buffers == 0
    assert plain.phases.optimizer - views.phases.optimizer == pytest.approx(2 * P, rel=1e-4)
    assert views.phases.forward == pytest.approx(plain.phases.forward, rel=1e-4)  # the buckets are there all along


@pytest.mark.parametrize(("cap", "sizes"), [
    (100, [110, 120, 40]),  # the last parameters first; a bucket is full once it is no smaller than its limit
    (1000, [270]),
])  # fmt: skip
def test_buckets_are_filled_from_the_end(cap: int, sizes: list[int]) -> None:
    """compute_bucket_assignment_by_size."""
    trained = [Tensor("a", (10, 4), dtype="int8"), Tensor("b", (100,), dtype="int8"), Tensor("c", (20,), dtype="int8"),
               Tensor("d", (110,), dtype="int8")]  # fmt: skip
    assert [elements for elements, _ in Replicated(cap=cap, first=cap).filled(trained)] == sizes


@pytest.mark.parametrize(("given", "cap", "first"), [
    ({}, 25 * 2**20, 2**20),  # the first bucket alone is dist._DEFAULT_FIRST_BUCKET_BYTES
    ({"bucket_cap_mb": 4}, 4 * 2**20, 4 * 2**20),  # where a size is given, it is the first one's, too
])  # fmt: skip
def test_the_size_of_buckets(given: dict[str, int], cap: int, first: int) -> None:
    """DistributedDataParallel.__init__ and _ddp_init_helper (torch/nn/parallel/distributed.py)."""
    made = from_options(given, 2, frozenset(), micro_batches=1)
    assert (made.cap, made.first) == (cap, first)


def test_states_go_to_ranks_parameter_by_parameter() -> None:
    """_partition_parameters on Llama 2 7B over 8 ranks: the fullest has 850,395,136 parameters."""
    held = memory({"strategy": "ddp", "zero_redundancy_optimizer": True}, precision="fp32").components
    assert held.optimizer_states == 8 * 850_395_136
    assert held.weights == held.gradients == 4 * P


def test_the_largest_go_first() -> None:
    """To the rank that has least: 7 | 5 | 4, then 3 to the third, 2 to the second."""
    tensors = [Tensor(str(n), (n,)) for n in (2, 7, 4, 3, 5)]
    assert sorted(tensor.elements for tensor in partition(tuple(tensors), 3)) in ([7], [3, 4], [2, 5])


def test_hooks_copy_a_bucket_in_the_lower_dtype() -> None:
    plain = memory("ddp", precision="fp32", checkpointing="full")
    narrow = memory({"strategy": "ddp", "comm_hook": "bf16_compress"}, precision="fp32", checkpointing="full")
    assert 0 <= narrow.phases.backward - plain.phases.backward <= 2 * 32_000 * 4_096 + 2 * 2**20
    error = memory({"strategy": "ddp", "comm_hook": "powersgd"}, precision="fp32").components
    kept = 8 * P + 4 * 2_570_752  # buckets, what was lost, and factors of rank 1
    assert kept < error.buffers <= kept + 2 * 4 * (32_000 * 4_096 + 25 * 2**20 // 4)  # besides, two copies of a bucket


def test_messages_of_the_first_broadcast_are_two_at_a_time() -> None:
    """_sync_module_states: 250 MiB and what a tensor has beyond; the last takes the rest."""
    weights = (Tensor("h.{0..2}.weight", (100 * 2**20,), 3), Tensor("norm", (128,), dtype="fp32"))
    found = Replicated(ranks=2).tried(Local(weights, (), ()), lambda tensor: tensor.dtype or "bf16")
    assert found == (400 * 2**20, 200 * 2**20, ~0, 512, ~1, ~2)
    assert Replicated(ranks=2).tried(Local((), (), ()), lambda _: "bf16") == ()
