"""Products with packed weights, as the libraries that keep frozen weights quantised run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save

if TYPE_CHECKING:
    from memcalc.blocks.basic import Linear
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def product(t: Tape, block: Linear, x: Value) -> Value:
    """The output of a linear layer whose weight is packed."""
    bias = t.weight("bias", (block.outputs,), block.bias_tied_to) if block.bias else None
    if t.setting.packing.product == "int8":
        return int8(t, block, x)
    dtype = x.dtype
    x = f.to(x, t.setting.compute or dtype)
    return f.to(dequantized(t, block, x, bias), dtype)


def dequantized(t: Tape, block: Linear, x: Value, bias: Value | None) -> Value:
    """MatMul4Bit (bitsandbytes 0.50, autograd/_functions.py): the weight is unpacked whole in both passes.

    gemm_4bit unpacks and multiplies for more than 1536 rows, and on data-centre GPUs for most shapes
    (backends/cuda/ops.py, _gemm_4bit_use_custom_cuda); fewer rows may be spared the copy. It saves neither. Others save
    their input as well (HQQMatmulNoCacheMul); where it is autograd that sees a plain product, the unpacked weight is saved
    (gptqmodel's TorchLinear, torchao's tensors). A bias is added by the product.
    """
    meta = (block.outputs, block.inputs), x.dtype, nested_blocks(t)
    saved = (x,) if t.setting.packing.saves_input else ()
    node = record(t, _kept_backward if t.setting.packing.keeps_weight else _dequantized_backward, (x,), saved, meta)
    flat = f.contiguous(x)
    weight = read(t, x) if t.setting.packing.product in ("fp8", "fused") else unpacked(t, *meta)
    if t.setting.packing.keeps_weight:
        save(t, node, weight)
    t.multiplied(2 * x.elements * block.outputs)
    out = t.new((*x.shape[:-1], block.outputs), x.dtype)
    del weight, flat, bias
    out.node = node
    return out


def read(t: Tape, x: Value) -> Value:
    """What a kernel that reads packed weights makes of the input: nothing, or its fp8 with a scale for 128 of a row.

    (transformers 5.23, integrations/eetq.py; integrations/finegrained_fp8.py, fp8_linear.)
    """
    if t.setting.packing.product == "fused":
        return x
    scales = t.new((*x.shape[:-1], -(-x.shape[-1] // 128)), "fp32")
    narrow = t.new(x.shape, "fp8")
    del scales
    return narrow


def nested_blocks(t: Tape) -> int:
    """How many scales of the module are quantised themselves (bitsandbytes' double quantisation); 0 where none are."""
    scales = t.weights.find(f"{t.path}.weight_absmax")
    return scales.elements if scales and scales.dtype == "uint8" else 0


def unpacked(t: Tape, shape: tuple[int, int], dtype: str, nested: int) -> Value:
    """dequantize_4bit: the scales in fp32, twice while the offset is added, and the weight [outputs, inputs]."""
    if t.setting.packing.copies:
        more = [t.new(shape, dtype) for _ in range(t.setting.packing.copies)]
        weight = t.new(shape, dtype)
        del more
        return weight
    if nested:
        plain = t.new((nested,), "fp32")
        scales = t.new((nested,), "fp32")
        del plain
        weight = t.new(shape, dtype)
        del scales
        return weight
    return t.new(shape, dtype)


def _dequantized_backward(node: Node, g: Value) -> Gradients:
    """grad @ dequantize_4bit(weight), unpacked to the dtype the weight had, then to the gradient's."""
    _saved = node.load()
    shape, _, nested = node.meta
    tape = g.tape
    identity = (
        tape.new((shape[1], shape[1]), g.dtype) if tape.setting.packing.product == "fused" else None
    )  # EETQ unpacks by it
    weight = f.to(unpacked(tape, shape, tape.setting.frozen, nested), g.dtype)
    tape.multiplied(2 * g.elements * shape[1])
    flat = f.contiguous(g)
    out = tape.new((*g.shape[:-1], shape[1]), g.dtype)
    del weight, flat, identity
    return (out,)


def _kept_backward(node: Node, g: Value) -> Gradients:
    """grad @ the unpacked weight that was saved."""
    _saved = node.load()
    shape, *_ = node.meta
    g.tape.multiplied(2 * g.elements * shape[1])
    return (g.tape.new((*g.shape[:-1], shape[1]), g.dtype),)


class Kept:
    """What MatMul8bitLt puts on its context as plain attributes: no checkpoint sees it, and the graph holds it to the end."""

    __slots__ = ("shape", "x")

    def __init__(self, x: Value, shape: tuple[int, int]) -> None:
        self.x, self.shape = x, shape


def int8(t: Tape, block: Linear, x: Value) -> Value:
    """MatMul8bitLt.forward with threshold 6.0, where no input is an outlier (bitsandbytes 0.50, autograd/_functions.py).

    The input is cast to fp16 and quantised row by row; the integer product is scaled back to fp16, then cast. Outliers
    would add a copy of their columns of the input, which are few (Dettmers et al. 2022).
    """
    rows = f.reshape(x, -1, block.inputs).detach()
    narrow, stats = int8_rows(t, rows)
    with t.no_grad():
        integers = t.new((rows.shape[0], block.outputs), "int32")
        half = t.new(integers.shape, "fp16")
        out = f.to(half, x.dtype)
        t.multiplied(2 * rows.elements * block.outputs)
    del integers, half, narrow, stats
    out.node = record(t, _int8_backward, (x,), (), Kept(rows, (block.outputs, block.inputs)))
    out.shape = (*x.shape[:-1], block.outputs)
    return out


def int8_rows(t: Tape, rows: Value) -> tuple[Value, Value]:
    """int8_vectorwise_quant: [rows, inputs] as bytes and a scale for each row, by way of |x| >= threshold."""
    half = f.to(rows, "fp16")
    stats = t.new((rows.shape[0],), "fp32")
    narrow = t.new(rows.shape, "int8")
    size = t.new(rows.shape, "fp16")
    outliers = t.new(rows.shape, "bool")
    del half, size, outliers
    return narrow, stats


def _int8_backward(node: Node, g: Value) -> Gradients:
    """The weight is unpacked to the input's dtype, and multiplied with the gradient."""
    kept: Any = node.meta
    tape = g.tape
    flat = f.contiguous(g)
    weight = tape.new(kept.shape, kept.x.dtype)
    cast = f.to(flat, kept.x.dtype)
    tape.multiplied(2 * g.elements * kept.shape[1])
    out = tape.new((*g.shape[:-1], kept.shape[1]), kept.x.dtype)
    del weight, cast, flat
    return (out,)
