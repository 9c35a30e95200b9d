"""Parameters of FSDP2's units gathered, copied out, and let go of: what each step of that allocates.

Source: torch 2.13.0, torch/distributed/fsdp/_fully_shard: the methods named below are FSDPParamGroup's and those of
_fsdp_collectives.py, and what lives as long as a local variable of theirs does so here.
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from memcalc.dtypes import BITS
from memcalc.tape.rules import gone
from memcalc.tape.succession import layer_by_layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.sharding.fsdp2 import FullyShard
    from memcalc.sharding.groups import Group
    from memcalc.sharding.portions import Portions
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value
    from memcalc.tensors import Tensor

GATHERS = 1  # all_gather_copy_in_stream (FSDPCommContext)


def one_by_one(tensors: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """Each of a unit's parameters in their order: where it has several layers, one layer after the other."""
    for count, run in groupby(
        layer_by_layer(tensors) if any(tensor.count > 1 for tensor in tensors) else tensors, key=attrgetter("count")
    ):
        own = list(run)
        for _ in range(count):
            yield from own


class Unsharding:
    """The parameters of units, there or not.

    `held` is the output of the gather before, which forward prefetch keeps until the next has been copied out.
    """

    def __init__(self, tape: Tape, how: FullyShard, portions: Portions) -> None:
        self.tape, self.how, self.portions = tape, how, portions
        self.held: Value | None = None

    def unshard(self, group: Group) -> None:
        """FSDPParamGroup.unshard: nothing where the parameters are there, or under way."""
        if not group.gathering and not group.unsharded and group.tensors:
            group.gathering = self._gather(group)

    def _gather(self, group: Group) -> Value:
        """foreach_all_gather: the flat output that shards are copied and gathered into."""
        if self.portions.shards(group) == 1:
            return self.tape.buffer(0, "uint8")
        ways, inputs = self.portions.ways(group), self._inputs(group)
        nbytes = sum(
            self.portions.part(tensor, ways) * tensor.count * BITS[self.portions.sent(group, tensor)] // 8
            for tensor in group.tensors
        )
        out = self.tape.buffer(ways * nbytes, "uint8", relay=True, stream=GATHERS)
        del inputs
        return out

    def _inputs(self, group: Group) -> list[Value]:
        """_get_param_all_gather_inputs: shards cast to be gathered.

        One flat cast of what needs one; where shards are in host memory, copies one by one.
        """
        buffer, ways = self.tape.buffer, self.portions.ways(group)
        cut = [(tensor, self.portions.part(tensor, ways)) for tensor in group.tensors]
        found: list[Value] = []
        if self.how.float8 and group.kind == "layer":
            found = self._narrowed([(tensor, part) for tensor, part in cut if self.how.narrowed(tensor)])
            cut = [(tensor, part) for tensor, part in cut if not self.how.narrowed(tensor)]
        if self.how.offloads:
            return [*found, *self._copied(cut)]
        elements = sum(part * tensor.count for tensor, part in cut if self.portions.casts(tensor))
        return [*found, buffer(elements, self.tape.setting.weights, stream=GATHERS)] if elements else found

    def _copied(self, cut: list[tuple[Tensor, int]]) -> list[Value]:
        """Shards from host memory one by one, each cast where it needs to be."""
        buffer, portions = self.tape.buffer, self.portions
        found: list[Value] = []
        for tensor, part in cut:
            for _ in range(tensor.count):
                copy = buffer(part, portions.weights.kept(tensor), stream=GATHERS)
                found.append(buffer(part, portions.seen(tensor), stream=GATHERS) if portions.casts(tensor) else copy)
                del copy
        return found

    def _narrowed(self, cut: list[tuple[Tensor, int]]) -> list[Value]:
        """fsdp_pre_all_gather: each shard times its scale, clamped, and cast (torchao, float8/float8_utils.py)."""
        buffer = self.tape.buffer
        found: list[Value] = []
        for tensor, part in cut:
            for _ in range(tensor.count):
                scaled = buffer(part, "fp32", stream=GATHERS)
                clamped = buffer(part, "fp32", stream=GATHERS)
                found.append(buffer(part, "fp8", stream=GATHERS))
                del scaled, clamped
        return found

    def wait(self, group: Group) -> None:
        """FSDPParamGroup.wait_for_unshard: parameters copied out of what was gathered.

        In forward the output of the gather stays until the next one is copied out.
        """
        if group.gathering is None:
            return
        forward, before = group.state == "forward", None
        if forward:
            before, self.held = self.held, None
        ways = self.portions.ways(group)
        group.unsharded = [
            self.tape.buffer(ways * self.portions.part(tensor, ways), self.portions.sent(group, tensor))
            for tensor in one_by_one(group.tensors)
        ]
        spare = self._spare(group) if self.how.expert_axis else None
        group.parted = []
        if forward and self.portions.shards(group) > 1:
            self.held = group.gathering
        group.gathering = None
        del before, spare

    def _spare(self, group: Group) -> list[Value]:
        """foreach_all_gather_copy_out: what is not cut along its first axis is copied out to be put together from there."""
        ways = self.portions.ways(group)
        crosswise = [tensor for tensor in group.tensors if self.how.axis_of(tensor)] if ways > 1 else []
        return [
            self.tape.buffer(ways * self.portions.part(tensor, ways), self.portions.seen(tensor))
            for tensor in crosswise
            for _ in range(tensor.count)
        ]

    def reshard(self, group: Group, reshards: bool | int) -> None:
        """FSDPParamGroup.reshard: shards over fewer ranks, each in the place of a parameter that goes."""
        if reshards is False:
            return
        if reshards is not True:
            self._parted(group, reshards)
        gone(group.unsharded)

    def _parted(self, group: Group, ranks: int) -> None:
        """FSDPParam.to_sharded_post_forward, one parameter after the other."""
        wholes, group.unsharded, group.parted = group.unsharded[::-1], [], []
        for tensor in group.tensors:
            for _ in range(tensor.count):
                shard = self.tape.buffer(self.portions.part(tensor, ranks), self.portions.seen(tensor))
                group.parted.append(shard)
                if wholes:
                    wholes.pop()
