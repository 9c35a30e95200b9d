"""Gemma 4: Gemma 3's layers with wider global heads, shared keys and values, per-layer embeddings, experts beside."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, gated_mlp, interleaved, rms, window
from memcalc.architectures.experts import stacked_experts
from memcalc.architectures.multimodal import image_text, tower
from memcalc.blocks.base import Block, Sequence, Sum, residual, sequence
from memcalc.blocks.basic import Activation, Embedding, Linear, Norm, Raw, Scale, Softcap
from memcalc.blocks.image import ChannelScale
from memcalc.blocks.mlp import LinearRouter, Moe
from memcalc.blocks.multimodal import Images, MaskedAlways, PerLayerEmbeddings, PerLayerInput, Sounds
from memcalc.blocks.towers import AxesTable, Unfilled
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.dimensions import Dimensions


class Kind(NamedTuple):
    """What sets a layer apart: local attention, its heads, whether later layers take its keys and values, or it theirs."""

    local: bool
    head_dim: int
    kv_heads: int
    sharing: Literal["", "stores", "reuses"]


@architecture("gemma4")
def gemma4(c: Dimensions) -> Model:
    """The text with its towers: images, and sound in the small models."""
    extra = (_read(c, "audio", Sounds("")),) if _present(c, "audio") else ()
    masked = c.text_config.get("use_bidirectional_attention") == "vision"
    images = (
        _read(c, "vision", _images(c, masked="windows" if masked else False)) if _present(c, "vision") else sequence()
    )
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings), extra=extra,
                      logits=_cap(c.text_config))  # fmt: skip


def _images(c: Dimensions, *, masked: Literal["windows", False]) -> Images:
    """As its processor makes them: patches for `max_soft_tokens` tokens, those of a smaller image filled up."""
    v = c.vision_config
    rows = TOKENS * v.pooling_kernel_size**2
    return Images("", (), (rows, 3 * v.patch_size**2), TOKENS, scattered=True, masked=masked, listed=True)


@architecture("gemma4_unified")
def gemma4_unified(c: Dimensions) -> Model:
    """The text alone sees and hears: squares of pixels, and pieces of sound, normed and projected (Google 2026)."""
    heard = (Sounds("", (_embedder(c, c.audio_config, "embed_audio"),)),) if _present(c, "audio") else ()
    masked = (MaskedAlways(""),) if c.text_config.get("use_bidirectional_attention") == "vision" else ()
    images = _squares(c, masked=bool(masked)) if _present(c, "vision") else sequence()
    return image_text(c, images, tower(c.text_config, "language_model"), tie=bool(c.tie_word_embeddings),
                      extra=(*masked, *heard), logits=_cap(c.text_config))  # fmt: skip


@architecture("gemma4_unified_text")
def gemma4_unified_text(c: Dimensions) -> Model:
    """Gemma 4's layers without embeddings of their own, and without experts."""
    return gemma4_text(c.but(hidden_size_per_layer_input=0, enable_moe_block=False))


def _squares(c: Dimensions, *, masked: bool) -> Images:
    """Each token's square of pixels, normed on both sides of a linear layer, at its place on two axes."""
    v = c.vision_config
    pixels, wide = 3 * (v.patch_size * v.pooling_kernel_size) ** 2, v.mm_embed_dim
    norms = [
        Norm(name, width, "layer") for name, width in (("patch_ln1", pixels), ("patch_ln2", wide), ("pos_norm", wide))
    ]
    dense, places = (
        Linear("patch_dense", pixels, wide, bias=True),
        AxesTable("pos_embedding", (v.mm_posemb_size, 2, wide)),
    )
    parts = norms[0], dense, norms[1], places, norms[2], _embedder(c, v, "multimodal_embedder"), Unfilled("")
    return Images(
        "", (Sequence("embed_vision", parts),), (TOKENS, pixels), TOKENS, scattered=True, masked=masked, listed=True
    )


def _embedder(c: Dimensions, d: Dimensions, name: str) -> Sequence:
    width = d.get("output_proj_dims") or d.audio_embed_dim
    project = Linear("embedding_projection", width, c.text_config.hidden_size)
    return sequence(Norm("", width, "rms-no-weight", "gemma4"), project, name=name)


TOKENS = 280  # max_soft_tokens of the image processor (image_processing_gemma4.py)


def _read(c: Dimensions, name: str, into: Sequence) -> Sequence:
    """A tower, a norm without a weight and a projection of what it yields."""
    d = c[f"{name}_config"]
    normed = Norm("", d.get("output_proj_dims") or d.hidden_size, "rms-no-weight", "gemma4")
    return replace(into, blocks=(tower(d, f"{name}_tower"), sequence(normed, _projection(c, d), name=f"embed_{name}")))


def _present(c: Dimensions, name: str) -> bool:
    """Towers are optional: one whose config is absent or null is not built."""
    return c.given().get(f"{name}_config") is not None


def _projection(c: Dimensions, d: Dimensions) -> Linear:
    return Linear("embedding_projection", d.get("output_proj_dims") or d.hidden_size, c.text_config.hidden_size)


@architecture("embedding_gemma2")
def embedding_gemma2(c: Dimensions) -> Model:
    """EmbeddingGemma 2 with Gemma 4's towers, as many as its config names."""
    extra = (_read(c, "audio", Sounds("")),) if _present(c, "audio") else ()
    images = _read(c, "vision", _images(c, masked=False)) if _present(c, "vision") else sequence()
    return image_text(c, images, tower(c.text_config, "language_model"), tie=False, extra=extra)


REGISTERED = ("layers", "norm", "embed_tokens_per_layer", "per_layer_model_projection", "per_layer_projection_norm")


@architecture("gemma4_text")
def gemma4_text(c: Dimensions) -> Model:
    """Five local layers to a global one; embeddings of every layer's own where hidden_size_per_layer_input is set."""
    embed = Embedding("embed_tokens", c.vocab_size, c.hidden_size, scaled=True)
    layers = interleaved("layers", _kinds(c), lambda kind: _layer(c, kind))
    return causal_lm(
        c, embed, _per_layer(c) if c.hidden_size_per_layer_input else None, layers, _norm(c, "norm"),
        tie="embed_tokens", logits=_cap(c), registered=REGISTERED,
    )  # fmt: skip


@architecture("embedding_gemma2_text")
def embedding_gemma2_text(c: Dimensions) -> Model:
    """Gemma 4's layers as an encoder, their own embeddings made of the token's alone; each token projected at the end."""
    embed = Embedding("embed_tokens", c.vocab_size, c.hidden_size, scaled=True)
    width, hidden, count = c.hidden_size_per_layer_input, c.hidden_size, c.num_hidden_layers
    project = Linear("per_layer_model_projection", hidden, count * width)
    own = PerLayerEmbeddings("ple", (project, _norm(c, "per_layer_projection_norm", width)))
    few = c.get("num_global_key_value_heads", 1)  # of keys and values, in layers that see all
    d = c.but(num_kv_shared_layers=0, attention_k_eq_v=True, num_global_key_value_heads=few)
    layers = interleaved("layers", _kinds(d), lambda kind: _encoding_layer(c, kind))
    body = embed, own, layers, _norm(c, "norm"), Linear("embedding_projection", hidden, c.embedding_dim)
    return Model(sequence(*body), "encoder", c.max_position_embeddings)


def _encoding_layer(c: Dimensions, kind: Kind) -> Sequence:
    """EmbeddingGemma2EncoderLayer: `sliding_window` is how far a local layer sees to either side."""
    dim = kind.head_dim
    mixer = attention(
        c.but(head_dim=dim, num_key_value_heads=kind.kv_heads), bias=bool(c.attention_bias),
        window=window(c) + 1 if kind.local else 0, causal=False, rotary_dim=dim, heads_first=True,
        rotary_kind="local" if kind.local else "global", q_norm=_norm(c, "q_norm", dim), k_norm=_norm(c, "k_norm", dim),
        v_norm=Norm("v_norm", dim, "rms-no-weight", "gemma4"),
    )  # fmt: skip
    return sequence(
        residual(_norm(c, "input_layernorm"), mixer, _norm(c, "post_attention_layernorm")),
        residual(_norm(c, "pre_feedforward_layernorm"), gated_mlp(c), _norm(c, "post_feedforward_layernorm")),
        sequence(_own_embedding(c), name="ple_block"),
        ChannelScale("layer_scalar", (1,), buffer=True),
    )


def _cap(c: Dimensions) -> Softcap | None:
    cap = float(c.get("final_logit_softcapping") or 0.0)
    return Softcap("", cap) if cap else None


def _kinds(c: Dimensions) -> list[Kind]:
    """The kind of every layer; the last is global whatever the config says (Gemma4TextConfig.__post_init__)."""
    count = c.num_hidden_layers
    types = list(
        c.get("layer_types") or ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(count)]
    )
    types[-1] = "full_attention"
    own = {int(k): v for k, v in (c.get("per_layer_config") or {}).items()}
    roles = _sharing(types, count - c.num_kv_shared_layers)
    return [_kind(c, kind, role, own.get(i) or {}) for i, (kind, role) in enumerate(zip(types, roles, strict=True))]


def _sharing(types: list[str], first: int) -> list[Literal["", "stores", "reuses"]]:
    """From layer `first` on the keys and values are those of the last layer of its type before (kv_sharing_modes)."""
    last = {kind: i for i, kind in enumerate(types[:first])} if first < len(types) else {}
    return ["reuses" if i >= first else "stores" if last.get(kind) == i else "" for i, kind in enumerate(types)]


def _kind(c: Dimensions, kind: str, sharing: Literal["", "stores", "reuses"], own: dict[str, int]) -> Kind:
    local = kind == "sliding_attention"
    wide, few = c.get("global_head_dim", 512), c.get("num_global_key_value_heads")
    dim = c.head_dim if local else wide
    kv = few if few and not local and c.attention_k_eq_v else c.num_key_value_heads
    return Kind(local, own.get("head_dim", dim), own.get("num_key_value_heads", kv), sharing)


def _norm(c: Dimensions, name: str, width: int = 0) -> Norm:
    """Gemma4RMSNorm: fp32 throughout, times weight."""
    return rms(name, width or c.hidden_size, "gemma4")


def _layer(c: Dimensions, kind: Kind) -> Sequence:
    """x + norm(attention(norm(x))), x + norm(feed(norm(x))), the layer's own embedding, times a constant."""
    wide = c.intermediate_size * (2 if c.use_double_wide_mlp and kind.sharing == "reuses" else 1)
    before, after = _norm(c, "pre_feedforward_layernorm"), _norm(c, "post_feedforward_layernorm")
    feed = gated_mlp(c, width=wide)
    both = (_beside(c, before, feed),) if c.enable_moe_block else (before, feed)
    return sequence(
        residual(_norm(c, "input_layernorm"), _attention(c, kind), _norm(c, "post_attention_layernorm")),
        residual(*both, after),
        _own_embedding(c) if c.hidden_size_per_layer_input else None,
        ChannelScale("layer_scalar", (1,), buffer=True),
    )


def _attention(c: Dimensions, kind: Kind) -> Attention:
    """Norms of every head's query, key and value; global layers may take the keys for values too."""
    dim = kind.head_dim
    mixer = attention(
        c.but(head_dim=dim, num_key_value_heads=kind.kv_heads), bias=bool(c.attention_bias),
        window=window(c) if kind.local else 0, causal=c.get("use_bidirectional_attention") != "all",
        rotary_dim=dim, rotary_kind="local" if kind.local else "global", formula="gemma4", sharing=kind.sharing,
        q_norm=_norm(c, "q_norm", dim), k_norm=_norm(c, "k_norm", dim), v_norm=Norm("v_norm", dim, "rms-no-weight"),
    )  # fmt: skip
    if kind.sharing == "reuses":
        return replace(mixer, k=None, v=None, k_norm=None, v_norm=None)
    return replace(mixer, v=None) if c.attention_k_eq_v and not kind.local else mixer


def _beside(c: Dimensions, before: Norm, feed: Block) -> Sum:
    """The MLP, and experts that read the same state under norms of their own; summed."""
    dense = sequence(before, feed, _norm(c, "post_feedforward_layernorm_1"))
    choose = LinearRouter("proj", c.hidden_size, c.num_experts, c.top_k_experts)
    router = sequence(
        Norm("", c.hidden_size, "rms-no-weight"), ChannelScale("scale", (c.hidden_size,)), Scale(""), choose,
        Raw("per_expert_scale", (c.num_experts,)), name="router",
    )  # fmt: skip
    experts = stacked_experts(c, c.num_experts, c.moe_intermediate_size)
    mixture = Moe(
        "", router, experts, top_k=c.top_k_experts, into=_norm(c, "pre_feedforward_layernorm_2"), formula="gemma4"
    )
    return Sum("", (dense, sequence(mixture, _norm(c, "post_feedforward_layernorm_2"))))


def _own_embedding(c: Dimensions) -> Block:
    """x + norm(projection(act(gate(x)) * the layer's embedding of each token))."""
    width, hidden = c.hidden_size_per_layer_input, c.hidden_size
    return residual(
        Linear("per_layer_input_gate", hidden, width), Activation("", c.hidden_activation), PerLayerInput(""),
        Linear("per_layer_projection", width, hidden), _norm(c, "post_per_layer_input_norm"),
    )  # fmt: skip


def _per_layer(c: Dimensions) -> PerLayerEmbeddings:
    """A second table, a row of all layers' embeddings per token, and a projection of the first, normed and added."""
    width, rows = c.hidden_size_per_layer_input, c.vocab_size_per_layer_input
    return PerLayerEmbeddings(
        "",
        (
            Embedding("embed_tokens_per_layer", rows, c.num_hidden_layers * width, scaled=True),
            Linear("per_layer_model_projection", c.hidden_size, c.num_hidden_layers * width),
            _norm(c, "per_layer_projection_norm", width),
        ),
    )
