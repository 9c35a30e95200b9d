"""T5Gemma 2: Gemma 3 made an encoder-decoder that sees, whose decoder attends to itself and the source at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, gated_mlp, head_dim, interleaved, layer_kinds, window
from memcalc.architectures.gemma import norm
from memcalc.architectures.heads import choose, kind, labels, task
from memcalc.architectures.multimodal import tower
from memcalc.architectures.vision import grid, image
from memcalc.blocks.base import residual, sequence
from memcalc.blocks.basic import Dropout, Linear, Select, Softcap
from memcalc.blocks.image import Aside
from memcalc.blocks.multimodal import Images, MarkedEmbedding, Matrix, PooledTokens
from memcalc.blocks.seq2seq import Decoder, Encoder
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.blocks.base import Block, Sequence
    from memcalc.dimensions import Dimensions


@architecture("t5gemma2")
def t5gemma2(c: Dimensions) -> Model:
    """Encoder and decoder with one table of tokens, and dropouts in common (Zhang et al. 2025)."""
    prefix = "" if task(c).endswith("Model") else "model."
    shared = {"dropout_rate": c.dropout_rate, "attention_dropout": c.attention_dropout}
    source, target = c.encoder.text_config.but(**shared), c.decoder.but(**shared)
    first, second = f"{prefix}encoder.text_model", f"{prefix}decoder"
    tie = f"{first}.embed_tokens" if c.tie_word_embeddings else ""
    body = (
        _images(
            c.encoder.but(vision_config=c.encoder.vision_config.but(attention_dropout=c.attention_dropout)), prefix
        ),
        Encoder(first, _stack(source, reads=False)),
        Decoder(second, _stack(target, reads=True, tied=tie)),
    )
    what = "encoder" if task(c).endswith("Model") else kind(task(c))
    heads = _heads(c, target, f"{tie}.weight" if tie else "")
    return Model(sequence(*body, *choose(c, heads)), kind=what, context=target.max_position_embeddings)


def _heads(c: Dimensions, target: Dimensions, tied: str) -> Heads:
    cap = float(target.get("final_logit_softcapping") or 0.0)
    head = Linear("lm_head.out_proj", target.hidden_size, target.vocab_size, tied_to=tied)
    score = Linear("score.out_proj", target.hidden_size, labels(c), bias=True)
    scores = Dropout("", float(c.classifier_dropout_rate)), score
    return {
        "Model": (),
        "ForConditionalGeneration": (head, *((Softcap("", cap),) if cap else ())),
        "ForSequenceClassification": (*scores, Select("", "last")),
        "ForTokenClassification": scores,
    }


def _images(c: Dimensions, prefix: str) -> Images:
    """Gemma 3's: SigLIP's image tokens pooled, normed and projected."""
    v, side = c.vision_config, int(grid(c.vision_config) ** 0.5)
    pool = PooledTokens("", side, side // int(c.mm_tokens_per_image**0.5))
    weight = Matrix("mm_input_projection_weight", (v.hidden_size, c.text_config.hidden_size))
    into = sequence(pool, norm(v, "mm_soft_emb_norm"), weight, name=f"{prefix}encoder.multi_modal_projector")
    seen = tower(v, f"{prefix}encoder.vision_tower")
    # what pools the tower's tokens does so for nobody
    kept = tuple(Aside("", (block,)) if block.name == "head" else block for block in seen.blocks)
    read = replace(seen, blocks=kept), into
    return Images("", read, image(v), c.mm_tokens_per_image, scattered=True, returned=False)


def _stack(c: Dimensions, *, reads: bool, tied: str = "") -> tuple[Block, ...]:
    """Scaled embeddings, dropout, layers, norm, dropout; `reads` where they read a source, too."""
    words = MarkedEmbedding("embed_tokens", c.vocab_size, c.hidden_size, scaled=True, tied_to=tied)
    period = c.get("sliding_window_pattern", 6)
    kinds = layer_kinds(c, lambda i: "sliding_attention" if (i + 1) % period else "full_attention")
    layers = interleaved("layers", kinds, lambda each: _layer(c, each, reads=reads))
    drop = Dropout("", float(c.dropout_rate))
    return words, drop, layers, norm(c, "norm"), drop


def _layer(c: Dimensions, each: str, *, reads: bool) -> Sequence:
    """x + dropout(norm(block(norm(x)))), of attention and of an MLP."""
    dim, local, drop = head_dim(c), each == "sliding_attention", Dropout("", float(c.dropout_rate))
    mixer = attention(
        c, bias=bool(c.attention_bias), window=window(c) if local else 0, causal=reads, heads_first=True,
        q_norm=norm(c, "q_norm", dim), k_norm=norm(c, "k_norm", dim), rotary_kind=each,
        formula="merged" if reads else "", padded="always" if local and not reads else False,
    )  # fmt: skip
    mlp = replace(gated_mlp(c), dropout=float(c.dropout_rate))
    return sequence(
        residual(norm(c, "pre_self_attn_layernorm"), mixer, norm(c, "post_self_attn_layernorm"), drop),
        residual(norm(c, "pre_feedforward_layernorm"), mlp, norm(c, "post_feedforward_layernorm"), drop),
    )
