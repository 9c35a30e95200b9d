"""What the step of a shape reaches, and what it stands on: the sums that a search compares thousands of.

A step is recorded once without an optimizer's states (`Heights`) and met with what is there all along (`Ground`).
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.recommender.work import Work

if TYPE_CHECKING:
    from memcalc.recommender.throughput import Load


class Heights(NamedTuple):
    """The most that is live in each phase beyond what is there all along; what the backward pass leaves of gradients.

    `kept` is live when the forward pass ends, before there is any gradient.
    """

    forward: int
    backward: int
    after: int
    gradients: int
    kept: int
    pinned: int
    work: Work


@dataclass(frozen=True)
class Ground:
    """What is there all along with one optimizer, in bytes of the fullest rank, and what its step needs beside it."""

    base: int
    temporaries: int
    states: int
    hosted: int
    paged: int


Steps = tuple[Heights, ...]  # one for each distinct kind of rank
Grounds = tuple[Ground, ...]


@dataclass
class Family:
    """Runs whose micro step is the same: records at micro batches of one and two, and those of others along their line."""

    one: Steps
    two: Steps
    known: dict[int, Steps] = field(default_factory=dict)

    def at(self, batch: int) -> Steps:
        """The heights of a micro batch, of each kind of rank."""
        if batch not in self.known:
            self.known[batch] = tuple(at(batch, *pair) for pair in zip(self.one, self.two, strict=True))
        return self.known[batch]


class Standing(NamedTuple):
    """What is there all along in a shape with an optimizer, on each kind of rank; `shares` ranks share its gradients."""

    grounds: Grounds
    load: Load
    shares: int
    tokens: int


def at(batch: int, one: Heights, two: Heights) -> Heights:
    """The heights of a larger micro batch, along the line through those of one and two."""

    def along(first: int, second: int) -> int:
        return first + (second - first) * (batch - 1)

    made = Work(
        along(one.work.forward, two.work.forward), along(one.work.backward, two.work.backward),
        along(one.work.attention, two.work.attention), along(one.work.made, two.work.made),
    )  # fmt: skip
    return Heights(
        along(one.forward, two.forward), along(one.backward, two.backward), along(one.after, two.after),
        along(one.gradients, two.gradients), along(one.kept, two.kept), along(one.pinned, two.pinned), made,
    )  # fmt: skip


def bound(steps: Steps, grounds: Grounds, shares: int) -> int:
    """The least the fullest rank allocates at its peak, where `shares` ranks share the gradients."""
    return max(_bound(*rank, shares) for rank in zip(steps, grounds, strict=True))


def exact(steps: Steps, grounds: Grounds) -> int:
    """What the fullest rank allocates at its peak, from the record of its own step."""
    return max(
        ground.base + max(step.forward, step.backward, step.after + ground.temporaries)
        for step, ground in zip(steps, grounds, strict=True)
    )


def slowest(steps: Steps) -> Heights:
    """The rank with the most to compute."""
    return max(steps, key=lambda step: step.work.flops)


def _bound(heights: Heights, ground: Ground, shares: int) -> int:
    left = heights.gradients - heights.gradients // shares
    return ground.base + max(
        heights.forward, heights.kept, heights.backward - left, heights.after - left + ground.temporaries
    )
