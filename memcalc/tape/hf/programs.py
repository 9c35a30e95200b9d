"""Whole models: from the input to the loss, for each kind of model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from memcalc.blocks.base import Sequence, Stack
from memcalc.blocks.basic import Softcap
from memcalc.run import OUTER
from memcalc.tape import functions as f
from memcalc.tape.autograd import Leaf
from memcalc.tape.hf.losses import capped, language_model_loss, smoothed_loss, speech_loss, token_loss
from memcalc.tape.rules import Around, gone, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.blocks.seq2seq import Encoder, Fork
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value


# the program of a kind of model: the file it is in, and its name
ELSEWHERE = {
    "diffusion": ("diffusion", "denoise"),
    "image-text": ("contrastive", "contrast"),
    "segmentation": ("segmenting", "segment"),
    "masked-image": ("painting", "paint"),
    "image-autoencoder": ("painting", "repaint"),
    "detection": ("detection", "detect"),
}


def whole(t: Tape, model: Model) -> tuple[Value, Value]:
    """…ForCausalLM.forward and its kin, and what wraps it: (loss, logits)."""
    loss, outputs = alone(t, model)
    own = t.setting.loss != "chunked" and t.setting.loss not in OUTER
    if t.setting.adapter == "adalora" and own and model.kind != "encoder":
        from memcalc.tape.hf.orthogonal import orthogonal  # noqa: PLC0415 - one method's own loss

        loss = orthogonal(t, loss)
    return loss, outputs


def alone(t: Tape, model: Model) -> tuple[Value, Value]:
    """…ForCausalLM.forward and its kin: (loss, logits)."""
    if model.kind in ELSEWHERE:
        file, name = ELSEWHERE[model.kind]
        program: tuple[Value, Value] = getattr(import_module(f"memcalc.tape.hf.{file}"), name)(t, model)
        return program
    base, heads = split(model.body)
    t.layers = model.depth
    x, labels = inputs(t, model)
    if model.kind == "encoder" or (model.kind == "speech" and not heads):
        return bare(t, base, heads, x)
    if model.kind == "causal-lm" and t.setting.loss in OUTER:
        return language_model_loss(t, model, heads, body(t, base, x)[0], labels)
    hidden, outputs = body(t, base, x)
    if model.kind == "causal-lm":
        return language_model_loss(t, model, heads, hidden, labels)
    logits = hidden
    around = Around()
    around.outputs = outputs
    if t.setting.loss == "label-smoothing":  # outside of the function that names it
        del hidden
    for head in heads:
        if head.duty == "fork":
            return forked(t, cast("Fork", head), logits, labels)
        if isinstance(head, Softcap):
            given = [logits]
            del logits
            logits = capped(head, given)
        else:
            logits = run(t, head, logits, around)
    if model.kind == "speech":
        return speech_loss(t, logits, labels), logits
    own = [logits]
    del logits
    return concluded(t, model, own, labels, outputs)


def concluded(t: Tape, model: Model, own: list[Value], labels: Value, others: list[Value]) -> tuple[Value, Value]:
    """(loss, logits), of which nobody else holds the latter; `others` are handed back with them."""
    if model.choices > 1:  # a logit for each choice's sequence
        own = [f.view(own.pop(), -1, model.choices)]
    if t.setting.loss == "label-smoothing":
        return smoothed_loss(t, own, labels, others)
    logits = own.pop()
    if model.problem:
        loss = f.mse_loss if model.problem == "regression" else f.bce_with_logits
        return loss(f.view(logits, *labels.shape), labels), logits
    return token_loss(t, logits, labels, fp32=model.loss_fp32), logits


def bare(t: Tape, base: tuple[Block, ...], last: tuple[Block, ...], x: Value) -> tuple[Value, Value]:
    """A base model has no loss of its own: here the mean of its last hidden state; a pooler's output is only held."""
    pooled: list[Value] = []
    hidden, _outputs = body(t, base, x, last, pooled)
    return f.mean(hidden, *range(len(hidden.shape)), keep=False), pooled[-1] if pooled else hidden


def forked(t: Tape, head: Fork, hidden: Value, labels: Value) -> tuple[Value, Value]:
    """BertForPreTraining.forward: the losses of both heads, added up."""
    outputs = [run(t, branch, hidden, Around()) for branch in head.branches]
    losses = [token_loss(t, output, labels) for output in outputs]
    return f.add(*losses), outputs[0]


def split(block: Block) -> tuple[tuple[Block, ...], tuple[Block, ...]]:
    """The base model, down to the last part with layers in it, and the heads that read its last hidden state."""
    parts = tuple(block.parts())
    last = max((i for i, part in enumerate(parts) if _layered(part)), default=0)
    return parts[: last + 1], parts[last + 1 :]


def _layered(block: Block) -> bool:
    return isinstance(block, Stack) or any(_layered(part) for _, part in block.groups())


def inputs(t: Tape, model: Model) -> tuple[Value, Value]:
    """What the training loop hands to the model: tokens or pixels, and labels."""
    s = t.setting
    if model.image and model.kind != "seq2seq":
        return measured(t, (s.batch, *model.image)), classes(t, model)
    read = (cast("Encoder", part).source for _, part in model.body.groups() if part.duty == "encoder")
    source = model.image or next(read, ())
    if model.kind == "speech":
        return sound(t, _frames(model.body)), t.given((s.batch,), "int64")
    ids = (
        measured(t, tuple(size or s.seq if i else s.batch for i, size in enumerate((0, *source))))
        if source
        else t.given((s.batch * model.choices, s.seq), "int64")
    )
    match model.kind:
        case "causal-lm" | "masked-lm":
            return ids, ids
        case "seq2seq" | "encoder" if _decodes(model.body):
            places, channels = s.target or s.seq, _channels(model.body)
            labels = t.given((s.batch * channels, places), "int64")
            t.target = (
                t.given((s.batch, places, channels), "int64") if channels > 1 else f.shift(labels)
            )  # _shift_right
            return ids, labels
        case _:
            if _decodes(model.body):
                t.target = f.shift(ids)  # shift_tokens_right of the source itself
            return ids, classes(t, model)


def classes(t: Tape, model: Model) -> Value:
    """A class for each sequence or image; or a number for each of its labels, as the trainer has them."""
    s = t.setting
    if not model.problem:
        return t.given((s.batch,), "int64")
    count = model.labels
    return t.given((s.batch, count) if count > 1 else (s.batch,), "fp32" if s.autocast else s.weights)


def measured(t: Tape, shape: Shape) -> Value:
    """Pixels or features, as the training loop has them, cast to what the model takes where a wrapper does so.

    It casts them before it gathers the root's parameters (FSDPState._pre_forward).
    """
    given = t.given(shape, t.setting.inputs or t.setting.weights)
    x = f.to(given, t.setting.weights)
    if x is not given and t.sharder:
        t.events.insert(t.sharder.begun, t.events.pop())
    return x


def sound(t: Tape, frames: int) -> Value:
    """Frames of so many channels, or the waveform [batch, 1, samples], which asks for a gradient (Wav2Vec2FeatureEncoder)."""
    if frames:
        return measured(t, (t.setting.batch, t.setting.seq, frames))
    x = f.unsqueeze(measured(t, (t.setting.batch, t.setting.seq)), 1)
    x.node = Leaf(t, x)
    return x


def _frames(block: Block) -> int:
    """The channels of the frames that a model of speech reads first, 0 where it reads a waveform."""
    frames: int = getattr(block, "frames", 0)
    first = next(iter(block.parts()), None)
    return frames or (_frames(first) if first else 0)


def _channels(block: Block) -> int:
    """How many tokens stand at each place of the target."""
    return max((getattr(part, "channels", 1) for part in block.parts() if part.duty == "decoder"), default=1)


def _decodes(block: Block) -> bool:
    parts = [part for _, part in block.groups()] if block.duty or not isinstance(block, Stack) else []
    return any(part.duty == "decoder" or (type(part) is Sequence and _decodes(part)) for part in parts)


def body(
    t: Tape, parts: tuple[Block, ...], x: Value, last: tuple[Block, ...] = (), pooled: list[Value] | None = None
) -> tuple[Value, list[Value]]:
    """The base model, whose local variables go when it returns: its last hidden state, and what else it outputs.

    What comes `last` in it, behind its layers, reads that state: a norm makes it anew, a pooler's output is put into `pooled`.
    """
    around = Around()
    around.tokens = x if x.dtype == "int64" else None
    if len(x.shape) == 4:  # images, whose maps may be read as tokens, and back
        from memcalc.tape.hf.diffusion import Scene  # noqa: PLC0415 - other models need none of it

        around.scene = Scene()
    if t.setting.packed:
        around.positions = t.given(x.shape[:2], "int64")
    for part in parts:
        x = run(t, part, x, around)
    if around.scene:
        around.scene.used.clear()
    for part in last:
        out = run(t, part, x, Around())
        if len(out.shape) == len(x.shape):
            x = out
        elif pooled is not None:
            pooled.append(out)
    gone(t.held)
    return x, [*([around.encoder] if around.encoder else []), *around.outputs]
