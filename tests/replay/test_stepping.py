"""memcalc.replay.stepping: loops over parameters as the libraries write them, block by block."""

from __future__ import annotations

import pytest

from memcalc.optimizers import resolve
from memcalc.optimizers.step import Counted
from memcalc.replay.allocator import MIB, CachingAllocator
from memcalc.replay.stepping import ALWAYS, FIRST, LATER, STATES, Act, Names, Turn, in_step, loop, makes_states, stacked

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
        ("galore-adamw", True),  # galore_torch/adamw.py: the projector's matrix before its moments
        ("apollo", True),
        ({"name": "soap", "library": "pytorch_optimizer"}, True),
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


def test_acts_of_the_first_step_and_of_later_ones() -> None:
    acts = [Act(name, SIZE) for name in ("a", FIRST, "b", LATER, "c", ALWAYS, "d")]
    assert [act.name for act in in_step(acts, first=True)] == ["a", "b", "d"]
    assert [act.name for act in in_step(acts, first=False)] == ["a", "c", "d"]


def test_a_state_is_made_once_where_the_turn_has_it() -> None:
    allocator = CachingAllocator()
    turn = Turn((Act(FIRST, 0), Act("work", SIZE), Act("+state", SIZE), Act("-work", 0), Act(ALWAYS, 0)), (SIZE,), 3)
    loop(allocator, [turn], 0, first=True)
    loop(allocator, [turn], 0, first=False)
    assert allocator.reserved == 4 * SIZE


def _most(wanted: str | dict[str, object], shape: tuple[int, ...], dtype: str, *, first: bool) -> int:
    """The most bytes that one parameter's turn takes, states included."""
    optimizer = resolve(wanted)
    acts = tuple(Act(act.name, act.bytes) for act in optimizer.temporaries(shape, dtype).turn)
    allocator = CachingAllocator()
    Names(allocator, 0).take(Turn(acts, (), 1), first=first)
    return allocator.reserved


def test_galore_decomposes_a_gradient_in_fp32_in_the_first_step() -> None:
    """galore_projector.py get_orthogonal_matrix: the cast gradient, U and Vh of linalg.svd, and U diag(s) beside them."""
    whole, small = 8192 * 4096 * 4, 4096 * 4096 * 4
    wanted: dict[str, object] = {"name": "galore-adamw", "rank": 128}
    low = 8192 * 128
    assert _most(wanted, (8192, 4096), "bf16", first=True) >= 2 * whole + small + 4 * low
    assert _most(wanted, (8192, 4096), "bf16", first=False) < whole + small


def test_soap_steps_nothing_the_first_time() -> None:
    """pytorch_optimizer soap.py: `if group['step'] == 1: continue`."""
    wanted = {"name": "soap", "library": "pytorch_optimizer"}
    acts = resolve(wanted).temporaries((512, 256), "fp32").turn
    first, later = (
        [act.name for act in in_step([Act(one.name, one.bytes) for one in acts], first=first)]
        for first in (True, False)
    )
    assert "norm_grad=grad" not in first
    assert "norm_grad=grad" in later
    assert [name for name in first if name[0] == "+"] == ["+exp_avg", "+exp_avg_sq", "+GG[0]", "+GG[1]", "+Q", "+Q"]


def test_matrices_of_a_shape_are_stacked_and_their_updates_stay() -> None:
    """pytorch_optimizer scion.py _spectral_directions: torch.stack of several, one as it is; the list of updates is whole."""
    acts = (Act("stack", 4 * MIB), Act("next", 2 * MIB), Act(">next", 0))
    many, lone = stacked([((8, 4), acts, 2), ((4, 8), acts, 1), ((8, 4), acts, 1)])
    assert [act.nbytes for act in many.acts[:2]] == [12 * MIB, 6 * MIB]
    assert [act.nbytes for act in lone.acts[:2]] == [0, 2 * MIB]
    memory = Counted()
    names = Names(memory)
    for turn in (many, lone):
        names.take(turn, first=False)
    assert (memory.most, memory.now) == (18 * MIB, 8 * MIB)
