"""Image and text encoders trained against each other: both towers, the cosines of their outputs, and the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.blocks.sounds import Heard
from memcalc.blocks.vocabulary import OpenDetector
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Sequence
    from memcalc.blocks.basic import Raw
    from memcalc.blocks.seq2seq import Fork
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def contrast(t: Tape, model: Model) -> tuple[Value, Value]:
    """CLIPModel.forward, SiglipModel.forward with return_loss: (loss, cosines)."""
    if isinstance(model.body, OpenDetector):
        from memcalc.tape.hf.vocabulary import look  # noqa: PLC0415 - few models look for what texts name

        return look(t, model)
    fork, *raws = model.body.parts()
    words, pixels = cast("Fork", fork).branches
    s = t.setting
    ids, image = t.given((s.batch, s.seq), "int64"), t.given((s.batch, *model.image), s.weights)
    seen, read = tower(t, pixels, image), tower(t, words, ids)
    if isinstance(fork, Heard):
        from memcalc.tape.hf.sounds import compared  # noqa: PLC0415 - few models hear

        return compared(t, read[0], seen[0])
    images, texts = unit(seen[0]), unit(read[0])
    learned = [t.weight(raw.name, cast("Raw", raw).shape) for raw in raws]
    cosines = f.matmul(texts, f.swap(images))
    cosines = f.mul(cosines, f.exp(learned[0]))
    if len(learned) > 1:
        cosines = f.add(cosines, learned[1])
        return pairwise_sigmoid(t, cosines), cosines
    return softmax_both_ways(t, cosines), cosines


def tower(t: Tape, block: Block, x: Value) -> tuple[Value, Value]:
    """(what it yields of each sample, its last hidden state, which stays among the model's outputs)."""
    around, last = Around(), x
    for part in _flat(block):
        x = run_at(t, part, x, around)
        last = x if len(x.shape) > 2 and x.shape[1] > 1 else last
    t.held.clear()
    last = around.outputs[-1] if around.outputs else last
    if t.setting.keep_outputs:  # text_model_output, vision_model_output
        t.outputs += (x, last)
    return x if len(x.shape) == 2 else f.reshape(x, x.shape[0], -1), last


def _flat(block: Block, path: str = "") -> list[tuple[str, Block]]:
    """The parts of a tower one by one, each with the path of what it lies in."""
    kept = block.name in ("head", "embeddings", "encoder")
    if kept or type(block).__name__ != "Sequence":
        return [(path, block)]
    inner = f"{path}.{block.name}".strip(".")
    return [found for part in cast("Sequence", block).blocks for found in _flat(part, inner)]


def run_at(t: Tape, place: tuple[str, Block], x: Value, around: Around) -> Value:
    """A block by the rule of its kind, under a path."""
    before, (t.path, block) = t.path, place
    out = run(t, block, x, around)
    t.path = before
    return out


def unit(x: Value) -> Value:
    """x / its length: _get_vector_norm (modeling_clip.py)."""
    square = f.square(x)
    total = f.total(square, -1, keep=True)
    del square
    return f.div(x, f.square(total))


def softmax_both_ways(t: Tape, cosines: Value) -> Value:
    """image_text_contrastive_loss: cross entropy of the rows, and of the columns."""
    first = f.cross_entropy(cosines, t.new((cosines.shape[0],), "int64"))
    second = f.cross_entropy(f.swap(cosines), t.new((cosines.shape[0],), "int64"))
    return f.scale(f.add(first, second))


def pairwise_sigmoid(t: Tape, cosines: Value) -> Value:
    """SiglipModel.forward: the log-sigmoid of every pair, with its sign."""
    eye = t.new(cosines.shape, "fp32")
    signs = f.add(f.scale(t.new(cosines.shape, cosines.dtype)), f.scale(eye))
    likely = f.silu(f.mul(signs, cosines))  # logsigmoid: saves its input too
    return f.mean(f.scale(f.total(likely, -1)), 0, keep=False)


@rule(Attention, "torch-multihead")
def pooling(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """torch.nn.MultiheadAttention of one learned query, weights wanted (SiglipMultiheadAttentionPoolingHead.forward)."""
    batch, tokens, width = x.shape
    probe = f.clone(f.expand(probe_of(t, width), batch, 1, width))
    matrix, bias = t.weight("in_proj_weight", (3 * width, width)), t.weight("in_proj_bias", (3 * width,))
    q_part, kv_part = f.split(matrix, (width, 2 * width), 0)
    q_bias, kv_bias = f.split(bias, (width, 2 * width), 0)
    q = f.linear(f.transpose(probe, 0, 1), q_part, q_bias)
    kv = f.add(f.linear(f.transpose(x, 0, 1), kv_part), kv_bias)
    kv = f.transpose(f.unsqueeze(f.reshape(kv, tokens, batch, 2, width), 0), 0, -2)
    kv = f.contiguous(f.squeeze(kv, -2))
    k, v = (
        f.transpose(f.reshape(part, tokens, batch * block.heads, -1), 0, 1)
        for part in (f.select(kv, 0), f.select(kv, 0))
    )
    q = f.transpose(f.reshape(q, 1, batch * block.heads, -1), 0, 1)
    scores = f.softmax(f.bmm(f.lower(f.scale(q)), f.lower(f.swap(k))))
    out = f.bmm(f.lower(scores), f.lower(v))
    out = f.reshape(f.contiguous(f.transpose(out, 0, 1)), batch, width)
    weight = t.weight("out_proj.weight", (width, width)), t.weight("out_proj.bias", (width,))
    out = f.reshape(f.linear(out, *weight), 1, batch, width)
    _mean = f.mean(f.reshape(scores, batch, block.heads, 1, tokens), 1, keep=False)
    return f.transpose(out, 0, 1)


def probe_of(t: Tape, width: int) -> Value:
    """The query, a parameter of the module around the attention."""
    before, t.path = t.path, t.path.rpartition(".")[0]
    probe = t.weight("probe", (1, 1, width))
    t.path = before
    return probe
