"""Gradients of FSDP2's units: collected until a unit's backward pass ends, and reduced in one flat tensor.

Source: torch 2.13.0, torch/distributed/fsdp/_fully_shard: the functions named below are of _fsdp_param.py and
_fsdp_collectives.py, and what lives as long as a local variable of theirs does so here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.earlier import Unreduced
from memcalc.tape.recorder import Added
from memcalc.tape.values import ITEM, rounded
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from memcalc.sharding.fsdp2 import FullyShard
    from memcalc.sharding.groups import Group
    from memcalc.sharding.portions import Portions
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

REDUCTIONS = 2  # reduce_scatter_stream (FSDPCommContext)


class Reducing:
    """The gradients of units, and their reductions under way.

    `inputs` are those of reductions under way, `outputs` what HSDP's all-reduces work on. Of storages, `keeps` are what is
    added to gradients of earlier micro batches, `made` those of reductions; `copies` are gradients added in another dtype.
    """

    def __init__(self, tape: Tape, how: FullyShard, portions: Portions) -> None:
        self.tape, self.how, self.portions = tape, how, portions
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.keeps: list[int] = []
        self.made: list[int] = []
        self.copies: list[Added] = []

    def earlier(self) -> Unreduced | None:
        """How an earlier micro batch differs, which finds no gradients: one that is not reduced, or is alike."""
        if self.how.accumulates:
            return Unreduced(frozenset(self.keeps), frozenset(self.made), tuple(self.copies))
        return Unreduced(frozenset(self.keeps), frozenset()) if self.how.sums and self.keeps else None

    def make_room(self) -> None:
        """The oldest reductions are waited for, so that one more may be under way."""
        while len(self.inputs) >= self.how.inputs:
            self.inputs.pop(0)

    def finish(self) -> None:
        """All reductions have ended."""
        self.inputs.clear()
        self.outputs.clear()

    def complete(self, group: Group) -> list[tuple[Tensor, Value]]:
        """The gradients of a unit in the order of its parameters, those of earlier micro batches included.

        A parameter that stands for several within the unit comes with their number.
        """
        members = {tensor.name: tensor for tensor in group.tensors}
        found: dict[str, tuple[Tensor, Value]] = {}
        like: list[tuple[Tensor, Value]] = []  # of layers that the first of their kind has counted
        for leaf, value in group.gradients.items():
            known = members.get(leaf.name) or members.get(self._listed(leaf.name))
            name = known.name if known else leaf.name
            if name in found:
                like.append((Tensor(name, leaf.shape, 0), value))
            else:
                found[name] = known or Tensor(leaf.name, leaf.shape), value
        if group.accumulated:
            found, like = {name: (members[name], value) for name, value in group.accumulated.items()}, []
        group.gradients, group.accumulated = {}, {}
        return [*like, *(found.pop(name) for name in members if name in found), *found.values()]

    def unlike(self, group: Group) -> list[tuple[int, int]]:
        """Gradients that are added to those of earlier micro batches in another dtype: storages, and bytes of a copy."""
        if not group.accumulated:
            return []
        width = ITEM[self.how.reduce_dtype] if self.how.reduce_dtype else 0
        places = {tensor.name: place for place, tensor in enumerate(group.tensors)}
        found = sorted(group.gradients.items(), key=lambda item: places.get(item[0].name, len(places)))
        return [(value.storage.id, rounded(value.elements * width)) for _, value in found]

    def copy(self, gradients: list[tuple[int, int]]) -> None:
        """to_accumulated_grad_if_needed, of the first micro batch: each gradient in the dtype of the reduction."""
        tape = self.tape
        for storage, size in gradients:
            self.copies.append(Added(len(tape.events), tape.returned, storage, size, tape.owner))

    def _rows(self, tensor: Tensor) -> int:
        """Rows of a parameter's gradient: that of a tensor-parallel part of a table has those of all parts."""
        ways = self.tape.setting.ways
        return ways.left_rows(tensor.shape[0]) if ways and tensor.role == "embedding" else tensor.shape[0]

    def summed(self, gradients: list[tuple[Tensor, Value]]) -> None:
        """FSDPParam._get_grad_inner_tensor: of gradients that have other ranks' rows, too, this rank's of their sum."""
        for place, (tensor, gradient) in enumerate(gradients):
            if gradient.elements > tensor.count * tensor.elements > 0:
                gradients[place] = tensor, self.tape.new(tensor.shape, gradient.dtype)
                self.tape.gradients.append(gradients[place][1].storage.id)

    def _listed(self, name: str) -> str:
        """The name that a parameter is listed under, which is another's where it is tied to that."""
        tensor = self.tape.weights.find(name)
        return (tensor.tied_to or tensor.name) if tensor else ""

    def reduce(self, group: Group, gradients: list[tuple[Tensor, Value]]) -> None:
        """foreach_reduce: gradients in one flat tensor, and this rank's part of their sum.

        A loop's variable holds the last of the gradients until it returns.
        """
        ways, tape, made = self.portions.shards(group), self.tape, len(self.tape.sizes)
        part = sum(tensor.count * self.portions.part(tensor, ways) for tensor, _ in gradients)
        last = gradients[-1][1]
        if self.how.expert_axis and ways > 1:
            self._crosswise(gradients)
        dtype = self.how.reduce_dtype or last.dtype
        flat = tape.buffer(ways * part, dtype, relay=True)
        gradients.clear()
        reduced = tape.on(REDUCTIONS, tape.new((part,), dtype))
        kept = self.portions.kept(group)
        if kept != dtype:
            tape.buffers.append(reduced.storage.id)
            if self.how.shards < self.how.ranks:
                self.outputs.append(reduced)
            reduced = tape.on(REDUCTIONS, tape.new((part,), kept))
        if self.how.offloads or self.how.sums or group.reduced:
            tape.buffers.append(reduced.storage.id)
            if self.how.sums and not self.how.offloads:
                self.keeps.append(reduced.storage.id)
        else:
            group.reduced = reduced
            tape.gradients.append(reduced.storage.id)
        self.inputs.append(flat)
        self.made += range(made, len(tape.sizes))
        del last

    def _crosswise(self, gradients: list[tuple[Tensor, Value]]) -> None:
        """foreach_reduce: gradients that are not cut along their first axis are copied, their parts one behind the other."""
        for place, (tensor, gradient) in enumerate(gradients):
            if self.how.axis_of(tensor):
                gradients[place] = tensor, self.tape.buffer(gradient.elements, gradient.dtype)

    def accumulate(self, group: Group) -> None:
        """to_accumulated_grad_if_needed: gradients of backward passes without reduction.

        It is there when the step begins; here it comes with the unit's forward, so that it comes as often as there are units.
        """
        dtype = self.how.reduce_dtype
        for tensor in group.tensors:
            if tensor.trainable:
                shape = (tensor.count, self._rows(tensor), *tensor.shape[1:]) if tensor.shape else (tensor.count,)
                group.accumulated[tensor.name] = self.tape.accumulated(shape, dtype or self.portions.seen(tensor))
