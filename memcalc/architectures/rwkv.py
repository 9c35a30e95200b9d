"""RWKV-4: time mixing and channel mixing, no attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import causal_lm, layer_norm
from memcalc.blocks.base import residual, sequence, stack
from memcalc.blocks.basic import Embedding, Linear
from memcalc.blocks.rwkv import ChannelMix, TimeMix

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("rwkv")
def rwkv(c: Dimensions) -> Model:
    """LayerNorm in front of each mixing, one more in front of the first layer (arXiv:2305.13048)."""
    rest = sequence(
        residual(layer_norm("ln1", c.hidden_size), _time(c)), residual(layer_norm("ln2", c.hidden_size), _channel(c))
    )
    first = sequence(layer_norm("pre_ln", c.hidden_size), *rest.blocks)
    blocks = stack("blocks", [first, *[rest] * (c.num_hidden_layers - 1)])
    table, norm = Embedding("embeddings", c.vocab_size, c.hidden_size), layer_norm("ln_out", c.hidden_size)
    return causal_lm(c, table, blocks, norm, prefix="rwkv", head="head", tie="embeddings")


def _time(c: Dimensions) -> TimeMix:
    hidden, inner = c.hidden_size, c.get("attention_hidden_size") or c.hidden_size
    key, value, receptance = (Linear(name, hidden, inner) for name in ("key", "value", "receptance"))
    return TimeMix("attention", hidden, inner, key, value, receptance, Linear("output", inner, hidden))


def _channel(c: Dimensions) -> ChannelMix:
    hidden, width = c.hidden_size, c.get("intermediate_size") or 4 * c.hidden_size
    key, receptance = Linear("key", hidden, width), Linear("receptance", hidden, hidden)
    return ChannelMix("feed_forward", hidden, width, key, receptance, Linear("value", width, hidden))
