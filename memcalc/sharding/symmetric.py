"""Symmetric memory: buffers that GPUs of a tensor-parallel group read from each other, outside of the caching allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.dtypes import BITS
from memcalc.tape.values import rounded
from memcalc.units import format_bytes

if TYPE_CHECKING:
    from memcalc.plan import Plan

SHARDS = 2  # of the hidden states, which products put out in turn (_pipelined_produce_and_all2all)


def workspace(plan: Plan) -> int:
    """Bytes of the workspace of async tensor parallelism: two parts of a micro batch's hidden states; none without parts.

    torch 2.13, torch/distributed/_symmetric_memory/__init__.py, get_symm_mem_workspace: one for a group, as large as the
    largest that was asked for; _pipelined_multi_all_gather_and_consume asks for one part alone.
    """
    ways, run = plan.ways, plan.run
    if ways is None or not ways.overlapped or not ways.sequence:
        return 0
    tokens = run.batch_size * plan.seq_len // ways.tensor
    nbytes = SHARDS * rounded(tokens * ways.width * BITS[plan.recipe.compute] // 8)
    plan.notes.assume("sharding.enable_async_tensor_parallel", "symmetric-memory",
                      f"{format_bytes(nbytes)} of symmetric memory, counted with the communicators")  # fmt: skip
    return nbytes
