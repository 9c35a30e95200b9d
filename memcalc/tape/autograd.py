"""A small interpreter of autograd that knows sizes only: nodes, what they save, and the backward walk.

It follows torch/csrc/autograd/engine.cpp. The node made last runs first: whatever hands it a gradient was made later, so
has run. Gradients that meet are added into a new tensor before the node that waits for them runs; what a node saved is
released when it has run; a parameter's gradient stays.
"""

from __future__ import annotations

from operator import attrgetter
from sys import getrefcount
from typing import TYPE_CHECKING, Any, TypeAlias

from memcalc.tape.values import Shape, Value, dense_like, viewed

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.checkpoint import Holder
    from memcalc.tape.offload import Away
    from memcalc.tape.recorder import Tape
    from memcalc.tape.spending import Spent
    from memcalc.tape.units import Unit

Gradients: TypeAlias = "tuple[Value | None, ...]"
Formula: TypeAlias = "Callable[..., Gradients]"


def _counted() -> int:
    """What getrefcount says of an object that one local variable alone holds.

    2, with the call's own; 1 where a call borrows what a variable holds (3.14, LOAD_FAST_BORROW).
    """
    alone = object()
    return getrefcount(alone)


ALONE = _counted()


NONE: list[Any] = []  # of a node's values while its formula does not run


class Edge:
    """Where the gradient of an input goes, and what it must look like: that input's own shape and dtype."""

    __slots__ = ("dtype", "node", "shape", "slot")

    def __init__(self, node: Node | Leaf, slot: int, shape: Shape, dtype: str) -> None:
        self.node, self.slot = node, slot
        self.shape, self.dtype = shape, dtype


class Node:
    """An operation to be undone: its backward formula, where its gradients go, and what it saved for them."""

    __slots__ = ("edges", "flattens", "formula", "loaded", "meta", "owner", "saved", "sequence", "width")

    def __init__(self, tape: Tape, formula: Formula, edges: list[Edge | None], meta: Any) -> None:  # noqa: ANN401 - what each formula asks for
        tape.sequence = self.sequence = tape.sequence + 1
        self.formula, self.edges, self.meta = formula, edges, meta
        self.saved: list[Value | Holder | Away | None] = []
        self.loaded = NONE
        self.owner, self.width = tape.owner, 1
        self.flattens = False  # whether its gradient goes through a view first, which copies what lies otherwise

    def load(self) -> list[Any]:
        """The saved values, recomputed where a checkpoint stands in for them."""
        self.loaded = [x if x is None or x.__class__ is Value else x.unpack() for x in self.saved]  # type: ignore[union-attr]
        return self.loaded

    def shape(self, which: int) -> Shape:
        """The shape of an input whose gradient is asked for."""
        edge = self.edges[which]
        return edge.shape if edge else ()

    def wants(self, which: int) -> bool:
        """Whether the gradient of an input is asked for."""
        return self.edges[which] is not None


class Leaf:
    """A parameter's end of the graph: the gradient accumulates here (torch/csrc/autograd/functions/accumulate_grad.h).

    It holds the parameter, as AccumulateGrad does. `spends` is what a step allocates that uses the gradient up at
    once; None where it stays for the optimizer's. `unit` is the module that a sharding strategy wrapped it in.
    """

    __slots__ = ("dtype", "grad", "held", "name", "shape", "spends", "storage", "tape", "unit")
    edges: tuple[Edge, ...] = ()
    width = 1

    def __init__(self, tape: Tape, value: Value, *, held: bool = False, spends: Spent | None = None) -> None:
        self.tape, self.storage = tape, value.storage
        self.shape, self.dtype = value.shape, value.dtype
        self.held, self.spends = held, spends
        self.grad: Value | None = None
        self.name = ""
        self.unit: Unit | None = None

    def accumulate(self, grads: list[Value]) -> None:
        """Keep the gradient: as it is, or a copy where others still hold it or its layout isn't the parameter's.

        `held` marks a gradient that an earlier micro batch left: the new one is added into it in place.
        """
        gradient = grads.pop()
        if self.grad is not None:
            return
        copies = getrefcount(gradient) > ALONE or gradient.strides is not None
        sharder = self.tape.sharder
        if self.held:
            self.tape.adds(self, gradient, copies=copies)
            if sharder is not None and self.name:
                sharder.added(self, gradient)
            return
        if copies:
            gradient = self.tape.new(gradient.shape, gradient.dtype)
        if (
            sharder is not None and self.name and sharder.gradient(self, gradient)
        ):  # an input of a checkpoint has no name
            return
        self.tape.gradients.append(gradient.storage.id)
        if self.spends is None:
            self.grad = gradient
        else:
            self.tape.spending.take(gradient, self.spends)


def edges_to(inputs: tuple[Value | None, ...]) -> list[Edge | None]:
    """Where the gradients of an operation's inputs go; None for those that ask for none."""
    return [None if x is None or x.node is None else Edge(x.node, x.slot, x.shape, x.dtype) for x in inputs]


def record(
    tape: Tape,
    formula: Formula,
    inputs: tuple[Value | None, ...],
    saved: tuple[Value | None, ...] = (),
    meta: Any = None,  # noqa: ANN401 - what each formula asks for
) -> Node | None:
    """The node of an operation, with inputs saved before it runs; None where no gradient will be asked for.

    Inputs are saved as they are: the nodes that made them are held by the edges anyway.
    """
    if not tape.grad_enabled:
        return None
    edges = edges_to(inputs)
    if not any(edges):
        return None
    node, hook = Node(tape, formula, edges, meta), tape.saving
    if saved:
        node.saved = list(saved) if hook is None else [x and hook(x.detach()) for x in saved]
    return node


def save(tape: Tape, node: Node | None, x: Value | None) -> None:
    """Put a value on a node's saved list, without the node that made it: that may be this one, or what a checkpoint leaves."""
    if node is None:
        return
    if x is None:
        node.saved.append(None)
    else:
        hook = tape.saving
        node.saved.append(x.detach() if hook is None else hook(x.detach()))


def backward(tape: Tape, roots: list[tuple[Value, Value]], watch: Callable[[int], int] | None = None) -> list[Node]:
    """Run the graph below (output, gradient) pairs; its nodes, the latest first.

    `watch` hears the first node's sequence number before it runs, and that of the next one which is not above the number
    that it returns.
    """
    enabled, tape.grad_enabled = tape.grad_enabled, False
    engine = Engine(tape, [value.node for value, _ in roots])
    while roots:
        value, gradient = roots.pop()
        engine.deliver(value.node, value.slot, gradient)
        del value, gradient
    engine.run(watch)
    tape.grad_enabled = enabled
    return engine.nodes


def take_apart(root: Value, nodes: list[Node]) -> None:
    """Let go of a graph that has run, the latest node first; how deep deallocations nest is the interpreter's own affair."""
    root.node = None
    nodes.reverse()
    while nodes:
        nodes.pop().edges = []


class Engine:
    """One backward walk, the latest node first: gradients wait in buffers until their node's turn comes.

    A parameter's turn is when as many have come as it waits for.
    """

    def __init__(self, tape: Tape, roots: list[Any]) -> None:
        self.tape = tape
        self.nodes, self.waiting = _below(roots)
        self.buffers: dict[Any, list[Value | None]] = {}
        self.leaves: list[Leaf] = []

    def run(self, watch: Callable[[int], int] | None) -> None:
        """Node after node; parameters whose gradients are complete come before any other node."""
        awaited = self.nodes[0].sequence if self.nodes else 0
        tape, buffers, leaves, evaluate, deliver = self.tape, self.buffers, self.leaves, self.evaluate, self.deliver
        for node in self.nodes:
            if watch and node.sequence <= awaited:
                awaited = watch(node.sequence)
            tape.owner = node.owner
            outputs = evaluate(node, buffers.pop(node))
            for i, edge in enumerate(node.edges):
                if edge is not None:
                    gradient, outputs[i] = outputs[i], None
                    target = edge.node
                    if target.__class__ is Node and target.width == 1 and target not in buffers:
                        buffers[target] = [gradient]  # the first to come, as most are the only one
                    else:
                        deliver(target, edge.slot, gradient)
                    del gradient
            outputs.clear()
            while leaves:
                self.accumulate(leaves.pop(0))

    def deliver(self, node: Any, slot: int, gradient: Value | None) -> None:  # noqa: ANN401 - Node or Leaf
        """Put a gradient into the buffer of its node; two that meet are summed into a new tensor (InputBuffer::add).

        The recorded steps add out of place, as torch does for tensors that are not plain; real ones add in place where
        nobody else holds the first of them (can_accumulate_inplace): `adds_in_place`.
        """
        buffer = self.buffers.get(node)
        if buffer is None:
            buffer = self.buffers[node] = [None] * node.width
        if gradient is not None:
            old = buffer[slot]
            if old is not None:
                # of a gradient that has other ranks' rows, too, a DTensor, what is this one's of their sum
                part = self.tape.new(old.shape, old.dtype) if gradient.elements > old.elements else None
                ours = self.tape.adds_in_place and getrefcount(old) <= ALONE + 1 and getrefcount(old.storage) <= 2
                new = not ours or part is not None
                gradient = self.tape.new(old.shape, old.dtype, dense_like(old.shape, old.strides)) if new else old
                del part
            buffer[slot] = gradient
            del old
        if node.__class__ is Leaf:
            self.waiting[node] -= 1
            if not self.waiting[node]:
                self.leaves.append(node)

    def evaluate(self, node: Node, grads: list[Value | None]) -> list[Value | None]:
        """The gradients of a node's inputs, each made to fit its input; then what the node saved is let go."""
        if node.flattens and (gradient := grads[0]) is not None and gradient.strides is not None:
            rows, columns = gradient.elements // gradient.shape[-1], gradient.shape[-1]
            strides = viewed(gradient.shape, gradient.strides, (rows, columns))
            if strides is None:
                grads[0] = self.tape.new(gradient.shape, gradient.dtype)
            del gradient
        outputs = list(node.formula(node, *grads))
        node.loaded = NONE
        for i, edge in enumerate(node.edges):
            gradient = outputs[i]
            if gradient is not None and edge is not None:
                if gradient.shape != edge.shape:
                    outputs[i] = gradient = self.tape.new(edge.shape, gradient.dtype)
                if gradient.dtype != edge.dtype:
                    outputs[i] = self.tape.new(edge.shape, edge.dtype, gradient.strides)
            del gradient
        if len(grads) > 1:
            grads.reverse()
        grads.clear()
        if node.saved:
            node.saved.reverse()
            node.saved = []
        return outputs

    def accumulate(self, leaf: Leaf) -> None:
        """Let a parameter take its gradient."""
        grads = [g for g in self.buffers.pop(leaf) if g is not None]
        if grads:
            leaf.accumulate(grads)


def _below(roots: list[Any]) -> tuple[list[Node], dict[Leaf, int]]:
    """The nodes of a graph, the latest first, and how many gradients each of its parameters waits for.

    Several of the roots may be outputs of one node.
    """
    nodes: dict[Node, None] = {}
    waiting: dict[Leaf, int] = {}
    found = list(roots)
    while found:
        node = found.pop()
        if node.__class__ is Leaf:
            waiting[node] = waiting.get(node, 0) + 1
        elif node not in nodes:
            nodes[node] = None
            found += [edge.node for edge in node.edges if edge is not None]
    return sorted(nodes, key=attrgetter("sequence"), reverse=True), waiting
