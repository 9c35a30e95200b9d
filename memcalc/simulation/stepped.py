"""What an optimizer's step makes for a tensor, as the allocator counts it: states, temporaries, and the dtype that it sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.optimizers.step import acts_of, shape_of
from memcalc.replay.reserve import Held
from memcalc.replay.stepping import Act
from memcalc.tape.spending import Spent
from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.optimizers import Optimizer
    from memcalc.optimizers.values import StateTensor
    from memcalc.tape.setting import Setting
    from memcalc.tensors import Tensor


def held(tensor: Tensor, optimizer: Optimizer, setting: Setting) -> Held:
    """What an optimizer holds for each tensor of a group, in bytes as the allocator counts them."""
    dtype = state_dtype(tensor, setting)
    states = optimizer.states(tensor.shape, dtype, tensor.role, tensor.name)
    if setting.spends:
        return Held(tensor.count, _gpu(states), (), ())
    temporaries = optimizer.temporaries(tensor.shape, dtype, tensor.role, tensor.name)
    together, each, stay = (_gpu(group) for group in (temporaries.together, temporaries.each, temporaries.held))
    acts = tuple(Act(act.name, rounded(act.nbytes)) for act in acts_of(temporaries.turn))
    alone, stacked = () if acts else each, temporaries.stacked
    left = len(stay) if alone else 0
    return Held(tensor.count, _gpu(states), together, alone, left, acts, acts_of(stacked), shape_of(stacked))


def spent(tensor: Tensor, optimizer: Optimizer, setting: Setting, *, starting: bool = False) -> Spent:
    """What a step with one parameter alone allocates; its states where it is `starting`."""
    given = tensor.shape, state_dtype(tensor, setting), tensor.role, tensor.name
    temporaries = optimizer.temporaries(*given)
    states = _gpu(optimizer.states(*given)) if starting else ()
    return Spent(_gpu((*temporaries.together, *temporaries.each)), states)


def _gpu(tensors: Iterable[StateTensor]) -> tuple[int, ...]:
    return tuple(rounded(tensor.bytes) for tensor in tensors if tensor.device == "gpu")


def state_dtype(tensor: Tensor, setting: Setting) -> str:
    """The dtype the optimizer sees as the parameter's."""
    return setting.states or setting.master or tensor.dtype or setting.weights
