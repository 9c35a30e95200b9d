"""Whisper and Speech2Text: encoder-decoders that read mel frames through a few convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.heads import choose, kind, labels, task
from memcalc.architectures.seq2seq import attention, decoder_layer, dropout, encoder_layer, norm
from memcalc.blocks.base import Block, Stack, Sum, repeat, sequence
from memcalc.blocks.basic import Activation, Conv, Embedding, Linear, Scale, Select
from memcalc.blocks.image import Axes, Flatten
from memcalc.blocks.seq2seq import Decoder, Encoder, Sinusoids
from memcalc.blocks.speech import LayerSum
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions


@architecture("whisper")
def whisper(c: Dimensions) -> Model:
    """30 seconds of mel frames, two convolutions, fixed positions; keys without a bias (Radford et al. 2022)."""
    name = task(c)
    prefix = "" if name in {"Model", "ForAudioClassification"} else "model."
    encoder = () if name == "ForCausalLM" else (_whisper_encoder(c, prefix),)
    decoder = () if name == "ForAudioClassification" else (_whisper_decoder(c, prefix),)
    heads: Heads = {
        "Model": (),
        "ForConditionalGeneration": (_head(c, "proj_out", prefix),),
        "ForCausalLM": (_head(c, "proj_out", prefix),),
        "ForAudioClassification": (*_layer_weights(c), *_audio_classifier(c)),
    }
    return _model(c, (*encoder, *decoder, *choose(c, heads)))


def _model(c: Dimensions, body: tuple[Block, ...]) -> Model:
    name = task(c)
    what = "encoder" if name == "Model" else kind(name)
    return Model(sequence(*body), kind=what, context=c.max_target_positions, loss_fp32=False)


def _whisper_encoder(c: Dimensions, prefix: str) -> Encoder:
    """conv1, conv2 (which halves the frames), each with a GELU; positions that are parameters but not trained."""
    width, gelu = c.d_model, Activation("", "gelu")
    places = Embedding("embed_positions", c.max_source_positions, width, trainable=False, index="positions")
    mixer = attention(c, "self_attn", c.encoder_attention_heads, key_bias=False, formula="whisper")
    captured = task(c) == "ForAudioClassification" and bool(c.use_weighted_layer_sum)
    blocks = (
        Conv("conv1", c.num_mel_bins, width, (3,), padding=1, embeds=True), gelu,
        Conv("conv2", width, width, (3,), 2, padding=1), gelu,
        Flatten(""), places, dropout(c),
        Stack("layers", (encoder_layer(c, mixer, pre_norm=True),) * c.encoder_layers, captured=captured),
        norm(c, "layer_norm"),
    )  # fmt: skip
    return Encoder(f"{prefix}encoder", blocks, source=(c.num_mel_bins, 2 * c.max_source_positions))


def _whisper_decoder(c: Dimensions, prefix: str) -> Decoder:
    words = Embedding("embed_tokens", c.vocab_size, c.d_model)
    places = Embedding("embed_positions", c.max_target_positions, c.d_model, index="token-positions")
    return Decoder(
        f"{prefix}decoder", (Sum("", (words, places)), *_decoder_layers(c, key_bias=False, formula="whisper"))
    )


def _decoder_layers(c: Dimensions, *, key_bias: bool, formula: str = "") -> tuple[Block, ...]:
    heads = c.decoder_attention_heads
    mixer = attention(c, "self_attn", heads, causal=True, key_bias=key_bias, formula=formula)
    cross = attention(c, "encoder_attn", heads, cross=True, key_bias=key_bias, formula=formula)
    layers = repeat("layers", c.decoder_layers, decoder_layer(c, mixer, cross, pre_norm=True))
    return (dropout(c), layers, norm(c, "layer_norm"))


def _head(c: Dimensions, name: str, prefix: str) -> Linear:
    tied = f"{prefix}decoder.embed_tokens.weight" if c.tie_word_embeddings else ""
    return Linear(name, c.d_model, c.vocab_size, tied_to=tied)


def _layer_weights(c: Dimensions) -> tuple[Block, ...]:
    """One weight per hidden state, where the classifier reads a weighted sum of all of them."""
    return (LayerSum("layer_weights", (c.encoder_layers + 1,)),) if c.use_weighted_layer_sum else ()


def _audio_classifier(c: Dimensions) -> tuple[Block, ...]:
    width = c.classifier_proj_size
    project = Linear("projector", c.d_model, width, bias=True)
    return (project, Select("", "mean"), Linear("classifier", width, labels(c), bias=True))


@architecture("speech_to_text")
def speech_to_text(c: Dimensions) -> Model:
    """Strided convolutions with gated linear units, sinusoidal positions, BART's layers before norms (Wang 2020)."""
    prefix = "" if task(c) == "Model" else "model."
    encoder, decoder = _speech_encoder(c, prefix), _speech_decoder(c, prefix)
    heads: Heads = {
        "Model": (encoder, decoder),
        "ForConditionalGeneration": (encoder, decoder, _head(c, "lm_head", prefix)),
    }
    return _model(c, choose(c, heads))


def _speech_encoder(c: Dimensions, prefix: str) -> Encoder:
    mixer = attention(c, "self_attn", c.encoder_attention_heads)
    places = Sinusoids("", c.max_source_positions + 2, c.d_model)
    blocks = (
        Axes("", (0, 2, 1), copied=True), *_subsampler(c), Flatten(""), Scale(""), Sum("", (sequence(), places)), dropout(c),
        repeat("layers", c.encoder_layers, encoder_layer(c, mixer, pre_norm=True)), norm(c, "layer_norm"),
    )  # fmt: skip
    return Encoder(f"{prefix}encoder", blocks, source=(0, c.input_feat_per_channel * c.input_channels))


def _subsampler(c: Dimensions) -> tuple[Block, ...]:
    """Convolutions of stride 2, each yielding twice what its gated linear unit passes on (Conv1dSubsampler)."""
    inputs = [c.input_feat_per_channel * c.input_channels, *[c.conv_channels // 2] * (c.num_conv_layers - 1)]
    outputs = [*[c.conv_channels] * (c.num_conv_layers - 1), 2 * c.d_model]
    convs = (
        Conv(f"conv.conv_layers.{i}", n, m, (size,), 2, padding=size // 2)
        for i, (n, m, size) in enumerate(zip(inputs, outputs, c.conv_kernel_sizes, strict=True))
    )
    return tuple(block for conv in convs for block in (conv, Activation("", "glu")))


def _speech_decoder(c: Dimensions, prefix: str) -> Decoder:
    words = Embedding("embed_tokens", c.vocab_size, c.d_model, scaled_outside=True)
    places = Sinusoids("", c.max_target_positions + 2, c.d_model)
    return Decoder(f"{prefix}decoder", (Sum("", (words, places)), *_decoder_layers(c, key_bias=True)))
