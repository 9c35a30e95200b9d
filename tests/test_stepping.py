"""memcalc.stepping: loops over parameters as the libraries write them, block by block."""

from __future__ import annotations

import pytest

from memcalc.allocator import MIB, CachingAllocator
from memcalc.optimizers import resolve
from memcalc.stepping import STATES, Act, Names, Turn, loop, makes_states

SIZE = 16 * MIB
BOUND = Turn((Act("update", SIZE),), (), 1)


def test_a_name_is_given_away_once_the_new_tensor_is_there() -> None:
    """update = f(update): both are there for a moment, and the last one's stays until the step returns."""
    allocator = CachingAllocator()
    names = Names(allocator, 0)
    for _ in range(3):
        names.take(BOUND, first=True)
    assert allocator.reserved == 2 * SIZE
    assert len(names.held) == 1
    names.leave()
    assert not names.held


def test_what_is_let_go_of_makes_room() -> None:
    allocator = CachingAllocator()
    turn = Turn((Act("update", SIZE), Act("-update", 0)), (), 1)
    loop(allocator, [turn] * 5, 0, first=True)
    assert allocator.reserved == SIZE


def test_a_name_takes_over_what_another_had() -> None:
    """update = var_estimate.clamp_().rsqrt_(): the turn before's update goes, the estimate has its name."""
    allocator = CachingAllocator()
    names = Names(allocator, 0)
    for _ in range(2):
        names.take(Turn((Act("estimate", SIZE), Act("update=estimate", 0)), (), 1), first=False)
    assert list(names.held) == ["update"]
    assert allocator.reserved == 2 * SIZE


def test_states_made_in_the_loop_are_there_for_every_layer_but_once() -> None:
    allocator = CachingAllocator()
    turn = Turn((Act(STATES, 0), Act("update", SIZE), Act("-update", 0)), (SIZE,), 7)
    loop(allocator, [turn], 0, first=True)
    assert allocator.reserved == 8 * SIZE
    loop(allocator, [turn], 0, first=False)
    assert allocator.reserved == 8 * SIZE


def test_what_is_too_small_is_not_followed() -> None:
    allocator = CachingAllocator()
    loop(allocator, [BOUND], SIZE, first=True)
    assert allocator.reserved == 0


@pytest.mark.parametrize(
    ("wanted", "within"),
    [
        ("came", True),  # came_pytorch/CAME.py, lion_pytorch.py, transformers/optimization.py: `if len(state) == 0`
        ("lion", True),
        ("adafactor", True),
        ({"name": "adafactor", "library": "torch"}, False),  # torch/optim/_adafactor.py: _init_group comes first
    ],
)
def test_where_libraries_make_states(wanted: str | dict[str, object], within: bool) -> None:
    optimizer = resolve(wanted)
    turn = optimizer.temporaries((512, 256), "bf16").turn
    assert makes_states(tuple(Act(act.name, act.bytes) for act in turn)) is within


def test_came_binds_what_it_keeps_last() -> None:
    """CAME.step of a matrix in bf16 leaves `grad`, `res` and `res_approx`, in fp32 each."""
    optimizer = resolve("came")
    acts = tuple(Act(act.name, act.bytes) for act in optimizer.temporaries((512, 256), "bf16").turn)
    names = Names(CachingAllocator(), 0)
    names.take(Turn(acts, (), 1), first=False)
    assert sorted(names.held) == ["grad", "res", "res_approx"]
    assert {block.size for blocks in names.held.values() for block in blocks} == {512 * 256 * 4}
