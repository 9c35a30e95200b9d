"""Activation functions that have parameters of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f

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
