"""The curve: as high as each phase, no longer than it says, where nothing was run empty; and the line that shows it."""

from __future__ import annotations

from itertools import accumulate

import pytest

from memcalc import estimate
from memcalc.render.curve import chart
from memcalc.report import Report
from memcalc.timeline.curve import SAMPLES, STEP, Curve, curve
from memcalc.timeline.slices import Slice

RUNS: list[dict[str, object]] = [
    {"model": "llama-2-7b", "optimizer": "adamw-8bit"},
    {"model": "gpt2", "checkpointing": "full", "batch_size": 8},
    {"model": "llama-3-8b", "precision": "bf16", "lora": 16},
    {"model": "t5-small", "precision": "amp-bf16"},
    {"model": "gpt2", "keep_outputs": True, "optimizer": "none"},
    {"model": "gpt2", "gpus": 4, "sharding": "zero2"},
]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_each_phase_is_as_high_as_the_report_says(run: dict[str, object]) -> None:
    memory = estimate(run).memory
    forward, backward, step = memory.curve.phases()
    assert max(forward) == memory.phases.forward
    assert max(backward) == memory.phases.backward
    assert max(step) == memory.phases.optimizer
    assert max(memory.curve.samples) == memory.peak_allocated
    assert min(memory.curve.samples) >= memory.persistent - memory.components.gradients
    assert len(memory.curve.samples) <= SAMPLES + STEP


def test_a_bare_size_has_no_curve() -> None:
    assert estimate({"model": "7b"}).memory.curve == Curve()


def test_it_is_part_of_the_document() -> None:
    document = estimate({"model": "gpt2"}).model_dump()
    drawn = document["memory"]["curve"]
    assert set(drawn) == {"samples", "forward", "backward", "optimizer"}
    assert 0 == drawn["forward"] < drawn["backward"] < drawn["optimizer"] < len(drawn["samples"])
    assert Report.model_validate(document).memory.curve.samples == tuple(drawn["samples"])


def test_samples_are_the_highest_of_their_stretch() -> None:
    """A forward pass of six slices of four events, each leaving 1 behind, and a backward pass that undoes it."""
    up, down = [3, -3, 5, -4], [2, -2, 0, -1]
    slices = [Slice(0, 4, "forward")] * 6 + [Slice(4, 8, "backward")] * 6
    made = curve([*up, *down], slices, 100, 500)
    levels = [100 + level for level in accumulate(up * 6 + down * 6)]
    forward, backward, step = made.phases()
    assert len(forward) + len(backward) == SAMPLES
    assert (max(forward), max(backward)) == (max(levels[:24]), max(levels[24:]))
    assert step == (500,) * STEP
    # 22 stretches of 24 events: the first of two events; the third begins where the one before it has ended
    assert forward[:4] == (103, 105, 105, 104)
    assert backward[-1] == 101


def test_few_events_make_few_samples() -> None:
    made = curve([7, -7], [Slice(0, 1, "forward"), Slice(1, 2, "backward")], 10, 12)
    assert made.samples == (17, 17, 12, 12, 12, 12)
    assert (made.backward, made.optimizer) == (1, 2)


def test_the_chart_fits_and_marks_the_phases() -> None:
    samples = (0, 10, 20, 30, 40, 50, 60, 70, 70, 60, 50, 40, 30, 20, 10, 0, 35, 35)
    drawn = Curve(samples=samples, backward=8, optimizer=16)
    blocks, names = chart(drawn, 40)
    assert blocks == "▁▂▃▄▅▆▇█ █▇▆▅▄▃▂▁ ▄▄"
    assert names == "forward  backward step"
    narrow, _ = chart(drawn, 11)
    assert narrow == "▂▄▆█ █▆▄▂ ▄"
    assert max(map(len, chart(drawn, 25))) <= 25  # "step" is longer than the optimizer step
    assert chart(Curve(samples=(5, 5, 5), backward=1, optimizer=2), 40)[0] == "▁ ▁ ▁"


@pytest.mark.parametrize("width", [60, 73, 80, 100])
def test_no_chart_is_wider_than_its_page(width: int) -> None:
    for run in RUNS:
        assert max(map(len, chart(estimate(run).memory.curve, width - 24))) <= width - 24
