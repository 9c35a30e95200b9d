"""The hooks of ZeRO-3 on the tape: the calls of modules and the gradients, in the order of the real step.

Source: DeepSpeed 0.19.8, runtime/zero/parameter_offload.py (setup_zero_stage3_hooks: every module, forward and backward).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.base import Stack
from memcalc.blocks.mlp import Mlp
from memcalc.overlay import Laid
from memcalc.sharding.coordinator import Call, Coordinator
from memcalc.sharding.marks import Event, Marking, Roster, events, normal
from memcalc.sharding.scatter import Reducer
from memcalc.tape.units import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.model import Model
    from memcalc.sharding.marks import Param
    from memcalc.sharding.zero3 import ZeroThree
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording
    from memcalc.tensors import Tensor
    from memcalc.timeline import Part

FETCHES = frozenset({"enter", "back"})
STEERING = FETCHES | {"gradient", "end"}  # also of modules without parameters: each call gathers ahead
SILENT = Call(())


class Gathering(Marking):
    """Notes when modules run and gradients are there."""

    def __init__(self, tape: Tape, strategy: ZeroThree, model: Model, tensors: tuple[Tensor, ...]) -> None:
        super().__init__(tape, takes=True, modules=True)
        tied = tuple(tensor for tensor in model.tensors if tensor.tied_to)
        self.strategy, self.roster = strategy, Roster((*tensors, *tied))
        self.acting = frozenset(activated(model.body))
        self.adapted = any(tensor.role == "adapter" for tensor in tensors)

    def laid(self, recording: Recording) -> Recording:
        """What is gathered and reduced over the real step."""
        self.roster.visited(mark.name for mark in self.marks if mark.kind == "enter")
        stacks = tuple(stack.path for stack in recording.stacks)
        happens = [
            (event, self.roster.of(event.name, event.layer, stacks))
            for event in events(recording, self.marks)
            if event.kind in STEERING or event.name in self.roster.modules
        ]
        returning = {(event.name, event.layer) for event, _ in happens if event.kind == "after"}
        calls = [self.calls(event, params, returning) if event.kind in FETCHES else [] for event, params in happens]
        coordinator = Coordinator(self.strategy, [call for some in calls for call in some])
        reducer = Reducer(self.strategy)
        overlay: dict[int, list[Laid]] = {}
        for (event, params), some in zip(happens, calls, strict=True):
            if event.kind == "gradient":
                made = self.reduced(event, reducer, stacks)
            elif event.kind == "end":
                made = [*reducer.send(), *coordinator.finish()]
            elif event.kind in FETCHES:
                made = [item for call in some for item in coordinator.called(call)]
            else:
                made = coordinator.release(params, saved=event.kind == "leave" and event.saves)
            if made:
                at = event.at
                overlay.setdefault(event.number, []).extend([Laid(at, part, nbytes) for part, nbytes in made])
        return replace(recording, overlay=overlay, pools=(tuple(coordinator.pool.moves), tuple(reducer.pool.moves)))

    def calls(self, event: Event, params: tuple[Param, ...], returning: set[tuple[str, int]]) -> list[Call]:
        """The calls of modules that begin here: of the one that is noted, and of those that have no block of their own.

        These are activations and what peft puts around a layer: a layer around the base layer, which runs and ends first, a
        dropout, and the adapter's own layers; going back, in reverse, without a base layer whose input asks for no gradient.
        """
        if event.name == ROOT:
            return [Call(params)] + [SILENT] * self.adapted
        own = [param for param in params if param.role == "adapter"]
        if not own:
            return [Call(params), *[SILENT] * (event.name in self.acting)]
        base = Call(tuple(param for param in params if param.role != "adapter"), ends=event.kind == "enter")
        if event.kind == "enter":
            return [SILENT, base, SILENT, *(Call((param,)) for param in own)]
        there = [base] if (event.name, event.layer) in returning else []
        return [SILENT, *(Call((param,)) for param in reversed(own)), SILENT, *there]

    def reduced(self, event: Event, reducer: Reducer, stacks: tuple[str, ...]) -> list[tuple[Part, int]]:
        """What a gradient makes the bucket do."""
        tensor = self.roster.named.get(event.name)
        param = self.roster.param(tensor, event.layer, stacks) if tensor else None
        return reducer.gradient(param.elements) if param else []


def activated(block: Block, path: str = "") -> Iterator[str]:
    """The modules that call another one for their activation, which has no parameters."""
    path = f"{path}.{block.name}" if path and block.name else path or block.name
    if isinstance(block, Mlp):
        yield normal(path)
    for _, part in block.groups():
        yield from activated(part, f"{path}.#" if isinstance(block, Stack) else path)
