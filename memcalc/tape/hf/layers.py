"""Stacks of numbered layers: which of them are recorded, their checkpoints, and what the model does between them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Recomputed, Sequence, Stack, Stage
from memcalc.tape import functions as f
from memcalc.tape.checkpoint import checkpointed
from memcalc.tape.hf.alike import named, planned, single_out, told_apart
from memcalc.tape.hf.combinators import sequence
from memcalc.tape.hf.handing import again, alone, beside, given_to
from memcalc.tape.hf.surroundings import prepare
from memcalc.tape.recorder import Layers
from memcalc.tape.rules import Around, gone, rule, run
from memcalc.tape.units import Visit, called

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Stack)
def stack(t: Tape, block: Stack, x: Value, around: Around) -> Value:
    """Numbered layers. Like ones between the first and the last are recorded once, and stand for all of them."""
    return _layered(t, block, [x], around)


@rule(Stage)
def stage(t: Tape, block: Stage, x: Value, around: Around) -> Value:
    """What the layers read first goes once the first of them has run: it has the name that their outputs take."""
    begin, layers, *rest = block.blocks
    around.ready = True
    x = under_name(t, layers, [run(t, begin, x, around)], around)  # type: ignore[arg-type]  # a stage has a stack
    for part in rest:
        x = run(t, part, x, around)
    return x


def under_name(t: Tape, block: Stack, given: list[Value], around: Around) -> Value:
    """The layers of a stack, on what its caller holds in this list alone."""
    before = t.path
    t.path = t.owner = f"{before}.{block.name}" if before else block.name
    x = _layered(t, block, given, around)
    t.path = t.owner = before
    return x


def _layered(t: Tape, block: Stack, given: list[Value], around: Around) -> Value:
    """The layers of a stack, on what it is given, which is taken from its holder."""
    passes = named(block)
    if t.instance:
        return _inner(t, block, passes, given, around)
    if not around.ready:
        prepare(t, block, given[0], around)
    if _stages(t, block):
        return _inner(t, block, passes, given, around)
    x = given.pop()
    path, (passes, samples, order, reads) = t.path, planned(t, block, passes, around)
    marks = Layers(path, order)
    t.stacks.append(marks)
    first, before = x if around.after_first else None, None
    around.read = {0: x} if 0 in reads else {}
    for number, index in enumerate(samples):
        layer, name = passes[index]
        _capture(block, x, around)
        _enter(t, path, name, f"/{number if block.shared == 1 else index // block.shared}")
        marks.mark(t)
        t.like, asks = order.count(number), x.node is not None
        every = around.per_layer
        if every is not None:  # per_layer_inputs[:, :, i, :], ahead of the layer (Gemma4TextModel.forward)
            around.per_layer = f.select(every, 2)
        made = [kept_or_run(t, block, (path, index, name), layer, x, around)]
        around.per_layer = every
        around.weights = around.normed = around.residual = None  # the layer's own names go before what it was given
        gone(around.summed)
        x = made.pop()
        if x.node is not None and (_unsaved(around) or (block.shared > 1 and not asks)):
            single_out(samples, order, index + 1)
        before, around.returned = around.returned, None
        x = _afterwards(around, index, first, x)
        _hold(t, x, around, read=index + 1 if index + 1 in reads else 0, last=index + 1 == len(passes))
        if not number:
            marks.shared = around.storages()
    _capture(block, x, around)
    if before is not None:  # the last layer's outputs have a name in the function that calls it
        around.summed.append(before)
    del before
    marks.mark(t)
    t.like, t.counted = 1, t.counted + (len(passes) // block.shared if block.recompute != "never" else 0)
    t.path, t.instance = path, ""
    return x


def _unsaved(around: Around) -> bool:
    """Whether a layer returns weights that nobody has saved: they go when the next has returned, its own may stay."""
    return around.returned is not None and around.returned.node is None


def _enter(t: Tape, path: str, name: str, instance: str) -> None:
    """From here on what is made belongs to this layer."""
    t.path, t.instance = f"{path}.{name}" if path else name, instance


def kept_or_run(t: Tape, block: Stack, place: tuple[str, int, str], layer: Block, x: Value, around: Around) -> Value:
    """A layer in its checkpoint, where it is in one, or as it is; `place` is its stack's path, its number and its name."""
    setting = t.setting
    turn = t.counted + place[1] // block.shared  # transformers counts through the whole model (every_n_layers)
    if setting.checkpoint and turn % setting.every == 0 and block.recompute != "never":
        kept = partial(checkpointed, t, reentrant=setting.reentrant, alone=alone(around))
        before = around.encoder
        out = _checkpoint(t, *place, kept, again(t, layer, around))(x, *given_to(around).values())
        for name, value in zip(beside(around, before), t.beside, strict=False):
            setattr(around, name, value)
        t.beside = ()
        return out
    return _plain(t, place, layer, x, around)


def _plain(t: Tape, place: tuple[str, int, str], layer: Block, x: Value, around: Around) -> Value:
    """A layer outside of checkpoints, with the hooks of the unit that a sharding strategy made of it, if one did."""
    if t.sharder is None:
        return run(t, layer, x, around)
    return _wrapped(t, *place, partial(_once, t, layer, around))(x)


def _stages(t: Tape, block: Stack) -> bool:
    """Whether the layers are stages, each with a stack of like layers of its own: those are what repeats.

    Stages that keep states for others are never alike: what one of them leaves, another takes.
    """
    if block.shared > 1 or (t.setting.checkpoint and block.recompute != "never"):
        return False
    stages = [stage for _, stage in block.groups()]
    found = _stacked if len(stages) == len(block.layers) else _skipping
    return any(_holds(stage, found) for stage in stages)


def _holds(block: Block, found: Callable[[Block], bool]) -> bool:
    return any(found(part) or _holds(part, found) for part in block.parts())


def _stacked(block: Block) -> bool:
    return isinstance(block, Stack)


def _skipping(block: Block) -> bool:
    return block.duty == "skip"


def _inner(t: Tape, block: Stack, passes: list[tuple[Block, str]], given: list[Value], around: Around) -> Value:
    """Every layer as it is: in a stack inside a layer of another, or of stages."""
    x = given.pop()
    path, outer = t.path, t.instance
    passes = told_apart(t, passes)
    kinds = Counter(name for _, name in passes)
    for index, (layer, name) in enumerate(passes):
        _enter(t, path, name, f"{outer}/{index}" if outer or kinds[name] > 1 else "")
        if t.setting.checkpoint and (block.recompute == "always" or (block.recompute == "outermost" and not t.within)):
            x = _checkpoint(t, path, index, name, partial(checkpointed, t), again(t, layer, around))(x)
        else:
            x = _plain(t, (path, index, name), layer, x, around)
        if not outer:  # else the layer around them has names of its own
            around.weights = around.normed = around.residual = None
    t.path, t.instance = path, outer
    return x


@rule(Recomputed)
def recomputed(t: Tape, block: Recomputed, x: Value, around: Around) -> Value:
    """A module that is called through a checkpoint (diffusers, _gradient_checkpointing_func)."""
    if not t.setting.checkpoint:
        return sequence(t, block, x, around)
    before, t.instance = t.instance, t.instance or "/0"  # layers within are no stack of their own
    layer, given = again(t, Sequence("", block.blocks), around), given_to(around).values()
    out = checkpointed(t, layer, x, *given, reentrant=t.setting.reentrant, alone=alone(around))
    t.instance = before
    return out


def _once(t: Tape, layer: Block, around: Around, x: Value) -> Value:
    return run(t, layer, x, around)


def _wrapped(t: Tape, stack: str, index: int, name: str, layer: Callable[..., Value]) -> Callable[..., Value]:
    """The layer with the hooks of the unit that a sharding strategy made of it."""
    unit = t.sharder.layer(stack, index, name) if t.sharder is not None else None
    if unit is None:
        return layer
    visit = Visit(unit)
    return lambda x, *others: called(t, visit, lambda given: layer(given, *others), x)


def _checkpoint(
    t: Tape, stack: str, index: int, name: str, kept: Callable[..., Value], layer: Callable[..., Value]
) -> Callable[..., Value]:
    """The layer in its checkpoint, and the hooks of its unit within (those of a module) or around it (those of a wrapper)."""
    if t.sharder is not None and t.sharder.outside:
        return _wrapped(t, stack, index, name, partial(kept, layer))
    return partial(kept, _wrapped(t, stack, index, name, layer))


def _hold(t: Tape, x: Value, around: Around, *, read: int, last: bool) -> None:
    """What the model holds of a layer's output; a tower of which hidden states are read holds those and its last one."""
    if around.keeps or (last and around.features is not None):
        t.held.append(x)
    if read:
        around.read[read] = x


def _capture(block: Stack, x: Value, around: Around) -> None:
    """capture_outputs (utils/output_capturing.py): what goes into a layer, and what comes out of the last, are hidden states."""
    if block.captured:
        around.outputs.append(x)


def _afterwards(around: Around, index: int, given: Value | None, x: Value) -> Value:
    """What the model makes of a layer's output before the next one; `given` is what the first layer was."""
    if index in around.after:
        x = around.after[index](x)
    if around.each:
        x = around.each(index, x)
    return around.after_first(given, x) if given is not None and not index and around.after_first else x
