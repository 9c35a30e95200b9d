"""Search: every candidate bounded, the best of each label estimated in full before it is believed.

Candidates lie on lines: one shape, optimizer and GPU, with ever larger micro batches. Memory grows along a line and the pace
does not fall, so a line is represented by the largest micro batch that its bound lets through, and gives way to the next
smaller one only when that turns out not to fit.
"""

from __future__ import annotations

from dataclasses import field, replace
from heapq import heapify, heappop, heappush, nsmallest
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.errors import RunInvalid
from memcalc.gpus import gpu
from memcalc.pipeline import estimate_run
from memcalc.recommender.changes import intrusion, switch
from memcalc.recommender.cost import price_of, usd_per_million
from memcalc.recommender.evaluate import Evaluator, outside
from memcalc.recommender.heights import bound, exact, slowest
from memcalc.recommender.legality import data_parallel, divided, goes_with, runs_on
from memcalc.recommender.rank import ORDERS, PRICED, Scored, labels, near
from memcalc.recommender.space import SHAPE
from memcalc.recommender.throughput import pace
from memcalc.units import parse_margin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcalc.gpus import Gpu
    from memcalc.recommender.heights import Standing, Steps
    from memcalc.recommender.space import Space
    from memcalc.report import Report
    from memcalc.run import Run, Spec

ROUNDING = 0.995  # sizes along a line are within this of those recorded
STANDARD = "a100-80gb"  # whose rates rank runs on GPUs that are known by their size alone
NEAREST = 12  # candidates that lack the least, of which the steps are recorded to find the nearest miss


class Load(NamedTuple):
    """A micro batch on a line: how often it is accumulated, and the least bytes it takes inside the allocator."""

    batch: int
    grad_accum: int
    floor: int
    standing: Standing
    steps: Steps | None


class Line(NamedTuple):
    """One shape and optimizer on one GPU: the micro batches whose bound fits, the smallest first."""

    shape: Run
    optimizer: Spec
    card: Gpu
    loads: tuple[Load, ...]
    departed: int


class Found(NamedTuple):
    """What a search found: the winners of each label, the lines of what seemed to fit, and what lacks the least."""

    winners: dict[str, Scored]
    lines: list[Line]
    nearest: Scored | None

    @property
    def possible(self) -> int:
        """How many candidates seemed to fit."""
        return sum(len(line.loads) for line in self.lines)


@dataclass
class Search:
    """One search over a space; reports of runs that were estimated are kept."""

    asked: Run
    space: Space
    evaluator: Evaluator
    price: float | None = None
    progress: Callable[[int, int], None] = lambda _done, _all: None
    legal: int = 0
    missed: list[Scored] = field(default_factory=list)
    _reports: dict[str, Report | None] = field(default_factory=dict)
    _shares: dict[Any, int] = field(default_factory=dict)
    _failed: dict[Any, list[tuple[int, int]]] = field(default_factory=dict)
    _of_cards: dict[tuple[str, int], tuple[int, int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.evaluator.alive.append(self.space)

    def run(self) -> Found:
        """Bound every candidate, and walk down each order to the first that fits."""
        lines = list(self._lines())
        tops = [self.scored(line, len(line.loads) - 1) for line in lines]
        priced = any(c.usd < float("inf") for c in tops)
        wanted = labels(len(self.space.cards) > 1, len(self.space.axes["gpus"]) > 1, priced)
        winners = {label: found for label in wanted if (found := self._first(lines, tops, label))}
        return Found(winners, lines, None if winners else self._nearest())

    def _first(self, lines: list[Line], tops: list[Scored], label: str) -> Scored | None:
        """The first candidate of an order that fits; of those on its line that go as fast, the one that takes the least."""
        order = ORDERS[label]
        heap = [(order(top), number, len(lines[number].loads) - 1) for number, top in enumerate(tops)
                if label not in PRICED or top.usd_hour < float("inf")]  # fmt: skip
        heapify(heap)
        while heap:
            _, number, place = heappop(heap)
            line = lines[number]
            found = self.scored(line, place)
            if self.fits(found):
                return self._slimmest(line, place, found)
            below = self._largest(line, place)
            if below is not None:
                heappush(heap, (order(self.scored(line, below)), number, below))
        return None

    def _largest(self, line: Line, place: int) -> int | None:
        """The largest micro batch below one that does not fit whose peak does: by bisection, the smallest tried first."""
        if not place or not self._may_fit(self.scored(line, 0)):
            return None
        low, high = 0, place
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._may_fit(self.scored(line, middle)) else (low, middle)
        return low

    def _slimmest(self, line: Line, place: int, found: Scored) -> Scored:
        """The smallest micro batch on a line whose pace is nearly that of the one found."""
        alike = [
            c
            for c in (self.scored(line, below) for below in range(place))
            if near(c.per_second) == near(found.per_second)
        ]
        return next((c for c in alike if self.fits(c)), found)

    def _lines(self) -> Iterator[Line]:
        shapes, base = self.space.shapes, self.space.base
        for number, shape in enumerate(shapes):
            self.progress(number, len(shapes))
            for spec in self.space.optimizers:
                cards = [
                    card for card in self.space.cards if runs_on(shape, card, base) and goes_with(spec, shape, card)
                ]
                if cards:
                    yield from self._of_cards_that_fit(shape, spec, cards)
        self.progress(len(shapes), len(shapes))

    def _of_cards_that_fit(self, shape: Run, spec: Spec, cards: list[Gpu]) -> Iterator[Line]:
        """A line for each GPU on which a micro batch of one may fit; micro batches are bounded once for all of them."""
        departed = self._departure(shape, spec)
        most = max(room - beyond for room, beyond, _ in (self._terms(card, shape.gpus) for card in cards))
        loads = list(self._loads(shape, spec, most))
        if not loads:
            return
        self.legal += len(loads) * len(cards)
        for card in cards:
            room, beyond, _ = self._terms(card, shape.gpus)
            fitting = [load for load in loads if load.steps and (load.floor + beyond) * ROUNDING <= room]
            if fitting:
                yield Line(shape, spec, card, tuple(fitting), departed)
            else:
                first = min(loads, key=lambda load: load.floor)
                self._miss(Scored(shape, first.batch, first.grad_accum, spec, card, first.floor + beyond, room, 0.0, 0.0, 0.0,
                                  departed))  # fmt: skip

    def _loads(self, shape: Run, spec: Spec, most: int) -> Iterator[Load]:
        """Every micro batch with its bound, where what persists leaves room for one at all; nothing of a shape that is refused."""
        for batch, grad_accum in self.space.loads(shape):
            standing = self.evaluator.standing(shape, spec, accumulating=grad_accum > 1)
            if standing is None:
                return
            base = max(ground.base for ground in standing.grounds)
            if base > most:
                yield Load(batch, grad_accum, base, standing, None)
                continue
            counted = replace(shape, grad_accum=grad_accum) if divided(shape) else shape
            family = self.evaluator.family(counted, spec)
            if family is None:
                return
            steps = family.at(batch)
            yield Load(batch, grad_accum, bound(steps, standing.grounds, standing.shares), standing, steps)

    def scored(self, line: Line, place: int) -> Scored:
        """A micro batch on a line with its pace and cost."""
        load, shape, card = line.loads[place], line.shape, line.card
        room, beyond, usd_hour = self._terms(card, shape.gpus)
        standing, steps = load.standing, load.steps
        assert steps  # noqa: S101 - a line has only those
        rank = slowest(steps)
        step = pace(rank.work, standing.load._replace(grad_accum=load.grad_accum, staged=rank.pinned), rated(card))
        items = load.batch * load.grad_accum * data_parallel(shape) * standing.tokens
        per_second = items / step.seconds if step else 0.0
        usd = usd_per_million(usd_hour, per_second)
        return Scored(shape, load.batch, load.grad_accum, line.optimizer, card, load.floor + beyond, room, per_second,
                      usd_hour, usd, line.departed)  # fmt: skip

    def _terms(self, card: Gpu, gpus: int) -> tuple[int, int, float]:
        """(bytes a run may take, bytes taken outside the allocator, USD of an hour) on so many of a GPU."""
        if (card.name, gpus) not in self._of_cards:
            price = price_of(card, self.price)
            usd_hour = price.per_gpu_hour * gpus if price else float("inf")
            room = card.usable - parse_margin(self.asked.margin, card.usable)
            self._of_cards[card.name, gpus] = room, outside(card, gpus), usd_hour
        return self._of_cards[card.name, gpus]

    def _miss(self, candidate: Scored) -> None:
        """Remember those that lack the least."""
        self.missed.append(candidate)
        if len(self.missed) > 2 * NEAREST:
            self.missed = nsmallest(NEAREST, self.missed, key=likeliest)

    def _nearest(self) -> Scored | None:
        """What lacks the least, by the records of the likeliest."""
        first = nsmallest(NEAREST, self.missed, key=likeliest)
        known = [(self.peak(run_of(c)), c) for c in first]
        real = [c._replace(floor=peak + outside(c.card, c.gpus)) for peak, c in known if peak is not None]
        return min(real, key=lacking, default=None)

    def _departure(self, shape: Run, spec: Spec) -> int:
        """How intrusive a shape with an optimizer is: every key's own share of it."""
        shares = sum(self._share(key, getattr(shape, key), shape.gpus) for key in (*SHAPE, "lora", "quantize"))
        return shares + self._share("optimizer", spec, 1)

    def _share(self, key: str, value: Any, gpus: int) -> int:  # noqa: ANN401 - whatever a key holds
        place = key, id(value), gpus > 1
        if place not in self._shares:
            change = switch(key, getattr(self.asked, key), value, self.asked)
            self._shares[place] = intrusion((change,)).score if change else 0
        return self._shares[place]

    def fits(self, candidate: Scored) -> bool:
        """Whether a candidate really fits: by the record of its own step, then by a full estimate."""
        if not self._may_fit(candidate):
            return False
        report = self.report(run_of(candidate))
        return bool(report and report.verdict.fits)

    def _may_fit(self, candidate: Scored) -> bool:
        """Whether the peak fits: what the allocator reserves on top is left open.

        Where a run did not, neither does the same with as large a micro batch or larger, on as many GPUs or fewer.
        """
        shape = candidate.shape
        alike = (*(id(getattr(shape, key)) for key in SHAPE if key != "gpus"), id(shape.lora), id(shape.quantize),
                 candidate.card.name, repr(candidate.optimizer), candidate.grad_accum > 1)  # fmt: skip
        failed = self._failed.setdefault(alike, [])
        if any(candidate.batch >= batch and candidate.gpus <= gpus for batch, gpus in failed):
            return False
        peak = self.peak(run_of(candidate))
        if peak is None:
            return False
        fits = peak + outside(candidate.card, candidate.gpus) <= candidate.room
        failed += [] if fits else [(candidate.batch, candidate.gpus)]
        return fits

    def peak(self, run: Run) -> int | None:
        """What a run allocates at its peak, from the record of its own step; None where it is refused."""
        run = replace(run, gpu=None)
        plan, steps = self.evaluator.plan(run), self.evaluator.heights(run, run.optimizer)
        return exact(steps, self.evaluator.grounds(plan, run.optimizer)) if plan and steps else None

    def report(self, run: Run) -> Report | None:
        """The full estimate of a run; None where it is refused."""
        key = repr(run)
        if key not in self._reports:
            try:
                self._reports[key] = estimate_run(run, self.evaluator.beside)
            except RunInvalid:
                self._reports[key] = None
        return self._reports[key]

    @property
    def estimated(self) -> int:
        """How many runs were estimated in full."""
        return len(self._reports)


def lacking(candidate: Scored) -> int:
    """Bytes that a candidate is short of, at the least."""
    return candidate.floor - candidate.room


def likeliest(candidate: Scored) -> tuple[int, bool, bool, bool]:
    """The order in which misses are recorded: of those that lack the same before a step runs, the ones whose step is small."""
    shape = candidate.shape
    large = shape.checkpointing.mode == "none", shape.loss.kind != "fused-linear", shape.offload != "activations"
    return lacking(candidate), *large


def run_of(candidate: Scored) -> Run:
    """The run that a candidate stands for."""
    return replace(
        candidate.shape, batch_size=candidate.batch, grad_accum=candidate.grad_accum, optimizer=candidate.optimizer,
        gpu=candidate.card.name,
    )  # fmt: skip


def rated(card: Gpu) -> Gpu:
    """The card, or one whose rates stand in for those of a bare size."""
    return card if card.tflops else gpu(STANDARD)
