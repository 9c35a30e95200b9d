"""What a step needs beside parameters, gradients and states: temporaries, and the most of them alive at once.

A library steps the parameters of a group all at once (`foreach`: a temporary per parameter, together), or one by one
(a `for` loop: those of one parameter, and those of the one before that its local names still hold), or in kernels that
need none. Groups come one after the other; so do a group's parameters of different dtypes where they step together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memcalc.optimizers.rules import Rule, apply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcalc.optimizers.values import Scene, StateTensor


@dataclass(frozen=True)
class StepTemporaries:
    """The temporaries of one parameter: `together` with those of all others, `each` alone, `held` into the next turn."""

    together: tuple[StateTensor, ...] = ()
    each: tuple[StateTensor, ...] = ()
    held: tuple[StateTensor, ...] = ()


@dataclass(frozen=True)
class StepRules:
    """The rules of one implementation: how to find the temporaries of a parameter."""

    together: tuple[Rule, ...] = ()
    each: tuple[Rule, ...] = ()
    held: tuple[Rule, ...] = ()

    def of(self, scene: Scene) -> StepTemporaries:
        """The temporaries of one parameter."""
        return StepTemporaries(*(tuple(apply(rules, scene)) for rules in (self.together, self.each, self.held)))


def total(tensors: Iterable[StateTensor]) -> int:
    """Bytes on the GPU of all of them."""
    return sum(tensor.bytes for tensor in tensors if tensor.device == "gpu")


def peak(group: Sequence[tuple[StepTemporaries, int]]) -> int:
    """The most bytes of temporaries alive at once while one group of parameters steps.

    `group` lists the parameters in their order: their temporaries and how many like ones follow each other.
    """
    together = sum(total(temporaries.together) * count for temporaries, count in group)
    most = before = 0
    for temporaries, count in group:
        own, held = total(temporaries.each), total(temporaries.held)
        most = max(most, before + own, held + own if count > 1 else 0)
        before = held
    return together + most
