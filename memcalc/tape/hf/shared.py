"""Zamba's layers: a transformer that several layers share, beside Mamba (modeling_zamba.py, modeling_zamba2.py)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from memcalc.blocks.base import Sequence, Stack
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.shared import Hybrid
from memcalc.tape import functions as f
from memcalc.tape.autograd import Node
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import attend, heads, project
from memcalc.tape.hf.rotary import rotated
from memcalc.tape.rules import Around, inside, rule, run
from memcalc.tensors import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Hybrid)
def hybrid(t: Tape, block: Hybrid, x: Value, around: Around) -> Value:
    """Zamba2HybridLayer.forward."""
    _, linear, recurrent = block.blocks
    out = run(t, linear, transformed(t, block, x, around), around)
    with inside(t, recurrent):
        ((norm, mixer),) = (part.parts() for part in recurrent.parts())
        both = f.add(x, out)
        if t.saving and isinstance(
            both.node, Node
        ):  # a checkpoint in the layer's: it holds on to what it is given by name
            both.node.saved.append(out.detach())
        out = run(t, mixer, run(t, norm, both, around), around)
        del both
    return f.add(x, out)


def transformed(t: Tape, block: Hybrid, x: Value, around: Around) -> Value:
    """Zamba2AttentionDecoderLayer.forward: it reads the stream beside the embeddings; no residuals of its own."""
    norm, attention, second, feed = block.transformer.blocks
    with owned(t, block):
        out = f.cat((x, around.original or x))
        out = attended(t, attention, run(t, norm, out, around), around, block.use)  # type: ignore[arg-type]
        return fed(t, feed, run(t, second, out, around), around, block.use)


@contextmanager
def owned(t: Tape, block: Hybrid) -> Iterator[None]:
    """The transformer's tensors are where its owner has them: one set for all layers that share it."""
    path, instance = t.path, t.instance
    t.path = block.owner or f"{path}.{block.transformer.name}"
    t.instance = "shared" if block.owner else instance
    yield
    t.path, t.instance = path, instance


def attended(t: Tape, block: Attention, x: Value, around: Around, use: int) -> Value:
    """Zamba2Attention.forward: an adapter for each use is added to the queries, keys and values."""
    with inside(t, block):
        parts = [run(t, part, x, around) for part in (block.q, block.k, block.v)]
        for i, adapters in enumerate(block.after):
            parts[i] = f.add(parts[i], adapted(t, adapters, x, around, use))
        q, k, v = (heads(part, n) for part, n in zip(parts, (block.heads, block.kv_heads, block.kv_heads), strict=True))
        tables = around.tables(block.rotary_kind)
        if block.rotary_dim and tables:
            q, k = rotated(q, k, tables)
        return project(t, block, attend(t, block, q, k, v, around), around)


def fed(t: Tape, block: Block, x: Value, around: Around, use: int) -> Value:
    """Zamba2MLP.forward: gate and up in one, with the use's adapter; Zamba's MLP is Llama's."""
    if not isinstance(block, Sequence):
        return run(t, block, x, around)
    mlp, adapters = block.blocks
    assert isinstance(mlp, Mlp)  # noqa: S101 - the architecture has made it so
    with inside(t, block):
        both = f.add(run(t, mlp.up, x, around), adapted(t, adapters, x, around, use))
        gate, up = f.chunk(both, 2)
        return run(t, mlp.down, f.mul(activate(mlp.activation, gate), up), around)


def adapted(t: Tape, block: Block, x: Value, around: Around, use: int) -> Value:
    """The pair of linears of one use."""
    assert isinstance(block, Stack)  # noqa: S101 - the architecture has made it so
    pattern = next(numbers(indices or []) for indices, _ in block.groups() if use in (indices or []))
    path, instance = t.path, t.instance
    t.path, t.instance = f"{path}.{block.name}.{pattern}", f"{instance}/{use}"
    out = run(t, block.layers[use], x, around)
    t.path, t.instance = path, instance
    return out
