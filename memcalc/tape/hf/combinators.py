"""How blocks are put together within a layer: one after the other, added to what they read, or side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Parallel, PostNorm, Residual, Sequence, Stack, Stray, Sum, Unused
from memcalc.blocks.mlp import Mlp
from memcalc.tape import functions as f
from memcalc.tape.hf.basic import stored
from memcalc.tape.hf.feed_forward import closed, opened
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Sequence)
@rule(Stray)
def sequence(t: Tape, block: Sequence, x: Value, around: Around) -> Value:
    """One block after the other; a module with a name of its own holds what it has summed up to its end."""
    if not block.name:
        for part in block.blocks:
            x = run(t, part, x, around)
        return x
    before, around.summed = around.summed, []
    for part in block.blocks:
        if part.__class__ is Stack and around.placed == t.path and t.sharder is None:
            given = [x]  # the embeddings with their positions: layers' outputs take the name (GPT2Model.forward)
            del x
            x = _layers(t, part, given, around)
        else:
            x = run(t, part, x, around)
    gone(around.summed)
    around.summed = before
    return x


def _layers(t: Tape, block: Stack, given: list[Value], around: Around) -> Value:
    from memcalc.tape.hf.layers import under_name  # noqa: PLC0415 - it imports this file

    return under_name(t, block, given, around)


@rule(Residual)
def residual(t: Tape, block: Residual, x: Value, around: Around) -> Value:
    """x + f(x); in fp32 as Mamba2Block.forward does it: the norm reads x in the weights' dtype."""
    y = f.to(x, stored(t)) if block.fp32 else x
    if block.named is not None:
        return _named_residual(t, block, x, around)
    read = None
    for index, part in enumerate(block.blocks):
        y = run(t, part, y, around)
        if not index:
            x = f.to(x, "fp32") if block.fp32 else x
            read = y if block.kept else None
    if block.kept:
        around.summed.append(y)
    gone(around.handed)
    out = f.add(x, y)
    del y, read
    return out


def _named_residual(t: Tape, block: Residual, x: Value, around: Around) -> Value:
    """The same where names of the library's functions last longer than what reads them."""
    y, names, named = x, [], block.named or ()
    around.residual = x
    for index, part in enumerate(block.blocks):
        if part.__class__ is Mlp and part.inline:
            given = [y]
            y = x
            y = closed(t, part, opened(t, part, given, around), around)
        else:
            y = run(t, part, y, around)
        if block.renamed and not index:
            around.normed = y
        if index in named:
            names.append(y)
        if index in block.lasting:
            around.summed.append(y)
            if around.weights is not None:  # attn_output, _ = self.self_attn(…)
                around.summed.append(around.weights)
                around.weights = None
    if not block.within:
        gone(around.handed)
    out = f.add(x, y)
    del y
    gone(names)
    gone(around.handed)
    return out


@rule(PostNorm)
def post_norm(t: Tape, block: PostNorm, x: Value, around: Around) -> Value:
    """BertSelfOutput.forward: LayerNorm(f(x) + x), both held until it returns (modeling_bert.py)."""
    y = x
    for part in block.blocks:
        y = run(t, part, y, around)
    out = f.add(y, x)
    if block.rebound:
        y = x
    out = run(t, block.norm, out, around) if block.norm else out
    y = x  # the module's own name of f(x) goes before those that others hold
    gone(around.handed)
    return out


@rule(Parallel)
def parallel(t: Tape, block: Parallel, x: Value, around: Around) -> Value:
    """mlp + attention + x: the branches read x, or a shared norm of it (GPTNeoXLayer, GPTJBlock)."""
    read = run(t, block.norm, x, around) if block.norm else x
    outputs = [run(t, branch, read, around) for branch in block.branches]
    out = _summed(block, x, outputs)
    if block.input_first:
        del read  # the sum takes the norm's name
    gone(outputs)
    return out


def _summed(block: Parallel, x: Value, outputs: list[Value]) -> Value:
    """What the branches put out, and x: before them or behind."""
    if block.input_first:
        out = x
        for branch in outputs:
            out = f.add(out, branch)
        return out
    out = outputs[0]
    for later in outputs[1:]:
        out = f.add(later, out)
    return f.add(out, x)


@rule(Sum)
def total(t: Tape, block: Sum, x: Value, around: Around) -> Value:
    """The sum of branches that all read x."""
    out = run(t, block.branches[0], x, around)
    around.summed += [out] if block.named is None or 0 in block.named else []
    for number, branch in enumerate(block.branches[1:], 1):
        later = [run(t, branch, x, around)]
        around.summed += later if block.named is None or number in block.named else []
        added = f.add_ if block.grows and number > 1 else f.add
        out = f.add_(later.pop(), out) if block.in_place else added(out, later.pop())
    return out


@rule(Unused)
def unused(_: Tape, block: Unused, x: Value, around: Around) -> Value:
    """Nothing runs."""
    return x
