"""Throughput that others measured, beside what the model predicts for the same run (presets/overheads/published.yaml)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.gpus import gpu
from memcalc.presets import find
from memcalc.recommender.evaluate import Evaluator
from memcalc.recommender.heights import slowest
from memcalc.recommender.throughput import Load, pace
from memcalc.recommender.values import Published
from memcalc.run.validation import parse_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN = 3


def published(model: str, cards: Iterable[str]) -> tuple[Published, ...]:
    """What was measured on these GPUs, of this model first; at most SHOWN."""
    table, wanted = find("overheads", "published"), set(cards)
    rows = sorted((row for row in table["rows"] if row["gpu"] in wanted), key=lambda row: row["model"] != model)
    return tuple(beside(row) for row in rows[:SHOWN])


def everything() -> tuple[Published, ...]:
    """Every row."""
    return tuple(beside(row) for row in find("overheads", "published")["rows"])


def beside(row: Mapping[str, Any]) -> Published:
    """One row with what the model predicts: FSDP gathers weights of two bytes, and reduces gradients of four."""
    keys = {"model": "model", "batch_size": "batch", "seq_len": "seq", "checkpointing": "checkpointing"}
    run = parse_run({key: row[theirs] for key, theirs in keys.items()})
    evaluator = Evaluator()
    plan, steps = evaluator.plan(run), evaluator.heights(run, run.optimizer)
    assert plan  # noqa: S101 - the rows are runs that are understood
    assert steps  # noqa: S101
    parameters = plan.model.parameters
    load = Load(strategy="fsdp", gpus=row["gpus"], data=row["gpus"], weights=2 * parameters, gradients=4 * parameters)
    step = pace(slowest(steps).work, load, gpu(row["gpu"]))
    return Published(
        model=row["model"], batch_size=row["batch"], seq_len=row["seq"], checkpointing=row["checkpointing"], gpu=row["gpu"],
        gpus=row["gpus"], measured=row["per_gpu_second"], predicted=row["batch"] * row["seq"] / step.seconds if step else 0.0,
        source=find("overheads", "published")["source"][row["source"]],
    )  # fmt: skip
