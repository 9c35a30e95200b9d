"""RWKV-4 as transformers runs it without its kernel: its recurrence token by token (modeling_rwkv.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from memcalc.blocks.rwkv import ChannelMix, TimeMix
from memcalc.tape import functions as f
from memcalc.tape.loops import loop
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

    State: TypeAlias = tuple[Value, Value, Value, Value]


@rule(TimeMix)
def time_mix(t: Tape, block: TimeMix, x: Value, around: Around) -> Value:
    """RwkvSelfAttention.forward."""
    key, value, receptance = mixed(t, x, ("key", "value", "receptance"))
    key, value = run(t, block.key, key, around), run(t, block.value, value, around)
    receptance = f.sigmoid(run(t, block.receptance, receptance, around))
    out = attention(t, block, key, value)
    return run(t, block.output, f.mul(receptance, out), around)


def mixed(t: Tape, x: Value, names: tuple[str, ...]) -> list[Value]:
    """Each the input and the one a token before, mixed per channel."""
    shifted, parts = f.roll(x), []
    for name in names:
        mix = t.weight(f"time_mix_{name}", (1, 1, x.shape[-1]))
        parts.append(f.add(f.mul(x, mix), f.mul(shifted, f.neg(mix))))
    return parts


def attention(t: Tape, block: TimeMix, key: Value, value: Value) -> Value:
    """rwkv_linear_attention_cpu, which also runs on a device where the kernel can't be built."""
    b, s, width = key.shape
    first = t.weight("time_first", (block.inner,))
    decay = f.neg(f.exp(t.weight("time_decay", (block.inner,))))

    def step(state: State) -> State:
        out, top, bottom, most = state
        k, v = f.to(f.select(key, 1), "fp32"), f.select(value, 1)
        highest = f.maximum(most, f.add(k, first))
        old, new = f.exp(f.subtract(most, highest)), f.exp(f.subtract(f.add(k, first), highest))
        above, below = f.add(f.mul(old, top), f.mul(new, v)), f.add(f.mul(old, bottom), new)
        out = f.assign(out, f.to(f.div(above, below), out.dtype))
        highest = f.maximum(f.add(most, decay), k)
        old, new = f.exp(f.subtract(f.add(most, decay), highest)), f.exp(f.subtract(k, highest))
        return out, f.add(f.mul(old, top), f.mul(new, v)), f.add(f.mul(old, bottom), new), highest

    top, bottom, most = (t.new((b, width), "fp32") for _ in range(3))
    return loop(t, s, step, (t.new(key.shape, key.dtype), top, bottom, most))[0]


@rule(ChannelMix)
def channel_mix(t: Tape, block: ChannelMix, x: Value, around: Around) -> Value:
    """RwkvFeedForward.forward."""
    key, receptance = mixed(t, x, ("key", "receptance"))
    key = f.squared(f.relu(run(t, block.key, key, around)))
    value = run(t, block.value, key, around)
    return f.mul(f.sigmoid(run(t, block.receptance, receptance, around)), value)
