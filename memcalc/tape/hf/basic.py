"""Linear layers (with their adapters), embeddings, norms, dropout and activation functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Activation, Dropout, Embedding, Linear, Norm, TransposedLinear
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Linear)
def linear(t: Tape, block: Linear, x: Value, _: Around) -> Value:
    """nn.Linear."""
    weight = t.weight("weight", (block.outputs, block.inputs), block.tied_to)
    bias = t.weight("bias", (block.outputs,), block.bias_tied_to) if block.bias else None
    return f.linear(x, weight, bias)


@rule(TransposedLinear)
def transposed_linear(t: Tape, block: TransposedLinear, x: Value, _: Around) -> Value:
    """Conv1D.forward: addmm over flattened rows (transformers, pytorch_utils.py)."""
    shape = (*x.shape[:-1], block.outputs)
    weight, bias = t.weight("weight", (block.inputs, block.outputs)), t.weight("bias", (block.outputs,))
    x = f.addmm(f.view(x, -1, block.inputs), weight, bias)
    return f.view(x, *shape)


@rule(Embedding)
def embedding(t: Tape, block: Embedding, ids: Value, _: Around) -> Value:
    """nn.Embedding."""
    return f.embedding(ids, t.weight("weight", (block.rows, block.width), block.tied_to))


@rule(Norm)
def norm(t: Tape, block: Norm, x: Value, around: Around) -> Value:
    """nn.LayerNorm, or LlamaRMSNorm.forward: fp32 inside, cast back before the weight (modeling_llama.py)."""
    if block.kind == "rms":
        return rms_norm(t, block, x)
    weight = t.weight("weight", (block.width,))
    bias = t.weight("bias", (block.width,)) if block.kind == "layer" else None
    return f.layer_norm(x, weight, bias)


def rms_norm(t: Tape, block: Norm, x: Value) -> Value:
    """LlamaRMSNorm.forward."""
    dtype = x.dtype
    x = f.to(x, "fp32")
    variance = f.mean(f.square(x), -1)
    x = f.mul(x, f.rsqrt(f.shift(variance)))
    return f.mul(t.weight("weight", (block.width,)), f.to(x, dtype))


@rule(Dropout)
def dropout(_: Tape, block: Dropout, x: Value, around: Around) -> Value:  # noqa: ARG001
    """nn.Dropout in training."""
    return f.dropout(x, block.p)


@rule(Activation)
def activation(_: Tape, block: Activation, x: Value, around: Around) -> Value:  # noqa: ARG001
    """An activation of its own in a sequence."""
    return activate(block.function, x)


def activate(name: str, x: Value) -> Value:
    """ACT2FN[name](x) (transformers/activations.py)."""
    match name:
        case "gelu_new" | "gelu_fast":
            return gelu_new(x)
        case "relu" | "tanh" | "sigmoid":
            return f.relu(x)
        case "relu2":
            return f.square(f.relu(x))
        case "quick_gelu":
            return f.mul(x, f.sigmoid(f.scale(x)))
        case "linear" | "identity" | "none":
            return x
        case _:
            return f.gelu(x)


def gelu_new(x: Value) -> Value:
    """NewGELUActivation: 0.5 * x * (1 + tanh(c * (x + 0.044715 * x.pow(3))))."""
    half = f.scale(x)
    return f.mul(half, f.shift(f.tanh(f.scale(f.add(x, f.scale(f.power(x)))))))
