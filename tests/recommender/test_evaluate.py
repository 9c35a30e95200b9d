"""The fast evaluation against the full estimate: what a recorded step adds up to, and the bound that prunes."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.recommender.evaluate import Evaluator
from memcalc.recommender.heights import at, bound, exact
from memcalc.recommender.search import ROUNDING
from memcalc.run.validation import parse_run

RUNS: list[dict[str, Any]] = [
    {"model": "llama-3.2-1b"},
    {
        "model": "llama-3.2-1b",
        "batch_size": 12,
        "checkpointing": "full",
        "precision": "bf16",
        "optimizer": "adamw-8bit",
    },
    {"model": "llama-3.2-1b", "batch_size": 8, "loss": "fused-linear", "grad_accum": 4},
    {"model": "llama-3.2-1b", "lora": 16, "quantize": "nf4", "batch_size": 3, "optimizer": "paged-adamw-8bit"},
    {"model": "llama-3.2-1b", "gpus": 8, "sharding": "zero2", "batch_size": 4},
    {"model": "llama-3.2-1b", "gpus": 8, "sharding": "fsdp", "batch_size": 4, "checkpointing": "full"},
    {"model": "llama-3.2-1b", "gpus": 4, "sharding": "zero3", "offload": "optimizer"},
    {
        "model": "gpt2",
        "precision": "amp-bf16",
        "batch_size": 16,
        "optimizer": {"name": "adamw", "implementation": "fused"},
    },
    {"model": "t5-small", "batch_size": 8, "optimizer": "adafactor"},
    {"model": "resnet-50", "batch_size": 32, "optimizer": "sgd-momentum"},
    {"model": "llama-3.2-1b", "optimizer": "lomo", "precision": "bf16"},
    {"model": "llama-3.2-1b", "gpus": 8, "sharding": "fsdp", "parallel": {"tensor": 8}},
    {"model": "7b"},
]


@pytest.mark.parametrize("keys", RUNS, ids=lambda keys: "-".join(str(value) for value in keys.values())[:60])
def test_peak_without_the_pipeline(keys: dict[str, Any]) -> None:
    """The same peak as a full estimate to a thousandth (blocks of 512 bytes), and a bound that never exceeds it."""
    run, evaluator = parse_run(keys), Evaluator()
    peak = estimate(run).memory.peak_allocated
    plan, steps, family = (
        evaluator.plan(run),
        evaluator.heights(run, run.optimizer),
        evaluator.family(run, run.optimizer),
    )
    assert plan
    assert steps
    assert family
    grounds = evaluator.grounds(plan, run.optimizer)
    assert exact(steps, grounds) == pytest.approx(peak, rel=1e-3)
    assert bound(family.at(run.batch_size), grounds, plan.placement.over("gradients")) * ROUNDING <= peak


def test_a_line_meets_the_records_it_was_drawn_through() -> None:
    evaluator, run = Evaluator(), parse_run({"model": "gpt2"})
    family = evaluator.family(run, "adamw")
    assert family
    assert family.at(1) == family.one
    assert family.at(2) == family.two
    assert at(3, family.one[0], family.two[0]).work.flops == 3 * family.one[0].work.flops


def test_runs_that_share_a_step_share_its_record() -> None:
    """Neither the optimizer nor the master copies change what a step makes: one record for all."""
    evaluator = Evaluator()
    for optimizer in ("adamw", "adamw-8bit", "adafactor", "lion"):
        for precision in ("mixed-bf16", "bf16"):
            evaluator.heights(parse_run({"model": "gpt2", "precision": precision}), optimizer)
    assert evaluator.recorded == 1


def test_a_shape_that_is_refused_has_no_plan() -> None:
    evaluator, run = Evaluator(), parse_run({"model": "gpt2", "precision": "fp32", "attention": "flash"})
    assert evaluator.plan(run) is None
    assert evaluator.heights(run, "adamw") is None
