"""torchtitan on real GPUs: the most that was reserved, in GiB, its error printed (pytest -rP).

Source: pytorch/torchtitan b5bcd76c6, benchmarks/llama3_h100_202412_torchtitan.md, by line: Llama 3.1 on H100 of 96 GB, most of
them compiled, with products in float8, which the tape counts in bf16 (Float8Linear saves its input and its weight as they
are). The options are torchtitan's own of then (parallelize_llama.py, whose root holds what is in no layer, and
pipeline_llama.py; run_llama_train.sh grows the allocator's segments).
"""

from __future__ import annotations

from functools import cache
from statistics import median
from typing import Any, NamedTuple

import pytest

from memcalc.pipeline import estimate

GIB = 2**30


class Row(NamedTuple):
    """A line of the benchmarks."""

    line: int
    reserved: float
    model: str
    gpus: int
    seq_len: int = 8192
    batch_size: int = 1
    checkpointing: str = "full"
    parallel: tuple[tuple[str, Any], ...] = ()
    micro_batches: int = 1
    compiled: bool = True
    overlapped: bool = False


ROWS = [
    Row(27, 82.4, "llama-3.1-8b", 8, batch_size=2, checkpointing="selective", compiled=False),
    Row(28, 77.0, "llama-3.1-8b", 8, batch_size=2, checkpointing="selective"),
    Row(29, 76.8, "llama-3.1-8b", 8, batch_size=2, checkpointing="selective"),
    Row(35, 83.9, "llama-3.1-8b", 8, seq_len=32768),
    Row(36, 84.2, "llama-3.1-8b", 8, seq_len=65536, parallel=(("context", 2),)),
    Row(37, 84.0, "llama-3.1-8b", 8, seq_len=131072, parallel=(("context", 4),)),
    Row(38, 84.5, "llama-3.1-8b", 8, seq_len=262144, parallel=(("context", 8),)),
    Row(44, 67.0, "llama-3.1-8b", 128, batch_size=2, checkpointing="selective", compiled=False),
    Row(45, 62.0, "llama-3.1-8b", 128, batch_size=2, checkpointing="selective"),
    Row(46, 61.8, "llama-3.1-8b", 128, batch_size=2, checkpointing="selective"),
    Row(52, 71.9, "llama-3.1-70b", 256, batch_size=16, parallel=(("tensor", 8), ("sequence", True))),
    Row(53, 67.6, "llama-3.1-70b", 256, batch_size=16, parallel=(("tensor", 8), ("sequence", True)), overlapped=True),
    *(Row(line, reserved, "llama-3.1-405b", 512, seq_len=32768 * context, micro_batches=8, overlapped=True,
          parallel=(("tensor", 8), ("pipeline", 8), ("context", context), ("sequence", True)))
      for line, context, reserved in ((66, 1, 75.3), (67, 2, 75.9), (68, 4, 77.1), (69, 8, 84.9))),
]  # fmt: skip


@cache
def error(row: Row) -> float:
    """How far what the fullest rank reserves is from what was read, as a share of it."""
    pipelined = "pipeline" in dict(row.parallel)
    run = {
        "model": row.model, "gpus": row.gpus, "seq_len": row.seq_len, "batch_size": row.batch_size, "gpu": "h100",
        "precision": "mixed-bf16", "implementation": "torchtitan-compiled" if row.compiled else "torchtitan",
        "expandable_segments": True,
        "optimizer": {"name": "adamw", "implementation": "fused"},
        "checkpointing": row.checkpointing, "parallel": dict(row.parallel), "grad_accum": row.micro_batches,
        "sharding": {"strategy": "fsdp", "wrap": "layers", "reduce_dtype": "fp32", "no_sync": pipelined,
                     "reshard_after_forward": not pipelined, "enable_async_tensor_parallel": row.overlapped},
    }  # fmt: skip
    return estimate(run).memory.reserved / GIB / row.reserved - 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"line-{row.line}")
def test_reserved(row: Row) -> None:
    print(f"line {row.line}: {row.reserved} GiB, {error(row):+.1%}")  # noqa: T201 - pytest -rP
    assert abs(error(row)) < 0.1


def test_the_median() -> None:
    assert median(abs(error(row)) for row in ROWS) < 0.05
