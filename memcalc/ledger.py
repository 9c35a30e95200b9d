"""The ledger: what persists between steps. Tensors, a precision recipe and an optimizer make bytes, exactly.

Every figure is a sum over tensors. A tensor with a dtype of its own (adapters, quantised storage, buffers) keeps it;
the others are stored as the recipe says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS, nbytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.optimizers import Optimizer, StateTensor
    from memcalc.optimizers.values import Device
    from memcalc.precision import Recipe
    from memcalc.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Entry:
    """Bytes that one group of like tensors (all `tensor.count` of them) keeps; `*_host` live in host memory."""

    tensor: Tensor
    weights: int = 0
    master_weights: int = 0
    gradients: int = 0
    optimizer_states: int = 0
    states_host: int = 0
    states_paged: int = 0

    @property
    def persistent(self) -> int:
        """Bytes on the GPU after a backward pass."""
        return self.weights + self.master_weights + self.gradients + self.optimizer_states


@dataclass(frozen=True, slots=True)
class Ledger:
    """Entries of all tensors, and states that exist once per optimizer (quantisation maps, group scalars)."""

    entries: tuple[Entry, ...]
    shared: int = 0
    shared_host: int = 0

    def total(self, component: str) -> int:
        """Bytes of one component ('weights', 'master_weights', 'gradients', 'optimizer_states') on the GPU."""
        extra = self.shared if component == "optimizer_states" else 0
        return sum(int(getattr(entry, component)) for entry in self.entries) + extra

    @property
    def persistent(self) -> int:
        """Weights, master copies, gradients after a backward pass, and optimizer states."""
        return sum(entry.persistent for entry in self.entries) + self.shared

    @property
    def host(self) -> tuple[int, int]:
        """Optimizer states in host memory: (pageable, paged: managed memory that migrates on demand)."""
        return (
            sum(entry.states_host for entry in self.entries) + self.shared_host,
            sum(entry.states_paged for entry in self.entries),
        )


def ledger(tensors: Iterable[Tensor], recipe: Recipe, optimizer: Optimizer) -> Ledger:
    """Bytes of weights, master copies, gradients and optimizer states of every tensor."""
    entries = tuple(_entry(tensor, recipe, optimizer) for tensor in tensors if not tensor.tied_to)
    trained = any(entry.tensor.trainable and not entry.tensor.buffer for entry in entries)
    once = (*optimizer.shared(), *optimizer.group()) if trained else ()
    gpu, host, paged = _bytes(once)
    return Ledger(entries, gpu + paged, host)


def _entry(tensor: Tensor, recipe: Recipe, optimizer: Optimizer) -> Entry:
    stored = storage_dtype(tensor, recipe)
    weights = tensor.count * nbytes(tensor.elements, stored)
    if not tensor.trainable or tensor.buffer or (tensor.idle and not recipe.master):
        return Entry(tensor, weights)
    master = master_dtype(stored, recipe, optimizer)
    states = optimizer.states(tensor.shape, state_dtype(stored, recipe, optimizer), tensor.role, tensor.name)
    return Entry(
        tensor,
        weights,
        tensor.count * nbytes(tensor.elements, master) if master else 0,
        0 if optimizer.frees_gradients else tensor.count * _gradient_bytes(tensor, recipe, master),
        *(tensor.count * held for held in _bytes(states)),
    )


def storage_dtype(tensor: Tensor, recipe: Recipe) -> str:
    """The dtype a tensor is stored in: its own; else the recipe's, and for frozen tensors the compute dtype."""
    if tensor.dtype:
        return tensor.dtype
    return recipe.weights if tensor.trainable else recipe.frozen


def gradient_dtype(tensor: Tensor, recipe: Recipe) -> str:
    """The dtype of a tensor's gradient: that of the tensor where it has one of its own, else the recipe's."""
    return tensor.dtype or recipe.gradients


def master_dtype(stored: str, recipe: Recipe, optimizer: Optimizer) -> str:
    """The dtype of the separate master copy: none where the weights are that wide, or the optimizer keeps its own.

    A copy as wide as the weights is what they lack of wider ones (the remainders of Megatron-LM's optimizer).
    """
    if not recipe.master or optimizer.keeps_master or stored == recipe.master or BITS[stored] > BITS[recipe.master]:
        return ""
    return recipe.master


def state_dtype(stored: str, recipe: Recipe, optimizer: Optimizer) -> str:
    """The dtype the optimizer sees as the parameter's: the recipe's word, else the master copy's, else the stored one."""
    if recipe.states != "param":
        return recipe.states
    return master_dtype(stored, recipe, optimizer) or stored


def _gradient_bytes(tensor: Tensor, recipe: Recipe, master: str) -> int:
    """Bytes of one tensor's gradient, and of its wider copy for the master weights where the recipe makes one."""
    copy = nbytes(tensor.elements, recipe.master_gradients) if master and recipe.master_gradients else 0
    return nbytes(tensor.elements, gradient_dtype(tensor, recipe)) + copy


def _bytes(states: Iterable[StateTensor]) -> tuple[int, int, int]:
    """Bytes of states on the GPU, in host memory, and paged between the two."""
    found: dict[Device, int] = {"gpu": 0, "host": 0, "paged": 0}
    for state in states:
        found[state.device] += state.bytes
    return found["gpu"], found["host"], found["paged"]
