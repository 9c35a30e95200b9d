"""Adapters on linear layers (peft, tuners/lora/layer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def adapted(t: Tape, x: Value, out: Value, *, packed: bool = False) -> Value:
    """Linear.forward of a LoRA layer: the base layer's output, plus B(A(dropout(x))) scaled, where there is an adapter."""
    first = t.weights.adapter(t.path, "lora_A.default.weight")
    second = t.weights.adapter(t.path, "lora_B.default.weight")
    if first is None or second is None:
        return out
    down, up = t.weight("lora_A.default.weight", first.shape), t.weight("lora_B.default.weight", second.shape)
    if packed and t.setting.product == "dequantize":
        out = f.clone(out)
    dtype, converts = out.dtype, not (packed and t.autocast)
    x = f.to(x, down.dtype) if converts else x
    added = f.scale(f.linear(f.linear(f.dropout(x, t.setting.lora_dropout), down), up))
    if packed:  # tuners/lora/bnb.py: cast back before the sum, and not at all under autocast
        return f.add(out, f.to(added, dtype) if converts else added)
    out = f.add(out, added)
    del added
    return f.to(out, dtype)
