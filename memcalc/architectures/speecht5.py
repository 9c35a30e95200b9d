"""SpeechT5: one encoder and one decoder behind nets for text and for speech (Ao et al. 2021)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture
from memcalc.architectures.heads import channels, task
from memcalc.architectures.wav2vec2 import features, feed_forward, position_conv, projection
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, repeat, residual, sequence, stack
from memcalc.blocks.basic import Activation, Conv, Dropout, Embedding, Linear, Norm, Raw
from memcalc.blocks.image import Flatten
from memcalc.blocks.seq2seq import Decoder, Encoder, Sinusoids
from memcalc.blocks.speecht5 import DistanceTable, ScaledPositions, SpectrogramPostnet, SpectrogramPrenet, Waveform
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions

TASKS = {
    "ForTextToSpeech": ("text", "speech"),
    "ForSpeechToText": ("speech", "text"),
    "ForSpeechToSpeech": ("speech", "speech"),
}


@architecture("speecht5")
def speecht5(c: Dimensions) -> Model:
    """Text to speech, speech to text, or speech to speech."""
    if task(c) not in TASKS:
        raise fault(
            "model.architectures", f"a speecht5 with the head {task(c)!r} is not known; known are: {', '.join(TASKS)}"
        )
    heard, said = TASKS[task(c)]
    source = _text_in(c) if heard == "text" else _speech_in(c)
    target, head = (_text_out(c), _words(c)) if said == "text" else (_speech_out(c), _frames(c))
    body = sequence(
        Encoder("speecht5.encoder", (source, _encoder(c)), source=() if heard == "text" else (0,)),
        Decoder("speecht5.decoder", (target, _decoder(c))), head,
    )  # fmt: skip
    context = c.max_text_positions if heard == "text" else 0
    return Model(body, kind="seq2seq", context=context, loss_fp32=False)


def _drop(c: Dimensions, key: str = "hidden_dropout") -> Dropout:
    return Dropout("", float(c[key]))


def _positions(c: Dimensions, rows: int) -> ScaledPositions:
    return ScaledPositions("encode_positions", c.hidden_size, rows)


def _text_in(c: Dimensions) -> Sequence:
    words = Embedding("embed_tokens", c.vocab_size, c.hidden_size)
    return sequence(words, _positions(c, c.max_text_positions), _drop(c, "positional_dropout"), name="prenet")


def _speech_in(c: Dimensions) -> Sequence:
    """wav2vec 2.0's convolutions and positions, and sinusoids."""
    masked = c.mask_time_prob > 0 or c.mask_feature_prob > 0
    convs = Sequence("feature_encoder", features(c).blocks)
    places = residual(position_conv(c), Activation("", c.feat_extract_activation))
    table = Sinusoids("pos_sinusoidal_embed", c.max_speech_positions + c.pad_token_id + 3, c.hidden_size)
    return sequence(
        Waveform(""), convs, Flatten(""), projection(c), Raw("masked_spec_embed", (c.hidden_size,)) if masked else None,
        places, residual(table), name="prenet",
    )  # fmt: skip


def _text_out(c: Dimensions) -> Sequence:
    words = Embedding("embed_tokens", c.vocab_size, c.hidden_size, scaled=True)
    table = Sinusoids("embed_positions", c.max_text_positions + c.pad_token_id + 3, c.hidden_size)
    return sequence(words, residual(table), _drop(c, "positional_dropout"), name="prenet")


def _speech_out(c: Dimensions) -> SpectrogramPrenet:
    units, hidden = c.speech_decoder_prenet_units, c.hidden_size
    inputs = (c.num_mel_bins, *[units] * (c.speech_decoder_prenet_layers - 1))
    layers = [Linear(f"layers.{index}", n, units, bias=True) for index, n in enumerate(inputs)]
    return SpectrogramPrenet(
        "prenet", Sequence("", tuple(layers)), Linear("final_layer", units, hidden, bias=True),
        _positions(c, c.max_speech_positions),
        Linear("speaker_embeds_layer", c.speaker_embedding_dim + hidden, hidden, bias=True), c.num_mel_bins,
        c.reduction_factor, float(c.speech_decoder_prenet_dropout), float(c.positional_dropout),
    )  # fmt: skip


def _words(c: Dimensions) -> Linear:
    tied = "speecht5.decoder.prenet.embed_tokens.weight" if c.tie_word_embeddings else ""
    return Linear("text_decoder_postnet.lm_head", c.hidden_size, c.vocab_size, tied_to=tied)


def _frames(c: Dimensions) -> SpectrogramPostnet:
    """The last convolution has no activation."""
    count, units, bins = c.speech_decoder_postnet_layers, c.speech_decoder_postnet_units, c.num_mel_bins
    size, every = c.speech_decoder_postnet_kernel, c.reduction_factor
    widths = (bins, *[units] * (count - 1), bins)
    convs: list[Block] = [
        sequence(
            Conv("conv", n, m, (size,), bias=False, padding=(size - 1) // 2), Norm("batch_norm", m, "batch", "batch"),
            Activation("", "tanh") if index < count - 1 else None, _drop(c, "speech_decoder_postnet_dropout"),
        )
        for index, (n, m) in enumerate(pairwise(widths))
    ]  # fmt: skip
    return SpectrogramPostnet(
        "speech_decoder_postnet", Linear("feat_out", c.hidden_size, bins * every, bias=True),
        Linear("prob_out", c.hidden_size, every, bias=True), stack("layers", convs, recompute="never"), bins,
    )  # fmt: skip


def _encoder(c: Dimensions) -> Sequence:
    """Post-norm, with a norm before the first layer."""
    head = channels(c.hidden_size, c.encoder_attention_heads, "encoder_attention_heads")
    rows = Embedding("pe_k", 2 * c.encoder_max_relative_position, head, index="distances")
    layer = sequence(
        residual(_attention(c, "attention", c.encoder_attention_heads), _drop(c)), _norm(c, "layer_norm"),
        _fed(c, c.encoder_ffn_dim), _norm(c, "final_layer_norm"),
    )  # fmt: skip
    return sequence(
        _norm(c, "layer_norm"), _drop(c), DistanceTable("embed_positions", rows), repeat("layers", c.encoder_layers, layer),
        name="wrapped_encoder",
    )  # fmt: skip


def _decoder(c: Dimensions) -> Sequence:
    heads = c.decoder_attention_heads
    layer = sequence(
        residual(_attention(c, "self_attn", heads, causal=True), _drop(c)), _norm(c, "self_attn_layer_norm"),
        residual(_attention(c, "encoder_attn", heads, cross=True), _drop(c)), _norm(c, "encoder_attn_layer_norm"),
        _fed(c, c.decoder_ffn_dim), _norm(c, "final_layer_norm"),
    )  # fmt: skip
    return sequence(repeat("layers", c.decoder_layers, layer), name="wrapped_decoder")


def _fed(c: Dimensions, width: int) -> Block:
    return residual(feed_forward(c.but(intermediate_size=width), "feed_forward"), _drop(c))


def _norm(c: Dimensions, name: str) -> Norm:
    return Norm(name, c.hidden_size, "layer")


def _attention(c: Dimensions, name: str, heads: int, **more: Any) -> Attention:  # noqa: ANN401 - what Attention takes
    hidden = c.hidden_size
    q, k, v, out = (Linear(f"{part}_proj", hidden, hidden, bias=True) for part in ("q", "k", "v", "out"))
    return Attention(
        name, heads, heads, channels(hidden, heads), q, k, v, out=out, dropout=float(c.attention_dropout), softmax="scores",
        eager_only=True, formula="speecht5", **({"causal": False} | more),
    )  # fmt: skip
