"""measure: a model, its tensors and a setting in; the timeline of one steady training step out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.dtypes import nbytes
from memcalc.optimizers.values import Parameter
from memcalc.tape.step import record_step
from memcalc.tape.values import rounded
from memcalc.tape.weights import Weights
from memcalc.timeline import Timeline, timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.tape.setting import Setting
    from memcalc.tensors import Tensor


def measure(model: Model, tensors: Iterable[Tensor], optimizer: Optimizer, setting: Setting) -> Timeline:
    """One steady step (optimizer states exist, gradients start as None) of the model with these tensors.

    `tensors` are the run's: after adapters and quantised storage, each trainable or not.
    """
    found = tuple(tensor for tensor in tensors if not tensor.tied_to)
    stored = storage(setting)
    recording = record_step(model, setting, Weights(tensors, stored))
    base = {
        "weights": sum(_bytes(tensor, stored(tensor)) for tensor in found if not tensor.buffer),
        "master_weights": sum(_bytes(tensor, setting.master) for tensor in _trained(found)) if setting.master else 0,
        "buffers": sum(_bytes(tensor, stored(tensor)) for tensor in found if tensor.buffer) + recording.resident,
        "optimizer_states": sum(_state_bytes(tensor, optimizer, setting) for tensor in _trained(found)),
    }
    if setting.accumulating:
        base["gradients"] = sum(_bytes(tensor, setting.gradients or stored(tensor)) for tensor in _trained(found))
    return timeline(recording, base, step_temporaries(found, optimizer, setting))


def storage(setting: Setting) -> Callable[[Tensor], str]:
    """The dtype each tensor is kept in: its own, or the setting's for tensors that learn or do not."""
    return lambda tensor: tensor.dtype or (setting.weights if tensor.trainable or tensor.buffer else setting.frozen)


def step_temporaries(tensors: Iterable[Tensor], optimizer: Optimizer, setting: Setting) -> int:
    """The most an optimizer step needs beside what persists."""
    stored = storage(setting)
    group = [
        (Parameter(tensor.shape, setting.states or setting.master or stored(tensor), tensor.role, tensor.name), tensor.count)
        for tensor in _trained(tensors)
    ]
    return optimizer.step_peak(group)


def _trained(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor.trainable and not tensor.buffer]


def _bytes(tensor: Tensor, dtype: str) -> int:
    return tensor.count * rounded(nbytes(tensor.elements, dtype))


def _state_bytes(tensor: Tensor, optimizer: Optimizer, setting: Setting) -> int:
    dtype = setting.states or setting.master or tensor.dtype or setting.weights
    states = optimizer.states(tensor.shape, dtype, tensor.role, tensor.name)
    return tensor.count * sum(rounded(state.bytes) for state in states if state.device == "gpu")
