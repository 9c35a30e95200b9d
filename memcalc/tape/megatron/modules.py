"""The rules of Megatron's modules: linears, norms, MLPs, the table of tokens; what they do with a part of the sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.blocks.megatron import (
    ColumnLinear,
    FusedNorm,
    MegatronMlp,
    NormLinear,
    OutputLayer,
    RecomputedLayers,
    RecomputedNorm,
    RowLinear,
    VocabEmbedding,
    WholeLinear,
)
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node
from memcalc.tape.checkpoint import checkpointed
from memcalc.tape.hf.activations import activate
from memcalc.tape.megatron import engine
from memcalc.tape.megatron.adapters import adapted
from memcalc.tape.megatron.discarding import Discarded
from memcalc.tape.megatron.engine import Product
from memcalc.tape.rules import Around, rule, run
from memcalc.ways import Ways

if TYPE_CHECKING:
    from memcalc.blocks.basic import Linear
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

ALONE = Ways()


def ways_of(t: Tape) -> Ways:
    """How the model is divided."""
    return t.setting.ways or ALONE


def product(t: Tape, block: Linear, x: Value, **more: Any) -> Product:  # noqa: ANN401 - fields of Product
    """What the tape needs of a linear layer that reads x."""
    ways = ways_of(t)
    rows = x.elements // x.shape[-1] * more.get("gathers", 1)
    spare = 0 if ways.accumulates else block.inputs * block.outputs
    return Product(block.inputs, block.outputs, bias=block.bias, spare=spare,
                   flops=2 * rows * block.inputs * block.outputs, **more)  # fmt: skip


@rule(NormLinear)
def norm_linear(t: Tape, block: NormLinear, x: Value, _: Around) -> Value:
    """TELayerNormColumnParallelLinear."""
    out = engine.norm_linear(t, x, block.norm, product(t, block, x, gathers=ways_of(t).spread))
    return adapted(t, out, x.shape) if t.weights.adapters else out


@rule(ColumnLinear)
def column_linear(t: Tape, block: ColumnLinear, x: Value, _: Around) -> Value:
    """TEColumnParallelLinear."""
    out = engine.linear(t, x, product(t, block, x, gathers=ways_of(t).spread, original=recomputes(t, "layernorm")))
    return adapted(t, out, x.shape) if t.weights.adapters else out


@rule(WholeLinear)
def whole_linear(t: Tape, block: WholeLinear, x: Value, _: Around) -> Value:
    """TELinear with parallel_mode 'duplicated': each rank's part of the sequence."""
    out = engine.linear(t, x, product(t, block, x, original=recomputes(t, "layernorm")))
    return adapted(t, out, x.shape) if t.weights.adapters else out


@rule(RowLinear)
def row_linear(t: Tape, block: RowLinear, x: Value, _: Around) -> Value:
    """TERowParallelLinear; a bias is added with the residual."""
    out = engine.linear(t, x, product(t, block, x, scatters=ways_of(t).spread))
    return adapted(t, out, x.shape) if t.weights.adapters else out


@rule(FusedNorm)
def norm(t: Tape, block: FusedNorm, x: Value, _: Around) -> Value:
    """TENorm."""
    return engine.norm(t, x, "layer" if block.kind.startswith("layer") else "rms")


@rule(MegatronMlp)
def mlp(t: Tape, block: MegatronMlp, x: Value, around: Around) -> Value:
    """MLP.forward (megatron/core/transformer/mlp.py); a dense layer's is recomputed where `mlp` is among the modules."""
    if recomputes(t, "mlp") and block.name == "mlp":
        return checkpointed(t, lambda y: _mlp(t, block, y, around), x, reentrant=True)
    return _mlp(t, block, x, around)


def _mlp(t: Tape, block: MegatronMlp, x: Value, around: Around) -> Value:
    inner = run(t, block.up, x, around)
    if ways_of(t).fuses_activation:
        inner = engine.fused_activation(t, inner, gated=block.fused)
    elif block.fused:
        gate, up = f.chunk(inner, 2)
        del inner
        inner = f.mul(activate(block.activation, gate), up)
        del gate, up
    else:
        inner = activate(block.activation, inner)
    return run(t, block.down, inner, around)


def recomputes(t: Tape, module: str) -> bool:
    """Whether selective recomputation runs that module again."""
    ways = ways_of(t)
    return ways.recompute == "selective" and module in ways.modules


@rule(RecomputedNorm)
def norm_again(t: Tape, block: RecomputedNorm, x: Value, around: Around) -> Value:
    """TransformerLayer.forward with `layernorm` among the modules: the norm's output goes when it has been read."""
    first, *rest = block.blocks
    made = Discarded(t, lambda y: (run(t, first, y, around),), x) if t.grad_enabled else None
    (y,) = made.take() if made else (run(t, first, x, around),)
    for part in rest:
        y = run(t, part, y, around)
    if made:
        made.done()
    return y


@rule(RecomputedLayers)
def recomputed(t: Tape, block: RecomputedLayers, x: Value, around: Around) -> Value:
    """tensor_parallel.checkpoint: re-entrant; the input is kept, or this rank's part of it."""

    def layers(y: Value) -> Value:
        for part in block.blocks:
            y = run(t, part, y, around.copy())
        return y

    return checkpointed(t, layers, x, reentrant=True)


@rule(VocabEmbedding)
def embedding(t: Tape, block: VocabEmbedding, x: Value, _: Around) -> Value:
    """VocabParallelEmbedding.forward; its gradient is as large as the table (F.embedding)."""
    ways = ways_of(t)
    b, s = x.shape
    masked = [t.new(x.shape, "bool"), t.new(x.shape, "int64")] if ways.tensor > 1 else []
    rows = t.new((b, s, block.width), t.setting.compute or "bf16")
    rows = t.new(rows.shape, rows.dtype) if b > 1 else rows  # [b s h] -> [s b h]
    out = t.new(engine.shorter(rows.shape, ways.spread), rows.dtype) if ways.spread > 1 else rows
    if t.grad_enabled:
        learned = 0 if t.setting.adapter else block.rows  # a frozen table has no gradient
        node = Node(t, _embedding_backward, [], (learned, block.width, ways.spread))
        node.saved = [masked[1].detach() if masked else x.detach()]
        out.node = node
    return out


def _embedding_backward(node: Node, g: Value) -> Gradients:
    rows, width, spread = node.meta
    t = g.tape
    whole = t.new(engine.longer(g.shape, spread), g.dtype) if spread > 1 else g
    table = t.new((rows, width), g.dtype)
    del whole, table
    return ()


@rule(OutputLayer)
def output_layer(t: Tape, block: OutputLayer, x: Value, _: Around) -> Value:
    """ColumnParallelLinear.forward over the vocabulary: the sequence is gathered into a buffer that stays."""
    return engine.linear(t, x, product(t, block, x, gathers=ways_of(t).spread, borrows=True))
