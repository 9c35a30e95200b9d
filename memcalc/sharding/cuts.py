"""Like layers that ZeRO-3's replay leaves out, because what it does with them follows from what it has done with others.

The order in which parameters are gathered and let go of depends on what is gathered, on what comes next, and on how soon a
parameter is used again. In the middle of many like layers all that is the same from layer to layer, in the forward and in
the backward pass. So a stretch of them, the same both times, is left out and told by the layers before it; provided that

* the coordinator was in the same state, seen from the layer, one period before the cut and at the cut;
* what it had gathered in advance there was of these layers;
* no parameter was kept across the cut because it would be used again soon: with more layers between it would be later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memcalc.dataclass import dataclass
from memcalc.tape.laid import Again

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcalc.sharding.coordinator import Coordinator
    from memcalc.sharding.scripts import Script
    from memcalc.sharding.zero_options import Settings
    from memcalc.tape.step import Recording

Slices: TypeAlias = "Sequence[tuple[Script, int]]"
LONGEST = 8  # layers of a period
LEAST = 4  # layers that are worth leaving out


class Region(NamedTuple):
    """Where a stack's layers are in the schedule: the slice of its first layer, forward and backward, and how many."""

    forward: int
    backward: int
    layers: int

    def slices(self, layer: int) -> tuple[int, int]:
        """The two slices of a layer."""
        return self.forward + layer, self.backward - layer


class Cut(NamedTuple):
    """Layers [first, last) of a region are left out: whole periods of `period` layers, in a stretch of like ones."""

    region: Region
    first: int
    last: int
    period: int
    alike: tuple[int, int]

    def left_out(self) -> Iterator[int]:
        """The slices."""
        for layer in range(self.first, self.last):
            yield from self.region.slices(layer)

    def told_by(self) -> Iterator[tuple[int, int]]:
        """(slice left out, the one that tells of it)."""
        for layer in range(self.first, self.last):
            past = (layer - self.first) % self.period
            yield self.region.forward + layer, self.region.forward + self.first - self.period + past
            yield self.region.backward - layer, self.region.backward - self.last - past

    @property
    def times(self) -> int:
        """Periods."""
        return (self.last - self.first) // self.period


def cuts(recording: Recording, slices: Slices, settings: Settings) -> tuple[Cut, ...]:
    """A cut in every stack that has enough like layers, far from where it begins and ends."""
    return tuple(cut for region in regions(recording) if (cut := _cut(region, slices, settings)))


def regions(recording: Recording) -> Iterator[Region]:
    """Each stack's."""
    total = sum(len(stack.order) + 1 for stack in recording.stacks) + 1
    at = 0
    for stack in recording.stacks:
        at += 1
        yield Region(at, 2 * total - 1 - at, len(stack.order))
        at += len(stack.order)


def _cut(region: Region, slices: Slices, settings: Settings) -> Cut | None:
    """The layers in the middle: what is gathered at most has gone through by then, and nothing waits for its next use."""
    kinds = [tuple(id(slices[number][0]) for number in region.slices(layer)) for layer in range(region.layers)]
    period, start, stop = _alike(kinds)
    scripts = [slices[region.forward + layer][0] for layer in range(start, start + period)]
    calls = [call for script in scripts for act in script.acts for call in act.calls]
    elements = sum([call.below if call.holds == "leaf" else call.elements for call in calls])
    if not elements:
        return None
    settled = -(-settings.stage3_max_live_parameters * period // elements)
    apart = -(-settings.stage3_max_reuse_distance * period // (2 * elements))
    first = start + settled + period + 1
    last = stop - max(settled, apart) - period - 1
    last -= (last - first) % period
    return Cut(region, first, last, period, (start, stop)) if last - first >= LEAST else None


def _alike(kinds: list[tuple[int, ...]]) -> tuple[int, int, int]:
    """(period, start, stop) of the shortest period that more than half of the layers follow, the ones before it aside."""
    for period in range(1, min(LONGEST, len(kinds) // 2) + 1):
        start, best = 0, (0, 0)
        for layer in range(period, len(kinds) + 1):
            if layer == len(kinds) or kinds[layer] != kinds[layer - period]:
                best = max(best, (layer - start, start))
                start = layer - period + 1
        if 2 * best[0] > len(kinds):
            return period, best[1], best[1] + best[0]
    return 0, 0, 0


@dataclass
class Watch:
    """Looks at a coordinator where it comes to a cut, in one of the two directions."""

    cut: Cut
    names: frozenset[str]
    back: bool

    def __post_init__(self) -> None:
        self.before: object = None
        self.start, self.births = 0, list[int]()

    @property
    def places(self) -> tuple[int, int]:
        """The slices before which it looks: a period before the cut, and where it goes on behind it."""
        cut, region = self.cut, self.cut.region
        if self.back:
            return region.backward - (cut.last + cut.period - 1), region.backward - (cut.first - 1)
        return region.forward + cut.first - cut.period, region.forward + cut.last

    @property
    def end(self) -> int:
        """The slice behind the stretch of like layers."""
        start, stop = self.cut.alike
        return self.cut.region.backward - start + 1 if self.back else self.cut.region.forward + stop

    def look(self, coordinator: Coordinator, number: int) -> Again | None:
        """What comes again, where this is the cut and all is as a period before; None a period before it.

        LookupError where it is not.
        """
        moves = len(coordinator.pool.moves)
        state, births = self._state(coordinator, int(number != self.places[0]))
        if number == self.places[0]:
            self.before, self.births, self.start = state, births, moves
            return None
        if state != self.before or not self._near(coordinator):
            raise LookupError
        alive = tuple(dict.fromkeys(pair for pair in zip(self.births, births, strict=True) if pair[0] != pair[1]))
        return Again(self.start, moves, self.cut.times, alive)

    def _near(self, coordinator: Coordinator) -> bool:
        """Whether nothing was kept for a use behind the cut, and nothing behind the like layers gathered in advance."""
        queue, step = coordinator.queue, coordinator.step
        return (
            bool(queue) and queue[0][1] <= coordinator.starts[self.end] and all(use < step for use in coordinator.kept)
        )

    def _state(self, coordinator: Coordinator, periods: int) -> tuple[object, list[int]]:
        """The state as the next layer sees it, so many periods later; and the numbers of what is alive."""
        cut, gap = self.cut, self.cut.last - self.cut.first
        following = cut.first + cut.period * (1 - periods) - 1 if self.back else cut.first + cut.period * (periods - 1)

        def place(layer: int) -> int:
            """Seen from the layer that follows, those that are left out not counted."""
            return (layer - gap if layer >= cut.last else layer) - following

        return coordinator.state(self.names, place)


def watches(found: Sequence[Cut], slices: Slices) -> dict[int, Watch]:
    """Who looks before which slice."""
    made: dict[int, Watch] = {}
    for cut in found:
        for back in (False, True):
            names = frozenset(_names(cut, slices))
            watch = Watch(cut, names, back)
            made.update(dict.fromkeys(watch.places, watch))
    return made


def _names(cut: Cut, slices: Slices) -> Iterator[str]:
    """The tensors of the like layers."""
    for layer in range(cut.first - cut.period, cut.first):
        for number in cut.region.slices(layer):
            yield from (name for (name, _), *_ in slices[number][0].params)
