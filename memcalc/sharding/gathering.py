"""The hooks of FSDP2 on a step: when its units are gathered, let go of, gathered in advance, and reduced.

Source: torch 2.13.0, torch/distributed/fsdp/_fully_shard: the methods named below are FSDPState's and FSDPParamGroup's. What
each of them allocates is in unsharding.py and reducing.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from memcalc.sharding.groups import Group, Grouping
from memcalc.sharding.portions import Portions
from memcalc.sharding.reducing import Reducing
from memcalc.sharding.unsharding import Unsharding
from memcalc.tape import functions as f
from memcalc.tape.units import Visit
from memcalc.tape.values import FLOATS

if TYPE_CHECKING:
    from memcalc.sharding.fsdp2 import FullyShard
    from memcalc.sharding.groups import Groups
    from memcalc.tape.autograd import Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording
    from memcalc.tape.units import Unit
    from memcalc.tape.values import Value


class Gathering(Grouping):
    """The hooks of FSDPState and FSDPParamGroup on one step.

    `order` is the groups as their forwards ended; `returning` whether the backward pass has begun.
    """

    def __init__(self, tape: Tape, how: FullyShard, groups: Groups) -> None:
        super().__init__(tape, groups)
        self.how, self.outside = how, True
        self.portions = portions = Portions(tape, how)
        self.unsharding, self.reducing = Unsharding(tape, how, portions), Reducing(tape, how, portions)
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
            self.reducing.accumulate(group)
        self.unsharding.unshard(group)
        self.unsharding.wait(group)
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
            self.unsharding.reshard(group, self.portions.reshards(group))
            group.turns.append(len(self.order))
            self.order.append(group)
        group.state = "idle"
        ends = group is self.groups.root or (self.how.outermost and group.kind == "head")
        if self.returning or ends:  # a layer that a checkpoint runs again is a root of its own
            self.unsharding.held = None

    def before_backward(self, unit: Unit) -> None:
        """FSDPState._pre_backward, with the implicit prefetch of the unit whose forward came before."""
        group = cast("Group", unit)
        self.returning = True
        if group.kind == "layer":
            self.back = group
        if group.state == "backward" or not group.tensors:
            return
        group.state = "backward"
        self.unsharding.unshard(group)
        self.unsharding.wait(group)
        turn = group.turns.pop() if group.turns else 0
        if not self._ahead(group, -1) and turn > 0:
            self.unsharding.unshard(self.order[turn - 1])

    def after_backward(self, unit: Unit) -> None:
        """FSDPParamGroup.post_backward."""
        group = cast("Group", unit)
        group.state, group.table = "reduced", None
        own = self.reducing.unlike(group)
        gradients = self.reducing.complete(group)
        self.reducing.summed(gradients)
        self.unsharding.reshard(group, reshards=True)
        self.reducing.copy(own)
        self.reducing.make_room()
        if gradients:
            self.reducing.reduce(group, gradients)

    def gradient(self, leaf: Leaf, gradient: Value) -> bool:
        """An unsharded parameter's gradient waits for its unit to end; a later one is added in place."""
        if leaf.unit is None:
            return False
        group = cast("Group", leaf.unit)
        plain = self.how.reduce_dtype in ("", gradient.dtype)  # what autograd left is kept as it is
        added = leaf in group.gradients or (leaf.name in group.accumulated and plain)
        if added:
            self.reducing.keeps.append(gradient.storage.id)
        else:
            group.gradients[leaf] = gradient
            self.tape.gradients.append(gradient.storage.id)
        return True

    def finish(self) -> None:
        """FSDPState._root_post_backward_final_callback: units whose input asked for no gradient end here, the root first."""
        for group in self.groups.all():
            if group.state != "reduced":
                self.after_backward(group)
        self.unsharding.held = None
        self.reducing.finish()
        for group in self.groups.all():
            group.gathering = None

    def laid(self, recording: Recording) -> Recording:
        """The recording, and what earlier micro batches do otherwise: they keep what this one adds to theirs."""
        earlier = self.reducing.earlier()
        return replace(recording, unreduced=earlier) if earlier else recording

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
                self.unsharding.unshard(other)
        return True

    def _chained(self, group: Group, direction: int) -> bool:
        """What torchtitan's apply_fsdp names under expert parallelism: whether anything.

        A layer names the next one and its experts, the embedding the first layer, the last one the head; and back.
        """
        named = self.groups.beside(group, direction)
        for other in named:
            self.unsharding.unshard(other)
            if other.experts and group.kind == "layer":
                self.unsharding.unshard(other.experts)
        return bool(named)
