"""LFM2: short gated convolutions with an attention layer in between; dense or, behind the first layers, a mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import activation, attention, causal_lm, head_dim, interleaved, rms, tokens
from memcalc.architectures.experts import mixture, per_layer, router
from memcalc.blocks.base import Param, residual, sequence
from memcalc.blocks.basic import Conv, Linear
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.ssm import ShortConv

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("lfm2")
def lfm2(c: Dimensions) -> Model:
    """Liquid's dense hybrid (2025); the width of its MLP is adjusted as Llama 1's was."""
    attends = c.get("full_attn_idxs")
    full = set(range(c.num_hidden_layers) if attends is None else attends)
    kinds = per_layer(c, "layer_types", ["full_attention" if i in full else "conv" for i in range(c.num_hidden_layers)])
    feed = _mlp(c, mlp_width(c))
    return _model(c, [(kind, False) for kind in kinds], {False: feed})


@architecture("lfm2_moe")
def lfm2_moe(c: Dimensions) -> Model:
    """The same with a sigmoid router and, unless switched off, a bias that balances the experts."""
    bias = (Param("expert_bias", (c.num_experts,), buffer=True, dtype="fp32"),) if c.use_expert_bias else ()
    gate = router(c, c.num_experts, scores="sigmoid", normalized=c.norm_topk_prob, formula="lfm2_moe")
    feeds = {
        True: mixture(c, gate, c.moe_intermediate_size, "feed_forward", extra=bias),
        False: _mlp(c, c.intermediate_size),
    }
    sparse = [i >= c.num_dense_layers for i in range(c.num_hidden_layers)]
    return _model(c, list(zip(per_layer(c, "layer_types", c.layer_types), sparse, strict=True)), feeds)


def mlp_width(c: Dimensions) -> int:
    """Two thirds of the width, times a factor, rounded up to a multiple (Lfm2MLP)."""
    width, of = int(c.get("block_ff_dim") or c.intermediate_size), c.block_multiple_of
    if not c.block_auto_adjust_ff_dim:
        return width
    width = int(2 * width / 3)
    factor = c.get("block_ffn_dim_multiplier")
    return width if factor is None else -(-int(factor * width) // of) * of


def _model(c: Dimensions, kinds: list[tuple[str, bool]], feeds: dict[bool, Block]) -> Model:
    def layer(kind: tuple[str, bool]) -> Block:
        mixer = _conv(c) if kind[0] == "conv" else _attention(c)
        return sequence(
            residual(rms("operator_norm", c.hidden_size), mixer),
            residual(rms("ffn_norm", c.hidden_size), feeds[kind[1]]),
        )

    tied = c.but(tie_word_embeddings=c.get("tie_embedding", c.tie_word_embeddings))
    norm = rms("embedding_norm", c.hidden_size)
    return causal_lm(tied, tokens(c), interleaved("layers", kinds, layer), norm, tie="embed_tokens")


def _mlp(c: Dimensions, width: int) -> Mlp:
    gate, up, down = (
        Linear("w1", c.hidden_size, width),
        Linear("w3", c.hidden_size, width),
        Linear("w2", width, c.hidden_size),
    )
    return Mlp("feed_forward", up, down, gate, activation=activation(c), width=width)


def _attention(c: Dimensions) -> Block:
    dim = head_dim(c)
    return attention(c, out="out_proj", q_norm=rms("q_layernorm", dim), k_norm=rms("k_layernorm", dim))


def _conv(c: Dimensions) -> ShortConv:
    hidden, bias = c.hidden_size, bool(c.conv_bias)
    conv = Conv("conv", hidden, hidden, (c.conv_L_cache,), conv_groups=hidden, bias=bias, padding=c.conv_L_cache - 1)
    return ShortConv(
        "conv", Linear("in_proj", hidden, 3 * hidden, bias), conv, Linear("out_proj", hidden, hidden, bias)
    )
