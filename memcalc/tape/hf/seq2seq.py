"""Encoder-decoders: two stacks, of which the second reads what the first yields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Stack
from memcalc.blocks.seq2seq import (
    Aside,
    Bridge,
    Decoder,
    Encoder,
    Fork,
    HalfClamp,
    LogitsBias,
    Shared,
    Sinusoids,
    Surrounded,
    Unembed,
)
from memcalc.tape import functions as f
from memcalc.tape.hf.combinators import sequence
from memcalc.tape.hf.layers import stage, under_name
from memcalc.tape.hf.surroundings import prepare
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Shared)
def shared(_: Tape, block: Shared, x: Value, around: Around) -> Value:
    """A table that encoder and decoder read under names of their own."""
    return x


@rule(Encoder)
def encoder(t: Tape, block: Encoder, x: Value, around: Around) -> Value:
    """T5Stack.forward over the source."""
    inner = Around()
    inner.holds, inner.sight = True, around.sight
    around.encoder = through(t, block, x, inner)
    around.named += inner.named  # images, which have a name beside the encoder
    if t.setting.keep_outputs:  # encoder_last_hidden_state
        t.outputs.append(around.encoder)
    if inner.outputs:  # hidden states: the last one is what the encoder yields
        around.outputs = [*inner.outputs[:-1], around.encoder]
    gone(t.held)
    return around.encoder


@rule(Decoder)
def decoder(t: Tape, block: Decoder, x: Value, around: Around) -> Value:
    """T5Stack.forward over the target, the labels shifted by one."""
    inner = Around()
    if t.target is not None and around.encoder is not None and x.storage is around.encoder.storage:
        around.encoder = x  # as the encoder's module has put it out
    inner.encoder, inner.follows, inner.holds = around.encoder, around.encoder is not None, True
    t.prefix, t.waiting = t.waiting or t.prefix, []
    return through(t, block, t.target or x, inner)


def through(t: Tape, block: Encoder | Decoder, x: Value, around: Around) -> Value:
    """One block after the other; what the layers are given goes with the first that has read it, whose output takes its name."""
    for part in block.blocks:
        given = [x]
        del x
        x = under_name(t, part, given, around) if part.__class__ is Stack else run(t, part, given.pop(), around)
        if t.prefix and block.__class__ is Encoder and t.target is not None:
            t.prefix, t.waiting = [], t.prefix
    gone(around.summed)
    return x


@rule(Aside)
def aside(t: Tape, block: Aside, x: Value, around: Around) -> Value:
    """BertPooler.forward in BertModel.forward."""
    around.outputs += [sequence(t, block, x, Around())]
    return x


@rule(Bridge)
def bridge(t: Tape, block: Bridge, x: Value, around: Around) -> Value:
    """encoder_hidden_states = self.enc_to_dec_proj(encoder_hidden_states) (EncoderDecoderModel.forward)."""
    around.outputs += [around.encoder] if around.encoder else []
    around.encoder = sequence(t, block, x, Around())
    return around.encoder


@rule(Surrounded)
def surrounded(t: Tape, block: Surrounded, x: Value, around: Around) -> Value:
    """RemBertModel.forward, which makes the mask, then RemBertEncoder.forward, whose layers' outputs take their input's name."""
    prepare(t, block, x, around)
    return stage(t, block, x, around)


@rule(Fork)
def fork(t: Tape, block: Fork, x: Value, around: Around) -> Value:
    """Branches that each yield an output of the model; the first is what the loss reads."""
    outputs = [run(t, branch, x, around) for branch in block.branches]
    return outputs[0]


@rule(Unembed)
def unembed(t: Tape, block: Unembed, x: Value, _: Around) -> Value:
    """torch.matmul(hidden_states, word_embeddings.weight.t()) + bias (DebertaLMPredictionHead.forward)."""
    weight = t.weight("weight", (block.outputs, block.inputs), block.tied_to)
    out = f.linear(x, weight)
    return f.add(out, t.weight("bias", (block.outputs,))) if block.bias else out


@rule(HalfClamp)
def half_clamp(t: Tape, block: HalfClamp, x: Value, around: Around) -> Value:
    """The end of MBartEncoderLayer.forward, of T5Block.forward's parts, of BartEncoderLayer.forward."""
    if x.dtype != "fp16":
        return x
    if block.how == "clamp":
        return f.clamp(x)
    with t.no_grad():
        if block.how == "tensors":
            f.compare(x)  # isinf
        else:
            f.maximum(f.compare(f.scale(x)), f.compare(x))  # isfinite: (x.abs() != inf) * (x == x)
    return f.clamp(x) if block.how == "tensors" else x


@rule(LogitsBias)
def logits_bias(t: Tape, block: LogitsBias, x: Value, _: Around) -> Value:
    """lm_logits + final_logits_bias (BartForConditionalGeneration.forward)."""
    return f.add(x, t.weight("", block.shape))


@rule(Sinusoids, "ctrl")
def scaled_and_placed(t: Tape, block: Sinusoids, x: Value, around: Around) -> Value:
    """CTRLModel.forward: embeddings scaled in place, rows of a table, and zeros for the token types (modeling_ctrl.py)."""
    around.positions = t.new((1, x.shape[1]), "int64")
    x = f.scale_(x)
    table = t.given((block.rows, block.width), t.setting.weights, ".pos_encoding")
    rows = f.index(table, around.positions, (1, x.shape[1], block.width))
    t.held += (x, rows)
    return f.shift(f.add(x, rows))


@rule(Sinusoids)
def sinusoids(t: Tape, block: Sinusoids, x: Value, _: Around) -> Value:
    """M2M100SinusoidalPositionalEmbedding.forward: rows of a table, for the position of each token; XGLM's, for all."""
    table = t.given((block.rows, block.width), t.setting.weights, "weights")
    batch, seq = x.shape[:2]
    if block.shared:
        return f.index(table, f.shift(t.new((1, seq), "int64")), (1, seq, block.width))
    mask = t.new((batch, seq), "int32")
    places = f.shift(f.to(f.mul(f.to(f.scale(mask), "int32"), mask), "int64"))
    del mask
    with t.no_grad():
        return f.gather(table, places, (batch, seq, block.width))


@rule(Attention, "fsmt")
def fsmt_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """Attention.forward of [seq, batch, width], heads folded into the batch (modeling_fsmt.py)."""
    s, b, width = x.shape
    n, read = block.heads, f.transpose(around.encoder, 0, 1) if block.cross and around.encoder else x
    k, v = run(t, block.k, read, around), run(t, block.v, read, around)
    k, v = (f.permute(f.view(part, -1, b, n, block.head_dim), 1, 2, 0, 3) for part in (k, v))
    q = f.scale(run(t, block.q, x, around))
    q = f.transpose(f.view(q, -1, b * n, block.head_dim), 0, 1)
    k, v = (f.reshape(part, b * n, -1, block.head_dim) for part in (k, v))
    weights = f.bmm(f.lower(q), f.lower(f.swap(k)))
    mask = None if block.cross else around.mask(block.window)
    if mask is not None:
        weights = f.view(f.add(f.view(weights, b, n, s, -1), mask), b * n, s, -1)
    weights = f.softmax(weights)
    dropped = f.dropout(weights, block.dropout)
    out = f.bmm(f.lower(dropped), f.lower(v))
    out = f.view(f.contiguous(f.transpose(out, 0, 1)), s, b, width)
    return run(t, block.out, out, around)


def triangle(t: Tape, block: Attention, x: Value) -> Value | None:
    """_prepare_fsmt_decoder_inputs: a mask [seq, seq] of what comes later, none for the encoder."""
    if not block.causal:
        return None
    zeros = t.new((x.shape[0], x.shape[0]), t.setting.weights)
    filled = f.to(zeros, "fp32")
    back = f.to(filled, t.setting.weights)
    return f.scale(back)
