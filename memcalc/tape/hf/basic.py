"""Linear layers (with their adapters), embeddings, dropout, and what is one operation of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memcalc.blocks.basic import (
    Activation,
    Cast,
    Dropout,
    Embedding,
    Idle,
    Linear,
    ProductLinear,
    Raw,
    Scale,
    Softcap,
    TransposedLinear,
)
from memcalc.tape import functions as f
from memcalc.tape.autograd import Leaf
from memcalc.tape.hf import kernels, quantized
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.adapters import adapted, embedded, prepared, prompted, with_tokens
from memcalc.tape.offload import Tracking
from memcalc.tape.rules import Around, rule
from memcalc.tape.units import hooked

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

DROPOUT, ACTIVATION = "(dropout)", "(activation)"  # names of modules that no tensor is named after


@rule(Linear)
def linear(t: Tape, block: Linear, x: Value, _: Around) -> Value:
    """nn.Linear, or the class that takes its place where the weight is packed."""
    if (unsloth := kernels.unsloths(t)) and unsloth.takes_linear(t, block):
        out: Value = unsloth.linear(t, block, x)
        return out
    read = prepared(t, x)
    if t.weights.packed(t.path):
        return adapted(t, x, quantized.product(t, block, read), packed=True)
    weight = with_tokens(t, t.weight("weight", (block.outputs, block.inputs), block.tied_to), block.tied_to)
    bias = t.weight("bias", (block.outputs,), block.bias_tied_to) if block.bias else None
    return adapted(t, x, f.linear(read, weight, bias), lambda: weight)


@rule(TransposedLinear)
def transposed_linear(t: Tape, block: TransposedLinear, x: Value, _: Around) -> Value:
    """Conv1D.forward: addmm over flattened rows (transformers, pytorch_utils.py)."""
    read = prepared(t, x)
    if t.weights.packed(t.path):
        return adapted(t, x, quantized.product(t, block, read), packed=True)
    shape = (*x.shape[:-1], block.outputs)
    weight, bias = t.weight("weight", (block.inputs, block.outputs)), t.weight("bias", (block.outputs,))
    flat = f.view(read, -1, block.inputs)
    return adapted(t, x, f.view(f.addmm(flat, weight, bias), *shape), lambda: f.swap(weight))


@rule(ProductLinear)
def product_linear(t: Tape, block: ProductLinear, x: Value, _: Around) -> Value:
    """FalconLinear.forward; the transposed weight is no leaf, so autocast keeps no copy of it (modeling_falcon.py)."""
    weight = f.swap(f.swap(t.weight("weight", (block.outputs, block.inputs))))
    if block.bias:
        return adapted(t, x, f.add(f.linear(x, weight), t.weight("bias", (block.outputs,))))
    return adapted(t, x, f.linear(x, weight))


@rule(Embedding)
def embedding(t: Tape, block: Embedding, x: Value, around: Around) -> Value:
    """nn.Embedding of tokens; a table of positions or types in a sequence is added to what came before it."""
    weight = with_tokens(t, t.weight("weight", (block.rows, block.width), block.tied_to), block.tied_to)
    if x.dtype == "int64" and block.index == "tokens":
        out = f.embedding(x, weight, ways.gradient_rows(block.rows) if (ways := t.setting.ways) else 0)
        out = f.scale(out) if block.scaled else out
        if t.weights.adapters:
            out = prompted(t, asking(t, embedded(t, x, out)))
        if block.scaled_outside:
            out = asking(t, out)
            out = f.scale(out)
        if around.sight is None:
            t.held += [out] if around.holds else []
            return asking(t, out)
        out = with_images(t, asking(t, out), around.sight(around))
        t.held += [out] if around.holds else []
        return out
    index = indices(t, block.index, x, around)
    out = f.embedding(index, weight)
    if x.dtype == "int64":
        t.held += [out] if around.holds else []
        return out
    around.placed = t.path.rpartition(".")[0]
    if not around.placed.endswith("embeddings"):  # a module of its own, whose names go with it (CLIPVisionEmbeddings)
        t.held += (x,) if around.holds else (x, out)  # names of the function that runs the layers (GPT2Model.forward)
    return f.add(x, out)


def with_images(t: Tape, out: Value, seen: Value) -> Value:
    """The embeddings with what came of the images in place of their tokens (LlavaModel.forward)."""
    mask = t.new((*out.shape[:2], 1), "bool")
    return f.masked_scatter(out, mask, seen)


def asking(t: Tape, out: Value) -> Value:
    """enable_input_require_grads: under checkpointing the embeddings ask for a gradient themselves, frozen or not.

    Models of tokens do so whenever they are checkpointed (gradient_checkpointing_enable, modeling_utils.py).
    """
    if t.setting.checkpoint and out.node is None:
        out.node = Leaf(t, out)
        if t.setting.offload_activations == "once" and isinstance(t.saving, Tracking):
            t.saving.asks(out)
    return out


def indices(t: Tape, kind: str, x: Value, around: Around) -> Value:
    """What a table is read by: distances, as given; positions [1, seq], those of each token [batch, seq], token types."""
    batch, seq = x.shape[:2]
    if kind == "distances":
        return x
    if kind == "positions":
        if around.positions is None:
            around.positions = f.shift(t.new((1, seq), "int64"))
        return around.positions
    return t.new((batch, seq), "int64")


@rule(Cast)
def cast(t: Tape, block: Cast, x: Value, around: Around) -> Value:
    """x.to(dtype); what is cast for the head is the base model's output, which outlives the cast."""
    if block.to == "fp32":
        return f.to(x, "fp32")
    around.outputs.append(x)
    return f.to(x, stored(t))


def stored(t: Tape) -> str:
    """The dtype the model's own weights are kept in."""
    return t.setting.frozen if t.weights.adapters else t.setting.weights


@rule(Scale)
def scaled(_: Tape, block: Scale, x: Value, around: Around) -> Value:
    """x times a number."""
    return f.scale(x)


@rule(Softcap)
def softcap(_: Tape, block: Softcap, x: Value, around: Around) -> Value:
    """cap * tanh(x / cap)."""
    x = f.scale(f.to(x, "fp32") if block.wide else x)
    x = f.tanh(x)
    return f.scale(x)


@rule(Raw)
def raw(_: Tape, block: Raw, x: Value, around: Around) -> Value:
    """A parameter that its module reads, or (a mask token, a bias listed twice) nothing does: no operation of its own."""
    return x


@rule(Dropout)
def dropout(t: Tape, block: Dropout, x: Value, around: Around) -> Value:
    """nn.Dropout in training, or its function."""
    return dropped(t, x, block.p, functional=block.functional)


def dropped(t: Tape, x: Value, p: float, *, functional: bool = False) -> Value:
    """Dropout: by a module, which a strategy may have hooks on, where it is not `functional`."""
    if functional or t.sharder is None:
        return f.dropout(x, p)
    return hooked(t, f"{t.path}.{DROPOUT}", lambda given: f.dropout(given, p), x)


@rule(Idle)
def idle(t: Tape, block: Idle, x: Value, around: Around) -> Value:
    """What it is given, noticed by hooks alone."""
    return x if t.sharder is None else hooked(t, f"{t.path}.{DROPOUT}", lambda given: given, x)


@rule(Activation)
def activation(t: Tape, block: Activation, x: Value, around: Around) -> Value:
    """An activation of its own in a sequence."""
    if block.name or t.sharder is None:
        return activate(block.function, x)
    return hooked(t, f"{t.path}.{ACTIVATION}", partial(activate, block.function), x)
