# ruff: noqa: ARG002 - few of the hooks need all that they are told
"""ZeRO's stages as an even split of what they share (Rajbhandari et al. 2020, fig. 1), without buffers of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from memcalc.sharding.strategy import Local, Strategy
from memcalc.tape.units import Sharder

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.tape.autograd import Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.values import Value
    from memcalc.tensors import Tensor

# which components each stage shares out
SHARED: dict[str, frozenset[str]] = {
    "zero1": frozenset({"master_weights", "optimizer_states"}),
    "zero2": frozenset({"master_weights", "optimizer_states", "gradients"}),
    "zero3": frozenset({"master_weights", "optimizer_states", "gradients", "weights"}),
}


@dataclass(frozen=True)
class Even(Strategy):
    """Every shared tensor is cut into as many parts as there are ranks, the fullest of which is counted."""

    def over(self, component: str) -> int:  # noqa: D102
        return self.ranks if component in SHARED[self.name] else 1

    def place(self, tensors: tuple[Tensor, ...]) -> Local:  # noqa: D102
        shared = SHARED[self.name]
        parts = tuple(_part(tensor, self.ranks) for tensor in tensors)
        return Local(*(parts if name in shared else tensors for name in ("weights", "gradients", "optimizer_states")))

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder | None:  # noqa: D102
        return Splitting(tape, self.ranks) if "gradients" in SHARED[self.name] else None

    def step(self, plain: int, local: Local, optimizer: Optimizer, setting: Setting) -> int:  # noqa: D102
        return plain

    @property
    def leaves_out(self) -> str:  # noqa: D102
        staging = " and staging buffers of the offload" if self.offloaded else ""
        return f"gather and reduce buffers, and padding of shards{staging} are not included"


class Splitting(Sharder):
    """A gradient leaves its part as soon as it is complete."""

    def __init__(self, tape: Tape, ranks: int) -> None:
        super().__init__(tape)
        self.ranks = ranks

    def gradient(self, leaf: Leaf, gradient: Value) -> bool:  # noqa: D102
        if leaf.spends is not None:
            return False
        leaf.grad = self.tape.new((-(-prod(gradient.shape) // self.ranks),), gradient.dtype)
        self.tape.gradients.append(leaf.grad.storage.id)
        return True


def _part(tensor: Tensor, ranks: int) -> Tensor:
    if tensor.buffer or not tensor.shape:
        return tensor
    return replace(tensor, shape=(-(-tensor.shape[0] // ranks), *tensor.shape[1:]))
