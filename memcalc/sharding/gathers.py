"""The hooks of ZeRO-3 on the tape: the calls of modules and the gradients, in the order of the real step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from memcalc.sharding.coordinator import Coordinator
from memcalc.sharding.cuts import cuts, watches
from memcalc.sharding.marks import Mark, Marking, Roster, by_place, places
from memcalc.sharding.naming import Naming
from memcalc.sharding.scatter import Reducer
from memcalc.sharding.scripts import Writer
from memcalc.tape.laid import Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from memcalc.model import Model
    from memcalc.sharding.cuts import Cut, Slices
    from memcalc.sharding.marks import Place
    from memcalc.sharding.scripts import Act, Script
    from memcalc.sharding.wholes import Whole
    from memcalc.sharding.zero3 import ZeroThree
    from memcalc.tape.laid import Again, Laid
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording
    from memcalc.tensors import Tensor

GRADIENTS = frozenset({"gradient", "end"})  # marks that name no module


class Fetching(Marking):
    """Notes when modules run and gradients are there."""

    def __init__(self, tape: Tape, strategy: ZeroThree, model: Model, tensors: tuple[Tensor, ...]) -> None:
        super().__init__(tape, takes=True, modules=True)
        tied = tuple(tensor for tensor in model.tensors if tensor.tied_to)
        self.strategy, self.body, self.tensors = strategy, model.body, (*tensors, *tied)

    def laid(self, recording: Recording) -> Recording:
        """What is gathered and reduced over the real step."""
        slices, reducer = list(self.scripts(recording)), Reducer(self.strategy, recording.events, recording.sizes)
        gathered, stream = self.gathered(recording, slices)
        overlay: dict[int, list[Laid]] = {}
        known: dict[tuple[int, int], list[Laid]] = {}
        equal: dict[tuple[Laid, ...], list[Laid]] = {}
        for number, (script, _) in enumerate(slices):
            reduced = reducer.follow(script)
            both = id(gathered[number]), id(reduced)
            if both not in known:
                made = together(gathered[number], reduced)
                known[both] = equal.setdefault(tuple(made), made)
            if known[both]:
                overlay[number] = known[both]
        return replace(recording, overlay=overlay, pools=(stream, reducer.stream))

    def gathered(self, recording: Recording, slices: Slices) -> tuple[dict[int, Gathered], Stream]:
        """What is gathered in each slice, as much of it as need be followed."""
        found = cuts(recording, slices, self.strategy.settings)
        try:
            return replayed(self.strategy, slices, found)
        except LookupError:  # it is not the same from layer to layer
            return replayed(self.strategy, slices, ())

    def scripts(self, recording: Recording) -> Iterator[tuple[Script, int]]:
        """What happens in each slice of the schedule, and its layer."""
        stacks = tuple([stack.path for stack in recording.stacks])
        naming = Naming(self.body, stacks)
        marks = list(named(self.marks, naming))
        roster = Roster(self.tensors, naming)
        naming.called = frozenset([mark.name for mark in marks if mark.kind == "enter"]) - naming.lists
        roster.visited(naming.called)
        least, _ = self.strategy.persistence
        writer = Writer(roster, stacks, least)
        there, slices = by_place(marks), list(places(recording))
        back = _returning(there, slices) if writer.adapted else {}
        for place, layer in slices:
            yield writer.script(place, there.get(place, ()), layer, back.get(layer, frozenset())), layer


def _returning(there: Mapping[Place, Sequence[Mark]], slices: Iterable[tuple[Place, int]]) -> dict[int, frozenset[str]]:
    """For each layer the modules whose backward pass ends in it."""
    names = {place: frozenset([mark.name for mark in marks if mark.kind == "after"]) for place, marks in there.items()}
    found: dict[int, frozenset[str]] = {}
    for place, layer in slices:
        own = names.get(place)
        if own:
            found[layer] = found[layer] | own if layer in found else own
    return found


class Gathered(NamedTuple):
    """What is gathered and let go of in a slice; `stops` are how much of it is before each act of the reduction."""

    laid: list[Laid]
    stops: list[int]


def replayed(zero: ZeroThree, slices: Slices, found: Sequence[Cut]) -> tuple[dict[int, Gathered], Stream]:
    """The coordinator over the slices that no cut leaves out; LookupError where those don't tell of the others."""
    coordinator, looks = Coordinator(zero), watches(found, slices)
    out = {number for cut in found for number in cut.left_out()}
    planned = [
        (number, script, coordinator.plan(number, script, layer))
        for number, (script, layer) in enumerate(slices)
        if number not in out
    ]
    made: dict[int, Gathered] = {}
    again: list[Again] = []
    for number, script, own in planned:
        if number in looks and (period := looks[number].look(coordinator, number)):
            again.append(period)
        made[number] = followed(script.acts, own, coordinator)
    made.update({number: made[other] for cut in found for number, other in cut.told_by()})
    return made, Stream(tuple(coordinator.pool.moves), tuple(again))


def followed(acts: Iterable[Act], own: Sequence[Whole], coordinator: Coordinator) -> Gathered:
    """What comes and goes in a slice whose script's parameters are these."""
    made = coordinator.made = []
    stops: list[int] = []
    for act in acts:
        coordinator.at = act.at
        if act.freed:
            coordinator.disown(act.freed)
        if act.calls:
            coordinator.called(act.calls, own, act.owner)
        elif act.gradient:
            stops.append(len(made))
        elif act.ends:
            stops.append(len(made))
            coordinator.finish()
        else:
            for place in act.unseen:
                own[place].looked = False
            coordinator.release([own[place] for place in act.released], saved=act.saves, packed=act.packs)
    return Gathered(made, stops)


def together(gathered: Gathered, reduced: Sequence[list[Laid]]) -> list[Laid]:
    """What a slice gathers and what it reduces, in the order of its acts."""
    made: list[Laid] = []
    at = 0
    for stop, items in zip(gathered.stops, reduced, strict=True):
        made += gathered.laid[at:stop]
        made += items
        at = stop
    return made + gathered.laid[at:]


def named(marks: Sequence[Mark], naming: Naming) -> Iterator[Mark]:
    """The marks by the names of modules; none of modules that have no hooks, or are not called."""
    paths = {mark.name for mark in marks if mark.kind not in GRADIENTS}
    hooked = {path: name for path in paths if not naming.hookless(name := naming.of(path))}
    for mark in marks:
        place, at, kind, path, *saves = mark
        if kind in GRADIENTS:
            yield mark
        elif path in hooked and (kind != "after" or hooked[path] not in naming.tables):
            yield Mark(place, at, kind, hooked[path], *saves)
