"""LoRA's matrices under FSDP1: each is a unit of its own, as PEFT's fsdp_auto_wrap_policy wraps leaf modules that learn.

Source: peft 0.21, utils/other.py, fsdp_auto_wrap_policy (lambda_policy_fn): no children, and a weight that asks for a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.sharding.groups import Group

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.tape.autograd import Leaf
    from memcalc.tensors import Tensor

PAIR = (".lora_A.default.weight", ".lora_B.default.weight")


def alone(tensor: Tensor) -> bool:
    """Whether a tensor of a unit is one of a pair's, and stands for no others of the same unit."""
    return tensor.role == "adapter" and tensor.count == 1 and tensor.name.endswith(PAIR)


class Pairs:
    """The units of matrices that have been met; `names` are those of matrices that are no part of the unit around them."""

    def __init__(self) -> None:
        self.names: dict[str, Tensor] = {}
        self.met: dict[Leaf, Group] = {}

    def without(self, members: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """A unit's tensors but for those that are units of their own."""
        own = [tensor for tensor in members if alone(tensor)]
        self.names.update((tensor.name, tensor) for tensor in own)
        return tuple(tensor for tensor in members if tensor not in own) if own else tuple(members)

    def of(self, leaf: Leaf) -> Group | None:
        """The unit of a parameter, if it has one of its own."""
        found = self.met.get(leaf)
        if found is None and leaf.name in self.names:
            found = self.met[leaf] = Group(leaf.name, (self.names[leaf.name],), "adapter")
        return found
