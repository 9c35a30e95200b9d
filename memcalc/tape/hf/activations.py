"""Activation functions by the names that configs give them, and those that have parameters of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def xielu(t: Tape, x: Value) -> Value:
    """XIELUActivation._xielu_python (transformers/activations.py); its CUDA kernel is a package of its own."""
    positive, negative = (t.weight(f"act_fn.alpha_{sign}", (1,)) for sign in "pn")
    beta, least = t.weight("act_fn.beta", ()), t.weight("act_fn.eps", ())
    alpha_p = f.softplus(positive)
    alpha_n = f.add(beta, f.softplus(negative))
    above = f.compare(x)
    rising = f.add(f.mul(f.mul(alpha_p, x), x), f.mul(beta, x))
    falling = f.mul(f.subtract(f.expm1(f.maximum(x, least)), x), alpha_n)
    falling = f.add(falling, f.mul(beta, x))
    return f.where(above, rising, falling)


def activate(name: str, x: Value) -> Value:
    """ACT2FN[name](x) (transformers/activations.py)."""
    match name:
        case "gelu_new" | "gelu_fast" | "bloom_gelu":
            return {"gelu_new": gelu_new, "gelu_fast": gelu_fast, "bloom_gelu": bloom_gelu}[name](x)
        case "glu":
            return f.glu(x, 1)
        case "gelu_python":
            return f.mul(f.scale(x), f.shift(f.erf(f.scale(x))))
        case "silu" | "swish":
            return f.silu(x)
        case "relu" | "tanh" | "sigmoid":
            return {"relu": f.relu, "tanh": f.tanh, "sigmoid": f.sigmoid}[name](x)
        case "relu2":
            return f.squared(f.relu(x))
        case "quick_gelu":
            return f.mul(x, f.sigmoid(f.scale(x)))
        case "linear" | "identity" | "none":
            return x
        case _:
            return f.gelu(x)


def gelu_new(x: Value) -> Value:
    """NewGELUActivation: 0.5 * x * (1 + tanh(c * (x + 0.044715 * x.pow(3))))."""
    half = f.scale(x)
    rest = f.shift(f.tanh(f.scale(f.add(x, f.scale(f.power(x))))))
    out = f.mul(half, rest)
    del half, rest  # as Python lets go of what it has multiplied: the left one first
    return out


def gelu_fast(x: Value) -> Value:
    """FastGELUActivation: 0.5 * x * (1 + tanh(x * c * (1 + 0.044715 * x * x)))."""
    half = f.scale(x)
    rest = f.shift(f.tanh(f.mul(f.scale(x), f.shift(f.mul(f.scale(x), x)))))
    out = f.mul(half, rest)
    del half, rest
    return out


def bloom_gelu(x: Value) -> Value:
    """GeLUFunction: a function of its own that saves its input and works in many temporaries (modeling_bloom.py)."""
    node = record(x.tape, _bloom_gelu_backward, (x,), (x,))
    with x.tape.no_grad():
        out = f.mul(f.scale(x), f.shift(f.tanh(f.mul(f.scale(x), f.shift(f.mul(f.scale(x), x))))))
    out.node = node
    return out


def _bloom_gelu_backward(node: Node, g: Value) -> Gradients:
    """bloom_gelu_back."""
    (x,) = node.load()
    tanh = f.tanh(f.mul(f.scale(x), f.shift(f.mul(f.scale(x), x))))
    slope = f.add(
        f.mul(f.scale(x), f.mul(f.shift(f.mul(tanh, tanh)), f.shift(f.mul(f.scale(x), x)))), f.scale(f.shift(tanh))
    )
    return (f.mul(slope, g),)
