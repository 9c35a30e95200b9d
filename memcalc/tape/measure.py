"""measure: a model, its tensors and a setting in; the timeline of one steady training step out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from memcalc.dtypes import nbytes
from memcalc.optimizers.values import Parameter, StateTensor
from memcalc.reserve import Held, reserved
from memcalc.tape.step import record_step
from memcalc.tape.values import rounded
from memcalc.tape.weights import Weights
from memcalc.timeline import Timeline, timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.tape.setting import Setting
    from memcalc.tape.step import Recording
    from memcalc.tensors import Tensor


Share: TypeAlias = "Callable[[str, int], int]"
Record: TypeAlias = "Callable[[Model, Setting, Weights], Recording]"


def measure(
    model: Model,
    tensors: Iterable[Tensor],
    optimizer: Optimizer,
    setting: Setting,
    share: Share | None = None,
    record: Record = record_step,
) -> Timeline:
    """One steady step (optimizer states exist, gradients start as None) of the model with these tensors.

    `tensors` are the run's: after adapters and quantised storage, each trainable or not. `share` says how many of a
    component's bytes one of several ranks holds; the allocator is replayed only where a rank holds everything, and only
    when the timeline is asked for `reserved`.
    `record` runs the step: `explain` looks on.
    """
    found = tuple(tensor for tensor in tensors if not tensor.tied_to)
    stored = storage(setting)
    recording = record(model, setting, Weights(tensors, stored, lambda tensor: spent(tensor, optimizer, setting)))
    base = {
        "weights": sum(_bytes(tensor, stored(tensor)) for tensor in found if not tensor.buffer),
        "master_weights": sum(_bytes(tensor, setting.master) for tensor in _trained(found)) if setting.master else 0,
        "buffers": sum(_bytes(tensor, stored(tensor)) for tensor in found if tensor.buffer),
        "optimizer_states": sum(_state_bytes(tensor, optimizer, setting) for tensor in _trained(found)),
    }
    if setting.accumulating:
        base["gradients"] = sum(_bytes(tensor, setting.gradients or stored(tensor)) for tensor in _trained(found))
    if share:
        return shared(recording, base, step_temporaries(found, optimizer, setting), share)

    def replay() -> int:
        trained = [held(tensor, optimizer, setting) for tensor in _trained(found)]
        sizes = [(nbytes(tensor.elements, stored(tensor)), tensor.count) for tensor in found]
        there = [*sizes, *_masters(found, setting), *_accumulated(found, setting)]
        return reserved(recording, there, trained, sum(base.values()))

    return timeline(recording, base, step_temporaries(found, optimizer, setting), replay)


def shared(recording: Recording, base: dict[str, int], temporaries: int, share: Share) -> Timeline:
    """The timeline of a rank that holds a share of what persists, gradients as they come included."""
    held = {component: share(component, nbytes) for component, nbytes in base.items()}
    sizes = list(recording.sizes)
    for gradient in recording.gradients:
        sizes[gradient] = share("gradients", sizes[gradient])
    return timeline(replace(recording, sizes=sizes), held, share("optimizer_states", temporaries))


def held(tensor: Tensor, optimizer: Optimizer, setting: Setting) -> Held:
    """What an optimizer holds for each tensor of a group, in bytes as the allocator counts them."""
    dtype = state_dtype(tensor, setting)
    states = optimizer.states(tensor.shape, dtype, tensor.role, tensor.name)
    if setting.spends:
        return Held(tensor.count, _gpu(states), (), ())
    temporaries = optimizer.temporaries(tensor.shape, dtype, tensor.role, tensor.name)
    return Held(tensor.count, *(_gpu(group) for group in (states, temporaries.together, temporaries.each)))


def spent(tensor: Tensor, optimizer: Optimizer, setting: Setting) -> tuple[int, ...]:
    """Bytes of each temporary of a step with one parameter alone."""
    temporaries = optimizer.temporaries(tensor.shape, state_dtype(tensor, setting), tensor.role, tensor.name)
    return _gpu((*temporaries.together, *temporaries.each))


def _gpu(tensors: Iterable[StateTensor]) -> tuple[int, ...]:
    return tuple(rounded(tensor.bytes) for tensor in tensors if tensor.device == "gpu")


def _masters(tensors: Iterable[Tensor], setting: Setting) -> list[tuple[int, int]]:
    if not setting.master:
        return []
    return [(nbytes(tensor.elements, setting.master), tensor.count) for tensor in _trained(tensors)]


def _accumulated(tensors: Iterable[Tensor], setting: Setting) -> list[tuple[int, int]]:
    """Gradients that earlier micro batches have left: (bytes, how many)."""
    if not setting.accumulating:
        return []
    stored = storage(setting)
    return [(nbytes(t.elements, setting.gradients or stored(t)), t.count) for t in _trained(tensors)]


def state_dtype(tensor: Tensor, setting: Setting) -> str:
    """The dtype the optimizer sees as the parameter's."""
    return setting.states or setting.master or tensor.dtype or setting.weights


def storage(setting: Setting) -> Callable[[Tensor], str]:
    """The dtype each tensor is kept in: its own, or the setting's for tensors that learn or do not."""
    return lambda tensor: tensor.dtype or (setting.weights if tensor.trainable or tensor.buffer else setting.frozen)


def step_temporaries(tensors: Iterable[Tensor], optimizer: Optimizer, setting: Setting) -> int:
    """The most an optimizer step needs beside what persists; nothing where it has stepped in the backward pass."""
    if setting.spends:
        return 0
    group = [
        (Parameter(tensor.shape, state_dtype(tensor, setting), tensor.role, tensor.name), tensor.count)
        for tensor in _trained(tensors)
    ]
    return optimizer.step_peak(group)


def _trained(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.trainable and not tensor.buffer]


def _bytes(tensor: Tensor, dtype: str) -> int:
    return tensor.count * rounded(nbytes(tensor.elements, dtype))


def _state_bytes(tensor: Tensor, optimizer: Optimizer, setting: Setting) -> int:
    states = optimizer.states(tensor.shape, state_dtype(tensor, setting), tensor.role, tensor.name)
    return tensor.count * sum(rounded(state.bytes) for state in states if state.device == "gpu")
