"""Adapters of small factors: HiRA, DEFT, GLoRA, PEANuT, BEFT, DeLoRA, OSF, MiSS, TinyLoRA (peft 0.21, tuners/<method>/layer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.hf.lycoris import parameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

    Weight = Callable[[], Value] | None


def needed(t: Tape, name: str) -> Value:
    """A tensor of the adapter that its form has for certain."""
    found = parameter(t, name)
    if found is None:
        raise KeyError(f"{t.path}.{name}")
    return found


def base(t: Tape, weight: Weight, shape: tuple[int, ...]) -> Value:
    """The weight of the base layer: the parameter, or one made anew from what is packed (dequantize_bnb_weight)."""
    if weight:
        return weight().detach()
    if t.setting.packing.product != "int8":
        return t.new(shape, t.setting.compute or "bf16")
    _scaled = t.new(shape, "fp32")  # by rows, and then by 1/127
    return t.new(shape, "fp32")


def hira(t: Tape, x: Value, out: Value, weight: Weight) -> Value:
    """Linear.forward: F.linear(x, W * (A.T B.T).T), with the product as large as the weight."""
    down, up, dtype = needed(t, "hira_A.default"), needed(t, "hira_B.default"), out.dtype
    product = f.linear(f.swap(down), up)
    x = f.dropout(f.to(x, down.dtype), t.setting.lora_dropout)
    plain = base(t, weight, (out.shape[-1], x.shape[-1]))
    added = f.linear(x, f.mul(plain, f.swap(product)))
    out = f.add(out, added)
    return f.to(out, dtype)


def deft(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward, all in fp32: the output less the projection of its product, plus what R puts in that place."""
    place, dtype, wide = needed(t, "deft_P.default"), x.dtype, "fp32"
    result, bias = f.to(out, wide), t.weights.find(f"{t.path}.bias")
    product = f.subtract(result, f.to(t.weight("bias", bias.shape), wide)) if bias else result
    x, place = f.to(x, wide), f.to(place, wide)
    right = f.relu(place)
    correction = f.linear(f.linear(product, f.swap(right)), place)
    result = f.subtract(result, correction)
    injected = parameter(t, "deft_R.default")
    if injected is not None:
        injected = f.scale(f.to(injected, wide))
        result = f.add(result, f.linear(f.linear(f.dropout(x, t.setting.lora_dropout), injected), place))
    return f.to(result, dtype)


def glora(t: Tape, x: Value, out: Value, weight: Weight) -> Value:
    """Linear.forward: F.linear(x, W + W * A + B, b + b * D + E + W C) + base - base."""
    dtype, plain = out.dtype, base(t, weight, (out.shape[-1], x.shape[-1]))
    first, second = (f.to(path(t, f"glora_{letter}.default"), plain.dtype) for letter in "AB")
    changed = f.add(f.add(plain, f.mul(plain, first)), second)
    adapted = f.linear(x, changed, offset(t, plain))
    result = f.add(out, adapted)
    return f.to(f.subtract(result, f.scale(out)), dtype)


def path(t: Tape, name: str) -> Value:
    """GloraPath.forward: a product, a parameter, or zeros."""
    down = parameter(t, f"{name}.Xd")
    if down is not None:
        return f.linear(down, f.swap(needed(t, f"{name}.Xu")))
    return parameter(t, f"{name}.X") or needed(t, f"{name}.zeros")


def offset(t: Tape, plain: Value) -> Value | None:
    """The changed bias, where the layer has one."""
    bias = t.weights.find(f"{t.path}.bias")
    if bias is None:
        return None
    kept = t.weight("bias", bias.shape).detach()
    times, more, mixed = (f.to(path(t, f"glora_{letter}.default"), kept.dtype) for letter in "DEC")
    product = f.reshape(f.linear(plain, f.swap(mixed)), -1)
    return f.add(f.add(f.add(kept, f.mul(kept, times)), more), product)


def peanut(t: Tape, x: Value, out: Value, weight: Weight) -> Value:
    """_compute_delta_weight: the weight itself, transposed and in fp32, through the network; its output times x."""
    first, last = needed(t, "peanut_A.default.weight"), needed(t, "peanut_B.default.weight")
    plain = f.to(f.swap(base(t, weight, (out.shape[-1], x.shape[-1]))), first.dtype)
    hidden, kept, depth = f.relu(f.linear(plain, first)), [], 0
    while (encoder := parameter(t, f"peanut_encoders.default.{depth}.weight")) is not None:
        kept.append(hidden)
        hidden, depth = f.relu(f.linear(hidden, encoder)), depth + 1
    for layer in range(depth):
        hidden = f.add(f.relu(f.linear(hidden, needed(t, f"peanut_decoders.default.{layer}.weight"))), kept.pop())
    update = f.swap(f.scale(f.linear(hidden, last)))
    del hidden, plain
    x = f.to(x, update.dtype)
    added = f.linear(x, update)
    return f.add(out, f.to(added, out.dtype))


def beft(t: Tape, _x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward: (result + bias).to(orig_dtype)."""
    return f.to(f.add(out, f.reshape(needed(t, "beft_bias.default"), -1)), out.dtype)


def delora(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """DeloraLinear.forward: B(scaling * A(x * w_norm)), added into zeros of the output's dtype."""
    down, up, bound = (needed(t, f"delora_{name}.default") for name in ("A", "B", "lambda"))
    norms = needed(t, "delora_w_norm.default")
    added, dtype = t.new(out.shape, out.dtype), x.dtype
    inner = f.linear(f.mul(f.dropout(x, t.setting.lora_dropout), norms), down)
    lengths = f.mul(f.clamp(f.vector_norm(down, 1)), f.clamp(f.vector_norm(up, 0)))
    inner = f.mul(inner, f.div(f.scale(bound), lengths))
    added = f.add_(added, f.linear(inner, up))
    out = f.add(out, f.to(added, out.dtype))
    return f.to(out, dtype)


def osf(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """OSF's Linear.forward: the new low part and the old one, negated, side by side in one product."""
    u, s, v = (needed(t, f"osf_svd_params.default.{name}_low") for name in "USV")
    first = [needed(t, f"_osf_{name}_low_init.default") for name in "USV"]
    up = f.cat([f.mul(u, f.unsqueeze(s, 0)), f.neg(f.mul(first[0], f.unsqueeze(first[1], 0)))], 1)
    down = f.cat([v, first[2]], 0)
    dtype, x = x.dtype, f.to(x, up.dtype)
    inner = f.linear(x, down)
    added = f.linear(inner, up)
    return f.add(out, f.to(added, dtype))


def miss(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """MissLinear.forward: the sum of the stretches of r inputs, times the block; `mini` repeats a narrow one."""
    block, dtype, width = needed(t, "miss_block.default"), x.dtype, out.shape[-1]
    if len(block.shape) == 3:
        return bat(t, x, out, block)
    if block.shape[1] < width:
        block = f.repeat(block, width // block.shape[1], 1)
    rank = block.shape[0]
    if x.shape[-1] % rank:
        x = f.pad(x, len(x.shape) - 1, rank - x.shape[-1] % rank)
    x = f.dropout(f.to(x, block.dtype), t.setting.lora_dropout)
    summed = f.total(f.reshape(x, *x.shape[:-1], x.shape[-1] // rank, rank), len(x.shape) - 1)
    out = f.add(out, f.linear(summed, f.swap(block)))
    return f.to(out, dtype)


def bat(t: Tape, x: Value, out: Value, block: Value) -> Value:
    """MiSS in the form of Bone: the weight, in fp32, times the blocks, and all of it times x."""
    shape, rank = (out.shape[-1], x.shape[-1]), block.shape[-1]
    plain = t.new(shape, block.dtype)
    parts = f.reshape(plain, shape[0] // rank, rank, shape[1] // rank, rank)
    parts = f.contiguous(f.reshape(f.permute(parts, 0, 2, 1, 3), shape[0] // rank, shape[1], rank))
    changed = f.add(f.bmm(parts, block), f.repeat(block, shape[1] // rank, 1))
    whole = f.add(plain, f.contiguous(f.reshape(changed, *shape)))
    del changed, parts
    return f.to(f.linear(f.to(x, block.dtype), whole), x.dtype)


def tinylora(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward of TinyLoRA: B(R(A(x))), of which only the mixture R learns."""
    down, up, mixtures = (needed(t, f"tinylora_{name}.default") for name in "ABP")
    weights = next(iter(t.weights.common("tinylora")))
    mixed = f.einsum("i,ijk->jk", t.weight(f".{weights.name}", weights.shape, weights.name), mixtures)
    dtype, x = x.dtype, f.to(f.dropout(x, t.setting.lora_dropout), down.dtype)
    inner = f.linear(f.linear(x, down), mixed)
    added = f.linear(inner, up)
    out = f.add(out, added)
    return f.to(out, dtype)


def gralora(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward of GraLoRA: a product of each block of inputs, mixed, and one of each block of outputs."""
    down, up, dtype = needed(t, "gralora_A.default"), needed(t, "gralora_B.default"), out.dtype
    (blocks, width, rank), lead = down.shape, x.shape[:-1]
    wide = f.dropout(f.to(x, down.dtype), t.setting.lora_dropout)
    inner = f.einsum("blni,nir->blnr", f.reshape(wide, *lead, blocks, width), down)
    inner = f.permute(f.reshape(inner, *lead, blocks, blocks, rank // blocks), 0, 1, 3, 2, 4)
    inner = f.reshape(inner, *lead, blocks, rank)
    added = f.reshape(f.einsum("bljr,jro->bljo", inner, up), *lead, -1)
    out = f.add_(out, f.scale(f.to(added, dtype)))
    del inner, wide
    first, second = parameter(t, "gralora_A_general.default.weight"), parameter(t, "gralora_B_general.default.weight")
    if first is None or second is None:
        return f.to(out, x.dtype)
    beside = f.linear(f.linear(f.dropout(f.to(x, first.dtype), t.setting.lora_dropout), first), second)
    return f.to(f.add_(out, f.scale(f.to(beside, dtype))), x.dtype)


def hra(t: Tape, x: Value, out: Value, weight: Weight) -> Value:
    """HRALinear.forward: the weight, in fp32, times a whole matrix that each Householder vector changes in its turn."""
    vectors, shape = needed(t, "hra_u.default"), (out.shape[-1], x.shape[-1])
    unit = f.div(vectors, f.vector_norm(vectors, 0))
    turn = t.new((shape[1], shape[1]), unit.dtype)
    for _ in range(vectors.shape[1]):
        one = f.reshape(f.select(unit, 1), -1, 1)
        turn = f.subtract(turn, f.linear(f.linear(f.scale(turn), f.swap(one)), one))
    turn = f.linear(t.new((shape[1], shape[1]), unit.dtype), f.swap(turn))
    changed = f.linear(f.to(base(t, weight, shape), turn.dtype), f.swap(turn))
    bias, dtype, x = t.weights.find(f"{t.path}.bias"), x.dtype, f.to(x, changed.dtype)
    shift = f.to(t.weight("bias", bias.shape), changed.dtype) if bias else None
    return f.to(f.linear(x, changed, shift), dtype)
