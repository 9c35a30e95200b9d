"""What causal language models share: the frame of embedding, layers, final norm and head, and its usual parts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from memcalc.architectures.decoder_heads import headed
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Stack, residual, sequence, stack
from memcalc.blocks.basic import Dropout, Embedding, Idle, Linear, Norm
from memcalc.blocks.mlp import Mlp
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

KindT = TypeVar("KindT", bound=Hashable)

# norms of a layer, which llama and its kin register behind its other modules
NORMS = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
    "post_self_attn_layernorm", "post_mlp_layernorm",
)  # fmt: skip


def head_dim(c: Dimensions) -> int:
    """Channels of one attention head: the config's own, else hidden / heads; RunInvalid where none are left."""
    dim = int(c.get("head_dim") or c.hidden_size // c.num_attention_heads)
    if dim < 1:
        raise fault(
            "model.num_attention_heads", f"{c.num_attention_heads} heads are too many for {c.hidden_size} channels"
        )
    return dim


def kv_heads(c: Dimensions) -> int:
    """Key/value heads: the config's own, else as many as query heads."""
    return int(c.get("num_key_value_heads") or c.num_attention_heads)


def rotary_dim(c: Dimensions, default: float = 1.0) -> int:
    """Channels of a head that are rotated: head_dim times partial_rotary_factor, wherever the config says it.

    transformers, modeling_rope_utils.py, convert_rope_params_to_dict: the rope dictionary first, then the config.
    """
    rope = c.get("rope_scaling") or c.get("rope_parameters")
    inner = rope.get("partial_rotary_factor") if isinstance(rope, Mapping) else None
    return int(head_dim(c) * float(inner or c.get("partial_rotary_factor") or default))


def activation(c: Dimensions) -> str:
    """The activation function of the feed-forward blocks, under any of its keys."""
    return str(c.get("hidden_act") or c.get("hidden_activation") or c.get("activation_function") or "silu")


def window(c: Dimensions) -> int:
    """How far back a sliding-window layer sees; 0 without a window."""
    return int(c.get("sliding_window") or 0)


def rms(name: str, width: int, formula: str = "") -> Norm:
    """RMSNorm (Zhang & Sennrich 2019), weight only."""
    return Norm(name, width, "rms", formula)


def layer_norm(name: str, width: int, *, bias: bool = True) -> Norm:
    """LayerNorm (Ba et al. 2016), with or without its bias."""
    return Norm(name, width, "layer" if bias else "layer-no-bias")


def dropout(c: Dimensions, key: str, *, functional: bool = False) -> Dropout | Idle | None:
    """Dropout with the probability under `key`; where that is 0 a module that passes its input on, or no function (None)."""
    p = float(c.get(key) or 0.0)
    if p:
        return Dropout("", p, functional=functional)
    return None if functional or key not in c else Idle("")


def attention(
    c: Dimensions,
    name: str = "self_attn",
    *,
    bias: bool = False,
    out_bias: bool | None = None,
    out: str = "o_proj",
    **more: Any,  # noqa: ANN401 - fields of Attention
) -> Attention:
    """Rotary grouped-query attention with separate projections q_proj, k_proj, v_proj and `out`."""
    heads, kv, dim = c.num_attention_heads, kv_heads(c), head_dim(c)
    more.setdefault("rotary_dim", rotary_dim(c))
    more.setdefault("dropout", float(c.get("attention_dropout") or 0.0))
    more.setdefault("rotary_kind", "axes" if c.get("position_axes") else "")
    return Attention(
        name, heads, kv, dim,
        q=Linear("q_proj", c.hidden_size, heads * dim, bias),
        k=Linear("k_proj", c.hidden_size, kv * dim, bias),
        v=Linear("v_proj", c.hidden_size, kv * dim, bias),
        out=Linear(out, heads * dim, c.hidden_size, bias if out_bias is None else out_bias), **more,
    )  # fmt: skip


def fused_attention(c: Dimensions, name: str, qkv: str, out: str, *, bias: bool = False, **more: Any) -> Attention:  # noqa: ANN401
    """Rotary grouped-query attention with queries, keys and values from one projection of (heads + 2 kv) * head_dim."""
    kv, dim = more.pop("kv_heads", 0) or kv_heads(c), head_dim(c)
    heads = c.num_attention_heads
    more.setdefault("rotary_dim", rotary_dim(c))
    more.setdefault("dropout", float(c.get("attention_dropout") or 0.0))
    return Attention(
        name, heads, kv, dim,
        qkv=Linear(qkv, c.hidden_size, (heads + 2 * kv) * dim, bias),
        out=Linear(out, heads * dim, c.hidden_size, bias), **more,
    )  # fmt: skip


def gated_mlp(c: Dimensions, name: str = "mlp", width: int = 0, *, bias: bool = False) -> Mlp:
    """down_proj(act(gate_proj(x)) * up_proj(x)) of `width` (default: intermediate_size)."""
    width = width or c.intermediate_size
    return Mlp(
        name,
        gate=Linear("gate_proj", c.hidden_size, width, bias),
        up=Linear("up_proj", c.hidden_size, width, bias),
        down=Linear("down_proj", width, c.hidden_size, bias),
        activation=activation(c),
        width=width,
    )


def fused_gated_mlp(c: Dimensions, name: str = "mlp") -> Mlp:
    """down_proj(act(gate) * up) with gate and up from one matrix gate_up_proj (Phi-3, GLM-4)."""
    width, hidden = c.intermediate_size, c.hidden_size
    up, down = Linear("gate_up_proj", hidden, 2 * width), Linear("down_proj", width, hidden)
    return Mlp(name, up, down, fused=True, activation=activation(c), width=width)


def plain_mlp(c: Dimensions, up: str, down: str, width: int, *, name: str = "mlp", bias: bool = True) -> Mlp:
    """down(act(up(x))), named as the family names them."""
    first, last = Linear(up, c.hidden_size, width, bias), Linear(down, width, c.hidden_size, bias)
    return Mlp(name, first, last, activation=activation(c), width=width)


def pre_norm_layer(c: Dimensions, mixer: Block, feed_forward: Block, norm: str = "") -> Sequence:
    """x + mixer(norm(x)), then x + mlp(norm(x)), with Llama's names for the norms; `norm` is their formula."""
    return sequence(
        residual(rms("input_layernorm", c.hidden_size, norm), mixer),
        residual(rms("post_attention_layernorm", c.hidden_size, norm), feed_forward),
    )


def layer_kinds(c: Dimensions, default: Callable[[int], str]) -> list[str]:
    """The kind of every layer: `layer_types` where the config lists them, else default(index)."""
    given, layers = c.get("layer_types"), c.num_hidden_layers
    if given and len(given) < layers:
        raise fault("model.layer_types", f"it lists {len(given)} layers of {layers}")
    return list(given)[:layers] if given else [default(i) for i in range(layers)]


def interleaved(name: str, kinds: list[KindT], make: Callable[[KindT], Block]) -> Stack:
    """Numbered layers of several kinds, each kind made once."""
    made = {kind: make(kind) for kind in dict.fromkeys(kinds)}
    return stack(name, [made[kind] for kind in kinds])


def tokens(c: Dimensions, name: str = "embed_tokens") -> Embedding:
    """The token embedding [vocab, hidden]."""
    return Embedding(name, c.vocab_size, c.hidden_size)


def decoder(c: Dimensions, layers: Stack, norm: str = "", **more: Any) -> Model:  # noqa: ANN401
    """Llama's frame: embed_tokens, the layers, an RMSNorm `norm` (of that formula), and a head that may be tied."""
    more["registered"] = (*more.get("registered", ()), *NORMS)
    return causal_lm(c, tokens(c), layers, rms("norm", c.hidden_size, norm), tie="embed_tokens", **more)


def causal_lm(
    c: Dimensions,
    *body: Block | None,
    prefix: str = "model",
    head: str = "lm_head",
    tie: str = "",
    head_bias: bool = False,
    logits: Block | None = None,
    ahead: Block | None = None,
    **more: Any,  # noqa: ANN401 - what `headed` takes
) -> Model:
    """A decoder under `prefix` with the head its class has: ForCausalLM, ForSequenceClassification, …, or none.

    `tie` is the name of the embedding within the body ('embed_tokens') that the head shares where the config ties them.
    `logits` is what the class does to the logits behind the head (a scale, a softcap), `ahead` what it does ahead of it.
    """
    tied = f"{prefix}.{tie}.weight" if tie and c.get("tie_word_embeddings") else ""
    project = Linear(head, more.get("width") or c.hidden_size, c.vocab_size, head_bias, tied)
    on_top = sequence(*(part for part in (ahead, project, logits) if part)) if ahead or logits else project
    return headed(c, sequence(*body, name=prefix), on_top, **more)
