# ruff: noqa: ARG002 - what is shared by nobody asks for nothing
"""The contract of a sharding strategy: what a rank holds of each tensor, and what it does around the modules of a step.

A strategy is a frozen value, made once for a run by `memcalc.sharding.placement`. `Strategy` itself shares nothing: every
rank holds everything, as on one GPU. A subclass overrides what its framework does otherwise:

* `recipe_of`: the precision recipe as the framework keeps it between steps;
* `setting_of`, `gathered`: the dtypes that the modules see while they run;
* `place`: the tensors of the fullest rank, by what is kept of each, with the framework's padding;
* `attach`: the hooks on the tape of one step (memcalc.tape.units.Sharder), whose values come and go in the log;
* `step`: what the optimizer step needs beside what persists;
* `hosted`: host memory of one rank; `notes`, `leaves_out`: what is assumed, and what the numbers do not include.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.ledger import Ledger
    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.precision import Recipe
    from memcalc.replay.reserve import Held, Staged
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder
    from memcalc.tensors import Tensor

PERSISTENT = ("weights", "master_weights", "gradients", "optimizer_states")


class Local(NamedTuple):
    """The tensors of the fullest rank: what it keeps the weights, the gradients, and the master copies and states of.

    `buffers` are the strategy's own, there all along (DDP's buckets): in a dtype of their own, or as the weights are kept.
    `accumulated` is what is there of gradients when a step begins, whatever the run (None: the gradients, where earlier
    micro batches have left some). Where nothing is shared out the first three are the same tuple. `normed` are the elements
    of the largest gradient that a norm is taken of.
    """

    weights: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...] = ()
    accumulated: tuple[Tensor, ...] | None = None
    normed: int = 0


class Hosted(NamedTuple):
    """Bytes of one rank's host memory."""

    pinned: int = 0
    pageable: int = 0


@dataclass(frozen=True)
class Strategy:
    """Every rank holds everything. `ranks` is the data-parallel degree; `offloaded` are the components in host memory."""

    name: str = "none"
    ranks: int = 1
    offloaded: frozenset[str] = frozenset()
    streams = False  # whether it gathers or reduces on streams of its own
    masters = False  # whether adapters, too, get master copies
    alone = False  # whether it does something on a single rank

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """What the framework makes of a recipe: the dtypes of what is kept between steps."""
        return recipe

    def setting_of(self, setting: Setting) -> Setting:
        """The setting as the tape is to have it: dtypes as the modules see them; `setting` is as things are kept."""
        return setting

    def gathered(self, tensor: Tensor, stored: str, setting: Setting) -> str:
        """The dtype that the modules see a tensor in, where `setting` (as they see it) says `stored`."""
        return stored

    def met(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The tensors as autograd has them: which ask for a gradient."""
        return tensors

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """What the fullest rank holds of the run's tensors (tied ones, which take nothing, may stay)."""
        return Local(tensors, tensors, tensors)

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder | None:
        """The hooks on a tape of one step; None where there is nothing to do."""
        return None

    def step(self, plain: int, local: Local, optimizer: Optimizer, setting: Setting) -> int:
        """Most bytes that the optimizer step needs beside what persists; `plain` is what the optimizer itself does.

        With the states in host memory it steps there.
        """
        return 0 if "optimizer_states" in self.offloaded else plain

    def tried(self, local: Local, stored: Callable[[Tensor], str]) -> tuple[int, ...]:
        """What it makes and lets go of before the first step: bytes for a birth, ~n for the death of the n-th born.

        `stored` tells the dtype that a tensor is kept in.
        """
        return ()

    def rebuilt(self, local: Local, stored: Callable[[Tensor], str]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What of its own is there in the first step alone, and what there is in its place from the second on."""
        return (), ()

    def staged(self, local: Local, optimizer: Optimizer, setting: Setting) -> Staged | None:
        """Blocks of its own that come and go between the moments of a step, for the allocator's replay."""
        return None

    def stepped(self, trained: list[Held]) -> list[Held]:
        """What the optimizer holds as it steps: here of all tensors together."""
        return trained

    def over(self, component: str) -> int:
        """How many ranks share a component of what persists."""
        return 1

    def hosted(self, books: Books) -> Hosted:
        """Host memory of what is offloaded: pinned, as it is."""
        return Hosted(sum(books.total(name) for name in PERSISTENT if name in self.offloaded))

    @property
    def communicators(self) -> tuple[int, ...]:
        """The sizes of the process groups that this rank communicates in, the world first."""
        return (self.ranks,)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is assumed of the framework, in sentences."""
        return ()

    @property
    def leaves_out(self) -> str:
        """What the numbers do not include, in a sentence; '' where nothing."""
        return "staging buffers of the offload are not included" if self.offloaded else ""


@dataclass(frozen=True)
class Books:
    """The ledgers of the fullest rank, whatever it keeps where: one where nothing is shared out; `whole` is the model."""

    weights: Ledger
    gradients: Ledger
    states: Ledger
    buffers: int = 0
    whole: tuple[Tensor, ...] = ()

    def total(self, component: str) -> int:
        """Bytes of one component, wherever it is kept."""
        if component == "buffers":
            return self.buffers
        book = {"weights": self.weights, "gradients": self.gradients}.get(component, self.states)
        return book.total(component)


def books(local: Local, recipe: Recipe, optimizer: Optimizer, whole: tuple[Tensor, ...], book: Ledger) -> Books:
    """The ledgers of these tensors; `book` is that of the `whole` model, which serves where it is the same."""
    from memcalc.dtypes import nbytes  # noqa: PLC0415 - there already
    from memcalc.ledger import ledger, storage_dtype  # noqa: PLC0415

    known = {id(whole): book}
    for tensors in local[:3]:
        if id(tensors) not in known:
            known[id(tensors)] = ledger(tensors, recipe, optimizer)
    weights, gradients, states = (known[id(tensors)] for tensors in local[:3])
    own = sum(tensor.count * nbytes(tensor.elements, storage_dtype(tensor, recipe)) for tensor in local.buffers)
    return Books(weights, gradients, states, own, whole)


def per_parameter(strategy: Strategy, recipe: Recipe) -> str:
    """What a trained parameter takes on each GPU with Adam's two states, in a sentence; '' where nothing is shared out."""
    dtypes = {
        "weights": (recipe.weights,), "master_weights": (recipe.master,),
        "gradients": (recipe.gradients, recipe.master_gradients), "optimizer_states": (recipe.optimizer_dtype,) * 2,
    }  # fmt: skip
    sizes = {name: sum(BITS[dtype] for dtype in found if dtype) / 8 for name, found in dtypes.items()}
    sizes = {name: size for name, size in sizes.items() if size and name not in strategy.offloaded}
    ways = {name: strategy.over(name) for name in sizes}
    if max(ways.values(), default=1) == 1:
        return ""
    terms = (
        f"{name.replace('_', ' ')} {size:g}{f'/{ways[name]}' if ways[name] > 1 else ''}" for name, size in sizes.items()
    )
    total = sum(size / ways[name] for name, size in sizes.items())
    return f"with Adam a trained parameter takes {total:.4g} bytes of each GPU: {', '.join(terms)}"
