"""Activation checkpointing as torch/utils/checkpoint.py does it, without and with re-entrance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.autograd import Gradients, Leaf, Node, backward, record
from memcalc.tape.keeping import Keeping
from memcalc.tape.values import ITEM, Value, rounded

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.offload import Away
    from memcalc.tape.recorder import Tape

    Layer = Callable[..., Value]  # of its input, and of others where it is run again


class StopRecomputation(Exception):  # noqa: N818 - a signal, as in torch
    """Everything that the backward pass needs is there; the rest of the layer is not run."""


class Holder:
    """Stands in a saved list for a value that will be recomputed."""

    __slots__ = ("frame", "index")

    def __init__(self, frame: Frame, index: int) -> None:
        self.frame, self.index = frame, index

    def __del__(self) -> None:
        self.frame.gone.add(self.index)

    def unpack(self) -> Value:
        """The recomputed value; it is handed out once."""
        if self.frame.recomputed is None:
            self.frame.recompute()
        return self.frame.recomputed.pop(self.index)  # type: ignore[union-attr]


class Sent:
    """A layer's input that waits in host memory (save_on_cpu): a new tensor on the GPU where it is asked for."""

    __slots__ = ("dtype", "shape", "tape")

    def __init__(self, tape: Tape, x: Value) -> None:
        self.tape, self.shape, self.dtype = tape, x.shape, x.dtype
        tape.pinned += tape.like * rounded(x.elements * ITEM[x.dtype])

    def unpack(self) -> Value:
        """tensor.to(device)."""
        return self.tape.new(self.shape, self.dtype)


class Frame:
    """One checkpointed layer: its input, how to run it again, and what that yielded."""

    __slots__ = ("gone", "held", "keeping", "layer", "node", "place", "recomputed", "saved", "tape", "x")

    def __init__(self, tape: Tape, layer: Layer, x: Value) -> None:
        self.tape, self.layer, self.node = tape, layer, x.node
        if tape.setting.offload_inputs:
            self.x: Value | Holder | Away | Sent = Sent(tape, x)
        else:  # a checkpoint in a checkpoint has its input recomputed too
            self.x = tape.saving(x.detach()) if tape.saving else x
        self.saved, self.recomputed = 0, None  # type: int, dict[int, Value] | None
        self.held = 0
        self.gone: set[int] = set()  # what nobody will ask for: saved by operations that led to nothing
        self.keeping = Keeping() if tape.setting.selective else None
        self.place = tape.path, tape.instance

    def hold(self, _: Value) -> Holder:
        """Instead of saving."""
        self.saved += 1
        return Holder(self, self.saved - 1)

    def keep(self, value: Value) -> Value:
        """While recomputing: the n-th value that is saved is the n-th that was."""
        assert self.recomputed is not None  # noqa: S101 - recompute() has set it
        if self.held not in self.gone:
            self.recomputed[self.held] = value
        self.held += 1
        if self.held == self.saved and "recomputed-whole" not in self.tape.setting.fused:
            raise StopRecomputation
        return value

    def given(self) -> Value:
        """The layer's input, recomputed where another checkpoint stands in for it."""
        if isinstance(self.x, Value):
            return self.x
        x = self.x.unpack()
        return Value(self.tape, x.storage, x.shape, x.dtype, x.strides, self.node)

    def recompute(self) -> None:
        """Run the layer again up to the last value it saved, or to its end (early_stop=False)."""
        tape, self.recomputed = self.tape, {}
        before = tape.saving, tape.keeping, tape.grad_enabled, tape.owner, tape.path, tape.instance
        tape.path, tape.instance = self.place
        first = len(tape.sizes)
        tape.saving, tape.grad_enabled = self.keep, True
        tape.keeping = self.keeping and self.keeping.replay()
        try:
            with tape.autocast_again():
                self.layer(self.given())
        except StopRecomputation:
            pass
        tape.beside, tape.turned = (), None
        tape.saving, tape.keeping, tape.grad_enabled, tape.owner, tape.path, tape.instance = before
        tape.recomputed.append((first, len(tape.sizes)))


def checkpointed(
    tape: Tape, layer: Layer, x: Value, *others: Value, reentrant: bool = False, alone: bool = True
) -> Value:
    """layer(x), keeping x for the backward pass (in host memory where it is offloaded), and what is kept by choice.

    Offloaded with re-entrance it is as Unsloth has it, without as transformers' and FSDP's save_on_cpu around the checkpoint.
    Where x and the `others` are not `alone` in asking for a gradient, these are as the graph without re-entrance has them.
    """
    if alone and reentrant and not (tape.setting.offload_inputs and others):
        return _reentrant(tape, layer, x, others)
    frame, before = Frame(tape, layer, x), (tape.saving, tape.keeping)
    tape.saving, tape.keeping = frame.hold, frame.keeping
    try:
        return layer(x)
    finally:
        tape.saving, tape.keeping = before
        tape.beside = ()


def _reentrant(tape: Tape, layer: Layer, x: Value, others: tuple[Value, ...]) -> Value:
    """CheckpointFunction: forward without a graph; backward builds one and runs it at once.

    Offloaded, the input is copied to the host and back (unsloth_zoo, gradient_checkpointing.py,
    Unsloth_Offloaded_Gradient_Checkpointer; Axolotl's `gradient_checkpointing: offload`).
    """
    away = tape.setting.offload_inputs
    meta = [layer, tape.path, tape.instance, ()]
    node = record(tape, _reentrant_backward, (x, *others), (None if away else x, *others), meta)
    if away:
        tape.pinned += tape.like * rounded(x.elements * ITEM[x.dtype])
    enabled, tape.grad_enabled = tape.grad_enabled, False
    try:
        out = layer(x)
    finally:
        tape.grad_enabled = enabled
    meta[3] = [(value.shape, value.dtype) for value in tape.beside]
    if node:
        node.width += len(tape.beside)
    out, *beside = (
        Value(tape, value.storage, value.shape, value.dtype, value.strides, node, slot)
        for slot, value in enumerate((out, *tape.beside))
    )
    tape.beside = tuple(beside)
    return out


def _reentrant_backward(node: Node, g: Value, *others: Value | None) -> Gradients:
    """CheckpointFunction.backward: what nobody reads of the layer's outputs has a gradient too, of zeros."""
    saved, tape, edge = node.load(), g.tape, node.edges[0]
    if saved[0] is None and edge:
        saved[0] = tape.new(edge.shape, edge.dtype)
    leaves = [Leaf(tape, value) if edge else None for value, edge in zip(saved, node.edges, strict=True)]
    inputs = [Value(tape, x.storage, x.shape, x.dtype, x.strides, leaf) for x, leaf in zip(saved, leaves, strict=True)]
    layer, *place, returned = node.meta
    given = [g, *(read or tape.new(*like) for read, like in zip(others, returned, strict=True))]
    before, first = (tape.path, tape.instance), len(tape.sizes)
    tape.path, tape.instance = place
    tape.grad_enabled = True
    with tape.autocast_again():
        out = layer(*inputs)
    tape.grad_enabled = False
    tape.path, tape.instance = before
    tape.recomputed.append((first, len(tape.sizes)))
    beside, tape.beside = tape.beside, ()
    backward(tape, [(value, own) for value, own in zip((out, *beside), given, strict=True) if value.node])
    if tape.sharder is not None:
        tape.sharder.within()
    del saved, inputs, beside, out  # its caller lets go of what came for its outputs when it has returned
    return tuple(leaf.grad if leaf else None for leaf in leaves)
