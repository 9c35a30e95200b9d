"""measure: a model, its tensors and a setting in; the timeline of one steady training step out."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from memcalc.dtypes import nbytes
from memcalc.known import Known
from memcalc.optimizers.values import Parameter
from memcalc.replay.reserve import Begun, Replay, reserved
from memcalc.sharding.strategy import Strategy
from memcalc.simulation.stepped import held, spent, state_dtype
from memcalc.tape.step import record_step
from memcalc.tape.succession import layer_by_layer
from memcalc.tape.values import rounded
from memcalc.tape.weights import Weights
from memcalc.timeline import Timeline, timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.sharding.strategy import Local
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.step import Recording
    from memcalc.tape.units import Sharder
    from memcalc.tensors import Tensor


Record: TypeAlias = "Callable[[Model, Setting, Weights, Callable[[Tape], Sharder | None]], Recording]"
WHOLE = Strategy()
STEPS: Known[Recording] = Known()
TIMELINES: Known[Timeline] = Known()


def measure(
    model: Model,
    tensors: Iterable[Tensor],
    optimizer: Optimizer,
    setting: Setting,
    strategy: Strategy = WHOLE,
    record: Record = record_step,
) -> Timeline:
    """One steady step (optimizer states exist, gradients start as None) of the fullest rank of a model with these tensors.

    `tensors` are the run's: after adapters and quantised storage, each trainable or not, whole. `setting` has the dtypes
    things are kept in. `strategy` says what a rank holds of them, and its hooks run with the step. The allocator is
    replayed only when the timeline is asked for `reserved`. `record` runs the step: `explain` looks on.
    """
    parts: object = id(tensors) if tensors is model.tensors else tensors
    step = (id(model), parts, setting, strategy, id(optimizer) if setting.spends else 0)
    alive = (model, tensors, optimizer)

    def remembered(*given: Any) -> Recording:  # noqa: ANN401 - whatever a recorder is given
        return STEPS.get((step, given[1]), alive, lambda: record_step(*given))

    if record is not record_step:
        return _measured(_Step(model, tensors, optimizer, setting, strategy, record))
    return TIMELINES.get(
        (step, id(optimizer)), alive, lambda: _measured(_Step(model, tensors, optimizer, setting, strategy, remembered))
    )


def _beside(recording: Recording, *, expandable: bool) -> int:
    """Bytes of the pools that a strategy has beside the log."""
    from memcalc.replay.cycles import pooled  # noqa: PLC0415 - few strategies have any

    return sum(pooled(stream, expandable=expandable) for stream in recording.pools)


def _measured(step: _Step) -> Timeline:
    """What the step is made of, as its recorder runs it."""
    optimizer, setting, strategy = step.optimizer, step.setting, step.strategy
    recording = step.recorded(step.inner)
    sizes = standing(step.local, optimizer, setting, recording.views)
    base = {name: size for name, size in sizes.items() if name not in strategy.offloaded}
    plain = step_temporaries(step.local.states, optimizer, setting)
    taken = strategy.step(plain, step.local, optimizer, setting)
    told = partial(_told, step, recording, sum(base.values()))
    return timeline(recording, base, taken, lambda: reserved(told()), told)


class _Step:
    """A step as a strategy has it, to be run under its own setting (`inner`) or one that differs in what is there before."""

    __slots__ = ("found", "inner", "local", "model", "optimizer", "record", "setting", "strategy", "tensors")

    def __init__(
        self,
        model: Model,
        tensors: Iterable[Tensor],
        optimizer: Optimizer,
        setting: Setting,
        strategy: Strategy,
        record: Record,
    ) -> None:
        self.model, self.optimizer, self.setting, self.strategy, self.record = (
            model,
            optimizer,
            setting,
            strategy,
            record,
        )
        self.tensors = tuple(tensors)
        self.found = tuple(_met(tensor, setting) for tensor in self.tensors if not tensor.tied_to)
        self.inner, self.local = strategy.setting_of(setting), strategy.place(self.found)

    def recorded(self, inner: Setting) -> Recording:
        """The step under a setting."""
        return self.record(self.model, inner, self._weights(starting=inner.starting), self._attach)

    def _weights(self, *, starting: bool) -> Weights:
        strategy, inner, seen = self.strategy, self.inner, storage(self.inner)
        return Weights(
            strategy.met(self.tensors),
            lambda tensor: strategy.gathered(tensor, seen(tensor), inner),
            partial(spent, optimizer=self.optimizer, setting=self.setting, starting=starting),
            storage(self.setting),
        )

    def _attach(self, tape: Tape) -> Sharder | None:
        return self.strategy.attach(tape, self.model, self.found)


def _told(step: _Step, recording: Recording, always: int) -> Replay:
    """What the allocator is replayed from, with `always` bytes there all along."""
    strategy, setting, inner, local = step.strategy, step.setting, step.inner, step.local
    weights, learning = _in_layers(local, strategy.offloaded)
    trained = [held(tensor, step.optimizer, setting) for tensor in learning]
    there, grows = _there(local, weights, setting, strategy, recording.inputs), setting.expandable_segments
    adds = inner.accumulating and local.accumulated is None
    earlier = _earlier(recording, lambda: step.recorded(replace(inner, accumulating=False)), adds=adds)
    opening = step.recorded(replace(inner, starting=True)) if inner.spends else None
    staged = strategy.staged(local, step.optimizer, setting)
    begun = _begun(strategy, local, storage(setting), recording)
    own = _beside(recording, expandable=grows) if recording.pools else 0
    stepped = strategy.stepped(trained)
    return Replay(recording, there, stepped, always, staged, earlier, opening, begun, grows, own)


def _earlier(recording: Recording, first: Callable[[], Recording], *, adds: bool) -> Recording | None:
    """The micro batch before the recorded one, where it is another: without a reduction, or the one that makes gradients.

    What makes the gradients that this one `adds` to is recorded (`first`) only where it does not follow from this one.
    """
    if recording.unreduced:
        from memcalc.tape.earlier import without_reduction  # noqa: PLC0415 - few strategies have any

        return without_reduction(recording, recording.unreduced)
    if not adds:
        return None
    if recording.added is None:
        return first()
    from memcalc.tape.earlier import first_micro_batch  # noqa: PLC0415 - many runs have one micro batch a step

    return first_micro_batch(recording, recording.added)


def _met(tensor: Tensor, setting: Setting) -> Tensor:
    """The tensor; as one that doesn't learn where no gradient comes: torch's optimizers make states as gradients come."""
    if not tensor.idle or not tensor.trainable or setting.master:
        return tensor
    return replace(tensor, trainable=False, dtype=tensor.dtype or setting.weights)


def _begun(strategy: Strategy, local: Local, stored: Callable[[Tensor], str], recording: Recording) -> Begun:
    """What the strategy does before the first step, and makes anew before the second."""
    once, then = strategy.rebuilt(local, stored)
    kept = [tensor for tensor in local.buffers if tensor not in once]
    if once == then:
        kept, once, then = [*once, *kept], (), ()
    made, remade = (_each_of(tensors, stored) for tensors in (once, then))
    return Begun(
        strategy.tried(local, stored) or recording.tried,
        tuple(_each_of(kept, stored)),
        tuple(rounded(size) for size, count in made for _ in range(count)),
        tuple(remade),
    )


def _in_layers(local: Local, offloaded: Container[str]) -> tuple[list[Tensor], list[Tensor]]:
    """The weights that a rank keeps, layer by layer, and what it steps over on the device: often the same."""
    kept, states = layer_by_layer(local.weights), [] if "optimizer_states" in offloaded else _trained(local.states)
    return kept, kept if states == list(local.weights) else layer_by_layer(states)


def _there(
    local: Local, kept: list[Tensor], setting: Setting, strategy: Strategy, inputs: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """What the allocator holds before the strategy begins: (bytes of a tensor, how many like it), the inputs last."""
    stored, offloaded = storage(setting), strategy.offloaded
    weights = [] if "weights" in offloaded else _each_of(kept, stored)
    masters = [] if "master_weights" in offloaded else _masters(local.states, setting)
    own = local.accumulated is not None and not strategy.rebuilt(local, stored)[0]
    gradients = _accumulated(local, setting) if own else []
    return [*weights, *masters, *gradients, *inputs]


def _each_of(tensors: Iterable[Tensor], stored: Callable[[Tensor], str]) -> list[tuple[int, int]]:
    """(bytes of a tensor, how many like it)."""
    return [(nbytes(tensor.elements, stored(tensor)), tensor.count) for tensor in tensors]


def standing(local: Local, optimizer: Optimizer, setting: Setting, views: int = 0) -> dict[str, int]:
    """What is there all along, by component, in bytes as the allocator counts them; gradients with what `views` hold beside."""
    stored, trained = storage(setting), _trained(local.states)
    base = {
        "weights": sum(_bytes(tensor, stored(tensor)) for tensor in local.weights),
        "master_weights": sum(_bytes(tensor, setting.master) for tensor in trained) if setting.master else 0,
        "buffers": sum(_bytes(tensor, stored(tensor)) for tensor in local.buffers),
        "optimizer_states": sum(_state_bytes(tensor, optimizer, setting) for tensor in trained),
    }
    left = _accumulated(local, setting)
    if left:
        base["gradients"] = sum(rounded(nbytes) * count for nbytes, count in left) + views
    return base


def _masters(tensors: Iterable[Tensor], setting: Setting) -> list[tuple[int, int]]:
    if not setting.master:
        return []
    return [(nbytes(tensor.elements, setting.master), tensor.count) for tensor in _trained(tensors)]


def _accumulated(local: Local, setting: Setting) -> list[tuple[int, int]]:
    """Gradients that earlier micro batches have left, or that are there all along: (bytes, how many)."""
    if local.accumulated is None and not setting.accumulating:
        return []
    stored, left = storage(setting), local.gradients if local.accumulated is None else local.accumulated
    return [(nbytes(_gradient(t, setting), t.dtype or setting.gradients or stored(t)), t.count) for t in _trained(left)]


def _gradient(tensor: Tensor, setting: Setting) -> int:
    """Elements of a gradient: that of a tensor-parallel part of a table may have the rows of all parts."""
    if not setting.ways or tensor.role != "embedding":
        return tensor.elements
    return tensor.elements // tensor.shape[0] * setting.ways.left_rows(tensor.shape[0])


def storage(setting: Setting) -> Callable[[Tensor], str]:
    """The dtype each tensor is kept in: its own, or the setting's for tensors that learn or do not."""
    return lambda tensor: tensor.dtype or (setting.weights if tensor.trainable else setting.frozen)


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
