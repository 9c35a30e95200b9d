"""Async tensor parallelism: parts of the sequence on their way while products run, and the memory that they go through."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.blocks.parallel import Gather, Scatter
from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate
from memcalc.tape.rules import Around, run
from tests.tape.tapes import parameter, run_back, tape

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


@pytest.mark.parametrize(
    ("block", "forward", "back"),
    [
        (
            Gather("", ranks=4),
            [4, 4],
            [1, 0.25],
        ),  # the backward pass scatters: what is whole is put in a row, a quarter stays
        (Gather("", ranks=4, overlapped=True), [4], [1, 0.25]),
        (Scatter("", ranks=4), [1, 0.25], [4, 4]),
        (Scatter("", ranks=4, overlapped=True), [0.25], [4]),
    ],
)
def test_parts_are_not_put_in_a_row_first(block: Gather | Scatter, forward: list[float], back: list[float]) -> None:
    """torch 2.13, _functional_collectives.py, all_gather_single and reduce_scatter_single along dimension 1: copies."""
    t = tape()
    x = parameter(t, 2, 64, 4096, dtype="bf16")
    given, before = 2 * 64 * 4096 * 2, len(t.sizes)
    out = run(t, block, x, Around())
    assert t.sizes[before:] == [part * given for part in forward]
    gradient, before = math.prod(out.shape) * 2, len(t.sizes) + 1  # the gradient that is given comes first
    run_back(t, out)
    assert t.sizes[before:] == [part * gradient for part in back]


def test_overlapping_takes_no_more_at_once_and_keeps_the_same() -> None:
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
