"""BLIP and BLIP-2: an image encoder that a text decoder attends to, or that learned queries read for it (Li et al.)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures import architecture, model_of
from memcalc.architectures.encoder import dropout as bert_dropout
from memcalc.architectures.encoder import post_norm, post_norm_layer, self_attention
from memcalc.architectures.multimodal import tower, under
from memcalc.architectures.vision import (
    class_name,
    encoder_layer,
    grid,
    image,
    layer_norms,
    made,
    mlp,
    patches,
    unknown_class,
)
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence, Sum, Unused, repeat, sequence, stack
from memcalc.blocks.basic import Activation, Embedding, Linear, Norm, Raw
from memcalc.blocks.image import Positions, Prefix
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.querying import AttendedImages, InstructedLayer, InstructedStart, QueriedImages, ShiftedLogits
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("blip_vision_model")
def blip_vision(c: Dimensions) -> Model:
    """CLIP's layers with queries, keys and values in one matrix, no norm before them; attention written out (BlipAttention)."""
    return _vision(c, "blip")


@architecture("blip_2_vision_model", "instructblip_vision_model")
def blip2_vision(c: Dimensions) -> Model:
    """The same with any kind of attention."""
    return _vision(c, "")


def _vision(c: Dimensions, formula: str) -> Model:
    table = Positions("position_embedding", (1, grid(c) + 1, c.hidden_size))
    start = sequence(
        patches(c, "patch_embedding", looked=1),
        Prefix("class_embedding", (1, 1, c.hidden_size)),
        table,
        name="embeddings",
    )
    hidden, heads = c.hidden_size, c.num_attention_heads
    mixer = Attention(
        "self_attn", heads, heads, hidden // heads, qkv=Linear("qkv", hidden, 3 * hidden, bool(c.get("qkv_bias", True))),
        out=Linear("projection", hidden, hidden, bias=True), causal=False, dropout=float(c.attention_dropout),
        softmax="scores", formula=formula,
    )  # fmt: skip
    layer = encoder_layer(mixer, mlp(c), layer_norms(c, "layer_norm1", "layer_norm2"))
    layers = sequence(repeat("layers", c.num_hidden_layers, layer), name="encoder")
    return made(c, sequence(start, layers, Norm("post_layernorm", hidden, "layer")), "encoder")


@architecture("blip-2", "instructblip")
def blip2(c: Dimensions) -> Model:
    """Learned queries attend to the frozen image encoder and are projected to tokens of a language model.

    InstructBLIP's read the instruction, too (Dai et al. 2023).
    """
    return _queried(c, scattered=True)


@architecture("instructblipvideo")
def instructblipvideo(c: Dimensions) -> Model:
    """InstructBLIP on the frames of a video, the tokens of each behind those of the last."""
    return _queried(c, scattered=False)


def _queried(c: Dimensions, *, scattered: bool) -> Model:
    if not class_name(c).endswith("ForConditionalGeneration"):
        raise unknown_class(c)
    v, q, t = c.vision_config, c.qformer_config, c.text_config
    queries = Raw("query_tokens", (1, c.num_query_tokens, q.hidden_size))
    former = tower(q.but(encoder_hidden_size=v.hidden_size, queries=c.num_query_tokens), "qformer")
    project = Linear("language_projection", q.hidden_size, t.get("hidden_size") or t.d_model, bias=True)
    parts = (tower(v, "vision_model"), queries, former, project)
    images = QueriedImages("", parts, image(v), c.num_query_tokens, scattered=scattered)
    head = t.traits.causal_class or "ForConditionalGeneration"
    language = model_of(t.but(architectures=[head]))
    kind = "causal-lm" if t.traits.causal_class else "seq2seq"
    body = sequence(images, replace(under("language_model", language.body), registered=language.registered))
    return Model(body, kind, language.context, loss_fp32=language.loss_fp32)  # type: ignore[arg-type]


@architecture("blip_2_qformer")
def qformer(c: Dimensions) -> Model:
    """BERT layers over the queries; every `cross_attention_frequency`-th attends to the image too."""
    crossed, plain = _qformer_layer(c, cross=True), _qformer_layer(c, cross=False)
    layers = [plain if i % c.cross_attention_frequency else crossed for i in range(c.num_hidden_layers)]
    start = Norm("layernorm", c.hidden_size, "layer")
    return Model(sequence(start, bert_dropout(c), sequence(stack("layer", layers), name="encoder")), "encoder")


@architecture("instructblip_qformer")
def instructed(c: Dimensions) -> Model:
    """The same with the instruction's tokens behind the queries, and an MLP of their own in every layer."""
    hidden = c.hidden_size
    words = Embedding("word_embeddings", c.vocab_size, hidden)
    places = Embedding("position_embeddings", c.max_position_embeddings, hidden, index="positions")
    start = InstructedStart("embeddings", words, places, Norm("layernorm", hidden, "layer"), bert_dropout(c))
    crossed, plain = _instructed_layer(c, cross=True), _instructed_layer(c, cross=False)
    layers = [plain if i % c.cross_attention_frequency else crossed for i in range(c.num_hidden_layers)]
    return Model(sequence(start, sequence(stack("layer", layers), name="encoder")), "encoder")


def _instructed_layer(c: Dimensions, *, cross: bool) -> Block:
    first = post_norm(c, _qformer_attention(c, "attention", c.hidden_size), "attention.output.LayerNorm")
    crossing = _qformer_attention(c, "crossattention", c.encoder_hidden_size, cross=True)
    return InstructedLayer(
        "", c.queries, first, post_norm(c, crossing, "crossattention.output.LayerNorm") if cross else None,
        post_norm(c, _feed(c, ""), "output.LayerNorm"), post_norm(c, _feed(c, "_query"), "output_query.LayerNorm"),
    )  # fmt: skip


def _qformer_layer(c: Dimensions, *, cross: bool) -> Block:
    text = (post_norm(c, _feed(c, ""), "output.LayerNorm"),) if c.use_qformer_text_input else ()
    crossing = _qformer_attention(c, "crossattention", c.encoder_hidden_size, cross=True)
    return sequence(
        post_norm(c, _qformer_attention(c, "attention", c.hidden_size), "attention.output.LayerNorm"),
        post_norm(c, crossing, "crossattention.output.LayerNorm") if cross else None,
        *text, post_norm(c, _feed(c, "_query"), "output_query.LayerNorm"),
    )  # fmt: skip


def _feed(c: Dimensions, end: str) -> Mlp:
    up = Linear(f"intermediate{end}.dense", c.hidden_size, c.intermediate_size, bias=True)
    down = Linear(f"output{end}.dense", c.intermediate_size, c.hidden_size, bias=True)
    return Mlp("", up, down, activation=c.hidden_act, width=c.intermediate_size)


def _qformer_attention(c: Dimensions, name: str, source: int, *, cross: bool = False) -> Attention:
    hidden, heads = c.hidden_size, c.num_attention_heads
    return Attention(
        name, heads, heads, hidden // heads,
        q=Linear("attention.query", hidden, hidden, bias=True),
        k=Linear("attention.key", source, hidden, bias=True),
        v=Linear("attention.value", source, hidden, bias=True),
        out=Linear("output.dense", hidden, hidden, bias=True),
        causal=False, cross=cross, dropout=float(c.attention_probs_dropout_prob), softmax="scores",
    )  # fmt: skip


@architecture("blip")
def blip(c: Dimensions) -> Model:
    """A BERT that writes and attends to the image's tokens (captioning)."""
    if not class_name(c).endswith("ForConditionalGeneration"):
        raise unknown_class(c)
    v, t = c.vision_config, c.text_config.but(add_cross_attention=True, encoder_hidden_size=c.vision_config.hidden_size)
    images = AttendedImages("", (tower(v, "vision_model"),), image(v), 0, scattered=True)
    tie = bool(c.tie_word_embeddings or t.tie_word_embeddings)
    text = under("text_decoder", sequence(_text(t), _text_head(t, tied=tie)))
    return Model(sequence(images, text), "causal-lm", t.max_position_embeddings, loss_fp32=False)


@architecture("blip_text_model")
def blip_text(c: Dimensions) -> Model:
    """The decoder by itself: without an image its cross attention is passed over (BlipTextLayer.forward)."""
    if not class_name(c).endswith("LMHeadModel"):
        raise unknown_class(c)
    body = sequence(_text(c.but(add_cross_attention=True), alone=True), _text_head(c, tied=bool(c.tie_word_embeddings)))
    return Model(body, "causal-lm", c.max_position_embeddings, loss_fp32=False)


def _text(t: Dimensions, *, alone: bool = False) -> Sequence:
    """BERT without token types, every layer with cross attention to the image's states."""
    words = Embedding("word_embeddings", t.vocab_size, t.hidden_size)
    places = Embedding("position_embeddings", t.max_position_embeddings, t.hidden_size, index="positions")
    start = sequence(
        Sum("", (words, places)), Norm("LayerNorm", t.hidden_size, "layer"), bert_dropout(t), name="embeddings"
    )
    return sequence(
        start, sequence(repeat("layer", t.num_hidden_layers, _text_layer(t, alone=alone)), name="encoder"), name="bert"
    )


def _text_layer(t: Dimensions, *, alone: bool) -> Sequence:
    """A layer whose attentions are never fused, keys and values of the second of the image's width."""
    layer, wide = post_norm_layer(t, self_attention(t, **_EAGER)), t.encoder_hidden_size
    cross = self_attention(t, "crossattention", cross=True, **_EAGER)
    cross = replace(cross, k=Linear("self.key", wide, t.hidden_size, bias=True),
                    v=Linear("self.value", wide, t.hidden_size, bias=True))  # fmt: skip
    first, _, last = layer.blocks
    crossed = post_norm(t, cross, "crossattention.output.LayerNorm")
    return sequence(first, Unused("", (crossed,)) if alone else crossed, last)


_EAGER: dict[str, Any] = {"eager_only": True, "formula": "rembert"}


def _text_head(t: Dimensions, *, tied: bool) -> Sequence:
    """BERT's language head; its bias stands beside it and is shared."""
    hidden = t.hidden_size
    words, shared = ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias") if tied else ("", "")
    change = sequence(Linear("dense", hidden, hidden, bias=True), Activation("", t.hidden_act),
                      Norm("LayerNorm", hidden, "layer"), name="transform")  # fmt: skip
    decoder = Linear("decoder", hidden, t.vocab_size, bias=True, tied_to=words, bias_tied_to=shared)
    return sequence(Raw("bias", (t.vocab_size,)), change, decoder, ShiftedLogits(""), name="cls.predictions")
