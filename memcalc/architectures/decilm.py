"""DeciLM, Nemotron Super and Ultra: Llama whose layers were each given blocks of their own by a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, decoder, gated_mlp, rms
from memcalc.blocks.base import Block, residual, sequence, stack
from memcalc.blocks.basic import Linear

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("nemotron-nas")
def nemotron_nas(c: Dimensions) -> Model:
    """`block_configs` says of every layer whether attention and MLP are there, are a linear, and how wide they are.

    modeling_decilm.py and block_config.py beside the weights.
    """
    made: dict[str, Block] = {}
    layers = [made.setdefault(repr(block), _layer(c, block)) for block in c.block_configs]
    return decoder(c, stack("layers", layers))


def _layer(c: Dimensions, block: Mapping[str, Any]) -> Block:
    mixer, feed_forward = _attention(c, block["attention"]), _mlp(c, block["ffn"])
    return sequence(
        residual(rms("input_layernorm", c.hidden_size), mixer) if mixer else None,
        residual(rms("post_attention_layernorm", c.hidden_size), feed_forward) if feed_forward else None,
    )


def _attention(c: Dimensions, made: Mapping[str, Any]) -> Block | None:
    if made.get("no_op"):
        return None
    if made.get("replace_with_linear"):
        return sequence(Linear("linear_attn", c.hidden_size, c.hidden_size), name="self_attn")
    kv = c.num_attention_heads // made["n_heads_in_group"]
    return attention(c.but(num_key_value_heads=kv), bias=c.attention_bias, window=made.get("window_length") or 0)


def _mlp(c: Dimensions, made: Mapping[str, Any]) -> Block | None:
    if made.get("no_op"):
        return None
    if made.get("replace_with_linear"):
        return sequence(Linear("linear_mlp", c.hidden_size, c.hidden_size), name="mlp")
    width = int(2 * made["ffn_mult"] * c.hidden_size / 3)
    return gated_mlp(c, width=-(-width // 256) * 256, bias=c.mlp_bias)
