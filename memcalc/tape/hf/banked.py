"""Adapters that share, turn or transform: Lily, RandLoRA, PVeRA, RoAd, PSOFT, FourierFT, C3A, SuperTuning (peft 0.21)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.hf.lowranks import base, needed
from memcalc.tape.hf.lycoris import parameter

if TYPE_CHECKING:
    from memcalc.tape.hf.lowranks import Weight
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def randlora(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward: the products with the bases in line, scaled, added to the output."""
    dtype = x.dtype
    added, _names = between_bases(t, x, out.shape[-1])
    added = f.scale(added)
    out = f.add(out, added)
    return f.to(out, dtype)


def between_bases(t: Tape, x: Value, width: int) -> tuple[Value, tuple[Value, ...]]:
    """Two products with the bases in line, the smaller one scaled in every entry (get_scaled_bases); what has names besides."""
    inner, outer = needed(t, "randlora_lambda.default"), needed(t, "randlora_gamma.default")
    (rank, bases), least = inner.shape, outer.shape[1]
    large = f.expand(t.new((), inner.dtype).detach(), max(x.shape[-1], width), bases * rank)
    small = f.reshape(scaled(t, inner, outer), rank * bases, least)
    first, second = (small, large) if least == x.shape[-1] else (f.swap(large), f.swap(small))
    x = f.dropout(f.to(x, inner.dtype), t.setting.lora_dropout)
    return f.linear(f.linear(x, first), second), (x, first, second)


def scaled(t: Tape, inner: Value, outer: Value) -> Value:
    """UniqueBaseGrad: lambda * A * gamma, of which only the parameters are saved."""
    shape = (*inner.shape, outer.shape[1])
    node = record(t, _scaled_backward, (inner, outer), (inner, outer), shape)
    half = t.new(shape, inner.dtype)
    out = t.new(shape, inner.dtype)
    del half
    out.node = node
    return out


def _scaled_backward(node: Node, g: Value) -> Gradients:
    inner, outer = node.load()
    made = []
    for value in (inner, outer):
        product = g.tape.new(node.meta, g.dtype)
        made.append(g.tape.new(value.shape, g.dtype))
        del product
    return tuple(made)


def pvera(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward of PVeRA."""
    dtype = x.dtype
    added, _names = drawn(t, x)
    out = f.add(out, added)
    return f.to(out, dtype)


def drawn(t: Tape, x: Value) -> tuple[Value, tuple[Value, ...]]:
    """VeRA's products, whose inner vector is drawn from a mean and a variance; what has names besides."""
    after, between = needed(t, "pvera_lambda_b.default"), needed(t, "pvera_lambda_d.default")
    rank = between.shape[0] // 2
    shapes = (2 * rank, x.shape[-1]), (after.shape[0], rank)
    down, up = (f.expand(t.new((), between.dtype).detach(), *shape) for shape in shapes)
    x = f.dropout(f.to(x, between.dtype), t.setting.lora_dropout)
    mean, spread = f.split(f.mul(between, f.linear(x, down)), (rank, rank))
    spread = f.exp(f.scale(spread))
    noise = t.new(spread.shape, spread.dtype)
    found = f.add(mean, f.mul(noise, spread))
    del noise, spread
    return f.mul(after, f.linear(found, up)), (x, mean)


def lily(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward of Lily: B is mixed by the mean choice of the router over all tokens."""
    router = needed(t, "lily_router.default.weight")
    count, rank = router.shape
    down, up = factor(t, "A", (rank, x.shape[-1])), factor(t, "B", (count * rank, out.shape[-1]))
    x = f.to(x, down.dtype)
    hidden = f.linear(x, down)
    chosen = f.mean(f.reshape(f.softmax(f.linear(hidden, router)), -1, count), 0, keep=False)
    mixed = f.einsum("e,eio->io", chosen, f.reshape(up, count, rank, -1))
    added = f.linear(hidden, f.swap(mixed))
    return f.add(out, f.to(f.scale(added), out.dtype))


def factor(t: Tape, letter: str, shape: tuple[int, int]) -> Value:
    """The layer's own A, or one of those that layers share; which of like ones changes no size."""
    own = parameter(t, f"lily_{letter}.default.weight")
    if own is not None:
        return own
    alike = next(c for c in t.weights.common("lily") if c.name.startswith(f"lily_{letter}.") and c.shape == shape)
    return t.weight(f".{alike.name}", alike.shape, alike.name)


def road(t: Tape, _x: Value, out: Value, _: Weight) -> Value:
    """_apply_road: x * first + rotated x * second, of an output in fp32."""
    angles, lengths, width = needed(t, "road_theta.default"), needed(t, "road_alpha.default"), out.shape[-1]
    if angles.shape[0] != width:  # shared by a pair, or two for each output
        times = max(width // angles.shape[0], 1)
        angles, lengths = (f.narrow(f.repeat(v, times), 0, width) for v in (angles, lengths))
    columns = [f.mul(lengths, wave(angles)) for wave in (f.cosine, f.sine)]
    halves = f.reshape(out, -1, 2, width // 2)
    first, second = f.select(halves, 1), f.neg(f.select(halves, 1))
    turned = f.reshape(f.stack((second, first), 1), *out.shape)
    del first, second, halves
    return f.add(f.mul(out, columns[0]), f.mul(turned, columns[1]))


def psoft(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward of PSOFT: what the rotation changes between the two fixed factors."""
    down, up = needed(t, "_psoft_A_cache.default"), needed(t, "_psoft_B_cache.default")
    x = f.dropout(f.to(x, down.dtype), t.setting.lora_dropout)
    inner = f.linear(x, down)
    turned = f.linear(inner, rotation(t, down.shape[0]))
    added = f.linear(f.subtract(turned, inner), up)
    return f.to(f.add(out, f.scale(added)), out.dtype)


def rotation(t: Tape, size: int) -> Value:
    """OrthLayer.get_matrix: the solution of (1 - Q) R = 1 + Q for a skew-symmetric Q, scaled on both sides."""
    angles = needed(t, "psoft_R.default.weight")
    turn = angles
    if len(angles.shape) == 1:
        skew = t.new((size, size), angles.dtype)
        skew.node = record(t, _angles_backward, (angles,), (), angles.shape)
        skew = f.subtract(skew, f.swap(skew))
        left, right = f.subtract(t.new((size, size), angles.dtype), skew), f.shift(skew)
        turn = f.bmm(f.unsqueeze(left, 0), f.unsqueeze(right, 0))
        turn = f.squeeze(turn, 0)
    for name, axis in (("vector_b", 1), ("vector_a", 0)):
        vector = parameter(t, f"psoft_R.default.{name}")
        turn = turn if vector is None else f.mul(f.unsqueeze(vector, axis), turn)
    return turn


def _angles_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)


def fourierft(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """get_delta_weight: the inverse transform, in complex numbers, of a spectrum as large as the weight."""
    spectrum, shape = needed(t, "fourierft_spectrum.default"), (out.shape[-1], x.shape[-1])
    node = record(t, _spectrum_backward, (spectrum,), (), shape)
    dense = t.new(shape, "fp32")
    inside = t.new((*shape, 2), "fp32")
    numbers = t.new((*shape, 2), "fp32")
    del inside
    real = f.expand(t.new((), "fp32"), *shape)
    real.node = node
    update = f.scale(real)
    del numbers, dense, real
    dtype, x = x.dtype, f.to(x, update.dtype)
    out = f.add(out, f.linear(x, update))
    return f.to(out, dtype)


def _spectrum_backward(node: Node, g: Value) -> Gradients:
    """The gradient as complex numbers, transformed, its real part, and of that the entries that learn."""
    numbers = g.tape.new((*node.meta, 2), g.dtype)
    turned = g.tape.new((*node.meta, 2), g.dtype)
    del numbers
    dense = g.tape.new(node.meta, g.dtype)
    made = g.tape.new(node.shape(0), g.dtype)
    del turned, dense
    return (made,)


def c3a(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """C3ALinear.forward: BlockCircularConvolution saves its inputs; its products are complex, twice as large."""
    kernel, dtype = needed(t, "c3a_kernel.default"), x.dtype
    x = f.to(x, "fp32")
    node = record(t, _circular_backward, (x, kernel), (x, kernel))
    inside, factors = t.new((*x.shape, 2), "fp32"), t.new((*kernel.shape, 2), "fp32")
    product = t.new((*out.shape, 2), "fp32")
    del inside, factors
    turned = t.new((*out.shape, 2), "fp32")
    del product
    made = t.new(out.shape, "fp32")
    del turned
    made.node = node
    return f.to(f.add_(out, f.to(f.scale(made), out.dtype)), dtype)


def _circular_backward(node: Node, g: Value) -> Gradients:
    x, kernel = node.load()
    turned, factors = g.tape.new((*g.shape, 2), g.dtype), g.tape.new((*kernel.shape, 2), g.dtype)
    inside = g.tape.new((*x.shape, 2), g.dtype)
    second = g.tape.new((*x.shape, 2), g.dtype)
    del inside, factors
    first = g.tape.new(x.shape, g.dtype)
    del second
    inside = g.tape.new((*x.shape, 2), g.dtype)
    made = g.tape.new(kernel.shape, g.dtype)
    del inside, turned
    return first, made


def supertuning(t: Tape, x: Value, out: Value, weight: Weight) -> Value:
    """Linear.forward of SuperTuning: a copy of the weight with the entries that learn added, in its dtype."""
    plain, dtype = base(t, weight, (out.shape[-1], x.shape[-1])), out.dtype
    values = f.to(needed(t, "supertuning_values.default"), plain.dtype)
    places = t.new(values.shape, "int64")
    node = record(t, _entries_backward, (values,), (places,), values.shape)
    changed = t.new(plain.shape, plain.dtype)
    changed.node = node
    del places
    bias = t.weights.find(f"{t.path}.bias")
    result = f.linear(x, changed, t.weight("bias", bias.shape).detach() if bias else None)
    down, up = parameter(t, "supertuning_lora_A.default.weight"), parameter(t, "supertuning_lora_B.default.weight")
    if down is None or up is None:
        return result
    x = f.to(f.dropout(x, t.setting.lora_dropout), down.dtype)
    return f.add(result, f.to(f.scale(f.linear(f.linear(x, down), up)), dtype))


def _entries_backward(node: Node, g: Value) -> Gradients:
    _places = node.load()
    return (g.tape.new(node.meta, g.dtype),)


def unilora(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward of UniLoRA: A and B are entries of one vector, scaled (_get_lora_matrices)."""
    vector, dtype = next(iter(t.weights.common("unilora"))), x.dtype
    whole = t.weight(f".{vector.name}", vector.shape, vector.name)
    factors = []
    for letter in "AB":
        places, sizes = (needed(t, f"unilora_{kind}_{letter}.default") for kind in ("indices", "scales"))
        factors.append(f.mul(f.index(whole, places, places.shape), sizes))
    x = f.dropout(f.to(x, whole.dtype), t.setting.lora_dropout)
    out = f.add(out, f.linear(f.linear(x, factors[0]), factors[1]))
    return f.to(out, dtype)


def vblora(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward of VB-LoRA: each stretch of A and B is a mixture of the bank's best vectors."""
    bank, dtype = next(iter(t.weights.common("vblora"))), x.dtype
    vectors = t.weight(f".{bank.name}", bank.shape, bank.name)
    down = mixed(t, needed(t, "vblora_logits_A.default"), vectors)
    down = f.reshape(down, down.shape[0], -1)
    up = mixed(t, needed(t, "vblora_logits_B.default"), vectors)
    up = f.reshape(f.transpose(up, 1, 2), -1, up.shape[1])
    x = f.dropout(f.to(x, vectors.dtype), t.setting.lora_dropout)
    out = f.add(out, f.linear(f.linear(x, down), up))
    return f.to(out, dtype)


def mixed(t: Tape, logits: Value, vectors: Value) -> Value:
    """_get_low_rank_matrix: the softmax of the best logits, times their vectors, summed."""
    best, places = f.topk(logits, int(str(dict(t.setting.adapter_options)["topk"])))
    chances = f.softmax(best)
    chosen = f.index(vectors, places, (*places.shape, vectors.shape[1]))
    return f.total(f.mul(f.unsqueeze(chances, len(chances.shape)), chosen), len(chances.shape) - 1)


def turned(t: Tape, x: Value) -> Value:
    """Linear.forward of BOFT before the base layer: x times a whole matrix, the product of permuted blocks.

    Without BOFT's CUDA extension there is one butterfly factor; of several each is as large.
    """
    blocks, places, dtype = needed(t, "boft_R.default"), needed(t, "boft_P"), x.dtype
    factors, width = places.shape[:2]
    diagonal = t.new((factors, width, width), blocks.dtype)
    diagonal.node = record(t, _blocks_backward, (blocks,), (), blocks.shape)
    unit, places = t.new((width, width), dtype), f.to(places, dtype)
    product = f.bmm(places, f.bmm(f.to(diagonal, dtype), f.permute(places, 0, 2, 1)))
    del diagonal
    whole = f.select(product, 0)
    for _ in range(factors - 1):
        whole = f.linear(f.select(product, 0), f.swap(whole))
    return f.linear(x, f.swap(f.linear(whole, unit)))


def _blocks_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)


def boft(t: Tape, x: Value, out: Value, _: Weight) -> Value:
    """Linear.forward of BOFT after the base layer: every output scaled, but for the bias."""
    scales, bias = needed(t, "boft_s.default"), t.weights.find(f"{t.path}.bias")
    shift = t.weight("bias", bias.shape) if bias else None
    out = f.subtract(out, shift) if shift else out
    out = f.mul(out, f.reshape(f.scale(scales), -1))
    out = f.add(out, shift) if shift else out
    return f.to(out, x.dtype)
