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
# what the transformers of that time (4.38, modeling_llama.py) has beside what 5.23 has: a mask of all positions as booleans
# (register_buffer), and in bf16 through the step (_update_causal_mask); where the loss is the peak, fp32 logits once more
# (shift_logits.contiguous())
MASKS, COPY = 3 * 4096**2, 4 * 2048 * 32_000
MEASURED = [
    ({**QLORA, "seq_len": 512}, MASKS, 8.28, 0.02),
    ({**QLORA, "seq_len": 2048}, MASKS + COPY, 9.16, 0.02),
    (OFFLOADED, 0, 13.9, 0.05),
]


@pytest.mark.parametrize(("run", "beside", "measured", "within"), MEASURED)
def test_allocated(run: dict[str, Any], beside: int, measured: float, within: float) -> None:
    assert (estimate(run).memory.peak_allocated + beside) / GIB == pytest.approx(measured, rel=within)
