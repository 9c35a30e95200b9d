"""Gradients of FSDP2's units: collected until a unit's backward pass ends, and reduced in one flat tensor.

Source: torch 2.13.0, torch/distributed/fsdp/_fully_shard: the functions named below are of _fsdp_param.py and
_fsdp_collectives.py, and what lives as long as a local variable of theirs does so here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    `inputs` are those of reductions under way, `outputs` what HSDP's all-reduces work on.
    """

    def __init__(self, tape: Tape, how: FullyShard, portions: Portions) -> None:
        self.tape, self.how, self.portions = tape, how, portions
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []

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

    def _listed(self, name: str) -> str:
        """The name that a parameter is listed under."""
        tensor = self.tape.weights.find(name)
        return tensor.name if tensor else ""

    def reduce(self, group: Group, gradients: list[tuple[Tensor, Value]]) -> None:
        """foreach_reduce: gradients in one flat tensor, and this rank's part of their sum.

        A loop's variable holds the last of the gradients until it returns.
        """
        ways, tape = self.portions.shards(group), self.tape
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
        else:
            group.reduced = reduced
            tape.gradients.append(reduced.storage.id)
        self.inputs.append(flat)
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
                shape = (tensor.count, *tensor.shape)
                group.accumulated[tensor.name] = self.tape.accumulated(shape, dtype or self.portions.seen(tensor))
