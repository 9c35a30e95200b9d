"""Limits: what of a report a budget holds to what, and by how much it is exceeded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, NamedTuple

from memcalc.checking.values import Held, Largest
from memcalc.dataclass import dataclass
from memcalc.errors import Fault, RunInvalid, nearest_names
from memcalc.report import COMPONENTS
from memcalc.run import Budget
from memcalc.units import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcalc.checking.values import Unit
    from memcalc.report import Report


class Wanted(NamedTuple):
    """A limit as it is written: the key of the budget, its value in bytes, GPUs or USD, and the place."""

    path: str
    value: float
    where: str


@dataclass(frozen=True)
class Limits:
    """The limits that one run is held to, by their paths; a later one takes the place of the same earlier one."""

    by_path: Mapping[str, Wanted]

    def over(self, later: Limits) -> Limits:
        """These, with what `later` says instead or besides."""
        return Limits({**self.by_path, **later.by_path})

    def held(self, report: Report, price: float | None) -> tuple[Held, ...]:
        """What became of each, in the order of the budget's keys; and whether the run fits a GPU that it names."""
        found = [_held(wanted, report, price) for wanted in sorted(self.by_path.values(), key=_order)]
        if report.verdict.headroom is not None and "min_headroom" not in self.by_path:
            found.append(_fit(report))
        return tuple(found)


NOTHING = Limits({})
_KEYS = tuple(field.name for field in fields(Budget))


def limits(budget: Budget | None, where: Callable[[str], str]) -> Limits:
    """The limits of a budget; RunInvalid lists sizes that can't be read and components that do not exist."""
    if budget is None:
        return NOTHING
    faults: list[Fault] = []
    found = [w for w in (_read(path, text, where, faults) for path, text in _written(budget)) if w]
    if faults:
        raise RunInvalid(faults)
    return Limits({wanted.path: wanted for wanted in found})


def _written(budget: Budget) -> Iterable[tuple[str, str | float]]:
    for key, value in asdict(budget).items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", item) for name, item in value.items())
        elif value is not None:
            yield key, value


def _read(path: str, text: str | float, where: Callable[[str], str], faults: list[Fault]) -> Wanted | None:
    component = path.partition(".")[2]
    if component and component not in COMPONENTS:
        near = nearest_names(component, COMPONENTS)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMPONENTS)}"
        faults.append(Fault(where(path), f"no such component; {hint}"))
        return None
    try:
        value = float(text) if _unit(path) != "bytes" else parse_bytes(text)
    except ValueError as error:
        faults.append(Fault(where(path), str(error)))
        return None
    return Wanted(path, value, where(path))


def _order(wanted: Wanted) -> tuple[int, str]:
    return _KEYS.index(wanted.path.partition(".")[0]), wanted.path


def _unit(path: str) -> Unit:
    return {"max_gpus": "GPUs", "max_usd_per_hour": "USD"}.get(path, "bytes")  # type: ignore[return-value]


def _held(wanted: Wanted, report: Report, price: float | None) -> Held:
    actual = _actual(wanted.path, report, price)
    beyond = (
        0.0 if actual is None else (wanted.value - actual if wanted.path == "min_headroom" else actual - wanted.value)
    )
    return Held(path=wanted.path, limit=_whole(wanted.value), actual=None if actual is None else _whole(actual),
                excess=_whole(max(beyond, 0)), unit=_unit(wanted.path), where=wanted.where)  # fmt: skip


def _actual(path: str, report: Report, price: float | None) -> float | None:
    """What the report says of a limit's path; null where no GPU is named or its price is not known."""
    memory = report.memory
    match path.partition("."):
        case "max_total", _, _:
            return memory.total
        case "max_peak", _, _:
            return memory.peak_allocated
        case "min_headroom", _, _:
            return report.verdict.headroom
        case "max_gpus", _, _:
            return report.gpu.count
        case "max_usd_per_hour", _, _:
            return None if price is None else round(price * report.gpu.count, 6)
        case _, _, component:
            return int(getattr(memory.components, component))


def _fit(report: Report) -> Held:
    """That the allocated peak fits the GPU which the run names: more than that is an out-of-memory error."""
    verdict, usable = report.verdict, report.gpu.usable or 0
    room = report.memory.total + (verdict.headroom or 0)
    needed = report.memory.total if verdict.level != "tight" else room
    return Held(path="gpu", limit=room, actual=needed, excess=max(needed - room, 0), unit="bytes",
                where=f"{report.gpu.name}, less the margin" if usable > room else str(report.gpu.name))  # fmt: skip


def _whole(value: float) -> float:
    """Whole numbers as integers: bytes and GPUs."""
    return int(value) if float(value).is_integer() else value


def largest(report: Report) -> Largest | None:
    """What takes the most of the peak."""
    parts = asdict(report.memory.at_peak)
    name = max(parts, key=lambda part: parts[part])
    peak = report.memory.peak_allocated
    return Largest(component=name, bytes=parts[name], share=round(parts[name] / peak, 4)) if peak else None
