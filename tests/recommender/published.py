"""Throughput that others measured: tokens per second and GPU, with what the sources state of the runs.

torchtitan: docs/performance.md (2024, 64 A100 80GB) and benchmarks/llama3_h100_202412_torchtitan.md (H100 96GB HBM2e, 2.4
TB/s, 500 W; without torch.compile and fp8), FSDP2 with fp32 parameters, bf16 while gathered. IBM and PyTorch, "Maximizing
training throughput using PyTorch FSDP" (2024): Llama 2 7B, 128 A100. torchtitan's modules are not transformers', whose
tape stands in for them here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from memcalc.gpus import gpu
from memcalc.models import load_model
from memcalc.recommender.throughput import Load, pace
from memcalc.recommender.work import Work, work
from memcalc.resolve import resolve
from memcalc.simulation import setting_of
from memcalc.tape.measure import storage
from memcalc.tape.step import record_step
from memcalc.tape.weights import Weights
from memcalc.validation import parse_run

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- throughput: begin -->\n", "<!-- throughput: end -->"


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


def worked(**keys: object) -> Work:
    """The work of one micro step of a run on one GPU."""
    plan = resolve(parse_run(keys))
    setting = setting_of(plan)
    return work(record_step(plan.model, setting, Weights(plan.tensors, storage(setting))))


def predicted(row: Row) -> float:
    """Tokens per second and GPU; FSDP reduces gradients in fp32 and gathers bf16 weights."""
    parameters = load_model(row.model).parameters
    load = Load(strategy="fsdp", gpus=row.gpus, data=row.gpus, weights=2 * parameters, gradients=4 * parameters)
    found = pace(
        worked(model=row.model, batch_size=row.batch, seq_len=row.seq, checkpointing=row.checkpointing), load, gpu(row.gpu)
    )
    assert found
    return row.batch * row.seq / found.seconds


def table() -> str:
    """What the README shows: measured and predicted, side by side."""
    lines = ["| run | GPUs | tokens/s per GPU: measured | predicted | |", "|---|---|---:|---:|---:|"]
    for row in ROWS:
        tokens = predicted(row)
        run = f"{row.model}, {row.batch} x {row.seq}, checkpointing {row.checkpointing}"
        off = 100 * (tokens / row.measured - 1)
        lines.append(f"| {run} | {row.gpus} x {row.gpu} | {row.measured:,.0f} | {round(tokens, -1):,.0f} | {off:+.0f} % |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = README.read_text("utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    README.write_text(before + BEGIN + table() + END + after, "utf-8")
    sys.stderr.write("wrote the table of throughput into README.md\n")
