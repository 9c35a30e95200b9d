"""X-MOD: XLM-RoBERTa with an adapter for each language in every layer (Pfeiffer et al. 2022)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.bert import roberta_model
from memcalc.architectures.encoder import dropout, embeddings, feed_forward, norm, self_attention
from memcalc.blocks.base import PostNorm, Sequence, repeat, residual, sequence
from memcalc.blocks.basic import Activation, Linear
from memcalc.blocks.xmod import Languages
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.basic import Norm
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model


@architecture("xmod")
def xmod(c: Dimensions) -> Model:
    """RoBERTa's layers, the norms outside of what they follow; `pre_norm` ones end in a norm for all."""
    layers = repeat("layer", c.num_hidden_layers, _layer(c))
    encoder = Sequence("encoder", (layers, norm(c, "LayerNorm")) if c.pre_norm else (layers,))
    return roberta_model(c, sequence(embeddings(c, positions="token-positions"), encoder))


def _layer(c: Dimensions) -> Sequence:
    crossed = c.is_decoder and c.add_cross_attention
    mixers = [_attention(c, name) for name in ("attention", "crossattention")[: 2 if crossed else 1]]
    before, after = norm(c, "output.LayerNorm"), _languages(c)
    feed = (feed_forward(c), dropout(c))
    if c.pre_norm:
        return sequence(*mixers, residual(before, *feed, within=True), after)
    return sequence(*mixers, PostNorm("", feed, None, rebound=True), after, before)


def _attention(c: Dimensions, name: str) -> Block:
    mixer, scale = self_attention(c, name, cross=name != "attention"), norm(c, f"{name}.output.LayerNorm")
    if c.pre_norm:
        return residual(scale, mixer, dropout(c), named=(0,), within=True)
    return PostNorm("", (mixer, dropout(c)), scale, rebound=True)


def _languages(c: Dimensions) -> Languages:
    """XmodOutput's adapter_modules; the rows are of the default language, which the library wants to know."""
    names, hidden = [str(name) for name in c.languages], c.hidden_size
    width = int(hidden // c.adapter_reduction_factor)
    if c.default_language is not None and c.default_language not in names:
        raise fault("model.default_language", f"{c.default_language!r} is none of the languages: {', '.join(names)}")
    adapters = tuple(
        sequence(
            Linear("dense1", hidden, width, bias=True), Activation("", c.hidden_act),
            Linear("dense2", width, hidden, bias=True), name=f"output.adapter_modules.{name}",
        )
        for name in names
    )  # fmt: skip
    own = bool(c.adapter_layer_norm)
    scale: Norm | None = norm(c, f"output.{'adapter_layer_norm' if own else 'LayerNorm'}")
    scale = scale if own or c.adapter_reuse_layer_norm else None
    chosen = names.index(c.default_language) if c.default_language is not None else 0
    return Languages("", adapters, chosen, scale, own, not c.ln_before_adapter, dropout(c))
