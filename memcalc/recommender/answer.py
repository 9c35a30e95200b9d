"""From what a search found to the answer: each winner with its figures, what each change spares, and who was rejected."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from memcalc.dataclass import dataclass
from memcalc.gpus import Gpu, gpu
from memcalc.recommender.changes import changes, hints, intrusion, plain
from memcalc.recommender.cost import price_of, usd_per_million
from memcalc.recommender.evaluate import outside, tokens
from memcalc.recommender.heights import slowest
from memcalc.recommender.legality import data_parallel, named
from memcalc.recommender.rank import WHY
from memcalc.recommender.search import Search, rated, run_of
from memcalc.recommender.throughput import pace
from memcalc.recommender.values import Choice, Cost, Rejected, Switch, Throughput
from memcalc.recommender.where import binding
from memcalc.recommender.wishes import method_of
from memcalc.units import format_bytes, parse_margin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memcalc.recommender.rank import Scored
    from memcalc.recommender.tasks import Task
    from memcalc.report import Report
    from memcalc.run import Run

NARROW = 50  # a run that leaves less than one part in so many is called narrow
RESERVED = "what the allocator reserves"
SEGMENTS = "expandable segments may spare it"


@dataclass(frozen=True)
class Answers:
    """Makes the parts of an answer from the caches of a search."""

    search: Search
    task: Task

    def choice(self, run: Run, labels: tuple[str, ...] = (), *, detailed: bool = True) -> Choice | None:
        """A run with its figures; None where it is refused. `detailed` with what each of its changes spares."""
        report = self.search.report(run)
        if report is None:
            return None
        made = changes(self.search.asked, run)
        found = self._throughput(run, detailed=detailed)
        return Choice(
            labels=labels,
            run=report.run,
            gpu=report.gpu,
            memory=report.memory,
            verdict=report.verdict,
            throughput=found if run.gpu and gpu(run.gpu).tflops else None,
            cost=self._cost(run, found),
            intrusion=intrusion(made),
            changes=tuple(self._told(change, run, detailed=detailed) for change in made),
            why="; ".join(WHY[label].format(unit=found.unit if found else "tokens") for label in labels),
            hints=(*hints(run, method_of(run)), *narrow(report)),
        )

    def _told(self, change: Switch, run: Run, *, detailed: bool) -> Switch:
        """A change with what it spares, and what the task says of an optimizer."""
        why = self.task.why(named(run.optimizer).name) if change.path == "optimizer" else ""
        if not detailed or change.path in ("gpu", "gpus", "batch_size", "grad_accum"):
            return replace(change, why=why or change.why)
        before, after = (
            self._taken(made, change.path) for made in (reverted(run, self.search.asked, change.path), run)
        )
        saves = before - after if before is not None and after is not None else None
        return replace(change, saves=saves, why=why or change.why)

    def _taken(self, run: Run, key: str) -> int | None:
        """The peak, which all keys change but the allocator's own: that one changes what is reserved."""
        if key != "expandable_segments":
            return self.search.peak(run)
        report = self.search.report(run)
        return report.memory.reserved if report else None

    def _throughput(self, run: Run, *, detailed: bool) -> Throughput | None:
        single = replace(run, gpu=None)
        evaluator = self.search.evaluator
        plan, steps = evaluator.plan(single), evaluator.heights(single, run.optimizer)
        if plan is None or steps is None or run.gpu is None:
            return None
        rank = slowest(steps)
        step = pace(rank.work, evaluator.load(plan, run.optimizer, run.grad_accum, rank.pinned), rated(gpu(run.gpu)))
        if step is None:
            return None
        per_second = run.batch_size * run.grad_accum * data_parallel(run) * tokens(plan) / step.seconds
        unit: Literal["tokens", "samples"] = "tokens" if tokens(plan) > 1 else "samples"
        parts = {name: seconds for name, seconds in step.parts.items() if seconds}
        spans = unit == "tokens"
        return Throughput(unit=unit, tokens_per_second=per_second if spans else None,
                          samples_per_second=None if spans else per_second, step_seconds=step.seconds, busy=step.busy, parts=parts,
                          flops=evaluator.flops(single, run.optimizer) if detailed else {})  # fmt: skip

    def _cost(self, run: Run, found: Throughput | None) -> Cost | None:
        price = price_of(gpu(run.gpu), self.search.price) if run.gpu else None
        if price is None:
            return None
        hour = price.per_gpu_hour * run.gpus
        known = found is not None and run.gpu is not None and bool(gpu(run.gpu).tflops)
        million = usd_per_million(hour, found.per_second) if found and known else None
        spans = found is None or found.unit == "tokens"
        return Cost(usd_per_hour=hour, usd_per_million_tokens=million if spans else None,
                    usd_per_million_samples=None if spans else million, price=price.source)  # fmt: skip

    def rejected(self, label: str, run: Run) -> Iterator[Rejected]:
        """Neighbours of a recommended run, one switch away, that do not fit: a change undone, more at once, fewer GPUs."""
        card = gpu(run.gpu) if run.gpu else None
        if card is None:
            return
        for key, neighbour in self._neighbours(run):
            found = self._lacking(neighbour, card)
            if found:
                over, where = found
                reason = f"{format_bytes(over)} over{f' in {where}' if where else ''}"
                yield Rejected(
                    of=label, key=key, value=plain(getattr(neighbour, key)), instead_of=plain(getattr(run, key)),
                    over=over, where=where, reason=f"{reason}; {SEGMENTS}" if where == RESERVED else reason,
                )  # fmt: skip

    def _neighbours(self, run: Run) -> Iterator[tuple[str, Run]]:
        asked = self.search.asked
        for change in changes(asked, run):
            if change.path not in ("gpu", "gpus", "batch_size", "grad_accum", "lora"):
                yield change.path, reverted(run, asked, change.path)
        if run.batch_size * 2 in self.search.space.batches:
            yield "batch_size", replace(run, batch_size=run.batch_size * 2)
        if run.gpus // 2 in self.search.space.axes["gpus"]:
            yield "gpus", replace(run, gpus=run.gpus // 2, sharding=run.sharding if run.gpus > 2 else None)

    def _lacking(self, run: Run, card: Gpu) -> tuple[int, str] | None:
        """(bytes over, the part of the step) of a run that does not fit; None where it does, or is refused."""
        peak = self.search.peak(run)
        if peak is None:
            return None
        over = peak + outside(card, run.gpus) - (card.usable - parse_margin(run.margin, card.usable))
        if over <= 0:
            report = self.search.report(run)
            if report is None or report.verdict.headroom is None or report.verdict.headroom >= 0:
                return None
            return -report.verdict.headroom, RESERVED
        plan = self.search.evaluator.plan(replace(run, gpu=None))
        return over, binding(plan) if plan else ""

    def lacks(self, choice: Choice, candidate: Scored) -> str:
        """What a run that does not fit is short of."""
        over = -(choice.verdict.headroom or 0)
        plan = self.search.evaluator.plan(replace(run_of(candidate), gpu=None))
        where = binding(plan) if plan else ""
        return f"{format_bytes(over)} more than there is on {choice.gpu.name}{f', in {where}' if where else ''}"


def narrow(report: Report) -> Iterator[str]:
    """A word of caution where a run fits by a hair."""
    headroom, usable = report.verdict.headroom, report.gpu.usable
    if headroom is not None and usable and 0 <= headroom < usable // NARROW:
        yield f"only {format_bytes(headroom, 'auto')} to spare: ask for more with --margin 5%"


def reverted(run: Run, asked: Run, key: str) -> Run:
    """The run with one key as it was asked for."""
    back: Mapping[str, Any] = {key: getattr(asked, key)}
    return replace(run, **back)
