"""Tasks: which optimizers practitioners choose for a kind of training, and why (presets/tasks)."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from memcalc.dataclass import dataclass
from memcalc.optimizers import resolve
from memcalc.presets import find, has, names
from memcalc.recommender.values import Advised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.model import Model
    from memcalc.run import Run

MATRIX = (4096, 4096)  # the parameter that bytes per parameter are quoted for


@dataclass(frozen=True)
class Task:
    """`optimizers` are (name, why), the best first; the first `first` of them need no other reason to be tried."""

    name: str
    title: str
    optimizers: tuple[tuple[str, str], ...]
    first: int = 0
    advice: tuple[str, ...] = ()

    def why(self, optimizer: str) -> str:
        """What speaks for an optimizer in this task; '' where the task says nothing of it."""
        return next((why for name, why in self.optimizers if name == optimizer), "")


def advised(task: Task) -> Iterator[Advised]:
    """What is said of each optimizer of a task, by its preset and by the task."""
    for name, why in task.optimizers:
        optimizer = resolve(name)
        kept = sum(state.bytes for state in optimizer.states(MATRIX, "fp32")) / prod(MATRIX)
        advice = optimizer.advice
        yield Advised(optimizer=name, bytes_per_parameter=round(kept, 4), drop_in=advice.drop_in, quality=advice.quality,
                      why=why, note=advice.note)  # fmt: skip


def task_of(name: str | None, run: Run, model: Model) -> Task:
    """The task of that name; else what a run with adapters, an architecture or a kind of model is usually trained for.

    UnknownName where no task is called so.
    """
    return _task(find("tasks", name) if name else _guessed(run, model))


def _guessed(run: Run, model: Model) -> dict[str, Any]:
    if run.lora and has("tasks", "qlora"):
        return find("tasks", "qlora")
    cards = [find("tasks", name) for name in names("tasks")]
    by_architecture = [card for card in cards if model.architecture in card.get("architectures", ())]
    by_kind = [card for card in cards if model.kind in card.get("kinds", ())]
    return (by_architecture or by_kind or [find("tasks", "language")])[0]


def _task(card: dict[str, Any]) -> Task:
    chosen = tuple((entry["name"], entry["why"]) for entry in card["optimizers"])
    return Task(card["id"], card["title"], chosen, card.get("first", 0), tuple(card.get("advice", ())))
