"""Async tensor parallelism: parts of the sequence on their way while products run, and the memory that they go through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate

if TYPE_CHECKING:
    from memcalc.report import Memory

RUN: dict[str, Any] = {
    "model": "llama-3-8b", "gpus": 8, "batch_size": 2, "seq_len": 4096, "gpu": "h100", "implementation": "torchtitan-compiled",
    "checkpointing": "full", "parallel": {"tensor": 4, "sequence": True},
}  # fmt: skip


def memory(*, overlapped: bool, **run: Any) -> Memory:
    sharding = {"strategy": "fsdp", "enable_async_tensor_parallel": overlapped}
    return estimate({**RUN, "sharding": sharding, **run}).memory


def test_the_workspace_is_two_parts_of_the_hidden_states_outside_of_the_allocator() -> None:
    with_it, without = (memory(overlapped=overlapped).outside_allocator for overlapped in (True, False))
    tokens, hidden, of_bf16 = 2 * 4096 // 4, 4096, 2
    assert with_it.communicators - without.communicators == 2 * tokens * hidden * of_bf16


def test_what_is_gathered_or_sent_is_not_put_in_a_row_first() -> None:
    """A layer run again: its gathered input is there once, not twice."""
    with_it, without = (memory(overlapped=overlapped, loss="chunked").phases for overlapped in (True, False))
    assert with_it.forward <= without.forward
    assert with_it.backward <= without.backward
    kept, more = (memory(overlapped=overlapped, checkpointing="none").components for overlapped in (True, False))
    assert kept.activations == more.activations
    assert kept.weights == more.weights


def test_one_tensor_parallel_rank_has_nothing_to_send() -> None:
    assert memory(overlapped=True, parallel={}) == memory(overlapped=False, parallel={})


def test_layers_that_are_not_compiled_can_not_overlap() -> None:
    with pytest.raises(RunInvalid, match="Async TP requires"):
        memory(overlapped=True, implementation="torchtitan")
