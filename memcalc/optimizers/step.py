"""What a step needs beside parameters, gradients and states: temporaries, and the most of them alive at once.

A library steps the parameters of a group all at once (`foreach`: a temporary per parameter, together), or one by one
(a `for` loop: those of one parameter, and those of the one before that its local names still hold), or in kernels that
need none. Groups come one after the other; so do a group's parameters of different dtypes where they step together.
"""

from __future__ import annotations

from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.optimizers.rules import Rule, apply
from memcalc.replay import stepping

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcalc.optimizers.values import Scene, StateTensor


@dataclass(frozen=True)
class StepTemporaries:
    """The temporaries of one parameter: `together` with those of all others, `each` alone, `held` into the next turn.

    `before` are those of one parameter alone that are gone when all are stepped together. `lasting` are those, besides, that
    names hold which only a matrix's turn gives to something else. `turn` are the acts of a
    parameter's turn in their order, where that is known: what is bound to a name, `-name` for one that is let go of,
    `name=other` for one that takes another's tensor over, `states` where these are made (memcalc/replay/stepping.py has the rest).
    `stacked` are such acts of a turn that all parameters of one shape (the first one's) have at once, shape after shape.
    """

    together: tuple[StateTensor, ...] = ()
    each: tuple[StateTensor, ...] = ()
    held: tuple[StateTensor, ...] = ()
    lasting: tuple[StateTensor, ...] = ()
    turn: tuple[StateTensor, ...] = ()
    before: tuple[StateTensor, ...] = ()
    stacked: tuple[StateTensor, ...] = ()

    @cached_property
    def bytes(self) -> tuple[int, int, int, int]:
        """Bytes on the GPU: together, each, held and lasting."""
        return total(self.together), total(self.each), total(self.held), total(self.lasting)

    @cached_property
    def renamed(self) -> tuple[int, ...]:
        """Bytes of each where all their names are held, and each goes only when the next turn gives its name away."""
        names = [tensor.name for tensor in self.each]
        distinct = len(names) == len(set(names)) > 1 and names == [tensor.name for tensor in self.held]
        return tuple(total((tensor,)) for tensor in self.each) if distinct else ()


@dataclass(frozen=True)
class StepRules:
    """The rules of one implementation: how to find the temporaries of a parameter."""

    together: tuple[Rule, ...] = ()
    each: tuple[Rule, ...] = ()
    held: tuple[Rule, ...] = ()
    lasting: tuple[Rule, ...] = ()
    turn: tuple[Rule, ...] = ()
    before: tuple[Rule, ...] = ()
    stacked: tuple[Rule, ...] = ()

    def of(self, scene: Scene) -> StepTemporaries:
        """The temporaries of one parameter."""
        kinds = (self.together, self.each, self.held, self.lasting, self.turn, self.before, self.stacked)
        return StepTemporaries(*(tuple(apply(rules, scene)) for rules in kinds))


def total(tensors: Iterable[StateTensor]) -> int:
    """Bytes on the GPU of all of them."""
    return sum(tensor.bytes for tensor in tensors if tensor.device == "gpu")


def shape_of(stacked: tuple[StateTensor, ...]) -> tuple[int, ...]:
    """What parameters that are stacked have in common."""
    return stacked[0].shape if stacked else ()


class Turn(NamedTuple):
    """Like parameters: the temporaries of each, how many there are (`times`), the layer they lie in, whether they are vectors.

    `layer` is the pattern of names up to the number of the layer ('' outside of layers).
    """

    temporaries: StepTemporaries
    times: int
    layer: str = ""
    vector: bool = False


def peak(group: Sequence[Turn]) -> int:
    """The most bytes of temporaries alive at once while one group of parameters steps.

    `group` lists the parameters in their order. Those of one layer follow each other, and begin again with the next one.
    """
    together = sum(turn.temporaries.bytes[0] * turn.times for turn in group)
    if any(turn.temporaries.turn or turn.temporaries.stacked for turn in group):
        return together + _acted(group)
    most, before, lasting, names = 0, 0, 0, ()  # type: int, int, int, tuple[int, ...]
    for turn in _in_order(group):
        _, own, held, after = turn.temporaries.bytes
        most = max(most, _in_turn(before, names, turn.temporaries.renamed, own))
        lasting = lasting if turn.vector else after
        before, names = lasting + held, turn.temporaries.renamed
    return max([together + most, *(total(turn.temporaries.before) for turn in group)])


class Counted:
    """Memory that counts what is there at once: blocks are their bytes."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def several(self, sizes: Iterable[int]) -> list[int]:
        """A block for each."""
        blocks = list(sizes)
        self.now += sum(blocks)
        self.most = max(self.most, self.now)
        return blocks

    def free(self, *blocks: int) -> None:
        """Give blocks back."""
        self.now -= sum(blocks)


def _acted(group: Sequence[Turn]) -> int:
    """The most that the names of a loop hold at once, where the acts of each turn are known; states are there."""
    memory = Counted()
    names = stepping.Names(memory)
    for turn in _in_order(group):
        names.take(stepping.Turn(acts_of(turn.temporaries.turn), (), 1), first=False)
    stacks = [(turn.temporaries.stacked, turn.times) for turn in group]
    for merged in stepping.stacked((shape_of(acts), acts_of(acts), times) for acts, times in stacks):
        names.take(merged, first=False)
    return memory.most


def acts_of(turn: Iterable[StateTensor]) -> tuple[stepping.Act, ...]:
    """The acts of a turn, in bytes as they are asked for."""
    return tuple(stepping.Act(act.name, act.bytes) for act in turn)


def _in_turn(before: int, names: tuple[int, ...], own: tuple[int, ...], whole: int) -> int:
    """The most while one turn's temporaries are made: each lets go of what had its name."""
    if len(names) != len(own) or sum(names) != before:
        return before + whole
    return max((sum(own[: i + 1]) + sum(names[i:]) for i in range(len(own))), default=before + whole)


def _in_order(group: Sequence[Turn]) -> Iterator[Turn]:
    """The parameters as they take turns: those of repeated layers, and repeated ones outside of layers, twice."""
    numbered = list(enumerate(group))
    for _, members in groupby(numbered, key=lambda entry: entry[1].layer or entry[0]):
        turns = [turn for _, turn in members]
        yield from turns
        if max(turn.times for turn in turns) > 1:
            yield from turns
