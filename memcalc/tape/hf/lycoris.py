"""The adapters that are no LoRA: AdaLoRA, LoHa, LoKr, IA3, VeRA and OFT (peft 0.21, tuners/<method>/layer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def parameter(t: Tape, name: str) -> Value | None:
    """A tensor of the adapter on the module that runs, or None where it has none."""
    tensor = t.weights.adapter(t.path, name)
    return t.weight(name, tensor.shape) if tensor else None


def adalora(t: Tape, x: Value, out: Value) -> Value:
    """SVDLinear.forward: result += dropout(x) @ (A * E).T @ B.T * scaling / ranknum.

    Over a packed weight (tuners/adalora/bnb.py) the product is cast before it is scaled, and not at all under autocast;
    over 8 bits the sum is a new tensor, as wide as the number of ranks makes it.
    """
    first, up, values = parameter(t, "lora_A.default"), parameter(t, "lora_B.default"), parameter(t, "lora_E.default")
    count = parameter(t, "ranknum.default")
    if first is None or up is None or values is None or count is None:
        return out
    packed = t.weights.packed(t.path)
    integers = packed and t.setting.packing.product == "int8"
    count = f.shift(count.detach() if integers else count)  # one that learns was cast to the base's dtype
    if packed and t.setting.packing.product == "dequantize":
        out = f.clone(out)
    x = x if packed and t.autocast else f.to(x, first.dtype)
    added = f.linear(f.linear(f.dropout(x, t.setting.lora_dropout), f.mul(first, values)), up)
    if packed:
        added = added if t.autocast else f.to(added, out.dtype)
        added = f.div(f.scale(added), count)
        return f.add(out, added) if integers else f.add_(out, added)
    added = f.scale(added)
    added = f.div(added, count)
    return f.add_(out, added)


def loha(t: Tape, x: Value, out: Value) -> Value:
    """LoHaLayer.get_delta_weight: (w1a w1b) * (w2a w2b), a weight as large as the layer's own."""
    factors = [parameter(t, f"hada_w{n}_{part}.default") for n in (1, 2) for part in "ab"]
    if None in factors:
        return out
    return with_weight(x, out, hadamard(t, [factor for factor in factors if factor]))


def hadamard(t: Tape, factors: list[Value]) -> Value:
    """HadaWeight: saves the factors alone; under autocast both products are narrower."""
    shape = (factors[0].shape[0], factors[1].shape[1])
    narrow = [f.lower(factor).dtype for factor in factors]
    node = record(t, _hadamard_backward, tuple(factors), tuple(factors), shape)
    first, second = t.new(shape, narrow[0]), t.new(shape, narrow[0])
    product = t.new(shape, narrow[0])
    del first, second
    out = t.new(shape, narrow[0])
    del product
    out.node = node
    return out


def _hadamard_backward(node: Node, g: Value) -> Gradients:
    """One product is made again for the gradients of the other pair; what it is multiplied to keeps its name until the next."""
    factors, tape = node.load(), g.tape
    scaled, made = tape.new(g.shape, g.dtype), []
    temp: Value | None = None
    for pair in (factors[:2], factors[2:]):
        other = tape.new(g.shape, pair[0].dtype)
        temp = tape.new(g.shape, other.dtype)
        del other
        made += [tape.new(factor.shape, factor.dtype) for factor in pair]
    del scaled, temp
    return tuple(made)


def lokr(t: Tape, x: Value, out: Value) -> Value:
    """LoKrLayer.get_delta_weight: the Kronecker product of w1 and w2, a weight as large as the layer's own."""
    first, second = whole_or_product(t, "lokr_w1"), whole_or_product(t, "lokr_w2")
    if first is None or second is None:
        return out
    return with_weight(x, out, f.scale(kronecker(first, second)))


def kronecker(first: Value, second: Value) -> Value:
    """torch.kron of two matrices."""
    (p, q), (r, s) = first.shape, second.shape
    return f.reshape(f.mul(f.reshape(first, p, 1, q, 1), f.reshape(second, 1, r, 1, s)), p * r, q * s)


def whole_or_product(t: Tape, name: str) -> Value | None:
    """A factor: a parameter, or the product of two."""
    first, second = parameter(t, f"{name}_a.default"), parameter(t, f"{name}_b.default")
    if first is None or second is None:
        return parameter(t, f"{name}.default")
    return f.linear(first, f.swap(second))


def with_weight(x: Value, out: Value, weight: Value) -> Value:
    """LycorisLayer.forward: result + F.linear(x, delta_weight), which a function of its own makes and lets go of."""
    added = f.linear(f.to(x, weight.dtype), weight)
    del weight
    out = f.add(out, added)
    return f.to(out, x.dtype)


def ia3(t: Tape, x: Value, *, before: bool) -> Value:
    """Linear.forward of IA3: the input of a feed-forward layer, or the output of another, times a vector."""
    factor = parameter(t, "ia3_l.default")
    if factor is None or (factor.shape[0] == 1) != before:
        return x
    factor = f.scale(f.reshape(factor, -1))
    dtype = x.dtype
    x = f.to(x, factor.dtype) if before else x  # whose name stays while the product is cast back
    return f.to(f.mul(x, factor), dtype)


def vera(t: Tape, x: Value, out: Value) -> Value:
    """Linear.forward of VeRA: result + b * B(d * A(x)), with A and B parts of random matrices that all layers share."""
    after, between = parameter(t, "vera_lambda_b.default"), parameter(t, "vera_lambda_d.default")
    if after is None or between is None:
        return out
    rank, dtype, wanted = between.shape[0], out.dtype, x.dtype
    down, up = (
        f.expand(t.new((), between.dtype).detach(), *shape) for shape in ((rank, x.shape[-1]), (after.shape[0], rank))
    )
    x = f.to(x, between.dtype)
    added = f.linear(f.mul(between, f.linear(f.dropout(x, t.setting.lora_dropout), down)), up)
    added = f.mul(after, added)
    out = f.add(out, added)
    return f.to(f.to(out, dtype), wanted)


def oft(t: Tape, x: Value) -> Value:
    """OFTRotationModule.forward: the input, block by block, times an orthogonal matrix made by a series of five terms."""
    tensor = t.weights.adapter(t.path, "oft_R.default.weight")
    if tensor is None:
        return x
    angles, dtype = t.weight("oft_R.default.weight", tensor.shape), x.dtype
    blocks, block = tensor.shape[0], (1 + int((1 + 8 * tensor.shape[1]) ** 0.5)) // 2
    x = f.to(x, angles.dtype)
    turn = cayley(t, angles, blocks, block)
    if blocks == 1 < x.shape[-1] // block:
        turn = f.repeat(turn, x.shape[-1] // block)
    rows = f.permute(f.reshape(f.lower(x), -1, x.shape[-1] // block, block), 1, 0, 2)
    turned = f.permute(f.bmm(rows, f.lower(turn)), 1, 0, 2)
    out = f.reshape(turned, *x.shape)
    t.turned = f.to(out, angles.dtype)
    del x, rows, turn, turned, out
    return f.to(t.turned, dtype)


def turned(t: Tape, x: Value, out: Value) -> Value:
    """The end of OFT's Linear.forward, which until then holds what it has turned as wide as it did."""
    out, t.turned = f.to(out, x.dtype), None
    return out


def cayley(t: Tape, angles: Value, blocks: int, block: int) -> Value:
    """OFTRotationModule._cayley_batch: 1 + 2Q + 2Q² + 2Q³ + Q⁴ of skew-symmetric blocks Q."""
    shape = (blocks, block, block)
    skew = t.new(shape, angles.dtype)
    skew.node = record(t, _gathered_backward, (angles,), (), angles.shape)
    skew = f.subtract(skew, f.swap(skew))
    turn = t.new(shape, angles.dtype)
    turn = f.add_(turn, skew)
    power = f.bmm(f.lower(skew), f.lower(skew))
    turn = f.add_(turn, power)
    for _ in range(2):
        power = f.bmm(power, f.lower(skew))
        turn = f.add_(turn, power)
    return turn


def _gathered_backward(node: Node, g: Value) -> Gradients:
    return (g.tape.new(node.meta, g.dtype),)
