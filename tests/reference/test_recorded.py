"""Every recorded step: the peak within 0.5 %, its phase, what autograd holds, what the allocator takes."""

from __future__ import annotations

import pytest

from tests.reference.recorded import Step, estimated, held_after_forward, misses, steps

PEAK, ACTIVATIONS, RESERVED = 0.005, 0.01, 0.08


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.name)
def test_recorded_step(step: Step) -> None:
    memory = estimated(step)
    assert memory.peak_allocated == pytest.approx(step.peak, rel=PEAK)
    assert memory.peak_phase == step.peak_phase
    assert memory.reserved == pytest.approx(step.reserved, rel=RESERVED)
    assert held_after_forward(step, memory) == pytest.approx(step.after_forward, rel=ACTIVATIONS)
    assert sum(vars(memory.at_peak).values()) == memory.peak_allocated


def test_the_usual_error_is_far_smaller() -> None:
    errors = sorted(abs(estimated(step).peak_allocated / step.peak - 1) for step in steps())
    assert errors[len(errors) // 2] < 1e-4


@pytest.mark.xfail(
    reason="known to miss a bound; once it passes, the row belongs among the recorded steps", strict=True
)
@pytest.mark.parametrize("step", misses(), ids=lambda step: step.name)
def test_known_miss(step: Step) -> None:
    test_recorded_step(step)


def test_a_step_is_recorded_once() -> None:
    seen: list[Step] = []
    for step in sorted((*steps(), *misses()), key=repr):
        assert step not in seen[-1:], step.name
        seen.append(step)
