"""Throughput that others measured: tokens per second and GPU, with what the sources state of the runs.

torchtitan: docs/performance.md (2024, 64 A100 80GB) and benchmarks/llama3_h100_202412_torchtitan.md (H100 96GB HBM2e, 2.4
TB/s, 500 W; without torch.compile and fp8), FSDP2 with fp32 parameters, bf16 while gathered. IBM and PyTorch, "Maximizing
training throughput using PyTorch FSDP" (2024): Llama 2 7B, 128 A100. torchtitan's modules are not transformers', whose
tape stands in for them here.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A run, and the tokens per second of each of its GPUs."""

    model: str
    batch: int
    seq: int
    checkpointing: str
    gpu: str
    gpus: int
    measured: float


ROWS = [
    Row("llama-3-8b", 1, 8192, "selective", "a100-80gb", 64, 2973),
    Row("llama-3-70b", 1, 8192, "full", "a100-80gb", 64, 331),
    Row("llama-2-13b", 2, 4096, "none", "a100-80gb", 64, 2162),
    Row("llama-2-70b", 2, 4096, "full", "a100-80gb", 64, 353),
    Row("llama-2-7b", 2, 4096, "none", "a100-80gb", 128, 3700),
    Row("llama-3.1-8b", 2, 8192, "selective", "h100-80gb", 8, 5762),
    Row("llama-3.1-8b", 2, 8192, "selective", "h100-80gb", 128, 5605),
]
