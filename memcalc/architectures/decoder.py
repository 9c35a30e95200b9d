"""What causal language models share: the frame of embedding, layers, final norm and head, and its usual parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, residual, sequence
from memcalc.blocks.basic import Embedding, Linear, Norm
from memcalc.blocks.mlp import Mlp
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


def head_dim(c: Dimensions) -> int:
    """Channels of one attention head: the config's own, else hidden / heads."""
    return int(c.get("head_dim") or c.hidden_size // c.num_attention_heads)


def kv_heads(c: Dimensions) -> int:
    """Key/value heads: the config's own, else as many as query heads."""
    return int(c.get("num_key_value_heads") or c.num_attention_heads)


def rms(name: str, width: int, formula: str = "") -> Norm:
    """RMSNorm (Zhang & Sennrich 2019), weight only."""
    return Norm(name, width, "rms", formula)


def layer_norm(name: str, width: int, *, bias: bool = True) -> Norm:
    """LayerNorm (Ba et al. 2016), with or without its bias."""
    return Norm(name, width, "layer" if bias else "layer-no-bias")


def attention(c: Dimensions, name: str = "self_attn", *, bias: bool = False, out_bias: bool | None = None, out: str = "o_proj", **more: Any) -> Attention:  # noqa: ANN401, E501
    """Rotary grouped-query attention with separate projections q_proj, k_proj, v_proj and `out`."""
    heads, kv, dim = c.num_attention_heads, kv_heads(c), head_dim(c)
    more.setdefault("rotary_dim", int(dim * (c.get("partial_rotary_factor") or 1.0)))
    return Attention(
        name, heads, kv, dim,
        q=Linear("q_proj", c.hidden_size, heads * dim, bias),
        k=Linear("k_proj", c.hidden_size, kv * dim, bias),
        v=Linear("v_proj", c.hidden_size, kv * dim, bias),
        out=Linear(out, heads * dim, c.hidden_size, bias if out_bias is None else out_bias),
        dropout=float(c.get("attention_dropout") or 0.0), **more,
    )  # fmt: skip


def gated_mlp(c: Dimensions, name: str = "mlp", width: int = 0, *, bias: bool = False) -> Mlp:
    """down_proj(act(gate_proj(x)) * up_proj(x)) of `width` (default: intermediate_size)."""
    width = width or c.intermediate_size
    return Mlp(
        name,
        gate=Linear("gate_proj", c.hidden_size, width, bias),
        up=Linear("up_proj", c.hidden_size, width, bias),
        down=Linear("down_proj", width, c.hidden_size, bias),
        activation=c.get("hidden_act") or c.get("hidden_activation") or "silu",
        width=width,
    )


def pre_norm_layer(c: Dimensions, mixer: Block, feed_forward: Block) -> Sequence:
    """x + mixer(norm(x)), then x + mlp(norm(x)), with Llama's names for the norms."""
    return sequence(
        residual(rms("input_layernorm", c.hidden_size), mixer),
        residual(rms("post_attention_layernorm", c.hidden_size), feed_forward),
    )


def causal_lm(c: Dimensions, *body: Block | None, prefix: str = "model", head: str = "lm_head", tie: str = "", **more: Any) -> Model:  # noqa: ANN401, E501
    """A decoder under `prefix` with the head its class has: ForCausalLM, ForSequenceClassification, …, or none.

    `tie` is the name of the embedding within the body ('embed_tokens') that the head shares where the config ties them.
    """
    base = sequence(*body, name=prefix)
    tied = f"{prefix}.{tie}.weight" if tie and c.get("tie_word_embeddings") else ""
    return headed(c, base, Linear(head, c.hidden_size, c.vocab_size, bool(more.pop("head_bias", False)), tied), **more)


def headed(c: Dimensions, base: Sequence, lm_head: Block, **more: Any) -> Model:  # noqa: ANN401
    """The base under the head that the config's class asks for; a class name without one is the bare base model."""
    name = str((c.get("architectures") or ["ForCausalLM"])[0])
    labels = int(c.get("num_labels") or len(c.get("id2label") or (0, 1)))
    more.setdefault("context", int(c.get("max_position_embeddings") or 0))
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return Model(sequence(base, lm_head), **more)
    kind = {"kind": "classifier", **{k: v for k, v in more.items() if k != "kind"}}
    if name.endswith(("ForSequenceClassification", "ForTokenClassification")):
        score = Linear("score", c.hidden_size, labels, bias=name.endswith("ForTokenClassification"))
        return Model(sequence(base, score), **kind)
    if name.endswith("ForQuestionAnswering"):
        renamed = Sequence("transformer", base.blocks)
        return Model(sequence(renamed, Linear("qa_outputs", c.hidden_size, 2, bias=True)), **kind)
    return Model(Sequence("", base.blocks), **{**more, "kind": "encoder"})


def tokens(c: Dimensions, name: str = "embed_tokens") -> Embedding:
    """The token embedding [vocab, hidden]."""
    return Embedding(name, c.vocab_size, c.hidden_size)
