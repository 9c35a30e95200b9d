"""Gemma 3n, text: Gemma 3's layers within alternating updates, with low-rank shortcuts and embeddings of each layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from memcalc.architectures import architecture
from memcalc.architectures.decoder import (
    attention,
    causal_lm,
    gated_mlp,
    head_dim,
    interleaved,
    layer_kinds,
    rms,
    window,
)
from memcalc.blocks.altup import AltUp, Streams
from memcalc.blocks.base import Block, Sequence, residual, sequence, stack
from memcalc.blocks.basic import Activation, Embedding, Linear, Norm, Raw, Scale, Softcap
from memcalc.blocks.multimodal import PerLayerEmbeddings, PerLayerInput

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.mlp import Mlp
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


class Kind(NamedTuple):
    """What sets a layer apart: local attention, keys and values of an earlier layer or for later ones, its MLP.

    Of that the width, and whether its gate lets few values through.
    """

    local: bool
    sharing: Literal["", "stores", "reuses"]
    width: int
    sparse: bool


REGISTERED = (
    "layers", "norm", "embed_tokens_per_layer", "per_layer_model_projection", "per_layer_projection_norm",
    "altup_projections", "altup_unembed_projections",
)  # fmt: skip


@architecture("gemma3n_text")
def gemma3n_text(c: Dimensions) -> Model:
    """Four local layers to a global one; the last num_kv_shared_layers take keys and values of earlier ones."""
    square = Linear("", c.hidden_size, c.hidden_size)
    others = [square] * (c.altup_num_inputs - 1)
    layers = Streams(
        "", c.altup_num_inputs, stack("altup_projections", list(others)),
        interleaved("layers", _kinds(c), lambda kind: _layer(c, kind)), stack("altup_unembed_projections", list(others)),
    )  # fmt: skip
    embed = Embedding("embed_tokens", c.vocab_size, c.hidden_size, scaled=True)
    cap = float(c.get("final_logit_softcapping") or 0.0)
    logits = Softcap("", cap) if cap else None
    return causal_lm(
        c, embed, _per_layer(c), layers, _norm(c, "norm"), tie="embed_tokens", logits=logits, registered=REGISTERED
    )


def _kinds(c: Dimensions) -> list[Kind]:
    types = layer_kinds(c, lambda i: "sliding_attention" if (i + 1) % 5 else "full_attention")
    first_shared = c.num_hidden_layers - c.num_kv_shared_layers
    widths = c.get("intermediate_size", 16384)
    widths = widths if isinstance(widths, list) else [widths] * c.num_hidden_layers
    count = c.num_hidden_layers
    sparse = c.get("activation_sparsity_pattern") or [0.95 if count > FEW and i < FEW else 0.0 for i in range(count)]
    last = {kind: i for i, kind in enumerate(types[:first_shared])} if first_shared < count else {}

    def sharing(i: int) -> Literal["", "stores", "reuses"]:
        return "reuses" if i >= first_shared else "stores" if last.get(types[i]) == i else ""

    return [Kind(t == "sliding_attention", sharing(i), widths[i], sparse[i] > 0) for i, t in enumerate(types)]


FEW = 10  # layers with sparse MLPs, of a model that has more


def _norm(c: Dimensions, name: str, width: int = 0) -> Norm:
    """Gemma3nRMSNorm: fp32 throughout, times weight."""
    return rms(name, width or c.hidden_size, "gemma4")


def _layer(c: Dimensions, kind: Kind) -> AltUp:
    hidden, low, own = c.hidden_size, c.laurel_rank, c.hidden_size_per_layer_input
    laurel = residual(
        Linear("linear_left", hidden, low), Linear("linear_right", low, hidden), _norm(c, "post_laurel_norm")
    )
    inner = sequence(
        residual(
            _norm(c, "input_layernorm"), sequence(laurel, name="laurel"), _attention(c, kind),
            _norm(c, "post_attention_layernorm"),
        ),
        Scale(""),
        residual(
            _norm(c, "pre_feedforward_layernorm"), _mlp(c, kind), _norm(c, "post_feedforward_layernorm")
        ),
    )  # fmt: skip
    after = sequence(
        Linear("per_layer_input_gate", hidden, own), Activation("", c.hidden_activation), PerLayerInput(""),
        Linear("per_layer_projection", own, hidden), _norm(c, "post_per_layer_input_norm"),
    )  # fmt: skip
    return AltUp("", c.altup_num_inputs, _altup(c), inner, after, scaled=c.altup_correct_scale)


def _mlp(c: Dimensions, kind: Kind) -> Mlp:
    feed = gated_mlp(c, width=kind.width)
    return replace(feed, formula="gaussian") if kind.sparse else feed


def _altup(c: Dimensions) -> Sequence:
    """The coefficients of prediction and correction (Gemma3nTextAltUp)."""
    streams, hidden = c.altup_num_inputs, c.hidden_size
    return sequence(
        _norm(c, "router_norm"), Linear("modality_router", hidden, streams),
        Linear("prediction_coefs", streams, streams * streams), Linear("correction_coefs", streams, streams),
        Raw("correct_output_scale", (hidden,)), name="altup",
    )  # fmt: skip


def _attention(c: Dimensions, kind: Kind) -> Attention:
    """Norms of every head's query, key and value; layers that share have queries only."""
    dim = head_dim(c)
    mixer = attention(
        c, bias=bool(c.attention_bias), window=window(c) if kind.local else 0, formula="gemma4",
        q_norm=_norm(c, "q_norm", dim), k_norm=_norm(c, "k_norm", dim), v_norm=Norm("v_norm", dim, "rms-no-weight"),
    )  # fmt: skip
    if kind.sharing == "reuses":
        return replace(mixer, k=None, v=None, k_norm=None, v_norm=None)
    return replace(mixer, sharing=kind.sharing)


def _per_layer(c: Dimensions) -> PerLayerEmbeddings:
    """A second table, a row of all layers' embeddings per token, and a projection of the first, normed and added."""
    width = c.hidden_size_per_layer_input
    every = c.num_hidden_layers * width
    blocks: tuple[Block, ...] = (
        Embedding("embed_tokens_per_layer", c.vocab_size_per_layer_input, every, scaled=True),
        Linear("per_layer_model_projection", c.hidden_size, every),
        _norm(c, "per_layer_projection_norm", width),
    )
    return PerLayerEmbeddings("", blocks)
