"""The hooks of ZeRO-3 on the tape: the calls of modules and the gradients, in the order of the real step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.base import Stack
from memcalc.blocks.mlp import Mlp
from memcalc.overlay import Laid
from memcalc.sharding.coordinator import Coordinator
from memcalc.sharding.marks import Marking, Roster, by_place, normal, places
from memcalc.sharding.scatter import Reducer
from memcalc.sharding.scripts import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcalc.blocks.base import Block
    from memcalc.model import Model
    from memcalc.sharding.coordinator import Whole
    from memcalc.sharding.scripts import Act, Script
    from memcalc.sharding.zero3 import ZeroThree
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording
    from memcalc.tensors import Tensor


class Gathering(Marking):
    """Notes when modules run and gradients are there."""

    def __init__(self, tape: Tape, strategy: ZeroThree, model: Model, tensors: tuple[Tensor, ...]) -> None:
        super().__init__(tape, takes=True, modules=True)
        tied = tuple(tensor for tensor in model.tensors if tensor.tied_to)
        self.strategy, self.roster = strategy, Roster((*tensors, *tied))
        self.acting = frozenset(activated(model.body))

    def laid(self, recording: Recording) -> Recording:
        """What is gathered and reduced over the real step."""
        coordinator, reducer = Coordinator(self.strategy), Reducer(self.strategy)
        planned = [(script, coordinator.plan(script, layer)) for script, layer in self.scripts(recording)]
        overlay = {
            number: laid
            for number, (script, own) in enumerate(planned)
            if (laid := followed(script.acts, own, coordinator, reducer))
        }
        return replace(recording, overlay=overlay, pools=(tuple(coordinator.pool.moves), tuple(reducer.pool.moves)))

    def scripts(self, recording: Recording) -> Iterator[tuple[Script, int]]:
        """What happens in each slice of the schedule, and its layer."""
        self.roster.visited(mark.name for mark in self.marks if mark.kind == "enter")
        least, _ = self.strategy.persistence
        writer = Writer(self.roster, tuple(stack.path for stack in recording.stacks), self.acting, least)
        there, slices = by_place(self.marks), list(places(recording))
        returning: dict[int, set[str]] = {}
        for place, layer in dict.fromkeys(slices) if writer.adapted else ():
            returning.setdefault(layer, set()).update(
                mark.name for mark in there.get(place, ()) if mark.kind == "after"
            )
        back = {layer: frozenset(names) for layer, names in returning.items()}
        for place, layer in slices:
            yield writer.script(place, there.get(place, ()), layer, back.get(layer, frozenset())), layer


def followed(acts: Iterable[Act], own: Sequence[Whole], coordinator: Coordinator, reducer: Reducer) -> list[Laid]:
    """What comes and goes in a slice whose script's parameters are these."""
    made = coordinator.made = []
    for act in acts:
        coordinator.at = act.at
        if act.calls:
            coordinator.called(act.calls, own)
        elif act.gradient:
            made += [Laid(act.at, part, nbytes) for part, nbytes in reducer.gradient(act.gradient)]
        elif act.ends:
            made += [Laid(act.at, part, nbytes) for part, nbytes in reducer.send()]
            coordinator.finish()
        else:
            coordinator.release([own[place] for place in act.released], saved=act.saves)
    return made


def activated(block: Block, path: str = "") -> Iterator[str]:
    """The modules that call another one for their activation, which has no parameters."""
    path = f"{path}.{block.name}" if path and block.name else path or block.name
    if isinstance(block, Mlp):
        yield normal(path)
    for _, part in block.groups():
        yield from activated(part, f"{path}.#" if isinstance(block, Stack) else path)
