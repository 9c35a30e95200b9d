"""Megatron-LM on real GPUs: every row of simumax.yaml, its error printed (pytest -rP)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from memcalc.pipeline import estimate

SHEET = yaml.safe_load((Path(__file__).parent / "simumax.yaml").read_text("utf-8"))
CASES = [(row, count) for row in SHEET["rows"] for count in row["micro_batches"]]
GIB = 2**30
MIXTURE = {"moe_permute_fusion": True, "moe_expert_capacity_factor": 1.0, "moe_pad_expert_input_to_capacity": True}
ALLOCATED, RESERVED = 0.0015, 0.08  # the bounds: a share of what was measured


def run_of(row: dict[str, Any], micro_batches: int) -> dict[str, Any]:
    """The row in the vocabulary of a run."""
    mixture, tensor = row["model"].startswith("deepseek"), row.get("tensor", 1)
    degrees = {key: row[key] for key in ("tensor", "pipeline", "context", "expert") if key in row}
    options = {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te", "cp_comm_type": "a2a"}
    return {
        "model": SHEET["models"][row["model"]], "gpu": "b200", "gpus": 8, "precision": "megatron-bf16",
        "seq_len": row.get("seq", 4096), "grad_accum": micro_batches,
        "parallel": {**degrees, "sequence": tensor > 1, **({"expert_tensor": 1} if mixture else {})},
        "sharding": {"strategy": "megatron", **options, **(MIXTURE if mixture else {})},
    }  # fmt: skip


def name(case: tuple[dict[str, Any], int]) -> str:
    """model, degrees, micro batches."""
    row, count = case
    degrees = "".join(f"{key[0]}{row[key]}" for key in ("tensor", "pipeline", "context", "expert") if key in row)
    return f"{row['model']}-{degrees}-{row.get('seq', 4096)}-{count}"


@pytest.mark.parametrize("case", CASES, ids=name)
def test_allocated(case: tuple[dict[str, Any], int]) -> None:
    row, count = case
    memory = estimate(run_of(row, count)).memory
    error = memory.peak_allocated / GIB / row["allocated"] - 1
    theirs = row["simumax"] / row["allocated"] - 1
    print(f"{name(case)}: measured {row['allocated']:.2f} GiB, {error:+.3%} (SimuMax {theirs:+.2%})")  # noqa: T201 - pytest -rP shows it
    assert abs(error) < ALLOCATED
    if len(row["micro_batches"]) > 1 or abs(theirs) > ALLOCATED:
        assert abs(error) < abs(theirs)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_reserved(case: tuple[dict[str, Any], int]) -> None:
    row, count = case
    error = estimate(run_of(row, count)).memory.reserved / GIB / row["reserved"] - 1
    print(f"{name(case)}: measured {row['reserved']:.2f} GiB reserved, {error:+.2%}")  # noqa: T201 - pytest -rP shows it
    assert abs(error) < RESERVED
