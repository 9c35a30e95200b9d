"""What FSDP2 allocates around its units: gathers, unsharded parameters, reductions.

Source: torch 2.13.0, torch/distributed/fsdp/_fully_shard: the methods named below are FSDPState's, FSDPParamGroup's and
those of _fsdp_collectives.py, and what lives as long as a local variable of theirs does so here.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, cast

from memcalc.dtypes import BITS
from memcalc.sharding.groups import Group, Grouping
from memcalc.tape import functions as f
from memcalc.tape.rules import gone
from memcalc.tape.units import Visit
from memcalc.tape.values import FLOATS
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from memcalc.sharding.fsdp2 import FullyShard
    from memcalc.sharding.groups import Groups
    from memcalc.tape.autograd import Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.units import Unit
    from memcalc.tape.values import Value

GATHERS, REDUCTIONS = 1, 2  # all_gather_copy_in_stream, reduce_scatter_stream (FSDPCommContext)


class Gathering(Grouping):
    """The hooks of FSDPState and FSDPParamGroup on one step.

    `held` is the output of the gather before, which forward prefetch keeps until the next has been copied out; `inputs`
    those of reductions under way; `order` the groups as their forwards ended; `outputs` what HSDP's all-reduces work on.
    """

    def __init__(self, tape: Tape, how: FullyShard, groups: Groups) -> None:
        super().__init__(tape, groups)
        self.how, self.outside = how, True
        self.held: Value | None = None
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.order: list[Group] = []
        self.returning = False
        self.back: Group | None = None  # the last layer whose backward pass has begun
        self.reach = max(how.inputs, *(count + 1 for count in how.ahead if count), 2 if how.chains else 1)

    def taken(self, unit: Unit, x: Value) -> Value:  # noqa: ARG002 - all alike
        """_cast_forward_inputs, to param_dtype where there is one."""
        setting = self.tape.setting
        wanted = self.how.param_dtype or (setting.weights if setting.weights != setting.inputs else "")
        casts = self.how.casts_inputs and wanted and x.dtype in FLOATS and not setting.autocast
        return f.to(x, wanted) if casts else x

    def given(self, unit: Unit, out: Value) -> Value:  # noqa: ARG002 - all alike
        """_cast_output_dtype."""
        return f.to(out, self.how.output_dtype) if self.how.output_dtype and out.dtype in FLOATS else out

    def experts(self) -> Visit | None:
        """The unit of the experts of the layer that runs, or that a checkpoint within its unit runs again."""
        layer = cast("Group", self.running[-1]) if self.running else self.back
        own = layer.experts if layer else None
        return Visit(own) if own else None

    def before_forward(self, unit: Unit) -> None:
        """FSDPState._pre_forward; in a recomputation the parameters are there."""
        group = cast("Group", unit)
        if group.state != "backward":
            group.state = "forward"
        if self.how.accumulates and not self.returning and not group.accumulated:
            self._accumulated(group)
        self._unshard(group)
        self._wait(group)
        if group.state == "forward":
            if self.handed and group.kind == "layer" and self.tape.setting.weights != "fp32":
                group.table = self.tape.new(self.handed, self.tape.setting.weights)
            self._ahead(group, 1)

    def after_forward(self, unit: Unit) -> None:
        """FSDPState._post_forward."""
        group = cast("Group", unit)
        if group.state == "backward":
            return
        if not self.returning and group.tensors:
            self._reshard(group, self._reshards(group))
            group.turns.append(len(self.order))
            self.order.append(group)
        group.state = "idle"
        ends = group is self.groups.root or (self.how.outermost and group.kind == "head")
        if self.returning or ends:  # a layer that a checkpoint runs again is a root of its own
            self.held = None

    def before_backward(self, unit: Unit) -> None:
        """FSDPState._pre_backward, with the implicit prefetch of the unit whose forward came before."""
        group = cast("Group", unit)
        self.returning = True
        if group.kind == "layer":
            self.back = group
        if group.state == "backward" or not group.tensors:
            return
        group.state = "backward"
        self._unshard(group)
        self._wait(group)
        turn = group.turns.pop() if group.turns else 0
        if not self._ahead(group, -1) and turn > 0:
            self._unshard(self.order[turn - 1])

    def after_backward(self, unit: Unit) -> None:
        """FSDPParamGroup.post_backward."""
        group = cast("Group", unit)
        group.state, group.table = "reduced", None
        gradients = self._complete(group)
        self._reshard(group, reshards=True)
        while len(self.inputs) >= self.how.inputs:
            self.inputs.pop(0)
        if gradients:
            self._reduce(group, gradients)

    def gradient(self, leaf: Leaf, gradient: Value) -> bool:
        """An unsharded parameter's gradient waits for its unit to end; a later one is added in place."""
        if leaf.unit is None:
            return False
        group = cast("Group", leaf.unit)
        added = leaf in group.gradients or (leaf.name in group.accumulated and not self.how.reduce_dtype)
        if not added:
            group.gradients[leaf] = gradient
            self.tape.gradients.append(gradient.storage.id)
        return True

    def finish(self) -> None:
        """FSDPState._root_post_backward_final_callback: units whose input asked for no gradient end here, the root first."""
        for group in self.groups.all():
            if group.state != "reduced":
                self.after_backward(group)
        self.held = None
        self.inputs.clear()
        self.outputs.clear()
        for group in self.groups.all():
            group.gathering = None

    def _ahead(self, group: Group, direction: int) -> bool:
        """set_modules_to_forward_prefetch and its like, as PyTorch's FSDP2 tutorial sets them: whether any are named.

        Each layer names the next few; the last ones, which have not so many after them, name none.
        """
        if self.how.chains:
            return self._chained(group, direction)
        count = self.how.ahead[direction < 0]
        stack, _, number = group.path.rpartition(".")
        if not count or group.kind != "layer" or not self.groups.there(stack, int(number) + direction * count):
            return False
        for step in range(1, count + 1) if direction > 0 else range(count, 0, -1):
            if (other := self.groups.layer(stack, int(number) + direction * step)) is not None:
                self._unshard(other)
        return True

    def _chained(self, group: Group, direction: int) -> bool:
        """What torchtitan's apply_fsdp names under expert parallelism: whether anything.

        A layer names the next one and its experts, the embedding the first layer, the last one the head; and back.
        """
        named = self.groups.beside(group, direction)
        for other in named:
            self._unshard(other)
            if other.experts and group.kind == "layer":
                self._unshard(other.experts)
        return bool(named)

    def _reshards(self, group: Group) -> bool | int:
        match group.kind:
            case "root":
                return self.how.root_reshards
            case "head":
                return self.how.head_reshards
            case _:
                return self.how.reshard

    def _unshard(self, group: Group) -> None:
        """FSDPParamGroup.unshard: nothing where the parameters are there, or under way."""
        if not group.gathering and not group.unsharded and group.tensors:
            group.gathering = self._gather(group)

    def _gather(self, group: Group) -> Value:
        """foreach_all_gather: the flat output that shards are copied and gathered into."""
        if self._shards(group) == 1:
            return self.tape.buffer(0, "uint8")
        ways, inputs = self._ways(group), self._inputs(group)
        nbytes = sum(
            self._part(tensor, ways) * tensor.count * BITS[self._sent(group, tensor)] // 8 for tensor in group.tensors
        )
        out = self.tape.buffer(ways * nbytes, "uint8", relay=True, stream=GATHERS)
        del inputs
        return out

    def _inputs(self, group: Group) -> list[Value]:
        """_get_param_all_gather_inputs: shards cast to be gathered.

        One flat cast of what needs one; where shards are in host memory, copies one by one.
        """
        buffer, ways = self.tape.buffer, self._ways(group)
        cut = [(tensor, self._part(tensor, ways)) for tensor in group.tensors]
        found: list[Value] = []
        if self.how.float8 and group.kind == "layer":
            found = self._narrowed([(tensor, part) for tensor, part in cut if self.how.narrowed(tensor)])
            cut = [(tensor, part) for tensor, part in cut if not self.how.narrowed(tensor)]
        if not self.how.offloads:
            elements = sum(part * tensor.count for tensor, part in cut if self._casts(tensor))
            return [*found, buffer(elements, self.tape.setting.weights, stream=GATHERS)] if elements else found
        for tensor, part in cut:
            for _ in range(tensor.count):
                copy = buffer(part, self.tape.weights.kept(tensor), stream=GATHERS)
                found.append(buffer(part, self._seen(tensor), stream=GATHERS) if self._casts(tensor) else copy)
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

    def _wait(self, group: Group) -> None:
        """FSDPParamGroup.wait_for_unshard: parameters copied out of what was gathered.

        In forward the output of the gather stays until the next one is copied out.
        """
        if group.gathering is None:
            return
        forward, before = group.state == "forward", None
        if forward:
            before, self.held = self.held, None
        ways = self._ways(group)
        group.unsharded = [
            self.tape.buffer(ways * self._part(tensor, ways), self._sent(group, tensor))
            for tensor in group.tensors
            for _ in range(tensor.count)
        ]
        spare = self._spare(group) if self.how.expert_axis else None
        group.parted = []
        if forward and self._shards(group) > 1:
            self.held = group.gathering
        group.gathering = None
        del before, spare

    def _spare(self, group: Group) -> list[Value]:
        """foreach_all_gather_copy_out: what is not cut along its first axis is copied out to be put together from there."""
        ways = self._ways(group)
        crosswise = [tensor for tensor in group.tensors if self.how.axis_of(tensor)] if ways > 1 else []
        return [
            self.tape.buffer(ways * self._part(tensor, ways), self._seen(tensor))
            for tensor in crosswise
            for _ in range(tensor.count)
        ]

    def _reshard(self, group: Group, reshards: bool | int) -> None:
        """FSDPParamGroup.reshard: shards over fewer ranks, in the place of parameters that go."""
        if reshards is False:
            return
        if reshards is not True:
            group.parted = [
                self.tape.buffer(self._part(tensor, reshards), self._seen(tensor))
                for tensor in group.tensors
                for _ in range(tensor.count)
            ]
        gone(group.unsharded)

    def _complete(self, group: Group) -> list[tuple[Tensor, Value]]:
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

    def _reduce(self, group: Group, gradients: list[tuple[Tensor, Value]]) -> None:
        """foreach_reduce: gradients in one flat tensor, and this rank's part of their sum.

        A loop's variable holds the last of the gradients until it returns.
        """
        ways, tape = self._shards(group), self.tape
        part = sum(tensor.count * self._part(tensor, ways) for tensor, _ in gradients)
        last = gradients[-1][1]
        if self.how.expert_axis and ways > 1:
            self._crosswise(gradients)
        dtype = self.how.reduce_dtype or last.dtype
        flat = tape.buffer(ways * part, dtype, relay=True)
        gradients.clear()
        reduced = tape.on(REDUCTIONS, tape.new((part,), dtype))
        kept = self._kept(group)
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

    def _accumulated(self, group: Group) -> None:
        """to_accumulated_grad_if_needed: gradients of backward passes without reduction.

        It is there when the step begins; here it comes with the unit's forward, so that it comes as often as there are units.
        """
        dtype = self.how.reduce_dtype
        for tensor in group.tensors:
            if tensor.trainable:
                shape = (tensor.count, *tensor.shape)
                group.accumulated[tensor.name] = self.tape.accumulated(shape, dtype or self._seen(tensor))

    def _kept(self, group: Group) -> str:
        """The dtype of the group's shards that learn."""
        return next(self.tape.weights.kept(tensor) for tensor in group.tensors if tensor.trainable)

    def _seen(self, tensor: Tensor) -> str:
        return self.tape.weights.seen(tensor)

    def _sent(self, group: Group, tensor: Tensor) -> str:
        """The dtype that a parameter is gathered in."""
        return "fp8" if group.kind == "layer" and self.how.narrowed(tensor) else self._seen(tensor)

    def _casts(self, tensor: Tensor) -> bool:
        return self.tape.weights.seen(tensor) != self.tape.weights.kept(tensor)

    def _ways(self, group: Group) -> int:
        """How many ranks a gather is over."""
        return int(self._reshards(group)) if group.parted else self._shards(group)

    def _shards(self, group: Group) -> int:
        """How many ranks share a unit."""
        return group.shards or self.how.shards

    def _part(self, tensor: Tensor, ways: int) -> int:
        """Elements of one rank's part of a parameter, padded as for all shards."""
        first, *rest = tensor.shape or (1,)
        shards = self.how.ways_of(tensor)
        if self.how.axis_of(tensor):  # along which it divides
            return prod(tensor.shape) // ways
        return -(-first // shards) * prod(rest) * shards // ways
