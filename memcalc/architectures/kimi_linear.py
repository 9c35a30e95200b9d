"""Kimi-Linear, Ling's hybrid and OLMo-Hybrid: delta rules with full attention in between."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    decoder,
    gated_mlp,
    head_dim,
    interleaved,
    kv_heads,
    pre_norm_layer,
    rms,
    rotary_dim,
)
from memcalc.architectures.deepseek import latent_attention, sparse
from memcalc.architectures.experts import corrected_router, per_layer
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Conv, Embedding, Linear
from memcalc.blocks.ssm import GatedDelta, KimiDelta

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("kimi_linear")
def kimi_linear(c: Dimensions) -> Model:
    """Kimi delta attention and unrotated latent attention 3:1 (arXiv:2510.26692); an inner dictionary may say it all."""
    old, count = c.get("linear_attn_config") or {}, c.num_hidden_layers
    heads, dim = old.get("num_heads", c.linear_num_heads), old.get("head_dim", c.linear_head_dim)
    kernel = old.get("short_conv_kernel_size", c.linear_conv_kernel_dim)
    full = {i - 1 for i in old["full_attn_layers"]} if "full_attn_layers" in old else set(range(4, count, 4))
    low = {"f_a_proj": (c.hidden_size, dim), "f_b_proj": (dim, heads * dim)}
    gates = {"g_a_proj": (c.hidden_size, dim), "g_b_proj": (dim, heads * dim)}
    delta = kimi_delta(c, heads, dim, kernel, forget=low, gates=gates, decay=(1, 1, heads, 1))
    kinds = per_layer(c, "layer_types", ["full_attention" if i in full else "linear_attention" for i in range(count)])
    return _hybrid(c, kinds, delta, latent_attention(c), dense=c.get("first_k_dense_replace", 1))


@architecture("bailing_hybrid")
def bailing_hybrid(c: Dimensions) -> Model:
    """Ling's hybrid: the same with full-rank gates; latent attention scaled by a sigmoid per head."""
    heads, dim, every = c.num_attention_heads, c.head_dim, c.layer_group_size
    whole = (c.hidden_size, heads * dim)
    delta = kimi_delta(
        c, heads, dim, c.short_conv_kernel_size, forget={"f_proj": whole}, gates={"g_proj": whole}, decay=(heads,)
    )
    mixer = latent_attention(c.but(q_lora_rank=None), gate=Linear("g_proj", c.hidden_size, heads))
    default = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(c.num_hidden_layers)]
    return _hybrid(c, per_layer(c, "layer_types", default), delta, mixer, dense=c.first_k_dense_replace)


def _hybrid(c: Dimensions, kinds: list[str], delta: Block, full: Block, *, dense: int) -> Model:
    mixers = {"linear_attention": delta, "full_attention": full}
    feeds = {"sparse": sparse(c, corrected_router(c, c.num_local_experts)), "dense": gated_mlp(c)}
    default = ["dense" if i < dense else "sparse" for i in range(c.num_hidden_layers)]
    both = list(zip(kinds, per_layer(c, "mlp_layer_types", default), strict=True))
    layers = interleaved("layers", both, lambda kind: pre_norm_layer(c, mixers[kind[0]], feeds[kind[1]]))
    table = Embedding("embed_tokens", c.vocab_size, c.hidden_size)
    return causal_lm(c, table, layers, rms("norm", c.hidden_size))  # never tied: the class has no tied keys


def kimi_delta(
    c: Dimensions,
    heads: int,
    dim: int,
    kernel: int,
    *,
    forget: dict[str, tuple[int, int]],
    gates: dict[str, tuple[int, int]],
    decay: tuple[int, ...],
) -> KimiDelta:
    """Queries, keys and values of `heads` x `dim` through one convolution; `forget` and `gates` name the linears."""
    hidden, channels = c.hidden_size, heads * dim
    linears = dict.fromkeys(("q_proj", "k_proj", "v_proj"), (hidden, channels)) | {"b_proj": (hidden, heads)} | gates
    return KimiDelta(
        "self_attn", heads, heads, dim, dim, activation=c.hidden_act,
        projections=tuple(Linear(name, *sizes) for name, sizes in linears.items()),
        conv=Conv("conv1d", 3 * channels, 3 * channels, (kernel,), conv_groups=3 * channels, bias=False),
        norm=rms("o_norm", dim, "qwen3_next"), out_proj=Linear("o_proj", channels, hidden), formula="kimi",
        decay_shape=decay, forget=tuple(Linear(f"forget_gate.{name}", *sizes) for name, sizes in forget.items()),
    )  # fmt: skip


@architecture("olmo_hybrid")
def olmo_hybrid(c: Dimensions) -> Model:
    """OLMo 3's layers, norms behind the branches, where it attends; gated delta nets, norms before, elsewhere."""
    count, hidden = c.num_hidden_layers, c.hidden_size
    default = ["full_attention" if i % 4 == 3 else "linear_attention" for i in range(count)]
    default = default if "full_attention" in default else [*default[:-1], "full_attention"]

    def layer(kind: str) -> Block:
        if kind == "linear_attention":
            return pre_norm_layer(c, _olmo_delta(c), gated_mlp(c), "olmo2")
        norms = rms("post_attention_layernorm", hidden, "olmo2"), rms("post_feedforward_layernorm", hidden, "olmo2")
        return sequence(residual(_olmo_attention(c), norms[0]), residual(gated_mlp(c), norms[1]))

    return decoder(c, interleaved("layers", per_layer(c, "layer_types", default), layer), "olmo2")


def _olmo_attention(c: Dimensions) -> Block:
    dim = head_dim(c)
    rope: Any = c.get("rope_parameters") or {}
    rotary = rotary_dim(c) if (rope.get("rope_theta") or c.get("rope_theta")) else 0
    plain = attention(c, bias=bool(c.attention_bias), rotary_dim=rotary)
    norms = rms("q_norm", c.num_attention_heads * dim, "olmo2"), rms("k_norm", kv_heads(c) * dim, "olmo2")
    return replace(plain, q_norm=norms[0], k_norm=norms[1])


def _olmo_delta(c: Dimensions) -> GatedDelta:
    hidden = c.hidden_size
    keys, values = (
        c.get("linear_num_key_heads") or c.num_attention_heads,
        c.get("linear_num_value_heads") or c.num_attention_heads,
    )
    key_dim = c.get("linear_key_head_dim") or int(0.75 * hidden / keys)
    value_dim = c.get("linear_value_head_dim") or 2 * key_dim
    widths = {
        "q": keys * key_dim,
        "k": keys * key_dim,
        "v": values * value_dim,
        "a": values,
        "b": values,
        "g": values * value_dim,
    }
    channels = 2 * keys * key_dim + values * value_dim
    return GatedDelta(
        "linear_attn", keys, values, key_dim, value_dim, activation=c.hidden_act,
        projections=tuple(Linear(f"{name}_proj", hidden, width) for name, width in widths.items()),
        conv=Conv("conv1d", channels, channels, (c.linear_conv_kernel_dim,), conv_groups=channels, bias=False),
        norm=rms("o_norm", value_dim, "qwen3_next"), out_proj=Linear("o_proj", values * value_dim, hidden),
    )  # fmt: skip
