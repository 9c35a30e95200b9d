"""Switch Transformers: T5 whose feed-forward is a mixture of experts in every few layers (Fedus et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.heads import choose, kind, task
from memcalc.architectures.t5 import attention, norm
from memcalc.blocks.base import Block, Sequence, Stack, residual, sequence, stack
from memcalc.blocks.basic import Dropout, Embedding, Linear, Scale
from memcalc.blocks.mlp import Mlp, Moe
from memcalc.blocks.seq2seq import Decoder, Encoder, Shared
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.architectures.heads import Heads
    from memcalc.dimensions import Dimensions


@architecture("switch_transformers")
def switch_transformers(c: Dimensions) -> Model:
    """Each sparse layer sends a token to one expert."""
    table = "shared.weight" if c.tie_word_embeddings else ""
    shared = Shared("shared", c.vocab_size, c.d_model)
    encoder = Encoder("encoder", _stack(c, table, _layers(c, decoder=False)))
    decoder = Decoder("decoder", _stack(c, table, _layers(c, decoder=True)))
    heads: Heads = {
        "Model": (shared, encoder, decoder),
        "EncoderModel": (shared, encoder),
        "ForConditionalGeneration": (
            shared,
            encoder,
            decoder,
            Scale(""),
            Linear("lm_head", c.d_model, c.vocab_size, tied_to=table),
        ),
    }
    what = "encoder" if task(c).endswith("Model") else kind(task(c))
    return Model(sequence(*choose(c, heads)), kind=what, loss_fp32=False)


def _drop(c: Dimensions) -> Dropout:
    return Dropout("", float(c.dropout_rate))


def _stack(c: Dimensions, table: str, layers: Stack) -> tuple[Block, ...]:
    words = Embedding("embed_tokens", c.vocab_size, c.d_model, tied_to=table)
    return (words, _drop(c), layers, norm(c, "final_layer_norm"), _drop(c))


def _layers(c: Dimensions, *, decoder: bool) -> Stack:
    """The first layer looks up the position biases; layers 1, 1 + step, … are sparse."""
    count = c.num_decoder_layers if decoder else c.num_layers
    sparse = c.num_sparse_decoder_layers if decoder else c.num_sparse_encoder_layers
    step = c.get("decoder_sparse_step" if decoder else "encoder_sparse_step", count // sparse if sparse > 0 else count)
    kinds = [(i == 0, step > 0 and (i % step == 1 or step == 1)) for i in range(count)]
    made = {kind: _layer(c, decoder=decoder, table=kind[0], sparse=kind[1]) for kind in set(kinds)}
    return stack("block", [made[kind] for kind in kinds])


def _layer(c: Dimensions, *, decoder: bool, table: bool, sparse: bool) -> Sequence:
    mixers = [attention(c, "SelfAttention", causal=decoder, table=table)]
    if decoder:
        mixers.append(attention(c, "EncDecAttention", cross=True))
    parts = (*mixers, _moe(c) if sparse else _feed_forward(c, "mlp"))
    return sequence(
        *(Sequence(f"layer.{i}", (residual(norm(c, "layer_norm"), part, _drop(c)),)) for i, part in enumerate(parts))
    )


def _feed_forward(c: Dimensions, name: str) -> Mlp:
    up, down = Linear("wi", c.d_model, c.d_ff), Linear("wo", c.d_ff, c.d_model)
    return Mlp(name, up, down, activation=c.dense_act_fn, width=c.d_ff, dropout=float(c.dropout_rate))


def _moe(c: Dimensions) -> Moe:
    """One expert of many, each an MLP of its own (SwitchTransformersSparseMLP)."""
    router = Linear("router.classifier", c.d_model, c.num_experts, bool(c.router_bias))
    experts = tuple(_feed_forward(c, f"expert_{i}") for i in range(c.num_experts))
    return Moe(
        "mlp", router, Sequence("experts", experts), top_k=1, formula="switch", capacity=int(c.get("expert_capacity", 64)),
        jitter=float(c.get("router_jitter_noise", 0.01)),
    )  # fmt: skip
