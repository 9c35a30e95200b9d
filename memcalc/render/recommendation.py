"""A recommendation in every format: the ranked list, what each row changes, who was rejected, and all of it for tools."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Any

from memcalc.render.sections import FORMATS, Section, in_form, section
from memcalc.render.summary import name_of
from memcalc.units import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.recommender.values import Choice, Recommendation, Switch
    from memcalc.render.page import Page

__all__ = ["FORMATS", "render"]

KINDS = {"none": "", "resources": "", "free": "free", "time": "costs time", "numerics": "changes numerics",
         "tuning": "needs tuning", "method": "changes the method"}  # fmt: skip
HALF = 0.005
WORTH = 2**20  # bytes that are worth a word


def render(answer: Recommendation, form: str, page: Page) -> str:
    """The recommendation in one of FORMATS."""
    return in_form(answer, form, page, lambda: _sections(answer, page), lambda: _csv(answer))


def _sections(answer: Recommendation, page: Page) -> Iterator[Section]:
    yield Section(f"{answer.model.name} · {format_count(answer.model.parameters)} parameters · {answer.task}",
                  text=_looked_at(answer))  # fmt: skip
    yield _ranked(answer, page)
    for number, choice in enumerate(_shown(answer), 1):
        yield _changes(number, choice, page)
    if answer.rejected:
        yield _rejected(answer)
    yield _advice(answer)
    if answer.published:
        yield _published(answer)
    yield Section("Assumed", notes=tuple(note.message for note in (*answer.warnings, *answer.assumptions)))


def _shown(answer: Recommendation) -> tuple[Choice, ...]:
    return answer.recommendations or ((answer.nearest_miss,) if answer.nearest_miss else ())


def _looked_at(answer: Recommendation) -> str:
    looked = answer.search
    length = f"sequences of {answer.asked['seq_len']}; " if answer.asked.get("seq_len") else ""
    return (f"{length}{answer.searched:,} candidates, {looked.legal:,} of them legal, {answer.fitting:,} that seem to fit; "
            f"{looked.recorded} steps recorded, {looked.estimated} runs estimated in full")  # fmt: skip


def _ranked(answer: Recommendation, page: Page) -> Section:
    shown = _shown(answer)
    unit = next((choice.throughput.unit for choice in shown if choice.throughput), "tokens")
    columns = ("", "<GPUs", ">total", ">headroom", f">{unit}/s", ">USD/h", f">USD/M {unit}")
    asked = [_row("as asked", answer.as_asked, page)] if answer.as_asked and answer.as_asked.gpu.name else []
    rows = [_row(str(number), choice, page) for number, choice in enumerate(shown, 1)]
    return section(_outcome(answer), columns, asked + rows)


def _outcome(answer: Recommendation) -> str:
    """Whether something fits, and what the nearest miss lacks; nothing is the nearest where nothing was legal."""
    if answer.recommendations:
        return "What fits"
    if not answer.lacks:
        return "Nothing that was tried goes together with the rest of the run; try other keys: --vary KEY=VALUES"
    return f"Nothing fits: the nearest miss takes {answer.lacks}"


def _row(name: str, choice: Choice, page: Page) -> tuple[str, ...]:
    pace, cost = choice.throughput, choice.cost
    headroom = page.size(choice.verdict.headroom) if choice.verdict.headroom is not None else ""
    return (name, f"{choice.gpu.count} x {choice.gpu.name}", page.size(choice.memory.total), headroom,
            f"{pace.per_second:,.0f}" if pace else "",
            f"{cost.usd_per_hour:,.2f}" if cost else "", _usd(cost.usd_per_million if cost else None))  # fmt: skip


def _usd(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.2f}" if value >= HALF else f"{value:.4f}"


def _changes(number: int, choice: Choice, page: Page) -> Section:
    """What one of the rows is the best of, what it changes, and what is to be said of that."""
    name = ", ".join(choice.labels) or "the nearest miss"
    rows = [_change(change, page) for change in choice.changes]
    why = [
        f"{_said(change.after)}: {change.why}" for change in choice.changes if change.why and change.path == "optimizer"
    ]
    made = section(f"{number} · {name}", ("", "", ">saves", ""), rows, [*why, *choice.hints] if rows else choice.hints)
    peak = f"{choice.why}; " if choice.why else ""
    text = f"{peak}peak {page.size(choice.memory.peak_allocated)}, reserved {page.size(choice.memory.reserved)}"
    return replace(made, text=text if rows else f"the run as it was asked for; {text}")


def _change(change: Switch, page: Page) -> tuple[str, ...]:
    spares = page.size(change.saves) if change.saves and abs(change.saves) >= WORTH else ""
    return (
        change.path.replace("_", " "),
        f"{_said(change.before)} → {_said(change.after)}",
        spares,
        KINDS[change.level],
    )


def _said(value: Any) -> str:  # noqa: ANN401 - whatever a key holds
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict) and not {"name", "recipe", "mode", "kind", "strategy"} & set(value):
        return (
            ", ".join(f"{key} {item}" for key, item in value.items() if not isinstance(item, (dict, list, tuple)))
            or "none"
        )
    return name_of(value)


def _advice(answer: Recommendation) -> Section:
    """What practitioners choose for the task."""
    rows = [(one.optimizer, f"{one.bytes_per_parameter:g}", "yes" if one.drop_in else "no", f"{one.why} ({_short(one.quality)})")
            for one in answer.optimizers]  # fmt: skip
    return section(f"Optimizers for this task: {answer.task}", ("", ">B/param", "drop-in", ""), rows, answer.advice)


def _published(answer: Recommendation) -> Section:
    """The model of pace beside what others measured."""
    rows = [(f"{one.model}, {one.batch_size} x {one.seq_len}, checkpointing {one.checkpointing}", f"{one.gpus} x {one.gpu}",
             f"{one.measured:,.0f}", f"{round(one.predicted, -1):,.0f}", f"{100 * (one.predicted / one.measured - 1):+.0f} %")
            for one in answer.published]  # fmt: skip
    title = "How far to trust the pace: tokens/s and GPU, measured by others and predicted here"
    return section(title, ("<", "", ">measured", ">predicted", ">"), rows)


def _short(quality: str) -> str:
    """The verdict before its figures."""
    return quality.partition(",")[0].partition(" (")[0]


def _rejected(answer: Recommendation) -> Section:
    rows = [(one.key.replace("_", " "), f"{_said(one.value)} instead of {_said(one.instead_of)}", f"{one.reason} ({one.of})")
            for one in answer.rejected]  # fmt: skip
    return section("Neighbours that do not fit", ("", "", ""), rows)


def _csv(answer: Recommendation) -> str:
    """One row per recommended run, in bytes and USD."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("best_of", "gpu", "gpus", "batch_size", "grad_accum", "peak_allocated", "reserved", "total", "headroom",
                     "per_second", "usd_per_hour", "usd_per_million", "intrusiveness", "changes"))  # fmt: skip
    for choice in _shown(answer):
        pace, cost = choice.throughput, choice.cost
        writer.writerow((
            "; ".join(choice.labels) or "nearest miss", choice.gpu.name, choice.gpu.count, choice.run["batch_size"],
            choice.run["grad_accum"], choice.memory.peak_allocated, choice.memory.reserved, choice.memory.total,
            choice.verdict.headroom,
            round(pace.per_second, 1) if pace else "", cost.usd_per_hour if cost else "",
            round(cost.usd_per_million, 6) if cost and cost.usd_per_million is not None else "", choice.intrusion.level,
            "; ".join(f"{change.path}: {_said(change.before)} -> {_said(change.after)}" for change in choice.changes),
        ))  # fmt: skip
    return out.getvalue()
