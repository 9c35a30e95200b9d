"""A run with nothing left to look up: the value that everything below the lookups works from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.known import Known
from memcalc.ledger import ledger
from memcalc.sharding.strategy import books

if TYPE_CHECKING:
    from memcalc.adapters import Adapted
    from memcalc.gpus import Gpu
    from memcalc.ledger import Ledger
    from memcalc.model import Model
    from memcalc.notes import Notes
    from memcalc.optimizers import Optimizer
    from memcalc.precision import Recipe
    from memcalc.run import Companion, Run
    from memcalc.sharding.strategy import Books, Strategy
    from memcalc.tensors import Tensor
    from memcalc.ways import Ways

LEDGERS: Known[Ledger] = Known()


@dataclass(frozen=True)
class Plan:
    """A run with nothing left to look up: presets found, tensors after adapters and quantised storage, defaults filled.

    `tensors` are those of one replica of the model; `placement` says what a rank holds of them. Where the model itself is
    divided, `ranks` are the plans of the distinct kinds of rank, each with a `label`, its part of the model, and its `ways`;
    `surpassed` is one where another holds all that it does, and more.
    """

    run: Run
    model: Model
    recipe: Recipe
    optimizer: Optimizer
    tensors: tuple[Tensor, ...]
    placement: Strategy
    gpu: Gpu | None
    margin: int
    seq_len: int
    notes: Notes
    adapted: Adapted | None = None
    companions: tuple[Beside, ...] = ()
    ranks: tuple[Plan, ...] = ()
    ways: Ways | None = None
    label: str = ""
    surpassed: bool = False

    @property
    def trainable(self) -> int:
        """Parameters that are trained: adapters and what is saved with them, or the whole model."""
        return sum(t.parameters for t in self.tensors if t.trainable)

    @property
    def added(self) -> int:
        """Parameters that adapters add to the model's own."""
        return sum(t.parameters for t in (*self.adapted.adapters, *self.adapted.saved)) if self.adapted else 0

    def ledger(self) -> Ledger:
        """What persists of one whole replica, before it is shared out."""
        key, alive = (id(self.tensors), self.recipe, id(self.optimizer)), (self.tensors, self.optimizer)
        return LEDGERS.get(key, alive, lambda: ledger(self.tensors, self.recipe, self.optimizer))

    def local(self, book: Ledger) -> Books:
        """What persists on the fullest rank; `book` is the ledger of one whole replica."""
        return books(self.placement.place(self.tensors), self.recipe, self.optimizer, self.tensors, book)


class Beside(NamedTuple):
    """A companion, and the plan of a run with it alone."""

    companion: Companion
    plan: Plan
