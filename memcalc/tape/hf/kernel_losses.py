"""Log-probabilities by flash-attn's cross entropy, as trainers of policies take them: verl, OpenRLHF.

(flash-attn 2.8, ops/triton/cross_entropy.py, CrossEntropyLoss; verl, workers/actor/dp_actor.py, _forward_micro_batch, and
utils/torch_functional.py, logprobs_from_logits; OpenRLHF, models/actor.py, Actor.forward, and models/utils.py,
log_probs_from_logits.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.values import Value

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape


def kernel_log_probs(t: Tape, given: list[Value], labels: Value) -> tuple[Value, Value, Value | None]:
    """(the log-probability of each token, the logits, the entropy of each row where that is asked for).

    OpenRLHF has the logits in fp32, and their gradient apart; verl divides them by the temperature where they are, and
    writes the gradient over them, unless their entropy is taken as well.
    """
    logits, wide, entropy = given.pop(), t.setting.loss_fp32, t.setting.loss_entropy
    rolled = t.new(labels.shape, "int64")
    if wide:
        t.autocast, t.casts = "", {}  # the model has returned
    logits = f.to(logits, "fp32") if wide else divided(logits)
    scores = cross_entropy(logits, in_place=not wide and not entropy)
    scores = f.view(f.neg(scores), *labels.shape)
    del rolled
    return scores, logits, compiled_entropy(logits) if entropy else None


def divided(logits: Value) -> Value:
    """logits.squeeze(0).div_(temperature): a part of a tensor, as autograd sees it, whose gradient is copied (CopySlices)."""
    node = record(logits.tape, _divided_backward, (logits,))
    return Value(logits.tape, logits.storage, logits.shape, logits.dtype, logits.strides, node or logits.node, 0)


def _divided_backward(node: Node, g: Value) -> Gradients:
    """The gradient copied as a whole, its part copied once more, and that divided."""
    del node
    whole = g.tape.new(g.shape, g.dtype)
    part = g.tape.new(g.shape, g.dtype)
    quotient = g.tape.new(g.shape, g.dtype)
    del part, quotient
    return (whole,)


def cross_entropy(logits: Value, *, in_place: bool) -> Value:
    """CrossEntropyLoss.forward over all rows: the logits are saved as they are, with a number for each row."""
    t, rows = logits.tape, logits.elements // logits.shape[-1]
    node = record(t, _over_backward if in_place else _apart_backward, (logits,), (logits,))
    out, normaliser, unused = (t.new((rows,), "fp32") for _ in range(3))
    save(t, node, normaliser)
    del unused
    out.node = node
    return out


def _over_backward(node: Node, _: Value) -> Gradients:
    """dlogits = logits: the saved tensor itself."""
    logits, _normaliser = node.load()
    return (logits.detach(),)


def _apart_backward(node: Node, _: Value) -> Gradients:
    """dlogits = torch.empty_like(logits)."""
    logits, _normaliser = node.load()
    return (logits.tape.new(logits.shape, logits.dtype),)


def compiled_entropy(logits: Value) -> Value:
    """entropy_from_logits as torch.compile fuses it: two numbers a row are kept beside the logits, and one gradient is made."""
    t, rows = logits.tape, logits.elements // logits.shape[-1]
    node = record(t, _entropy_backward, (logits,), (logits,))
    for _ in range(2):
        save(t, node, t.new((rows,), "fp32"))
    out = t.new((rows,), "fp32")
    out.node = node
    return out


def _entropy_backward(node: Node, _: Value) -> Gradients:
    logits, *_rows = node.load()
    return (logits.tape.new(logits.shape, logits.dtype),)
