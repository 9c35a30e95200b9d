"""Transformer Engine's linear layers and norms as autograd functions (transformer_engine/pytorch/module)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.tape.autograd import Gradients, Node, record

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value


@dataclass(frozen=True, slots=True)
class Product:
    """What a linear layer's backward pass needs to know of it.

    `gathers` ranks' parts of the sequence are put together for its input, `scatters` for its output; `clears` where
    the layer lets go of its saved input as soon as the weight gradient is there. `spare` are elements of a weight
    gradient that no main gradient takes. `again` where the input is not saved but made anew (CheckpointWithoutOutput);
    `borrows` where the gathered input goes into a buffer that stays, `original` where the input is saved as it is, not as
    it was quantised for the product (save_original_input).
    """

    inputs: int
    outputs: int
    gathers: int = 1
    scatters: int = 1
    clears: bool = False
    bias: bool = False
    spare: int = 0
    flops: int = 0
    again: bool = False
    borrows: bool = False
    original: bool = False


def longer(shape: Shape, times: int) -> Shape:
    """[batch, seq, …] with the sequence that `times` ranks share."""
    return shape if times == 1 else (*shape[:-2], shape[-2] * times, shape[-1])


def shorter(shape: Shape, times: int) -> Shape:
    """One rank's part of it."""
    return shape if times == 1 else (*shape[:-2], shape[-2] // times, shape[-1])


def kept(t: Tape, x: Value) -> Value:
    """A product's input as it is saved: itself, or one byte an element in fp8 (quantised for the product)."""
    ways = t.setting.ways
    return t.new(x.shape, "fp8") if ways and ways.fp8 else x


def norm(t: Tape, x: Value, kind: str) -> Value:
    """te.RMSNorm and te.LayerNorm: the input and a statistic or two of each row are saved."""
    rows = (*x.shape[:-1],)
    statistics = [t.new(rows, "fp32") for _ in range(2 if kind == "layer" else 1)]
    node = record(t, _norm_backward, (x,), (x, *statistics), kind)
    out = t.new(x.shape, x.dtype)
    out.node = node
    return out


def _norm_backward(node: Node, g: Value) -> Gradients:
    _saved = node.load()
    dx = g.tape.new(g.shape, g.dtype)
    _gamma(g, node.meta)
    return (dx,)


def _gamma(g: Value, kind: str) -> None:
    """Gradients of the norm's weight and bias, which go straight into the main gradients."""
    _made = [g.tape.new((g.shape[-1],), g.dtype) for _ in range(2 if kind == "layer" else 1)]


def norm_linear(t: Tape, x: Value, kind: str, what: Product) -> Value:
    """_LayerNormLinear: saves its input, the norm's statistics, and the norm's output as this rank has it."""
    statistics = [t.new(x.shape[:-1], "fp32") for _ in range(2 if kind == "layer" else 1)]
    normal = t.new(x.shape, x.dtype)
    low = kept(t, normal)
    node = record(t, _norm_linear_backward, (x,), (x, low, *statistics), (kind, what))
    read = t.new(longer(x.shape, what.gathers), low.dtype) if what.gathers > 1 else low
    t.multiplied(what.flops)
    out = t.new((*read.shape[:-1], what.outputs), x.dtype)
    out.node = node
    return out


def _norm_linear_backward(node: Node, g: Value) -> Gradients:
    kind, what = node.meta
    x, normal, *_statistics = node.load()
    node.saved = []
    t, ways = g.tape, g.tape.setting.ways
    shape = (*g.shape[:-1], what.inputs)
    quantized = t.new(g.shape, "fp8") if ways and ways.fp8 else None
    read = t.new(shape, normal.dtype) if what.gathers > 1 else normal
    t.multiplied(2 * what.flops)
    whole = t.new(shape, g.dtype)
    inner = t.new(shorter(shape, what.gathers), g.dtype) if what.gathers > 1 else whole
    spare = t.new((what.spare,), g.dtype) if what.spare else None
    del normal, read, spare, quantized
    dx = t.new(x.shape, g.dtype)
    _gamma(inner, kind)
    return (dx,)


def linear(t: Tape, x: Value, what: Product) -> Value:
    """_Linear: saves its input as this rank has it; cut by rows, its output is summed over ranks and scattered."""
    low = kept(t, x)
    saved = x if what.original else low
    node = record(t, _linear_backward, (x,), (None if what.again else saved,), (what, low.shape, low.dtype))
    read = t.new(longer(x.shape, what.gathers), low.dtype) if what.gathers > 1 and not what.borrows else low
    t.multiplied(what.flops)
    whole = t.new((*longer(x.shape, what.gathers)[:-1], what.outputs), x.dtype)
    out = t.new(shorter(whole.shape, what.scatters), x.dtype) if what.scatters > 1 else whole
    out.node = node
    del read, whole
    return out


def _linear_backward(node: Node, g: Value) -> Gradients:
    what, made, dtype = node.meta
    (x,) = node.load()
    node.saved = []
    t, ways = g.tape, g.tape.setting.ways
    x = t.new(made, dtype) if x is None or x.dtype != dtype else x
    gathered = t.new(longer(g.shape, what.scatters), g.dtype) if what.scatters > 1 else g
    quantized = t.new(gathered.shape, "fp8") if ways and ways.fp8 else None
    shape = (*gathered.shape[:-1], what.inputs)
    read = t.new(shape, x.dtype) if what.gathers > 1 and not what.borrows else x
    t.multiplied(2 * what.flops)
    whole = t.new(shape, g.dtype)
    dx = t.new(shorter(shape, what.gathers), g.dtype) if what.gathers > 1 else whole
    spare = t.new((what.spare,), g.dtype) if what.spare else None
    if what.clears:
        del x, read
    del spare, quantized
    return (dx,)


def fused_activation(t: Tape, x: Value, *, gated: bool, weights: Value | None = None, saves: bool = True) -> Value:
    """SwiGLUFunction and its kin: one kernel, which saves its input (fusions/fused_bias_swiglu.py).

    With the routers' `weights` it is WeightedSwiGLUFunction, which saves those too.
    """
    half = (*x.shape[:-1], x.shape[-1] // 2) if gated else x.shape
    node = record(t, _activation_backward, (x, weights), (x if saves else None, weights))
    out = t.new(half, x.dtype)
    out.node = node
    return out


def _activation_backward(node: Node, g: Value) -> Gradients:
    _x, weights = node.load()
    edge = node.edges[0]
    dx = g.tape.new(edge.shape, g.dtype) if edge else None
    return dx, g.tape.new(weights.shape, weights.dtype) if weights is not None and node.wants(1) else None
