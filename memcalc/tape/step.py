"""One training step on the tape: forward, backward, and where each begins in the log."""

from __future__ import annotations

from collections import Counter
from dataclasses import field
from functools import cached_property
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.tape.autograd import Leaf, backward, take_apart
from memcalc.tape.hf.programs import whole
from memcalc.tape.offload import Offloading, Tracking
from memcalc.tape.recorder import Layers, Tape
from memcalc.tape.units import noticed
from memcalc.tape.values import rounded
from memcalc.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.model import Model
    from memcalc.tape.autograd import Node
    from memcalc.tape.earlier import Unreduced
    from memcalc.tape.laid import Overlay, Stream
    from memcalc.tape.recorder import Added
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder
    from memcalc.tape.values import Value
    from memcalc.tape.weights import Weights


@dataclass(frozen=True, eq=False)
class Recording:
    """What a tape holds when the step is over: see Tape for the fields; `forward_end`, `end` are lengths of the log.

    Nobody changes what is in it, so that what follows from it can be kept beside it.

    * `outputs` is the storage that the training loop still holds when the step is over (-1: none), `kept` its bytes;
      `pinned` is what lies in host memory until the backward pass.
    * `products` are (place in the log, FLOPs, whether in a fused attention kernel) of every matrix product recorded.
    * Of a sharding strategy: `buffers` are the storages that it gathers or communicates in, `relays` those of which one
      at a time is there, `left` the gradients of earlier micro batches that it takes along.
    * `streams` has the number of the stream that a storage is made on, where it is not the modules' own.
    * `pieces` are storages that stand for many small ones (memcalc/tape/loops.py).
    * `fanned` says how often a storage is made that every one of like layers gets from without.
    * `overlay` is what a strategy has beside the log, `pools` the births and deaths on streams of its own, with which
      memcalc.replay.cycles.pooled replays the allocator.
    * `tried` is what a strategy makes and lets go of before the first step: bytes for a birth, ~n for the n-th born's death.
    * `added` are the gradients that it adds to those of earlier micro batches, if what these are like follows from them;
      `views` the bytes that these hold beside their own.
    * `unreduced` is what an earlier micro batch does otherwise, where a strategy reduces the last one's gradients alone.
    * `in_flight` is how many micro batches a pipeline stage holds: numerator and denominator, the latter above 1 where
      their layers are counted in chunks. `once` are bytes that are there but once when the forward pass ends.
    * `aside` is how many more bytes are there where a reference or a teacher runs than when the forward pass ends, `turned`
      the length of the log there.
    * `inputs` are the tensors that `resident` counts together: bytes of one, how many like it.
    """

    events: list[int]
    sizes: list[int]
    owners: list[str]
    gradients: frozenset[int]
    recomputed: list[tuple[int, int]]
    stacks: list[Layers]
    forward_end: int
    forward_storages: int
    end: int
    resident: int
    kept: int
    outputs: int
    unmodelled: tuple[str, ...]
    pinned: int = 0
    products: tuple[tuple[int, int, bool], ...] = ()
    buffers: frozenset[int] = frozenset()
    left: frozenset[int] = frozenset()
    relays: frozenset[int] = frozenset()
    streams: dict[int, int] = field(default_factory=dict)
    pieces: frozenset[int] = frozenset()
    fanned: dict[int, int] = field(default_factory=dict)
    overlay: Overlay = field(default_factory=dict)
    pools: tuple[Stream, ...] = ()
    tried: tuple[int, ...] = ()
    in_flight: tuple[int, int] = (1, 1)
    once: int = 0
    aside: int = 0
    inputs: tuple[tuple[int, int], ...] = ()
    added: tuple[Added, ...] | None = None
    views: int = 0
    unreduced: Unreduced | None = None
    turned: int = 0

    @cached_property
    def deaths(self) -> dict[int, int]:
        """Where in the log a storage dies."""
        return {~event: at for at, event in enumerate(self.events) if event < 0}


@undisturbed
def record_step(
    model: Model,
    setting: Setting,
    weights: Weights,
    attach: Callable[[Tape], Sharder | None] | None = None,
    tape: Tape | None = None,
) -> Recording:
    """Run one micro step of the model, on a tape that is new, or the given one where it notes more than a plain one.

    `attach` puts a sharding strategy's hooks on the tape.
    """
    tape = tape or Tape(setting, weights, model.context)
    tape.masks = model.masks
    tape.sharder = attach(tape) if attach else None
    hook = Tracking(tape) if setting.offload_activations == "once" else None
    if setting.offload_activations:
        tape.saving = hook or Offloading(tape)
    loss, outputs, earlier = forward_pass(tape, model)
    forward_end, forward_storages = len(tape.events), len(tape.sizes)
    aside = gone_since(tape, tape.aside) if tape.aside else 0
    nodes = walk_back(tape, loss)
    if hook:
        hook.back.clear()
    if setting.adapter and not tape.sharder:
        _stood_for(tape)
    if tape.sharder:
        tape.sharder.finish()  # in a callback of the backward pass: what the graph holds is there yet
    if outputs is None and loss.node:
        take_apart(loss, nodes)
    nodes.clear()
    del loss
    kept, held = 0, -1
    if outputs is not None:
        kept, held = left_over(tape), outputs.storage.id
        for storage, size in zip(earlier, (tape.sizes[held], kept - tape.sizes[held]), strict=True):
            tape.sizes[storage] = size
    made = Recording(
        list(tape.events), tape.sizes, tape.owners, frozenset(tape.gradients), tape.recomputed, tape.stacks,
        forward_end, forward_storages, len(tape.events), tape.resident, kept, held,
        tuple(tape.unmodelled), tape.pinned, tuple(tape.products), frozenset(tape.buffers), left=frozenset(tape.left),
        relays=frozenset(tape.relays), streams=tape.streams, fanned=tape.fanned, pieces=frozenset(tape.pieces),
        in_flight=setting.ways.in_flight if setting.ways else (1, 1), once=tape.once, aside=aside, inputs=tuple(tape.given_sizes),
        added=None if tape.sharder or setting.spends else tuple(tape.added.values()), turned=tape.aside,
        views=_beside(tape) if tape.added and not tape.sharder else 0,
    )  # fmt: skip
    del hook  # which holds on to things until here
    tape.leaves.clear()  # they hold the tape, and it holds them
    return tape.sharder.laid(made) if tape.sharder else made


def gone_since(tape: Tape, at: int) -> int:
    """Bytes that were there when the log was so long, and are not now."""
    return sum(tape.sizes[~event] if event < 0 else -tape.sizes[event] for event in tape.events[at:])


def forward_pass(tape: Tape, model: Model) -> tuple[Value, Value | None, list[int]]:
    """The loss; where the training loop holds on to outputs, those and the storages of the step before's.

    These are the outputs and what the graph of a loss among them holds; they stay until the new ones come.
    """
    keeps = tape.setting.keep_outputs
    before = [tape.new((), "fp32"), tape.new((), "fp32")] if keeps else []
    with tape.autocast_again():
        loss, outputs = sharded(tape, model)
    earlier = [value.storage.id for value in before]
    before.clear()
    held = outputs if keeps else None
    del outputs
    tape.saving = None
    if not keeps:
        tape.routed.clear()
        tape.outputs.clear()
    return loss, held, earlier


def left_over(tape: Tape) -> int:
    """Bytes of what outlives the step besides gradients: held outputs, and what the graph of the loss among them holds.

    Embeddings that ask for a gradient themselves have one that is no parameter's.
    """
    leaves = [] if tape.sharder else [value.node for value in tape.leaves.values() if isinstance(value.node, Leaf)]
    ours = {leaf.grad.storage.id for leaf in leaves if leaf.grad} if leaves else set(tape.gradients)
    alive: set[int] = set()
    for event in tape.events:
        if event >= 0:
            alive.add(event)
        else:
            alive.discard(~event)
    states = {value.storage.id for value in tape.spending.states}
    left = alive - ours - states
    return sum(tape.sizes[storage] for storage in left) + sum(_of_others(tape, stack, left) for stack in tape.stacks)


def _of_others(tape: Tape, stack: Layers, left: set[int]) -> int:
    """Bytes of these storages that the layers have which the recorded ones of a stack stand for."""
    back = stack.returns[::-1]
    return sum(
        (count - 1) * tape.sizes[event]
        for sample, count in Counter(stack.order).items()
        for start, stop in ((stack.events[sample], stack.events[sample + 1]), (back[sample + 1], back[sample]))
        for event in (tape.events[start:stop] if count > 1 else ())
        if event in left
    )


def sharded(tape: Tape, model: Model) -> tuple[Value, Value]:
    """The forward pass, with a sharding strategy's hooks of the root around it: the gradient of the loss comes first."""
    sharder = tape.sharder
    unit = sharder.root() if sharder else None
    if tape.setting.ways:
        from memcalc.tape.stages import whole as forward  # noqa: PLC0415 - few models are divided
    else:
        forward = whole
    if not sharder or not unit:
        return forward(tape, model)
    sharder.begun = len(tape.events)
    sharder.before_forward(unit)
    sharder.running.append(unit)
    loss, outputs = forward(tape, model)
    under_way, sharder.running = sharder.running, []
    for other in reversed(under_way):
        sharder.after_forward(other)
    for other in under_way:
        loss = noticed(tape, loss, sharder.before_backward, other)
    return sharder.given(unit, loss), sharder.given(unit, outputs)


def walk_back(tape: Tape, loss: Value) -> list[Node]:
    """The backward pass, noting where it passes from layer to layer: the nodes that have run, the latest first.

    None where all that is followed is frozen.
    """
    turns = sorted(
        ((boundary, stack) for stack in tape.stacks for boundary in stack.sequences), key=lambda pair: pair[0]
    )

    def watch(sequence: int) -> int:
        while turns and sequence <= turns[-1][0]:
            turns.pop()[1].turn(tape)
        return turns[-1][0] if turns else -1

    nodes: list[Node] = []
    if loss.node:
        one = tape.new(loss.shape, loss.dtype)
        nodes = backward(tape, [(loss, one)], watch)
        del one
    tape.spending.finish()
    while turns:
        turns.pop()[1].turn(tape)
    return nodes


def _beside(tape: Tape) -> int:
    """Bytes that gradients which earlier micro batches left hold beside their own: a view is kept with all it is a view of.

    A class token's is one where a batch has one image: nothing is summed (torch/csrc/autograd/functions/accumulate_grad.h).
    """
    own: Counter[int] = Counter()
    for one in tape.added.values():
        if not one.copy:
            own[one.storage] += rounded(one.own)
    return sum(max(tape.sizes[storage] - size, 0) for storage, size in own.items())


def _stood_for(tape: Tape) -> None:
    """Gradients of adapters' tensors that groups of layers share, where one group's stands for like ones of the others."""
    for tensor in tape.weights.common(tape.setting.adapter):
        if tensor.name not in tape.leaves and not tensor.idle:
            value = tape.weight(f".{tensor.name}", tensor.shape, tensor.name)
            if isinstance(value.node, Leaf):
                value.node.accumulate([tape.new(value.shape, value.dtype)])
