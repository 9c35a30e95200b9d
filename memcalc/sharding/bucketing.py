"""The hooks of ZeRO-1 and ZeRO-2 on a step: when gradients are there, and what the buckets make of them.

Source: DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py: create_gradient_handling_hooks, independent_gradient_partition_epilogue.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from memcalc.sharding.buckets import Reducer
from memcalc.sharding.marks import Marking, by_place, places
from memcalc.sharding.repeating import Repeats
from memcalc.tape.laid import Laid, Stream
from memcalc.timeline.overlay import alike

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memcalc.sharding.flat import ByLayer, Flat, Piece
    from memcalc.sharding.marks import Mark, Place
    from memcalc.sharding.zero12 import ZeroOneTwo
    from memcalc.tape.laid import Part
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording

Found: TypeAlias = "tuple[Mark, ByLayer, list[Piece]]"  # with the gradients of each layer, or else these
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


class Bucketing(Marking):
    """Notes when gradients are there; what the buckets make of them is laid over the log. `ties`: names that share another's."""

    def __init__(self, tape: Tape, strategy: ZeroOneTwo, flat: Flat, ties: Mapping[str, str]) -> None:
        super().__init__(tape, takes=strategy.reduces_at_once)
        self.strategy, self.flat, self.ties = strategy, flat, ties

    def laid(self, recording: Recording) -> Recording:
        """The step's gradients through the buckets, one after the other."""
        reducer = Reducer(self.strategy, self.flat)
        overlay: dict[int, list[Laid]] = {}
        told = self.marks if self.strategy.reduces_at_once or reducer.widens else [*self._first(), self.marks[-1]]
        found, repeats = self._found(recording, told), Repeats[list[Laid]](reducer)
        for number, (place, layer) in enumerate(places(recording)):
            own = [(mark, by_layer.get(layer, every)) for mark, by_layer, every in found.get(place, ())]
            if len(own) > 1:
                pieces = [piece for _, pieces in own for piece in pieces]
                laid = repeats.of(place, pieces, partial(_laid, reducer, own))
            else:
                laid = _laid(reducer, own)
            if laid:
                overlay[number] = laid
        sent = dict.fromkeys(nbytes for part, nbytes in reducer.made if part == "temporary" and nbytes > 0)
        moves = tuple(
            move for number, nbytes in enumerate(sent) for move in (nbytes, ~number)
        )  # each goes before the next
        return replace(recording, overlay=alike(overlay), pools=(Stream(moves),))

    def _found(self, recording: Recording, marks: Iterable[Mark]) -> dict[Place, list[Found]]:
        """The marks of each stretch of the record with the gradients that they may be of."""
        within = [stack.path for stack in recording.stacks if _NUMBER.search(stack.path)]
        own = {mark.name: self.ties.get(mark.name, mark.name) for mark in marks if mark.kind == "gradient"}
        known = {name: self.flat.found(tensor, depth(tensor, within)) for name, tensor in own.items()}
        nothing: tuple[ByLayer, list[Piece]] = {}, []
        stretches = by_place(marks).items()
        return {place: [(mark, *known.get(mark.name, nothing)) for mark in there] for place, there in stretches}

    def _first(self) -> list[Mark]:
        """When the first gradient is there: where the end of the backward pass is waited for the others say nothing."""
        return [mark for mark in self.marks if mark.kind == "gradient"][:1]


def _laid(reducer: Reducer, own: Iterable[tuple[Mark, list[Piece]]]) -> list[Laid]:
    """What the reducer makes of the marks of a slice, each with the gradients that are there."""
    laid: list[Laid] = []
    for mark, pieces in own:
        before, at = len(reducer.made), mark.at
        if mark.kind == "gradient":
            reducer.gradient(pieces)
        elif mark.kind == "end":
            reducer.end()
        here = reducer.made[before:]
        # a gradient with storage of its own stays: its own death, the next event, is made good behind it
        early = len(here) - (new_at_the_end(here) if mark.kind == "gradient" and reducer.own else 0)
        laid += [*_at(at, here[:early]), *_at(at + 1, here[early:])]
    return laid


def _at(at: int, made: list[tuple[Part, int]]) -> list[Laid]:
    """What is made there, in order; the same of what comes again."""
    known = {item: Laid(at, *item) for item in set(made)}
    return [known[item] for item in made]


def depth(name: str, stacks: list[str]) -> int:
    """How many stacks are around the one of these that a tensor is in."""
    around = next((path for path in stacks if name.startswith(f"{path}.")), "")
    return len(_NUMBER.findall(around))


def new_at_the_end(made: list[tuple[Part, int]]) -> int:
    """How many gradients come last, after all that goes."""
    count = 0
    while count < len(made) and made[-1 - count][0] == "gradients" and made[-1 - count][1] > 0:
        count += 1
    return count
