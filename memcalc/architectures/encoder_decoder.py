"""Any encoder in front of any decoder that can read it (Rothe et al. 2020): BERT2BERT and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture, model_of
from memcalc.architectures.multimodal import under
from memcalc.blocks.base import Sequence, Stray, sequence
from memcalc.blocks.basic import Linear
from memcalc.blocks.seq2seq import Aside, Bridge, Decoder, Encoder
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

HEADS = {"gpt2": "LMHeadModel"}  # of decoders; the others' classes end in ForCausalLM


@architecture("encoder-decoder")
def encoder_decoder(c: Dimensions) -> Model:
    """Two models under names of their own; a projection between them where they are not as wide."""
    first, second = c.encoder, c.decoder
    if not second.get("is_decoder", False):
        raise fault("model.decoder.is_decoder", "a decoder has is_decoder and add_cross_attention set to true")
    source = under("encoder", model_of(first.but(architectures=["Model"])).body)
    blocks = tuple(Aside("", part.blocks) if isinstance(part, Stray) else part for part in source.blocks)
    head = HEADS.get(second.model_type, "ForCausalLM")
    target = model_of(second.but(architectures=[head], add_cross_attention=True, reads_encoder=True))
    base, *heads = under("decoder", target.body).blocks
    apart = first.hidden_size != second.hidden_size and second.get("cross_attention_hidden_size") is None
    project = Linear("enc_to_dec_proj", first.hidden_size, second.hidden_size, bias=True)
    body = sequence(
        Encoder("encoder", blocks), Bridge("", (project,)) if apart else None,
        Decoder("decoder", (base,)), Sequence("decoder", tuple(heads)),
    )  # fmt: skip
    return Model(body, kind="seq2seq", context=target.context, loss_fp32=False)
