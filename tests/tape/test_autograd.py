"""What operations save and allocate, counted by hand in tensors of n bytes (checked against the real operations)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc.tape import functions as f
from memcalc.tape.checkpoint import checkpointed
from tests.tape.tapes import live, parameter, peak, run_back, tape

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

N = 4096  # bytes of x: [16, 64] in fp32


def start() -> tuple[Tape, Value]:
    t = tape()
    return t, parameter(t, 16, 64)


def test_an_addition_saves_nothing() -> None:
    t, x = start()
    y = f.add(x, x)
    assert live(t) == N
    del y
    assert live(t) == 0


def test_a_product_saves_both_factors() -> None:
    t, x = start()
    a, b = f.scale(x), f.scale(x)
    y = f.mul(a, b)
    del a, b
    assert live(t) == 3 * N
    run_back(t, y)
    del y
    assert live(t) == N  # the gradient of x


def test_the_square_needs_three_tensors_to_go_back() -> None:
    t, x = start()
    y = f.square(x)
    before, held = len(t.events), live(t)
    run_back(t, y)
    assert peak(t, before) == held + 4 * N  # the gradient that comes in, x**1, 2 x, and their product


def test_gradients_that_meet_are_added_into_a_new_tensor() -> None:
    t, x = start()
    y = f.add(f.scale(x), f.scale(x))
    before, held = len(t.events), live(t)
    run_back(t, y)
    assert peak(t, before) == held + 3 * N  # what comes in and two products; then these and their sum
    assert x.node is not None
    assert live(t) == held + N


def test_a_linear_layer_saves_its_input_only_for_a_weight_that_learns() -> None:
    for trained, kept in ((True, N), (False, 0)):
        t, x = start()
        weight = parameter(t, 32, 64) if trained else t.given((32, 64), "fp32")
        h = f.scale(x)
        y = f.linear(h, weight)
        del h
        assert live(t) == 2048 + kept  # y [16, 32]
        del y


def test_a_sum_of_rows_gives_a_broadcast_factor_its_gradient() -> None:
    t, x = start()
    weight = parameter(t, 64)
    run_back(t, f.mul(f.scale(x), weight))
    assert weight.node is not None
    assert weight.node.grad is not None  # type: ignore[union-attr]
    assert live(t) == N + 512


def test_autocast_caches_the_copy_of_a_weight() -> None:
    t = tape("bf16")
    weight, x = parameter(t, 32, 64), t.given((16, 64), "bf16")
    a, b = f.linear(x, weight), f.linear(x, weight)
    assert live(t) == 32 * 64 * 2 + 2 * 16 * 32 * 2
    del a, b


def test_norms_run_in_fp32_under_autocast() -> None:
    t = tape("bf16")
    y = f.layer_norm(t.given((16, 64), "bf16"), parameter(t, 64, dtype="bf16"), None)
    assert y.dtype == "fp32"


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_keeps_its_input_alone(reentrant: bool) -> None:
    t, x = start()
    h = f.scale(x)
    y = checkpointed(t, lambda value: f.silu(f.silu(f.silu(value))), h, reentrant=reentrant)
    del h
    assert live(t) == 2 * N  # the input and the output
    before = len(t.events)
    run_back(t, y)
    assert peak(t, before) > 4 * N  # three inputs are there again, beside gradients
    del y
    assert live(t) == N


def test_recomputation_stops_at_the_last_value_that_was_saved() -> None:
    t, x = start()
    weight = parameter(t, 6400, 64)
    y = checkpointed(t, lambda value: f.linear(f.silu(value), weight), f.scale(x))
    before = len(t.events)
    run_back(t, y)
    wide = 16 * 6400 * 4
    again = [t.sizes[event] for event in t.events[before:] if event >= 0]
    assert again.count(wide) == 1  # the gradient that comes in; the product itself is not run again


def test_eager_attention_copies_heads_that_do_not_fold() -> None:
    t = tape()
    q = f.transpose(f.view(f.scale(parameter(t, 2, 8, 64)), 2, 8, 4, 16), 1, 2)
    before = len(t.sizes)
    f.matmul(q, f.swap(q))
    assert t.sizes[before:] == [N, N, 2 * 4 * 8 * 8 * 4]  # q and k made contiguous, then the scores
