"""What the optimizer step allocates and frees again, tensor by tensor."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from memcalc.explanation.values import Made
from memcalc.optimizers import Parameter
from memcalc.optimizers.step import peak
from memcalc.simulation import setting_of
from memcalc.simulation.stepped import state_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.optimizers import StateTensor
    from memcalc.optimizers.step import Turn
    from memcalc.plan import Plan


def temporaries(plan: Plan, whole: int) -> tuple[Made, ...]:
    """The temporaries of a step that add up to `whole` bytes: those of all tensors together, and of one at a time."""
    found = _group(plan)
    if not whole:
        return ()
    together = [(state, turn.times) for turn in found for state in turn.temporaries.together if state.device == "gpu"]
    rows = list(_together(plan, together))
    rest = whole - sum(row.bytes for row in rows)
    if rest < 0 or (rest and peak(found) != whole):  # a share of them on each rank
        return (_row(plan, "temporaries of the step", (), "", 1, whole),)
    return (*rows, *([_row(plan, "temporaries of one tensor at a time", (), "", 1, rest)] if rest else ()))


def _group(plan: Plan) -> list[Turn]:
    """The tensors that step together and need the most: their temporaries, and how many like them there are."""
    setting = setting_of(plan)
    groups: dict[str, list[Turn]] = {}
    for tensor in plan.tensors:
        if tensor.trainable and not tensor.buffer and not tensor.tied_to:
            dtype = state_dtype(tensor, setting)
            turn = plan.optimizer.turn(Parameter(tensor.shape, dtype, tensor.role, tensor.name), tensor.count)
            groups.setdefault(dtype if turn.temporaries.together else "", []).append(turn)
    return max(groups.values(), key=peak, default=[])


def _together(plan: Plan, states: Iterable[tuple[StateTensor, int]]) -> Iterator[Made]:
    times: Counter[StateTensor] = Counter()
    for state, count in states:
        times[state] += count
    for state, count in times.items():
        yield _row(plan, state.name, state.shape, state.dtype, count, state.bytes)


def _row(plan: Plan, name: str, shape: tuple[int, ...], dtype: str, times: int, each: int) -> Made:
    step = f"{plan.optimizer.name} step, {plan.optimizer.implementation}".rstrip(", ")
    return Made(component="temporary", kind="optimizer step", module="", path="", operation=name, function=step,
                shape=shape, dtype=dtype, times=times, each=each, bytes=times * each)  # fmt: skip
