"""BART and its kin: encoder-decoders that differ in where norms stand and how positions are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from memcalc.architectures import architecture
from memcalc.architectures.heads import channels, choose, kind, labels, task
from memcalc.architectures.seq2seq import attention, decoder_layer, dropout, encoder_layer, norm
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Stack, Sum, Unused, repeat, sequence
from memcalc.blocks.basic import Activation, Dropout, Embedding, Linear, Select
from memcalc.blocks.seq2seq import Decoder, Encoder, LogitsBias, Shared, Sinusoids
from memcalc.blocks.sparse import CutBack, PadToWindow
from memcalc.dataclass import dataclass
from memcalc.errors import fault
from memcalc.model import Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.architectures.heads import Heads
    from memcalc.blocks.basic import Index
    from memcalc.dimensions import Dimensions


@dataclass(frozen=True)
class Style:
    """What tells the families apart.

    `pre_norm`: norms stand before attention and feed-forward, not after. `first_norm` and `last_norm` name a norm of
    the embeddings and one behind the layers. `positions` are learned, or sinusoidal tables that are parameters
    ('fixed'), or made on the way ('computed'); `offset` rows come before the first. `logits_bias`: a buffer added to
    the logits. `labels` of a classifier whose config gives none; `ties_alone`: the decoder alone ties its head too. `head`
    is the name of that. `scales_outside`: the model scales what its table yields (others: BartScaledWordEmbedding).
    `shared_places`: all sequences of the target read the same positions, though those of the source have their own.
    The encoder's tokens are padded to a multiple of its `window`.
    """

    pre_norm: bool = False
    first_norm: str = ""
    last_norm: str = ""
    positions: Literal["learned", "fixed", "computed"] = "learned"
    offset: int = 0
    logits_bias: bool = True
    labels: int = 2
    ties_alone: bool = True
    window: int = 0
    head: str = "lm_head"
    scales_outside: bool = False
    shared_places: bool = False


@architecture("bart")
def bart(c: Dimensions) -> Model:
    """Encoder and decoder over one shared table; norms behind what they norm (Lewis et al. 2019)."""
    return _bart(c, Style(first_norm="layernorm_embedding", offset=2, labels=3, shared_places=True))


@architecture("mvp")
def mvp(c: Dimensions) -> Model:
    """BART pre-trained on many tasks of generation, without its prompts (Tang et al. 2022)."""
    if c.get("use_prompt"):
        raise fault("model.use_prompt", "layer-wise prompts are not known; set it to false")
    return _bart(c, Style(first_norm="layernorm_embedding", offset=2, scales_outside=True))


@architecture("plbart")
def plbart(c: Dimensions) -> Model:
    """BART of programs (Ahmad et al. 2021)."""
    return _bart(c, Style(first_norm="layernorm_embedding", offset=2, shared_places=True))


@architecture("mbart")
def mbart(c: Dimensions) -> Model:
    """BART of many languages, norms before what they norm and one behind all (Liu et al. 2020)."""
    first, last = "layernorm_embedding", "layer_norm"
    return _bart(c, Style(pre_norm=True, first_norm=first, last_norm=last, offset=2, shared_places=True))


@architecture("pegasus")
def pegasus(c: Dimensions) -> Model:
    """Pre-norm layers over sinusoids (Zhang et al. 2019)."""
    return _bart(c, Style(pre_norm=True, last_norm="layer_norm", positions="fixed", scales_outside=True))


@architecture("marian")
def marian(c: Dimensions) -> Model:
    """Post-norm layers over sinusoids (Junczys-Dowmunt et al. 2018)."""
    return _bart(c, Style(positions="fixed", scales_outside=True))


@architecture("m2m_100")
def m2m_100(c: Dimensions) -> Model:
    """Pre-norm layers over sinusoids made on the way (Fan et al. 2020)."""
    return _bart(c, Style(pre_norm=True, last_norm="layer_norm", positions="computed", logits_bias=False))


@architecture("blenderbot")
def blenderbot(c: Dimensions) -> Model:
    """Pre-norm layers over learned positions (Roller et al. 2020)."""
    return _bart(c, Style(pre_norm=True, last_norm="layer_norm"))


@architecture("blenderbot-small")
def blenderbot_small(c: Dimensions) -> Model:
    """The first Blender's post-norm layers (Roller et al. 2020)."""
    return _bart(c, Style(first_norm="layernorm_embedding", scales_outside=True))


@architecture("bigbird_pegasus")
def bigbird_pegasus(c: Dimensions) -> Model:
    """Pegasus whose encoder sees blocks; its layers' MLP has no dropout inside (Zaheer et al. 2020)."""
    style = Style(pre_norm=True, last_norm="layernorm_embedding", ties_alone=False)
    return _bart(c, style, c.but(activation_dropout=0.0))


def _bart(c: Dimensions, style: Style, inside: Dimensions | None = None) -> Model:
    """Of this style, its encoder's layers of `inside` where they differ from the rest."""
    return seq2seq(c, style, lambda: repeat(
        "layers", c.encoder_layers, encoder_layer(inside or c, _mixer(c), pre_norm=style.pre_norm)
    ))  # fmt: skip


def seq2seq(c: Dimensions, style: Style, layers: Callable[[], Stack], prefix: str = "model", context: int = 0) -> Model:
    """A model with these encoder layers, unless its class is the decoder alone, and BART's decoder, under its head."""
    name = task(c)
    inside = "" if name == "Model" else f"{prefix}."
    table = _shared(c, inside)
    if name == "ForCausalLM":
        own = f"{inside}decoder.embed_tokens.weight" if style.ties_alone else ""
        rows = _target_vocabulary(c) if own and c.tie_word_embeddings else c.vocab_size
        alone = decoder(c, style, inside, "", alone=not c.get("reads_encoder"))
        body: tuple[Block | None, ...] = (alone, _lm_head(c, style, own, rows))
    else:
        base = (table, encoder(c, style, inside, layers()), decoder(c, style, inside, _table_name(c, inside)))
        body = (*base, *choose(c, _heads(c, style, inside)))
    context = context or c.max_position_embeddings
    return Model(sequence(*body), kind="encoder" if name == "Model" else kind(name), context=context, loss_fp32=False)


@architecture("trocr")
def trocr(c: Dimensions) -> Model:
    """BART's decoder over what an encoder of images has seen (Li et al. 2021); it stands under the name of a whole model."""
    learned = c.use_learned_position_embeddings
    style = Style(
        first_norm="layernorm_embedding" if c.layernorm_embedding else "", offset=2 if learned else c.pad_token_id + 1,
        positions="learned" if learned else "computed", head="output_projection",
    )  # fmt: skip
    named = c.but(architectures=["TrOCRForCausalLM"])
    return seq2seq(named, style, lambda: Stack(""))


def _shared(c: Dimensions, prefix: str) -> Block | None:
    """The table that both read; where nothing is tied to it, nobody does."""
    if not c.get("share_encoder_decoder_embeddings", True):
        return None
    table = Shared(f"{prefix}shared", c.vocab_size, c.d_model)
    return table if _table_name(c, prefix) else Unused("", (table,))


def _table_name(c: Dimensions, prefix: str) -> str:
    """What the tables of encoder and decoder are tied to; '' where each has its own."""
    tied = c.tie_word_embeddings and c.get("share_encoder_decoder_embeddings", True)
    return f"{prefix}shared.weight" if tied else ""


def encoder(c: Dimensions, style: Style, prefix: str, layers: Stack) -> Encoder:
    """Embeddings, layers, and a norm behind them where the style has one."""
    words = _words(c, style, c.vocab_size, _table_name(c, prefix))
    rows = c.get("max_encoder_position_embeddings") or c.max_position_embeddings
    blocks = (*_embeddings(c, style, words, rows), layers, *_last(c, style))
    if c.get("attention_type") == "block_sparse":
        over = (5 + 2 * c.num_random_blocks) * c.block_size
        blocks = (PadToWindow("", c.block_size, over), *blocks, CutBack(""))
    if style.window:
        blocks = (PadToWindow("", style.window), *blocks, CutBack(""))
    return Encoder(f"{prefix}encoder", blocks)


def decoder(c: Dimensions, style: Style, prefix: str, tied_to: str, *, alone: bool = False) -> Decoder:
    """As the encoder, with causal and cross attention, idle where it is `alone`; Marian's may have its own vocabulary."""
    bias = bool(c.get("use_bias", True))
    heads = c.decoder_attention_heads
    mixer = attention(c, "self_attn", heads, causal=True, bias=bias, padded=True)
    cross = attention(c, "encoder_attn", heads, cross=True, bias=bias)
    layer = decoder_layer(c, mixer, cross, pre_norm=style.pre_norm, alone=alone)
    words = _words(c, style, c.vocab_size if tied_to else _target_vocabulary(c), tied_to)
    rows = c.get("max_decoder_position_embeddings") or c.max_position_embeddings
    layers = repeat("layers", c.decoder_layers, layer)
    return Decoder(f"{prefix}decoder", (*_embeddings(c, style, words, rows, target=True), layers, *_last(c, style)))


def _words(c: Dimensions, style: Style, rows: int, tied_to: str) -> Embedding:
    outside = style.scales_outside
    return Embedding("embed_tokens", rows, c.d_model, tied_to=tied_to, scaled=not outside, scaled_outside=outside)


def _target_vocabulary(c: Dimensions) -> int:
    return int(c.get("decoder_vocab_size") or c.vocab_size)


def _embeddings(c: Dimensions, style: Style, words: Embedding, rows: int, *, target: bool = False) -> tuple[Block, ...]:
    """Words + positions, a norm where the style has one, dropout."""
    learned = style.positions == "learned"
    index: Index = "token-positions" if style.offset and not (target and style.shared_places) else "positions"
    places: Block = Embedding("embed_positions", rows + style.offset, c.d_model, learned, index=index)
    if style.positions == "computed":
        places = Sinusoids("embed_positions", rows + 2, c.d_model)
    first = (norm(c, style.first_norm),) if style.first_norm else ()
    return (Sum("", (words, places)), *first, dropout(c))


def _last(c: Dimensions, style: Style) -> tuple[Block, ...]:
    return (norm(c, style.last_norm),) if style.last_norm else ()


def _mixer(c: Dimensions) -> Attention:
    """The encoder's attention; BigBird-Pegasus sees blocks: local, global and random ones (Zaheer et al. 2020)."""
    heads, width, sparse = c.encoder_attention_heads, c.d_model, c.get("attention_type")
    if sparse is None:
        return attention(c, "self_attn", heads)
    bias = bool(c.use_bias)
    return Attention(
        "self_attn", heads, heads, channels(width, heads, "encoder_attention_heads"),
        q=Linear("self.query", width, width, bias), k=Linear("self.key", width, width, bias),
        v=Linear("self.value", width, width, bias), out=Linear("output", width, width, bias),
        causal=False, dropout=float(c.attention_dropout), softmax="scores", eager_only=True,
        padded=sparse == "original_full", window=c.block_size if sparse == "block_sparse" else 0,
        group=c.num_random_blocks if sparse == "block_sparse" else 0,
        formula="big-bird" if sparse == "block_sparse" else "rembert",
    )  # fmt: skip


def _heads(c: Dimensions, style: Style, prefix: str) -> Heads:
    """The heads; a translation model's (…MTModel) is that of conditional generation."""
    shared = c.get("share_encoder_decoder_embeddings", True)
    hidden, rows = c.d_model, c.vocab_size if shared else _target_vocabulary(c)
    head = _lm_head(c, style, f"{prefix}shared.weight" if shared else f"{prefix}decoder.embed_tokens.weight", rows)
    lm = (head, LogitsBias("final_logits_bias", (1, rows), buffer=True)) if style.logits_bias else (head,)
    drop = Dropout("", float(c.get("classifier_dropout", 0.0)))
    dense, out = (
        Linear("dense", hidden, hidden, bias=True),
        Linear("out_proj", hidden, labels(c, style.labels), bias=True),
    )
    classify = sequence(Select("", "last"), drop, dense, Activation("", "tanh"), drop, out, name="classification_head")
    return {
        "Model": (),
        "ForConditionalGeneration": lm,
        "MTModel": lm,
        "ForSequenceClassification": (classify,),
        "ForQuestionAnswering": (Linear("qa_outputs", hidden, 2, bias=True),),
    }


def _lm_head(c: Dimensions, style: Style, table: str, rows: int) -> Linear:
    return Linear(style.head, c.d_model, rows, tied_to=table if c.tie_word_embeddings else "")
