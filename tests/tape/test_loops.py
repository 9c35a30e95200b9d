"""A loop of many iterations holds what as many iterations hold, and rises as high."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc.tape import functions as f
from memcalc.tape import loops
from memcalc.tape.checkpoint import checkpointed
from tests.tape.tapes import live, parameter, peak, run_back, tape

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

SHAPE = (4, 40, 32)  # [batch, tokens, channels] in fp32


def scan(t: Tape, x: Value) -> Value:
    """state = tanh(x_i * state) for every token; the states of all side by side."""
    outputs: list[Value] = []

    def step(state: Value) -> Value:
        state = f.tanh(f.mul(f.select(x, 1), state))
        outputs.append(state)
        return state

    loops.loop(t, SHAPE[1], step, t.new((SHAPE[0], SHAPE[2]), "fp32"))
    return f.stack(outputs, 1, SHAPE[1])


def measured(*, checkpoint: bool = False) -> tuple[int, int, int, int]:
    """(bytes after the forward pass, its peak, the peak of the backward pass, bytes at the end)."""
    t = tape()
    x = f.scale(parameter(t, *SHAPE))
    y = checkpointed(t, lambda value: scan(t, value), x) if checkpoint else scan(t, x)
    held, top, turn = live(t), peak(t), len(t.events)
    run_back(t, y)
    del x, y
    return held, top, peak(t, turn), live(t)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_loop_in_four_iterations_is_as_large_as_in_full(checkpoint: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    short = measured(checkpoint=checkpoint)
    monkeypatch.setattr(loops, "FEW", SHAPE[1])
    whole = measured(checkpoint=checkpoint)
    assert short == pytest.approx(whole, rel=0.005)
    assert short[0] == whole[0]
    assert short[3] == whole[3]


def test_a_short_loop_runs_as_it_is() -> None:
    seen: list[int] = []

    def count(i: int) -> int:
        seen.append(i)
        return i + 1

    assert loops.loop(tape(), 3, count, 0) == 3
    assert seen == [0, 1, 2]


def test_iterations_that_leave_nothing_cost_nothing() -> None:
    t = tape()

    def step(state: int) -> int:
        t.new((1024,), "fp32")
        return state

    loops.loop(t, 1000, step, 0)
    assert live(t) == 0
    assert peak(t) == 4096


def test_small_requests_stay_small_however_many_there_are() -> None:
    """A state of 512 bytes for each of 40 tokens: what stands for those between is told apart, for the allocator."""
    t = tape()
    x = f.scale(parameter(t, *SHAPE))
    y = scan(t, x)
    assert t.pieces
    assert all(t.sizes[storage] % 512 == 0 and t.sizes[storage] > 512 for storage in t.pieces)
    del y
