# ruff: noqa: ARG002 - the hooks here do nothing with what they are told
"""Units: the modules that a sharding strategy wraps, and the hooks that it gets around their forward and backward.

A strategy's own transient memory (gathered parameters, communication buffers, gradients on their way to their shards) is
made of ordinary values of the tape, whose storages are marked with `Tape.buffer`; so timeline, peak, composition and
curve hold them like everything else, layers that stand for several included. For that, what a unit lets go of in a layer's
stretch of the log and did not make there must have been made by the unit before it, as often.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from memcalc.blocks.base import Stack
from memcalc.tape.autograd import Edge, Node
from memcalc.tape.values import Value
from memcalc.tensors import count_of, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from memcalc.blocks.base import Block
    from memcalc.tape.autograd import Gradients, Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording
    from memcalc.tensors import Tensor

_LAYER = re.compile(r"(\d+|\{[^{}]*\})(?:\.|$)")
ROOT = ""


class Unit:
    """A module with its tensors (`count` of each being that of one such module): '' is the root, whatever is left over.

    Strategies subclass it where they keep something per unit.
    """

    def __init__(self, path: str, tensors: tuple[Tensor, ...]) -> None:
        self.path, self.tensors = path, tensors
        self.open = False  # whether a module of it has run again since it ended
        self.asks = False  # whether its output asks for a gradient


class Visit(NamedTuple):
    """A module at which a unit begins (its forward hook before it), or ends, or both."""

    unit: Unit
    enters: bool = True
    leaves: bool = True


class Sharder:
    """The hooks of a strategy on one tape; here they do nothing. One is made for each step that is recorded.

    Layers of stacks are asked for by `layer`, named modules by `module`; the root is around the whole forward pass. In a
    recomputation the forward hooks run again (after_forward only where the recomputation gets that far). `neighbours`:
    which layers beside one its record depends on (-1: the one before, 1: the one behind); `reach` is over how many layers
    what is made in one may live; `outlasts` says that only what is gathered for a layer does so, until the second from it.
    """

    neighbours: tuple[int, ...] = (-1, 1)
    reach = 1
    outlasts = False
    # whether modules see parameters as leaves, of which autocast keeps its copies (FSDP1 shows them views)
    leaves = True

    handed: tuple[int, ...] = ()  # shape of a table in fp32 that every layer is called with
    outside = False  # whether the hooks are those of a wrapper around a layer and its checkpoint (FSDP1)

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.running: list[Unit] = []  # the units whose forward is under way, innermost last
        self.begun = 0  # how long the log was when the root's was entered

    @property
    def unit(self) -> Unit | None:
        """The unit that a parameter met now belongs to."""
        return self.running[-1] if self.running else None

    def root(self) -> Unit | None:
        """The unit around the whole model."""
        return None

    def layer(self, stack: str, index: int, name: str) -> Unit | None:
        """The unit of layer number `index` of the stack at that path; `name` is the pattern of its like."""
        return None

    def module(self, path: str) -> Visit | None:
        """The unit that begins or ends at the named module there."""
        return None

    def before_forward(self, unit: Unit) -> None:
        """Before the unit's forward."""

    def after_forward(self, unit: Unit) -> None:
        """After the unit's forward."""

    def before_backward(self, unit: Unit) -> None:
        """When the gradient of the unit's output is there."""

    def after_backward(self, unit: Unit) -> None:
        """When the gradient of the unit's input is there; never where its input asks for none."""

    def within(self) -> None:
        """A backward pass within the backward pass is over, that of a reentrant checkpoint; its graph is still there."""

    def taken(self, unit: Unit, x: Value) -> Value:
        """A unit's input as its modules see it."""
        return x

    def given(self, unit: Unit, out: Value) -> Value:
        """A unit's output as what comes after it sees it."""
        return out

    def adapter(self, leaf: Leaf) -> Visit | None:
        """The unit of an adapter's matrix, which is called as a module of its own."""
        return None

    def gradient(self, leaf: Leaf, gradient: Value) -> bool:
        """A parameter's gradient is complete; True where the strategy takes it, else it stays as the parameter's."""
        return False

    def added(self, leaf: Leaf, gradient: Value) -> None:
        """A parameter's gradient is complete, and has been added to what earlier micro batches left."""

    def finish(self) -> None:
        """The backward pass is over."""

    def laid(self, recording: Recording) -> Recording:
        """The recording with what the strategy has beside the log laid over it (memcalc.timeline.overlay)."""
        return recording


def called(t: Tape, visit: Visit, function: Callable[[Value], Value], x: Value) -> Value:
    """function(x) with the hooks of its unit around it, as nn.Module.__call__ and tensors' own hooks run them."""
    sharder, (unit, enters, leaves) = t.sharder, visit
    assert sharder is not None  # noqa: S101 - it has given the visit
    if unit.open or not (enters or unit in sharder.running):
        return _again(sharder, unit, function, x)
    if enters:
        t.owner = t.path
        x = sharder.taken(unit, x)
        sharder.before_forward(unit)
        sharder.running.append(unit)
        x = noticed(t, x, sharder.after_backward, unit)
    try:
        out = function(x)
    except BaseException:  # a recomputation has what it needs
        sharder.running.remove(unit)
        raise
    if leaves:
        sharder.running.remove(unit)
        sharder.after_forward(unit)
        out = noticed(t, out, sharder.before_backward, unit)
        unit.asks = out.node is not None
        out = sharder.given(unit, out)
    return out


def hooked(t: Tape, path: str, function: Callable[[Value], Value], x: Value) -> Value:
    """function(x) as a module at that path runs it that has no block of its own: with the hooks of its unit, if it has one."""
    visit = t.sharder.module(path) if t.sharder is not None else None
    return function(x) if visit is None else called(t, visit, function, x)


def _again(sharder: Sharder, unit: Unit, function: Callable[[Value], Value], x: Value) -> Value:
    """The end of a unit once more, as a loss in chunks calls a head: it is there until the whole model has run."""
    if not unit.open:
        unit.open = True
        sharder.before_forward(unit)
        sharder.running.append(unit)
    return function(x)


def noticed(t: Tape, x: Value, hook: Callable[[Unit], None], unit: Unit) -> Value:
    """The same tensor; `hook(unit)` runs when its gradient is there, before anything is made of it."""
    if x.node is None or not t.grad_enabled:
        return x
    node = Node(t, _notice, [Edge(x.node, x.slot, x.shape, x.dtype)], (hook, unit))
    return Value(t, x.storage, x.shape, x.dtype, x.strides, node)


def _notice(node: Node, gradient: Value) -> Gradients:
    hook, unit = node.meta
    hook(unit)
    return (gradient,)


def stacks(block: Block, units: str = "layers", path: str = "", *, inner: bool = False) -> Iterator[str]:
    """Paths of the stacks whose layers are wrapped one by one: the outermost, or those within its layers, where these are
    stages: no two alike, and each with a stack of its own, which is no list of norms, of linear layers or of experts (`inner`).

    What `units` (Model.units) says of such stages: they are units themselves, or (stages+layers) around those of their layers.
    """  # noqa: D205 - one sentence
    path = f"{path}.{block.name}" if path and block.name else path or block.name
    if isinstance(block, Stack):
        if inner and not any(part.parts() for _, layer in block.groups() for part in layer.parts()):
            return
        within = [(indices, layer, list(stacks(layer, inner=True))) for indices, layer in block.groups()]
        if units == "stages" or len(within) < len(block.layers) or not all(below for _, _, below in within):
            yield path
            return
        for indices, _, below in within:
            yield from (f"{path}.{index}.{inner}" for index in indices or () for inner in below)
        if units != "layers":
            yield path
        return
    for _, part in block.groups():
        yield from stacks(part, units, path, inner=inner)


class Wrapped:
    """Tensors by the layer they are in: which are in layers of these stacks, and which in none."""

    def __init__(self, paths: Iterable[str], tensors: Iterable[Tensor]) -> None:
        self.layers: dict[str, list[tuple[str, Tensor]]] = {path: [] for path in paths}
        self._parts: dict[str, list[tuple[str, Tensor]]] = {}
        self.rest: list[Tensor] = []
        for tensor in tensors:
            if not tensor.tied_to and not tensor.buffer:
                self._sort(tensor)

    def _sort(self, tensor: Tensor) -> None:
        for path, found in self.layers.items():
            if tensor.name.startswith(f"{path}.") and (match := _LAYER.match(tensor.name, len(path) + 1)):
                found.append((match[1], tensor))
                return
        self.rest.append(tensor)

    def of(self, path: str, index: int) -> tuple[Tensor, ...]:
        """The tensors of one layer, as often as they are in it."""
        if path not in self._parts:
            found = self.layers.get(path, ())
            self._parts[path] = [(pattern, _part(tensor, count_of(pattern))) for pattern, tensor in found]
        return tuple([part for pattern, part in self._parts[path] if holds(pattern, index)])

    def alike(self, path: str) -> Iterator[tuple[tuple[Tensor, ...], list[int]]]:
        """The layers of a stack that hold the same tensors: those of one layer, and the layers' numbers."""
        found = self.layers[path]
        sets = {pattern: [int(number) for number in expand(pattern)] for pattern in dict.fromkeys(p for p, _ in found)}
        members: dict[int, list[str]] = {}
        for pattern, numbers in sets.items():
            for number in numbers:
                members.setdefault(number, []).append(pattern)
        groups: dict[tuple[str, ...], list[int]] = {}
        for number, own in sorted(members.items()):
            groups.setdefault(tuple(own), []).append(number)
        for patterns, numbers in groups.items():
            yield tuple(_part(tensor, len(sets[p])) for p, tensor in found if p in patterns), numbers


def holds(pattern: str, index: int) -> bool:
    """Whether layer number `index` is among those a pattern stands for."""
    return str(index) in _layers(pattern)


@lru_cache(maxsize=256)
def _layers(pattern: str) -> frozenset[str]:
    return frozenset(expand(pattern))


def _part(tensor: Tensor, layers: int) -> Tensor:
    return replace(tensor, count=tensor.count // layers) if layers > 1 else tensor
