"""Any encoder in front of any decoder that can read it (Rothe et al. 2020): BERT2BERT and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture, model_of
from memcalc.architectures.multimodal import under
from memcalc.blocks.base import Block, Sequence, Stray, sequence
from memcalc.blocks.basic import Linear, Select
from memcalc.blocks.seq2seq import Aside, Bridge, Decoder, Encoder
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("encoder-decoder", "vision-encoder-decoder")
def encoder_decoder(c: Dimensions) -> Model:
    """Two models under names of their own; a projection between them where they are not as wide. The first may see images."""
    first, second = c.encoder, c.decoder
    if not second.get("is_decoder", False) and not second.traits.decodes_untold:
        raise fault("model.decoder.is_decoder", "a decoder has is_decoder and add_cross_attention set to true")
    reader = model_of(first.but(architectures=["Model"]))
    blocks = tuple(_aside(part) for part in under("encoder", reader.body).blocks)
    named = [second.traits.causal_class or "ForCausalLM"]
    target = model_of(second.but(architectures=named, add_cross_attention=True, reads_encoder=True))
    base, *heads = under("decoder", target.body).blocks
    width = first.get("hidden_size") or first.embed_dim * 2 ** (len(first.depths) - 1)  # of Swin's last stage
    apart = width != second.hidden_size and second.get("cross_attention_hidden_size") is None
    project = Linear("enc_to_dec_proj", width, second.hidden_size, bias=True)
    body = sequence(
        Encoder("encoder", blocks), Bridge("", (project,)) if apart else None,
        Decoder("decoder", (base,)), Sequence("decoder", tuple(heads)),
    )  # fmt: skip
    registered = tuple(dict.fromkeys((*(reader.registered or ()), *(target.registered or ()))))
    return Model(
        body, kind="seq2seq", context=target.context, loss_fp32=False, image=reader.image, registered=registered
    )


def _aside(part: Block) -> Block:
    """A pooler within an encoder: what it makes is an output that nobody reads."""
    if isinstance(part, Stray):
        return Aside("", part.blocks)
    return Aside("", (part,)) if isinstance(part, Select) or part.name == "pooler" else part
