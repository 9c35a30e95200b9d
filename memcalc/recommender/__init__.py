"""Recommend: from a run that does not fit to the cheapest one that does.

`space` holds what may be varied, `evaluate` the memory of every candidate and `throughput` its pace, `search` finds the best
of each label in `rank`, `answer` says what it changes, spares and costs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.gpus import gpu
from memcalc.pipeline import load, model_part
from memcalc.recommender.answer import Answers
from memcalc.recommender.evaluate import Evaluator
from memcalc.recommender.pareto import front, thinned
from memcalc.recommender.published import published
from memcalc.recommender.search import STANDARD, Search, run_of
from memcalc.recommender.space import space
from memcalc.recommender.tasks import advised, task_of
from memcalc.recommender.values import Recommendation, Searched
from memcalc.recommender.wishes import Wishes, by_method, cards_of, counts_of, method_of, methods, numbers, suited
from memcalc.report import Note
from memcalc.resolve import resolve, resolved_run, settled
from memcalc.run import Parallel
from memcalc.run.varying import varied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from memcalc.model import Model
    from memcalc.recommender.rank import Scored
    from memcalc.recommender.search import Found
    from memcalc.recommender.tasks import Task
    from memcalc.recommender.values import Choice, Rejected
    from memcalc.run import Run

__all__ = ["Recommendation", "Wishes", "recommend", "recommend_run"]

MOST = 16  # members of a Pareto set that are estimated in full
FEW = 96  # candidates that seem to fit, of which all are
REJECTED = 6  # neighbours that are told
STATED = (
    "pace and cost are of a simple model, for ranking: a share of the GPU's dense rate, bytes over its memory and its "
    "links; measured figures differ by a quarter either way"
)


def recommend(
    source: Run | Mapping[str, Any] | str | Path, *, gpus: str | Iterable[int] = (), method: str | None = None,
    task: str | None = None, price: float | None = None, global_batch: int | None = None,
    vary: Mapping[str, Iterable[Any]] | None = None, keep: Iterable[str] = (),
) -> Recommendation:  # fmt: skip
    """What to change of a run so that it fits, or fits cheaper: ranked, each row estimated in full.

    `source` is what `memcalc.estimate` takes. `gpus` are numbers to choose from ("8..64" or [1, 8]), `price` USD per GPU and
    hour, `vary` the values of a key to try, `keep` keys to leave as they are. Raises what `memcalc.estimate` does.
    """
    counts = numbers(gpus, "gpus") if isinstance(gpus, str) else tuple(gpus)
    wishes = Wishes(
        method, task, counts, (), price, global_batch, {k: tuple(v) for k, v in (vary or {}).items()}, frozenset(keep)
    )
    return load(source).answer(lambda run, beside: recommend_run(run, beside, wishes))


def recommend_run(
    run: Run, beside: Path | None = None, wishes: Wishes = Wishes(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Recommendation:  # fmt: skip
    """The recommendation for a validated Run; `progress` hears (done, all) as shapes are scored."""
    asked = suited(by_method(run, wishes.method), beside) if wishes.method else run
    asked = settled(replace(asked, gpu=gpu(asked.gpu).name) if asked.gpu else asked)
    model = resolve(replace(asked, gpu=None, gpus=1, sharding=None, parallel=Parallel()), beside)
    task = task_of(wishes.task, asked, model.model)
    evaluator, last = Evaluator(beside), None
    for search in _stages(asked, model.model, task, wishes, evaluator):
        search.progress = progress
        found = search.run()
        last = _closer(last, (search, found))
        if found.winners:
            break
    assert last  # noqa: S101 - there is a first stage
    return _answer(asked, model, task, wishes, *last)


def _stages(asked: Run, model: Model, task: Task, wishes: Wishes, evaluator: Evaluator) -> Iterator[Search]:
    """Searches, each more intrusive than the one before: more GPUs, optimizers to be tuned anew, LoRA, QLoRA."""
    cards = cards_of(asked, wishes)
    few, more = counts_of(asked, wishes, cards)
    ways = methods(asked, wishes.method)
    for way in ways:
        base = suited(by_method(asked, way), evaluator.beside) if way != method_of(asked) else asked
        whole = (*few, *more)
        for counts, tuning in ((few, False), (more, False), (whole, True)) if way == ways[0] else ((whole, True),):
            if counts:
                around = space(base, model, task, cards, counts, given=_given(wishes, base), kept=wishes.keep, tuning=tuning,
                               global_batch=wishes.global_batch)  # fmt: skip
                yield Search(asked, around, evaluator, wishes.price)


def _given(wishes: Wishes, base: Run) -> dict[str, tuple[Any, ...]]:
    """The axes that the user wrote, each value as the vocabulary reads it."""
    return {
        key: tuple(getattr(varied(base, key, value), key) for value in values) for key, values in wishes.vary.items()
    }


def _closer(last: tuple[Search, Found] | None, this: tuple[Search, Found]) -> tuple[Search, Found]:
    """The search that found something, or else lacks less."""
    if last is None or this[1].winners or this[1].nearest is None:
        return this if last is None or this[1].winners else last
    other = last[1].nearest
    return this if other is None or this[1].nearest.floor - this[1].nearest.room < other.floor - other.room else last


def _answer(asked: Run, plan: Any, task: Task, wishes: Wishes, search: Search, found: Found) -> Recommendation:  # noqa: ANN401
    made = Answers(search, task)
    rows = _rows(made, found)
    nearest = made.choice(run_of(found.nearest)) if not rows and found.nearest else None
    rejected = [r for row in rows for r in made.rejected(row[1].labels[0], row[0])]
    return Recommendation(
        task=task.name,
        model=model_part(plan),
        asked=resolved_run(plan),
        searched=search.space.candidates,
        fitting=found.possible,
        recommendations=tuple(choice for _, choice in rows),
        as_asked=made.choice(asked, detailed=False),
        pareto=_pareto(made, found),
        rejected=_told_once(rejected),
        nearest_miss=nearest,
        lacks=made.lacks(nearest, found.nearest) if nearest and found.nearest else "",
        search=_searched(search),
        optimizers=tuple(advised(task)),
        advice=task.advice,
        published=published(plan.model.name, [card.name for card in search.space.cards]),
        assumptions=tuple(_assumed(search, wishes)),
        warnings=tuple(Note(code=n.code, path=n.path, message=n.message) for n in plan.notes.warnings),
    )


def _rows(made: Answers, found: Found) -> list[tuple[Run, Choice]]:
    """The winners, those of several labels once, in the order of the labels."""
    runs: dict[str, tuple[Scored, list[str]]] = {}
    for label, winner in found.winners.items():
        runs.setdefault(repr(run_of(winner)), (winner, []))[1].append(label)
    rows = [(run_of(winner), made.choice(run_of(winner), tuple(labels))) for winner, labels in runs.values()]
    return [(run, choice) for run, choice in rows if choice]


def _pareto(made: Answers, found: Found) -> tuple[Choice, ...]:
    """The runs that none beats; where many seem to fit, those that stand out before they are estimated."""
    search = made.search
    if found.possible <= FEW:
        candidates = [search.scored(line, place) for line in found.lines for place in range(len(line.loads))]
    else:
        ends = [search.scored(line, place) for line in found.lines for place in {0, len(line.loads) - 1}]
        best = front(ends, _point, lambda c: (c.gpus, c.card.name, c.intrusion))
        candidates = [*found.winners.values(), *thinned(sorted(best, key=lambda c: -c.per_second), MOST)]
    kept = {repr(run_of(c)): run_of(c) for c in candidates if search.fits(c)}
    choices = [choice for run in kept.values() if (choice := made.choice(run, detailed=False))]
    return tuple(sorted(front(choices, measured), key=lambda choice: (-_per_second(choice), choice.memory.total)))


def _point(c: Scored) -> tuple[float, ...]:
    return -c.per_second, c.floor, c.usd, c.gpus, c.intrusion


def measured(choice: Choice) -> tuple[float, ...]:
    """What a Pareto set goes by, lower being better: pace, memory, cost, GPUs, intrusiveness."""
    usd = choice.cost.usd_per_million if choice.cost else None
    return -_per_second(choice), choice.memory.total, usd or float("inf"), choice.gpu.count, choice.intrusion.score


def _per_second(choice: Choice) -> float:
    return choice.throughput.per_second if choice.throughput else 0.0


def _told_once(rejected: Iterable[Rejected]) -> tuple[Rejected, ...]:
    """The nearest misses among the neighbours, each switch once."""
    first: dict[tuple[str, str], Rejected] = {}
    for one in rejected:
        first.setdefault((one.key, str(one.value)), one)
    return tuple(sorted(first.values(), key=lambda one: one.over or 0)[:REJECTED])


def _searched(search: Search) -> Searched:
    from memcalc.recommender.changes import plain  # noqa: PLC0415

    axes = {
        key: tuple(plain(value) for value in values) for key, values in search.space.axes.items() if len(values) > 1
    }
    if len(search.space.cards) > 1:
        axes["gpu"] = tuple(card.name for card in search.space.cards)
    return Searched(legal=search.legal,
                    recorded=search.evaluator.recorded, estimated=search.estimated, axes=axes)  # fmt: skip


def _assumed(search: Search, wishes: Wishes) -> Iterator[Note]:
    yield Note(code="simple-model", path="", message=STATED)
    if any(not card.tflops for card in search.space.cards):
        yield Note(
            code="rates", path="gpu", message=f"of a GPU whose rates are not known the runs are ranked as on {STANDARD}"
        )
    if wishes.price is None:
        yield Note(
            code="prices", path="gpu", message="prices are the lowest seen per GPU and hour; give your own with --price"
        )
    if not wishes.cards and len(search.space.cards) > 1:
        yield Note(
            code="makers", path="gpu", message="of all presets those of NVIDIA, AMD and Intel; name others with --gpu"
        )
    if wishes.global_batch is None:
        yield Note(code="batch", path="batch_size", message="micro batches are free to choose; hold what one optimizer step sees "
                                                           "with --global-batch")  # fmt: skip
