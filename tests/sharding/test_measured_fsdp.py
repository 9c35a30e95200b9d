"""FSDP on real GPUs, where those who measured it said all that matters: peaks of what is allocated, in GiB.

Sources: answer.ai, fsdp_qlora, benchmarks_03_2024.md (2 GPUs, LoRA of rank 64 on all but the output projection,
re-entrant checkpointing, transformers of early 2024, whose loss copied the fp32 logits once more); torchtune's README
(8 A100, CPU offload, chunked loss, compiled, which counter is not said).
"""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate

GIB = 2**30
QLORA: dict[str, Any] = {
    "model": "llama-2-7b", "precision": "bf16", "optimizer": {"name": "adamw", "implementation": "foreach"}, "gpus": 2,
    "checkpointing": {"mode": "full", "reentrant": True}, "sharding": {"strategy": "fsdp", "version": 1},
    "lora": {"rank": 64, "dtype": "bf16", "dropout": 0.1,
             "targets": ["k_proj", "q_proj", "v_proj", "up_proj", "down_proj", "gate_proj"]},
}  # fmt: skip
OFFLOADED: dict[str, Any] = {
    "model": "llama-3.1-70b", "precision": "bf16", "optimizer": {"name": "adamw", "implementation": "fused"}, "gpus": 8,
    "batch_size": 2, "seq_len": 2048, "checkpointing": "full", "loss": "chunked",
    "sharding": {"strategy": "fsdp", "wrap": "layers+embed+head", "cpu_offload": True},
}  # fmt: skip
MEASURED = [
    ({**QLORA, "seq_len": 512}, 8.28, 0.02),
    ({**QLORA, "seq_len": 2048}, 9.16, 0.02),
    (OFFLOADED, 13.9, 0.05),
]


@pytest.mark.parametrize(("run", "measured", "within"), MEASURED)
def test_allocated(run: dict[str, Any], measured: float, within: float) -> None:
    assert estimate(run).memory.peak_allocated / GIB == pytest.approx(measured, rel=within)
