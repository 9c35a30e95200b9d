"""What each rank holds of FSDP2's parameters: how large its parts are, and in which dtypes they are kept, sent and seen.

Source: torch 2.13.0, torch/distributed/fsdp/_fully_shard/_fsdp_param.py (_init_sharded_param: shards and their padding).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.sharding.fsdp2 import FullyShard
    from memcalc.sharding.groups import Group
    from memcalc.tape.recorder import Tape
    from memcalc.tensors import Tensor


class Portions:
    """Sizes and dtypes of one rank's parts of the parameters of a step."""

    def __init__(self, tape: Tape, how: FullyShard) -> None:
        self.how, self.weights = how, tape.weights

    def part(self, tensor: Tensor, ways: int) -> int:
        """Elements of one rank's part of a parameter, padded as for all shards."""
        first, *rest = tensor.shape or (1,)
        shards = self.how.ways_of(tensor)
        if self.how.axis_of(tensor):  # along which it divides
            return prod(tensor.shape) // ways
        return -(-first // shards) * prod(rest) * shards // ways

    def ways(self, group: Group) -> int:
        """How many ranks a gather is over."""
        return int(self.reshards(group)) if group.parted else self.shards(group)

    def shards(self, group: Group) -> int:
        """How many ranks share a unit."""
        return group.shards or self.how.shards

    def reshards(self, group: Group) -> bool | int:
        """Whether a unit lets go of its parameters behind its forward, or to how many ranks it gives them back."""
        match group.kind:
            case "root":
                return self.how.root_reshards
            case "head":
                return self.how.head_reshards
            case _:
                return self.how.reshard

    def seen(self, tensor: Tensor) -> str:
        """The dtype that modules see a parameter in."""
        return self.weights.seen(tensor)

    def sent(self, group: Group, tensor: Tensor) -> str:
        """The dtype that a parameter is gathered in."""
        return "fp8" if group.kind == "layer" and self.how.narrowed(tensor) else self.seen(tensor)

    def casts(self, tensor: Tensor) -> bool:
        """Whether a shard is cast to be gathered."""
        return self.weights.seen(tensor) != self.weights.kept(tensor)

    def kept(self, group: Group) -> str:
        """The dtype of the group's shards that learn."""
        return next(self.weights.kept(tensor) for tensor in group.tensors if tensor.trainable)
