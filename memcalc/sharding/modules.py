"""A model's blocks as Megatron-LM's modules: the same tensors under Megatron's names, with its fusions.

megatron/core/models/gpt/gpt_layer_specs.py, get_gpt_layer_with_transformer_engine_spec. What Megatron has no module for is
refused.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Parallel, PostNorm, Residual, Sequence, Stack, Sum, mapped
from memcalc.blocks.basic import Activation, Cast, Dropout, Embedding, Idle, Linear, Norm, Raw, Scale, Select, Softcap
from memcalc.blocks.megatron import (
    ColumnLinear,
    ExpertLinear,
    FusedNorm,
    GroupedExperts,
    MegatronAttention,
    MegatronMla,
    MegatronMlp,
    MegatronMoe,
    NormLinear,
    OutputLayer,
    RowLinear,
    VocabEmbedding,
    WholeLinear,
)
from memcalc.blocks.mla import Mla
from memcalc.blocks.mlp import Experts, Mlp, Moe, Router
from memcalc.blocks.predicting import Predictor
from memcalc.errors import Fault, RunInvalid
from memcalc.sharding.expert import expert_count
from memcalc.sharding.tensor_parallel import TOWERS

if TYPE_CHECKING:
    from collections.abc import Iterator

KindT = TypeVar("KindT", bound=Block)
KNOWN = (
    Attention, Mla, Mlp, Moe, Experts, Norm, Embedding, Linear, Sequence, Residual, PostNorm, Parallel, Sum, Stack, Predictor,
)  # fmt: skip
ASIS = (Dropout, Idle, Activation, Cast, Scale, Softcap, Select, Raw)
FUSIBLE = ("rms", "layer")


def megatron(body: Block, words: int) -> Block:
    """The body in Megatron's modules; `words` are the rows of its table, by which its head is known.

    RunInvalid lists what has none.
    """
    missing = dict.fromkeys(_missing(body))
    if missing:
        raise RunInvalid([Fault("implementation", f"Megatron-LM's modules for {what} are not modelled; use implementation: hf")
                          for what in missing])  # fmt: skip
    return _Builder(words).build(body)


def _missing(block: Block) -> Iterator[str]:
    """The kinds of blocks that have no module."""
    if isinstance(block, TOWERS):
        return
    if not isinstance(block, (*KNOWN, *ASIS)) or block.duty in ("encoder", "decoder", "fork", "recurrence"):
        yield f"{type(block).__name__} blocks"
        return
    if isinstance(block, Select):
        yield "heads that read one state of a sequence"
    if isinstance(block, Mla) and (block.indexer or block.reuses):
        yield "sparse indexers"
    if isinstance(block, Moe) and not isinstance(block.router, Router):
        yield f"routers of the kind of {block.formula or type(block.router).__name__}"
    if isinstance(block, Attention) and (type(block) is not Attention or block.cross or block.sharing):
        yield f"attention of the kind of {block.formula or type(block).__name__}"
    if not isinstance(block, (Attention, Mla, Mlp, Moe)):
        for _, part in block.groups():
            yield from _missing(part)


class _Builder:
    def __init__(self, words: int) -> None:
        self.words = words
        self.built: dict[int, tuple[Block, Block]] = {}

    def build(self, block: Block) -> Block:
        """The block's module; equal layers stay one value."""
        known = self.built.get(id(block))
        if known is None:
            known = self.built[id(block)] = block, self._build(block)
        return known[1]

    def _build(self, block: Block) -> Block:
        if isinstance(block, TOWERS):
            return block
        match block:
            case Attention() | Mla() | Mlp() | Moe():
                return mixer(block, None)
            case Norm():
                return fused_norm(block)
            case Embedding(index="tokens"):
                return _as(VocabEmbedding, block)
            case Linear() if block.outputs == self.words:
                return _as(OutputLayer, block)
            case Linear():
                return _as(WholeLinear, block)
            case Predictor(projection=Linear() as projection):
                further: Predictor = mapped(block, self.build)
                return replace(further, projection=_as(ColumnLinear, projection))
            case Residual() | Sequence():
                return replace(block, blocks=tuple(self.fused(block.blocks)))
        made: Block = mapped(block, self.build)
        return made

    def fused(self, blocks: tuple[Block, ...]) -> Iterator[Block]:
        """Blocks in a row, norms fused into what reads them: attention's first linear, or a plain MLP's."""
        waiting: Norm | None = None
        for block in blocks:
            if waiting is not None:
                if isinstance(block, Attention | Mlp) and waiting.kind in FUSIBLE and not waiting.heads:
                    yield mixer(block, waiting)
                    waiting = None
                    continue
                yield fused_norm(waiting)
                waiting = None
            if isinstance(block, Norm):
                waiting = block
            else:
                yield self.build(block)
        if waiting is not None:
            yield fused_norm(waiting)


def mixer(block: Block, norm: Norm | None) -> Block:
    """An attention or feed-forward block, with the norm that it reads fused into its first linear."""
    if isinstance(block, Mla):
        return latent(block)
    if isinstance(block, Attention):
        return attention(block, norm)
    if isinstance(block, Moe):
        return mixture(block)
    assert isinstance(block, Mlp)  # noqa: S101 - the last of the four
    return mlp(block, norm)


def attention(block: Attention, norm: Norm | None) -> Block:
    """SelfAttention: q, k and v as one linear_qkv."""
    parts = [part for part in (block.q, block.k, block.v, block.qkv, block.gate) if isinstance(part, Linear)]
    inputs, bias = parts[0].inputs, any(part.bias for part in parts)
    qkv = _first("linear_qkv", inputs, sum(part.outputs for part in parts), norm, bias=bias)
    norms: dict[str, Any] = {
        f"{name}_norm": _qk_norm(f"{name}_layernorm", getattr(block, f"{name}_norm")) for name in ("q", "k")
    }
    own: dict[str, Any] = {"q": None, "k": None, "v": None, "v_norm": None, "gate": None, "bias_table": None, "formula": "",
           "gated": block.gated or block.gate is not None, "before": (), "after": (), "rotation": "own"}  # fmt: skip
    return _as(
        MegatronAttention,
        replace(block, name="self_attention", qkv=qkv, out=_last("linear_proj", block.out), **norms, **own),
    )


def latent(block: Mla) -> Block:
    """MLASelfAttention: norms of the latents fused into the maps up."""
    assert isinstance(block.kv_a, Linear)  # noqa: S101 - every latent attention has them
    assert isinstance(block.kv_b, Linear)  # noqa: S101
    made: dict[str, Any] = {"q": None, "q_a": None, "q_b": None, "q_norm": None, "kv_norm": None}
    if isinstance(block.q_a, Linear) and isinstance(block.q_b, Linear):
        norm = block.q_norm if isinstance(block.q_norm, Norm) else None
        made["q_a"] = WholeLinear("linear_q_down_proj", block.q_a.inputs, block.q_a.outputs, block.q_a.bias)
        made["q_b"] = _first("linear_q_up_proj", block.q_b.inputs, block.q_b.outputs, norm)
    elif isinstance(block.q, Linear):
        made["q"] = ColumnLinear("linear_q_proj", block.q.inputs, block.q.outputs, block.q.bias)
    made["kv_a"] = WholeLinear("linear_kv_down_proj", block.kv_a.inputs, block.kv_a.outputs, block.kv_a.bias)
    norm = block.kv_norm if isinstance(block.kv_norm, Norm) else None
    made["kv_b"] = _first("linear_kv_up_proj", block.kv_b.inputs, block.kv_b.outputs, norm)
    return _as(
        MegatronMla, replace(block, name="self_attention", out=_last("linear_proj", block.out), formula="", **made)
    )


def mlp(block: Mlp, norm: Norm | None, name: str = "mlp") -> Block:
    """MLP: gate and up as one linear_fc1."""
    parts = [part for part in (block.gate, block.up) if isinstance(part, Linear)]
    fc1 = _first(
        "linear_fc1", parts[0].inputs, sum(part.outputs for part in parts), norm, bias=any(p.bias for p in parts)
    )
    gated = block.gate is not None or block.fused
    return _as(
        MegatronMlp,
        replace(
            block,
            name=name,
            gate=None,
            up=fc1,
            down=_last("linear_fc2", block.down),
            fused=gated,
            norm=None,
            formula="",
        ),
    )


def mixture(block: Moe) -> Block:
    """MoELayer: its norm stays apart (pre_mlp_layernorm); the experts are a TEGroupedMLP."""
    shared = mlp(block.shared, None, "shared_experts") if isinstance(block.shared, Mlp) else block.shared
    experts = grouped(block.experts) if block.experts else None
    return _as(MegatronMoe, replace(block, name="mlp", experts=experts, shared=shared, formula=""))


def grouped(block: Block) -> Block:
    """TEGroupedMLP: each expert's weights are tensors of their own."""
    count = expert_count(block)
    if isinstance(block, Experts):
        shapes = [param.shape for param in block.params if not param.name.endswith("bias")]
        hidden = shapes[0][1] if block.formula in ("gpt_oss", "dbrx") else shapes[0][2]
        width, gated, bias = block.width, block.gated, any(param.name.endswith("bias") for param in block.params)
        activation = block.activation
    else:
        expert = next(_mlps(block))
        assert isinstance(expert.down, Linear)  # noqa: S101 - an MLP of linears
        width, hidden, gated, bias, activation = (
            expert.width,
            expert.down.outputs,
            bool(expert.gate or expert.fused),
            False,
            expert.activation,
        )
    first = ExpertLinear("", hidden, width * (2 if gated else 1), bias)
    last = ExpertLinear("", width, hidden, bias)
    return GroupedExperts(
        "experts", count, hidden, width, gated, activation, bias,
        Stack("linear_fc1", (first,) * count), Stack("linear_fc2", (last,) * count),
    )  # fmt: skip


def _mlps(block: Block) -> Iterator[Mlp]:
    if isinstance(block, Mlp):
        yield block
    for _, part in block.groups():
        yield from _mlps(part)


def fused_norm(block: Norm) -> Block:
    """TENorm, whichever formula the family has for it."""
    return replace(_as(FusedNorm, block), formula="")


def _qk_norm(name: str, block: Block | None) -> Block | None:
    return replace(fused_norm(block), name=name) if isinstance(block, Norm) else None


def _first(name: str, inputs: int, outputs: int, norm: Norm | None, *, bias: bool = False) -> Block:
    if norm is None:
        return ColumnLinear(name, inputs, outputs, bias)
    return NormLinear(name, inputs, outputs, bias, norm="layer" if norm.kind.startswith("layer") else "rms")


def _last(name: str, block: Block | None) -> Block | None:
    """The linear cut by rows; what stands before it (a norm) stays."""
    if isinstance(block, Linear):
        return RowLinear(name, block.inputs, block.outputs, block.bias)
    if isinstance(block, Sequence):
        return replace(block, blocks=tuple(_last(name, part) or part for part in block.blocks))
    return fused_norm(block) if isinstance(block, Norm) else block


def _as(kind: type[KindT], block: Block) -> KindT:
    """The block as one of a kind that has the same fields."""
    return kind(**{field.name: getattr(block, field.name) for field in fields(block)})
