"""check: hold runs to budgets. Configs and budgets in, one document out; nothing is printed here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.checking import budgets
from memcalc.checking.limits import NOTHING, Limits, largest, limits
from memcalc.checking.sources import configs
from memcalc.checking.values import Check, Fix, Held, Largest, Result
from memcalc.dataclass import dataclass
from memcalc.errors import MemcalcError
from memcalc.pipeline import estimate_run
from memcalc.run.asking import question_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from memcalc.checking.budgets import BudgetFile
    from memcalc.report import Report
    from memcalc.run import Budget
    from memcalc.run.question import Question

__all__ = ["Asked", "Check", "Fix", "Held", "Largest", "Result", "check", "checked", "opened"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked beside the configs: `said` are keys of a run that win over a config's own and the budget file's `set`."""

    budget: Budget | None = None
    said: tuple[tuple[str, Any], ...] = ()


def check(
    configs: str | Iterable[str] = (),
    budget: Mapping[str, Any] | None = None,
    over: Mapping[str, Any] | None = None,
    file: str | None = None,
) -> Check:
    """Whether configs keep within their budgets: `budget` holds limits (max_total, components …), `over` keys of a run.

        >>> memcalc.check("train/*.yaml", budget={"max_total": "76GiB"}, over={"gpus": 8}).passed

    See `checked` for where limits come from otherwise. RunInvalid where a limit can't be read.
    """
    from memcalc.run import Budget  # noqa: PLC0415
    from memcalc.run.faults import judged  # noqa: PLC0415 - pydantic is slow to load

    limit = judged(Budget, budget, "the budget") if budget else None
    asked = Asked(budget=limit, said=tuple((over or {}).items()))
    return checked([configs] if isinstance(configs, str) else configs, asked, file)


def checked(named: Iterable[str], asked: Asked, file: str | None = None) -> Check:
    """Every config against its limits. `named` are paths, patterns or models; none means those the budget file lists.

    Limits come from the budget file (`file`, or memcalc.yaml or pyproject.toml at or above the working directory), from
    the config's own `budget`, and from `asked`; the later wins. UsageError where there is nothing to check.
    """
    found = budgets.load(Path(file)) if file else budgets.find(Path.cwd())
    sources = configs(named, found)
    results = tuple(_checked(source, asked, found) for source in sources)
    return Check(passed=all(result.passed for result in results), budget=found.source if found else "", results=results)


def _checked(source: str, asked: Asked, file: BudgetFile | None) -> Result:
    """One config; what is wrong with it is told in its result, so that the others are checked all the same."""
    try:
        question = opened(source, asked.said, file)
        wanted = _wanted(source, question, asked, file)
        return _result(source, wanted, question.answer(estimate_run), question)
    except MemcalcError as error:
        return Result(name=_name(source), source=source, passed=False, error=str(error), code=error.exit_code)


def opened(
    source: str, said: Sequence[tuple[str, Any]], file: BudgetFile | None, within: Path | None = None
) -> Question:
    """A config, with what the budget file sets where it says nothing itself; `within` is where it lies for the file's patterns."""
    settings = tuple(file.settings_of(within or Path(source)).items()) if file else ()
    if not settings:
        return question_of(source, said)
    whole = question_of(source, (*settings, *said))
    try:
        alone = question_of(source, said)
    except MemcalcError:  # it needs what is set: a DeepSpeed file names no model
        return whole
    unsaid = tuple(item for item in settings if not alone.says(item[0]))
    return question_of(source, (*unsaid, *said)) if len(unsaid) < len(settings) else whole


def _wanted(source: str, question: Question, asked: Asked, file: BudgetFile | None) -> Limits:
    shared = file.limits_of(Path(source)) if file else NOTHING
    place = question.place or (lambda path: source)  # noqa: ARG005
    own = limits(question.run.budget, lambda key: place(f"budget.{key}").rpartition(" ")[0] or source)
    return shared.over(own).over(limits(asked.budget, lambda key: f"--{key.replace('_', '-')}"))


def _result(source: str, wanted: Limits, report: Report, question: Question) -> Result:
    price = _price(report)
    held = wanted.held(report, price)
    passed = all(limit.passed for limit in held)
    fix = None
    if not passed:
        from memcalc.checking.fixes import fix as search  # noqa: PLC0415 - only what fails needs one

        fix = search(question.run, question.beside, report,
                     lambda other: all(limit.passed for limit in wanted.held(other, _price(other))))  # fmt: skip
    return Result(name=_name(source), source=source, passed=passed, headline=_headline(report), total=report.memory.total,
                  limits=held, largest=largest(report), fix=fix,
                  warnings=tuple(note.message for note in report.warnings))  # fmt: skip


def _headline(report: Report) -> str:
    from memcalc.render.summary import headline  # noqa: PLC0415

    return headline(report)


def _price(report: Report) -> float | None:
    """USD of an hour of one of the report's GPUs."""
    if report.gpu.name is None:
        return None
    from memcalc.gpus import gpu  # noqa: PLC0415
    from memcalc.recommender.cost import price_of  # noqa: PLC0415

    found = price_of(gpu(report.gpu.name))
    return found.per_gpu_hour if found else None


def _name(source: str) -> str:
    """A config's name in a list: its path without the ending."""
    path = Path(source)
    return path.with_suffix("").as_posix() if path.suffix in (".yaml", ".yml", ".json", ".toml") else source
