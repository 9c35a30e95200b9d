"""Adapters over bitsandbytes' packed weights, where peft has layers of their own for them (peft 0.21, tuners/<method>/bnb.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.hf import banked
from memcalc.tape.hf.lowranks import base, miss, needed
from memcalc.tape.hf.lycoris import parameter, vera

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


CLONES = ("hira", "randlora", "pvera", "vera", "miss")  # methods that begin with a copy of what 4 bits put out


def opened(t: Tape, out: Value) -> Value:
    """What the method goes on with in place of the base layer's output."""
    if t.setting.adapter == "road" and not t.autocast:
        return f.to(out, "fp32")
    return cloned(t, out) if t.setting.adapter in CLONES else out


def cloned(t: Tape, out: Value) -> Value:
    """What the base layer puts out; of 4 bits a copy of that."""
    return f.clone(out) if t.setting.packing.product == "dequantize" else out


def read(t: Tape, x: Value) -> Value:
    """Linear4bit.forward of IA3 before the base layer: in fp32 without autocast, and so is what comes of it."""
    factor = parameter(t, "ia3_l.default")
    if factor is None:
        return x
    x = x if t.autocast else f.to(x, "fp32")
    return f.mul(x, f.scale(f.reshape(factor, -1))) if factor.shape[0] == 1 else x


def ia3(t: Tape, _x: Value, out: Value) -> Value:
    """Linear4bit.forward of IA3 behind the base layer: a copy of 4 bits' output, multiplied or not."""
    factor = parameter(t, "ia3_l.default")
    if factor is None:
        return out
    dtype, narrow = out.dtype, not t.autocast
    if factor.shape[0] > 1:
        out = f.mul(out, f.scale(f.reshape(factor, -1)))
    out = cloned(t, out)
    return f.to(out, dtype) if narrow else out


def hira(t: Tape, x: Value, out: Value) -> Value:
    """Linear4bit.forward of HiRA: the weight is unpacked for the product as large as it is."""
    down, up, dtype = needed(t, "hira_A.default"), needed(t, "hira_B.default"), out.dtype
    plain = base(t, None, (out.shape[-1], x.shape[-1]))
    x = f.dropout(x if t.autocast else f.to(x, down.dtype), t.setting.lora_dropout)
    changed = f.mul(plain, f.linear(up, f.swap(down)))
    added = f.linear(x, changed)
    out = f.add(out, added if t.autocast else f.to(added, dtype))
    return f.to(out, dtype)


def randlora(t: Tape, x: Value, out: Value) -> Value:
    """Linear4bit.forward of RandLoRA, which gives back the dtype that the input was cast to."""
    dtype, x = out.dtype, x if t.autocast else f.to(x, "fp32")
    added, _names = banked.between_bases(t, x, out.shape[-1])
    added = added if t.autocast else f.to(added, dtype)
    out = f.add(out, f.scale(added))
    return f.to(out, x.dtype)


def pvera(t: Tape, x: Value, out: Value) -> Value:
    """Linear4bit.forward of PVeRA, which gives back the dtype that the input was cast to."""
    dtype, x = out.dtype, x if t.autocast else f.to(x, "fp32")
    added, _names = banked.drawn(t, x)
    out = f.add(out, added if t.autocast else f.to(added, dtype))
    return f.to(out, x.dtype)


def road(t: Tape, x: Value, out: Value) -> Value:
    """Linear4bit.forward of RoAd, which nothing casts back."""
    return banked.road(t, x, out, None)


METHODS: dict[str, Callable[[Tape, Value, Value], Value]] = {
    "ia3": ia3, "hira": hira, "randlora": randlora, "pvera": pvera, "road": road,
    "vera": vera, "miss": lambda t, x, out: miss(t, x, out, None),
}  # fmt: skip
