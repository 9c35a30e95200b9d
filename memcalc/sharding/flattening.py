"""What FSDP1 allocates around its units: casts and gathers of flat parameters, flat gradients, reductions.

Source: torch 2.13.0, torch/distributed/fsdp/_runtime_utils.py and _flat_param.py: the functions named below.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from memcalc.sharding.fsdp1 import KEEPING, RESHARDING
from memcalc.sharding.groups import Group, Grouping
from memcalc.sharding.handles import Handle, made, tried
from memcalc.sharding.pairs import Pairs
from memcalc.sharding.reducing import REDUCTIONS
from memcalc.sharding.unsharding import GATHERS
from memcalc.tape.earlier import Unreduced
from memcalc.tape.units import Visit

if TYPE_CHECKING:
    from memcalc.sharding.fsdp1 import Flattened
    from memcalc.sharding.groups import Groups
    from memcalc.tape.autograd import Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording
    from memcalc.tape.units import Unit
    from memcalc.tape.values import Value

CASTS = 3  # the stream of pre_unshard, beside those of unshard and of the backward pass's end (_init_streams)


class Flattening(Grouping):
    """The hooks of one step, around the modules that FSDP1 wraps.

    `ahead` is what forward prefetch has gathered for the unit that comes next, `late` the unit whose gradients wait for the
    backward pass of the one before, `frozen` what has no gradients and is whole until then. Of storages, `kept` are the flat
    gradients that are added to those of earlier micro batches, `reduced` what is made of the sums; `stays` are what is whole
    since an earlier one, where nothing is let go of before the last, and `once` what it takes to gather that.
    """

    outside = True
    leaves = False

    def __init__(self, tape: Tape, how: Flattened, groups: Groups) -> None:
        super().__init__(tape, groups)
        self.how, self.pairs = how, Pairs()
        self.handles: dict[Group, list[Handle]] = {}
        self.order: list[Group] = []
        self.ahead: list[Value] = []
        self.late: Group | None = None
        self.frozen: list[Handle] = []
        self.addend: Value | None = None
        self.returning = False
        self.kept: list[int] = []
        self.reduced: list[int] = []
        self.stays: list[int] = []
        self.once: list[int] = []
        ahead = how.word not in KEEPING  # the one before is gathered, going back
        self.neighbours = (-1, 1) if how.forward_prefetch else (-1,) if ahead else ()
        members = (tensor for found in groups.layers.layers.values() for _, tensor in found)
        frozen = any(not tensor.trainable and not tensor.buffer for tensor in members)
        self.outlasts = how.forward_prefetch or frozen
        if how.wrap == "layers":
            groups.root.tensors = self.pairs.without(groups.root.tensors)

    def layer(self, stack: str, index: int, name: str) -> Group | None:
        """The layer's unit, without what is one of its own in it."""
        found = super().layer(stack, index, name)
        if found:
            found.tensors = self.pairs.without(found.tensors)
        return found

    def adapter(self, leaf: Leaf) -> Visit | None:  # noqa: D102
        own = self.pairs.of(leaf)
        return Visit(own) if own else None

    def before_forward(self, unit: Unit) -> None:
        """_pre_forward."""
        group = cast("Group", unit)
        group.state = "forward"
        if self.how.accumulates and not self.returning:
            for handle in self._of(group):
                self._accumulated(handle)
        self._unshard(group)
        if self.how.forward_prefetch and not self.returning and group.kind == "layer" and not group.last:
            self.ahead = [self._gather(handle) for handle in self._of(group)]

    def after_forward(self, unit: Unit) -> None:
        """_post_forward: the root's stay, and everybody's where the strategy says so."""
        group = cast("Group", unit)
        if self.how.word == "NO_SHARD" or (self.how.word in RESHARDING and group.kind != "root"):
            self._free(group)
        if not self.returning and (group.kind != "adapter" or not group.turns):  # DoRA calls them twice
            group.turns.append(len(self.order))
            self.order.append(group)
        group.state = "idle"

    def before_backward(self, unit: Unit) -> None:
        """_pre_backward_hook, which may prefetch the unit whose forward came before."""
        group = cast("Group", unit)
        self.returning = True
        if group.state == "backward":
            return
        group.state = "backward"
        self._unshard(group)
        self._let_go()
        if self.how.prefetch == "BACKWARD_PRE":
            self._prefetch(group)

    def after_backward(self, unit: Unit) -> None:
        """_post_backward_hook, once the gradients of a flat parameter's views have come together.

        Views that forward prefetch has made are older than the unit before: autograd comes to them behind it.
        """
        self._overdue()
        group = cast("Group", unit)
        if group.state == "reduced":
            return
        if self.how.forward_prefetch and group.kind == "layer" and any(handle.trainable for handle in self._of(group)):
            self.late = group
        else:
            self._reduced(group)

    def within(self) -> None:
        """Views are older than all that a reentrant checkpoint runs again: they come last in its own backward pass."""
        for group in [group for group in self.groups.made.values() if group.state == "backward"][:1]:
            self._reduced(group)

    def _let_go(self) -> None:
        """_post_backward_reshard_only_hook: behind the one that gathers the unit before, on the same tensor."""
        for handle in self.frozen:
            handle.full = None
        self.frozen = []

    def _overdue(self) -> None:
        late, self.late = self.late, None
        if late:
            self._reduced(late)

    def _reduced(self, group: Group) -> None:
        group.state = "reduced"
        trained = next((handle for handle in self._of(group) if handle.trainable), None)
        flat = self._together(group, trained) if trained and group.gradients else None
        self._let_go()
        if self.returning and group.kind == "layer":
            self.frozen = [handle for handle in self._of(group) if not handle.trainable]
        for handle in self._of(group):
            if handle not in self.frozen:
                handle.full = None
        if self.how.prefetch == "BACKWARD_POST":
            self._prefetch(group)
        start = len(self.tape.sizes)
        if trained and flat:
            self._reduce(trained, flat)
            self._stand_in(group, trained)
        self.reduced += range(start, len(self.tape.sizes))
        self.addend = None

    def gradient(self, leaf: Leaf, gradient: Value) -> bool:
        """The gradient of a view waits for those of the others."""
        if leaf.unit is None:
            return False
        own = self.pairs.of(leaf)
        (own or cast("Group", leaf.unit)).gradients[leaf] = gradient
        self.tape.gradients.append(gradient.storage.id)
        if own:
            self.after_backward(own)
        return True

    def finish(self) -> None:
        """Units whose inputs asked for no gradient, the root last; then gradients go where the optimizer looks for them."""
        self._overdue()
        self._let_go()
        root, *others = self.groups.all()
        for group in (*others, root):
            if group.state != "reduced" and not (group.state == "idle" and self.how.forgets):
                self.after_backward(group)
        self._let_go()
        start = len(self.tape.sizes)
        for handles in self.handles.values():
            for handle in handles:
                self._settle(handle)
        self.reduced += range(start, len(self.tape.sizes))

    def laid(self, recording: Recording) -> Recording:
        """The recording; beside it what the first forward pass begins with, and what earlier micro batches do otherwise."""
        every = (*self.groups.all(), *self.pairs.met.values())
        ways = self.how.shards if self.how.word != "NO_SHARD" else 0
        sizes = tried([handle for group in every for handle in self._of(group)], ways)
        reduced = frozenset() if self.how.sums else frozenset(self.reduced)
        how = Unreduced(frozenset(self.kept), reduced, (), frozenset(self.stays), frozenset(self.once))
        unreduced = how if self.kept else None
        moves = tuple(move for number, size in enumerate(sizes) for move in (size, ~number))
        return replace(recording, tried=moves, unreduced=unreduced)

    def _of(self, group: Group) -> list[Handle]:
        if group not in self.handles:
            self.handles[group] = made(self.how, group.tensors, self.tape)
        return self.handles[group]

    def _unshard(self, group: Group) -> None:
        """_unshard: what is there, or was prefetched, is not gathered again."""
        ahead = [] if group.kind == "adapter" else self.ahead
        self.ahead = self.ahead if group.kind == "adapter" else []
        for handle in self._of(group):
            if handle.full is None and ahead:
                handle.full = ahead.pop(0)
            elif handle.full is None:
                handle.full = self._gather(handle)

    def _gather(self, handle: Handle) -> Value:
        """_unshard: the whole flat parameter, and its shard cast to be gathered.

        Without shards the cast is all.
        """
        buffer, narrow = self.tape.buffer, handle.kept != handle.seen
        moved = buffer(handle.shard, handle.kept, stream=CASTS) if self.how.offloads else None
        shard = buffer(handle.shard, handle.seen, stream=CASTS) if narrow else None
        if self.how.word == "NO_SHARD":
            return shard or buffer(0, handle.seen)
        full = buffer(handle.shard * self.how.shards, handle.seen, relay=self.returning, stream=GATHERS)
        if self.how.accumulates and self.how.word in KEEPING and not self.returning:  # _should_free_in_backward
            self.stays.append(full.storage.id)
            self.once += [value.storage.id for value in (moved, shard) if value]
        del shard, moved
        return full

    def _free(self, group: Group) -> None:
        for handle in self._of(group):
            handle.full = None

    def _prefetch(self, group: Group) -> None:
        turn = group.turns.pop() if group.turns else 0
        if turn and (before := self.order[turn - 1]).state == "idle" and before.asks:
            self._unshard(before)

    def _together(self, group: Group, handle: Handle) -> Value:
        """SplitWithSizesBackward: gradients of all views in one.

        They are added to what earlier micro batches left.
        """
        flat = self.tape.new((handle.elements,), handle.seen)
        self.tape.gradients.append(flat.storage.id)
        places = {tensor.name: place for place, tensor in enumerate(group.tensors)}
        for leaf in sorted(group.gradients, key=lambda leaf: places.get(leaf.name, len(places))):
            del group.gradients[leaf]  # in the order of the views
        if handle.accumulated:
            self.kept.append(flat.storage.id)
            self.addend = flat  # AccumulateGrad holds what it adds until its hooks, of which this is one, have run
            flat, handle.accumulated = handle.accumulated, None
        return flat

    def _reduce(self, handle: Handle, flat: Value) -> None:
        """_reduce_grad: the flat gradient cast and padded, and this rank's part of the sum."""
        tape, ways = self.tape, self.how.shards
        dtype = self.how.reduce_dtype or handle.seen
        wide = tape.buffer(handle.elements, dtype, stream=REDUCTIONS) if dtype != handle.seen else flat
        if self.how.word == "NO_SHARD":
            kept = dtype == handle.kept or self.how.narrow
            part = wide if kept else tape.on(REDUCTIONS, tape.new((handle.elements,), handle.kept))
        else:
            whole = handle.shard * ways
            padded = tape.buffer(whole, dtype, stream=REDUCTIONS) if handle.elements % ways else None
            part = tape.on(REDUCTIONS, tape.new((handle.shard,), dtype))
            if dtype != handle.kept:
                tape.buffers.append(part.storage.id)
                narrow, part = part, tape.on(REDUCTIONS, tape.new((handle.shard,), handle.kept))
                del narrow
            del padded
        del wide
        if not handle.saved and not self.how.sums:
            handle.saved = part
            tape.gradients.append(part.storage.id)
        else:
            self.kept += [part.storage.id] if self.how.sums else []
            tape.buffers.append(part.storage.id)

    def _stand_in(self, group: Group, handle: Handle) -> None:
        """_use_sharded_grad_views: a gradient in another dtype than its parameter's takes the place of an empty one in that."""
        if self.how.visible and self.how.narrow and handle.saved:
            most = max((tensor.elements for tensor in group.tensors if tensor.trainable), default=0)
            self.tape.buffer(min(most, handle.shard), handle.kept)

    def _settle(self, handle: Handle) -> None:
        """prepare_gradient_for_optim: to the host where the shards are; shards in the low dtype where it is asked for."""
        if handle.saved and self.how.offloads:
            handle.saved = None
        sharded = self.how.word != "NO_SHARD"
        if handle.saved and self.how.narrow and sharded and handle.saved.dtype != handle.seen:
            handle.saved = self.tape.new(handle.saved.shape, handle.seen)
            self.tape.gradients.append(handle.saved.storage.id)

    def _accumulated(self, handle: Handle) -> None:
        """no_sync: flat gradients of earlier micro batches.

        They come with the unit's forward, so as often as there are units.
        """
        if handle.trainable and not handle.accumulated:
            handle.accumulated = self.tape.accumulated((handle.elements,), handle.seen)
