"""Unsloth's functions over linear layers with LoRA: one node for a feed-forward block, one for queries, keys and values.

(unsloth of December 2024, kernels/fast_lora.py: LoRA_MLP, LoRA_QKV, LoRA_W; kernels/utils.py: matmul_lora.) The
adapters' products are added into the base layer's output, by way of a tensor as large, so nothing of the adapters' own
is kept; gradients are written over what was saved. They take the place of peft's layers where every one of theirs has
LoRA without dropout, and no bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.hf.quantized import nested_blocks, unpacked

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block
    from memcalc.blocks.basic import Linear
    from memcalc.blocks.mlp import Mlp
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

Layers: TypeAlias = "tuple[tuple[str, Linear], ...]"  # linear layers, each with its path
PAIR = ("lora_A.default.weight", "lora_B.default.weight")


def takes(t: Tape, *parts: Block | None) -> bool:
    """Whether its functions run these linear layers of the block that runs."""
    return all(part is not None and not getattr(part, "bias", False) and _has(t, _path(t, part)) for part in parts)


def takes_linear(t: Tape, block: Linear) -> bool:
    """Whether LoRA_W runs the linear layer that runs."""
    return not block.bias and _has(t, t.path)


def _path(t: Tape, part: Block) -> str:
    return f"{t.path}.{part.name}" if t.path else part.name


def _layers(t: Tape, *parts: Block | None) -> Layers:
    return tuple((_path(t, part), cast("Linear", part)) for part in parts if part is not None)


def _has(t: Tape, path: str) -> bool:
    return all(t.weights.adapter(path, name) is not None for name in PAIR)


def _adapters(t: Tape, path: str) -> tuple[Value, ...]:
    """A and B of the linear layer at a path."""
    before, t.path = t.path, path
    pair = tuple(t.weight(name, t.weights.adapter(path, name).shape) for name in PAIR)  # type: ignore[union-attr]
    t.path = before
    return pair


def _product(t: Tape, path: str, part: Linear, x: Value) -> Value:
    """matmul_lora: the base product, and the adapters', as large, added to it in place: out += (x A) (s B)."""
    weight = _unpacked_at(t, path, part, x.dtype)
    out = t.new((*x.shape[:-1], part.outputs), x.dtype)
    t.multiplied(2 * x.elements * part.outputs)
    del weight
    added = t.new(out.shape, out.dtype)
    del added
    return out


def _base(t: Tape, part: Linear, dtype: str) -> Value:
    """The base weight: unpacked where it is packed (fast_dequantize)."""
    if t.weights.packed(t.path):
        return unpacked(t, (part.outputs, part.inputs), dtype, nested_blocks(t))
    return t.weight("weight", (part.outputs, part.inputs))


def mlp(t: Tape, block: Mlp, x: Value) -> Value:
    """LoRA_MLP: keeps its input, gate and up; the activated product lives in the forward pass alone."""
    layers = _layers(t, block.gate, block.up, block.down)
    learned = tuple(value for path, _ in layers for value in _adapters(t, path))
    x = f.contiguous(x)
    node = record(t, _mlp_backward, (x, *learned), (x,), layers)
    gate, up = (_product(t, path, part, x) for path, part in layers[:2])
    after = t.new(gate.shape, gate.dtype)
    out = _product(t, *layers[2], after)
    for value in (gate, up):
        save(t, node, value)
    out.node = node
    return out


def _mlp_backward(node: Node, g: Value) -> Gradients:
    """The product's gradient becomes the activated product; those of gate, up and the input are written over them."""
    x, gate, _up = node.load()
    t, layers = g.tape, cast("Layers", node.meta)
    path, part = layers[2]
    weight = _unpacked_at(t, path, part, g.dtype)
    after = t.new(gate.shape, gate.dtype)
    del weight
    added = t.new(gate.shape, gate.dtype)
    del added
    learned = [t.new(edge.shape, edge.dtype) if edge else None for edge in node.edges[1:]]
    for path, part in layers[:2]:
        weight = _unpacked_at(t, path, part, g.dtype)
        t.multiplied(4 * x.elements * part.outputs)
        del weight
        added = t.new(x.shape, x.dtype)
        del added
    del after
    return x, *learned


def _unpacked_at(t: Tape, path: str, part: Linear, dtype: str) -> Value:
    before, t.path = t.path, path
    weight = _base(t, part, dtype)
    t.path = before
    return weight


def queries_keys_values(t: Tape, block: Attention, x: Value) -> tuple[Value, ...]:
    """LoRA_QKV: three products of one input, which alone is kept."""
    layers = _layers(t, block.q, block.k, block.v)
    learned = tuple(value for path, _ in layers for value in _adapters(t, path))
    x = f.contiguous(x)
    node = record(t, _written_over_backward, (x, *learned), (x,), layers)
    outs = tuple(_product(t, path, part, x) for path, part in layers)
    if node:
        node.width = len(outs)
    for slot, out in enumerate(outs):
        out.node, out.slot = node, slot
    return outs


def _written_over_backward(node: Node, *grads: Value | None) -> Gradients:
    """The gradient of the input is written over it, summand by summand."""
    (x,) = node.load()
    t = x.tape
    learned = [t.new(edge.shape, edge.dtype) if edge else None for edge in node.edges[1:]]
    for path, part in node.meta:
        weight = _unpacked_at(t, path, part, x.dtype)
        t.multiplied(2 * x.elements * part.outputs)
        del weight
        added = t.new(x.shape, x.dtype)
        del added
    del grads
    return x, *learned


def linear(t: Tape, block: Linear, x: Value) -> Value:
    """LoRA_W: keeps its input; the input's gradient is a new tensor."""
    learned = _adapters(t, t.path)
    x = f.contiguous(x)
    node = record(t, _linear_backward, (x, *learned), (x,), (t.path, block))
    out = _product(t, t.path, block, x)
    out.node = node
    return out


def _linear_backward(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    t, (path, part) = g.tape, node.meta
    learned = [t.new(edge.shape, edge.dtype) if edge else None for edge in node.edges[1:]]
    weight = _unpacked_at(t, path, part, g.dtype)
    towards = t.new(x.shape, x.dtype) if node.edges[0] else None
    t.multiplied(2 * x.elements * part.outputs)
    del weight
    added = t.new(x.shape, x.dtype) if towards else None
    del added
    return towards, *learned
