"""Rank: what a candidate is the best of. Every label is an order of candidates, and its winner the first that really fits."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.gpus import Gpu
    from memcalc.run import Run, Spec

ALIKE = log(1.02)  # figures of an estimate that are this near each other are a tie


class Scored(NamedTuple):
    """A candidate with what it is ranked by.

    `floor` are bytes it takes at the least, `room` those it may take; `per_second` tokens or samples of the whole job;
    `usd` of a million of them, infinite where there is no price.
    """

    shape: Run
    batch: int
    grad_accum: int
    optimizer: Spec
    card: Gpu
    floor: int
    room: int
    per_second: float
    usd_hour: float
    usd: float
    intrusion: int

    @property
    def gpus(self) -> int:
        """How many GPUs."""
        return self.shape.gpus


def near(value: float) -> float:
    """The value in steps of two percent, so that what is nearly the same is a tie."""
    return round(log(value) / ALIKE) if 0 < value < float("inf") else value


def _fastest(c: Scored) -> tuple[float, ...]:
    return -near(c.per_second), c.intrusion, c.gpus


def _cheapest(c: Scored) -> tuple[float, ...]:
    return near(c.usd), c.intrusion, c.gpus


def _fewest(c: Scored) -> tuple[float, ...]:
    return c.gpus, near(c.usd), -near(c.per_second), c.intrusion


def _least(c: Scored) -> tuple[float, ...]:
    return c.intrusion, c.gpus, near(c.usd), -near(c.per_second)


def _smallest(c: Scored) -> tuple[float, ...]:
    return c.gpus * c.card.usable, c.gpus, -near(c.per_second), c.intrusion


def _hour(c: Scored) -> tuple[float, ...]:
    return c.usd_hour, -near(c.per_second), c.intrusion, c.gpus


ORDERS: dict[str, Callable[[Scored], tuple[float, ...]]] = {
    "fastest": _fastest,
    "cheapest": _cheapest,
    "cheapest per hour": _hour,
    "smallest GPU": _smallest,
    "fewest GPUs": _fewest,
    "least intrusive": _least,
}
PRICED = frozenset({"cheapest", "cheapest per hour"})  # labels for what has a price alone
WHY = {
    "fastest": "the most {unit} per second",
    "cheapest": "the fewest dollars per million {unit}",
    "cheapest per hour": "the fewest dollars per hour",
    "smallest GPU": "the least GPU memory bought",
    "fewest GPUs": "the fewest GPUs, and the cheapest pace on them",
    "least intrusive": "the least change to the run asked for",
}


def labels(several_cards: bool, several_counts: bool, priced: bool) -> list[str]:
    """The labels that mean something in a search."""
    wanted = {"cheapest": priced, "cheapest per hour": several_cards and priced, "smallest GPU": several_cards,
              "fewest GPUs": several_counts}  # fmt: skip
    return [label for label in ORDERS if wanted.get(label, True)]
