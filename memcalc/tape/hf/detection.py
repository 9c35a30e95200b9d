"""DETR: a set of boxes from learned queries (modeling_detr.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.deformable import DeformableDetector
from memcalc.blocks.detection import ConditionalDecoder, FrozenConv, FrozenNorm, LooksFinite, SetDetector
from memcalc.blocks.masking import MapFinder, MaskSegmenter
from memcalc.blocks.refining import RefiningDetector
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, project
from memcalc.tape.hf.boxes import backbone, beside, inverse_sigmoid, matched
from memcalc.tape.hf.masks import bidirectional_mask
from memcalc.tape.hf.programs import measured
from memcalc.tape.hf.vision import conv
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def detect(t: Tape, model: Model) -> tuple[Value, Value]:
    """DetrForObjectDetection.forward, YolosForObjectDetection's; the loss of matched boxes is small, here their mean."""
    if isinstance(model.body, (MaskSegmenter, MapFinder)):
        from memcalc.tape.hf import joining_masks, masking  # noqa: PLC0415 - few detectors find masks

        return joining_masks.segment(t, model) if isinstance(model.body, MapFinder) else masking.segment(t, model)
    base, *heads = model.body.parts()
    if isinstance(base, RefiningDetector):
        from memcalc.tape.hf.refining import refine  # noqa: PLC0415 - few detectors refine their boxes

        return refine(t, model)
    if isinstance(base, DeformableDetector):
        from memcalc.tape.hf import deformable_detr  # noqa: PLC0415 - as above

        return deformable_detr.detect(t, model)
    classes, boxes = heads
    t.layers = model.depth
    x = run(t, base, measured(t, (t.setting.batch, *model.image)), Around())
    gone(t.held)
    logits = run(t, classes, x, Around())
    conditional = isinstance(getattr(base, "decoder", None), ConditionalDecoder)
    near = inverse_sigmoid(t.outputs[0]) if conditional else None  # of the points, which its decoder has put there
    found = run(t, boxes, x, Around())
    found = beside(found, near) if near is not None else found
    found = f.sigmoid(found)
    gone(t.held)
    return matched(t, logits, found), x


@rule(SetDetector)
def set_detector(t: Tape, block: SetDetector, x: Value, around: Around) -> Value:
    """DetrModel.forward."""
    batch, path = x.shape[0], t.path
    found, kept, masks = backbone(t, block, x)
    projected = run(t, block.project, found, around)
    tokens = f.transpose(f.reshape(projected, batch, block.width, -1), 1, 2)
    places = sinusoids(t, found, block.width, x.dtype)
    encoder, decoder = Around(), Around()
    encoder.ready = decoder.ready = True
    count = tokens.shape[1]
    eager = t.setting.attention == "eager"
    encoder.masks = {0: bidirectional_mask(t, batch, count, tokens.dtype, 0, eager=eager)}
    encoder.rotary = places, places
    states = run(t, block.encoder, f.dropout(tokens, block.dropout), encoder)
    t.path = path
    table = t.weight("query_position_embeddings.weight", (block.queries, block.width))
    asked = f.repeat(f.unsqueeze(table, 0), batch)
    decoder.rotary, decoder.encoder = (asked, places), states
    y = run(t, block.decoder, t.new(asked.shape, asked.dtype), decoder)
    y = run(t, block.norm, y, around)
    t.outputs.append(states)
    del kept, masks, projected, tokens  # names of the function
    return y


def sinusoids(t: Tape, found: Value, width: int, dtype: str) -> Value:
    """DetrSinePositionEmbedding: [batch, tokens, width], of rows and of columns; what it makes last stays in its cache."""
    batch, _, rows, columns = found.shape
    one = t.new((batch, rows, columns, width // 2), dtype)
    other = t.new(one.shape, dtype)
    f.cat((one, other))
    places = f.permute(t.given((batch, rows, columns, width), dtype, ".places"), 0, 3, 1, 2)
    return f.transpose(f.reshape(places, batch, width, -1), 1, 2)


rule(FrozenConv)(conv)


@rule(FrozenNorm)
def frozen_norm(t: Tape, block: FrozenNorm, x: Value, around: Around) -> Value:
    """DetrFrozenBatchNorm2d.forward."""
    weight, bias, mean, var = (
        f.reshape(t.weight(name, (block.width,)), 1, block.width, 1, 1)
        for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = f.mul(weight, f.rsqrt(f.shift(var)))
    bias = f.subtract(bias, f.mul(mean, scale))
    return f.add(f.mul(x, scale), bias)


@rule(LooksFinite)
def looks_finite(t: Tape, block: LooksFinite, x: Value, around: Around) -> Value:
    """torch.isfinite(hidden_states).all(): (x.abs() != inf) * (x == x)."""
    with t.no_grad():
        f.maximum(f.compare(f.scale(x)), f.compare(x))
    return x


@rule(Attention, "detr")
def placed_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """DetrSelfAttention.forward, DetrCrossAttention.forward: positions join queries and keys, not values."""
    assert around.rotary  # noqa: S101 - the detector has made them
    own, others = around.rotary
    read = f.add(x, own)
    states = around.encoder if block.cross and around.encoder else x
    keyed = f.add(states, others) if states is not x else read
    q = heads(run(t, block.q, read, around), block.heads)
    k = heads(run(t, block.k, keyed, around), block.heads)
    v = heads(run(t, block.v, states, around), block.heads)
    out = attend(t, block, q, k, v, around)
    return project(t, block, out, around)
