"""Losses that a trainer makes of the logits, outside of the model's forward: of log-probabilities, smoothed labels, a teacher.

accelerate's convert_outputs_to_fp32 has the logits in fp32 wherever autocast is on (accelerate 1.15, utils/operations.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.hf import losses

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def outer_loss(t: Tape, heads: tuple[Block, ...], hidden: Value, labels: Value) -> tuple[Value, Value]:
    """(loss, what the model's outputs hold)."""
    if t.setting.loss == "fused-log-probs":
        from memcalc.tape.hf.tiled import tiled_log_probs  # noqa: PLC0415 - one loss of several

        scores = tiled_log_probs(t, heads, hidden, labels)
        del hidden
        t.turn_aside()
        return preferred(scores), scores
    given = [hidden]
    del hidden
    if t.setting.loss == "kernel-log-probs":
        return of_kernel(t, [losses.headed(t, heads, given.pop())], labels)
    if t.setting.loss in ("log-probs", "log-softmax"):
        return of_log_probs(t, outputs(t, losses.headed(t, heads, given.pop())), labels)
    logits = outputs(t, losses.headed(t, heads, given.pop()))
    if t.setting.loss == "label-smoothing":
        return smoothed(logits, labels, shift=True), logits
    t.turn_aside()
    return divergence(t, f.narrow(logits, 1, logits.shape[1] - 1)), logits


def scored(t: Tape, heads: tuple[Block, ...], hidden: Value, labels: Value, *, whole: bool) -> Value:
    """What a model that doesn't learn makes for such a loss: its labels' log-probabilities, or the `whole` logits."""
    if t.setting.loss == "fused-log-probs" and not whole:
        from memcalc.tape.hf.tiled import tiled_log_probs  # noqa: PLC0415 - as above

        return tiled_log_probs(t, heads, hidden, labels)
    given = [hidden]
    del hidden
    logits = losses.headed(t, heads, given.pop())
    if t.setting.loss == "kernel-log-probs" and not whole:
        from memcalc.tape.hf.kernel_losses import kernel_log_probs  # noqa: PLC0415 - as above

        return kernel_log_probs(t, [logits], labels)[0]
    logits = outputs(t, logits)
    if whole:
        return logits
    at_once = t.setting.loss == "log-softmax"
    logits = f.to(logits, "fp32") if at_once else logits
    return log_probs(t, logits, labels, whole=at_once)


def of_kernel(t: Tape, given: list[Value], labels: Value) -> tuple[Value, Value]:
    """A policy's loss: of each token's log-probability, and of the entropy of each row where that is asked for."""
    from memcalc.tape.hf.kernel_losses import kernel_log_probs  # noqa: PLC0415 - one loss of several

    scores, logits, entropy = kernel_log_probs(t, given, labels)
    t.turn_aside()
    loss = preferred(scores)
    return (f.add(loss, f.scale(f.mean(entropy, 0, keep=False))) if entropy else loss), logits


def outputs(t: Tape, logits: Value) -> Value:
    """What the model hands back, when autocast and its copies of weights are over."""
    logits, t.autocast, t.casts = f.to(logits, "fp32") if t.autocast else logits, "", {}
    return logits


def of_log_probs(t: Tape, logits: Value, labels: Value) -> tuple[Value, Value]:
    """CPOTrainer.concatenated_forward and its kin: each token's log-probability, and the chosen half's cross entropy."""
    whole = t.setting.loss == "log-softmax"
    logits = f.to(logits, "fp32") if whole else logits
    nll = chosen_cross_entropy(t, logits, labels) if t.setting.chosen_too else None
    scores = log_probs(t, logits, labels, whole=whole)
    if not whole:  # LLaMA-Factory's hands the logits back
        logits = scores
    t.turn_aside()
    loss = preferred(scores)
    return f.add(loss, nll) if nll else loss, logits


def log_probs(t: Tape, logits: Value, labels: Value, *, whole: bool) -> Value:
    """The labels' log-probabilities [batch, tokens - 1], each row by itself, or all of them at once."""
    batch, tokens = labels.shape[0], labels.shape[1] - 1
    index = t.new((batch, tokens), "int64")
    shifted = f.narrow(logits, 1, tokens)
    if whole:
        return f.squeeze(f.pick(f.softmax(shifted), index, (batch, tokens, 1)), -1)
    if logits.dtype == "fp32":
        return _by_logsumexp(shifted, index)
    rows = []
    for row in f.unbind(shifted):
        scores = f.softmax(row)
        rows.append(f.pick(scores, index, (tokens, 1)))
    return f.squeeze(f.stack(rows), -1)


def _by_logsumexp(logits: Value, index: Value) -> Value:
    """selective_log_softmax of fp32 logits: those of the labels, less each row's logsumexp (trl 1.16, trainer/utils.py)."""
    chosen = f.pick(logits, index, (*index.shape, 1))
    sums = f.stack([f.logsumexp_of(row, -1) for row in f.unbind(logits)])
    return f.squeeze(f.subtract(chosen, f.unsqueeze(sums, -1)), -1)


def chosen_cross_entropy(t: Tape, logits: Value, labels: Value) -> Value:
    """cross_entropy_loss of the first half of the rows (trl 1.16, experimental/orpo/orpo_trainer.py)."""
    batch, tokens = max(logits.shape[0] // 2, 1), logits.shape[1] - 1
    half = f.contiguous(f.narrow(f.narrow(logits, 0, batch), 1, tokens))
    targets = t.new((batch, tokens), "int64")
    del labels
    return f.cross_entropy(f.view(half, -1, half.shape[-1]), targets)


def preferred(scores: Value) -> Value:
    """-logsigmoid of the difference between the halves' sums: a number for each pair, whichever the loss."""
    sums = f.total(scores, 1)
    return f.mean(f.sigmoid(sums), 0, keep=False)


def smoothed(logits: Value, labels: Value, *, shift: bool) -> Value:
    """LabelSmoother.__call__: the negated log-softmax of all logits, its labels' part and its sum (trainer_pt_utils.py)."""
    t = logits.tape
    if shift:
        logits = f.contiguous(f.narrow(logits, 1, logits.shape[1] - 1))
        labels = t.new(logits.shape[:-1], "int64")
    scores = f.neg(f.softmax(logits))
    padding = t.new(labels.shape, "bool")
    index = t.new(labels.shape, "int64")  # torch.clamp(labels, min=0)
    own = f.masked_fill_(f.pick(scores, index, (*scores.shape[:-1], 1)), padding)
    every = f.masked_fill_(f.total(scores, -1, keep=True, dtype="fp32"), padding)
    return f.add(f.scale(f.total(own)), f.scale(f.total(every)))


def divergence(t: Tape, student: Value) -> Value:
    """GKDTrainer.generalized_jsd_loss with beta between 0 and 1 and no temperature (trl 1.16, experimental/gkd/gkd_trainer.py).

    The teacher's logits are there from here on; so are those of both, divided by the temperature.
    """
    given = t.new((student.shape[0], student.shape[1] + 1, student.shape[2]), student.dtype)
    student, teacher = f.scale(student), f.scale(f.narrow(given, 1, student.shape[1]))
    own, theirs = f.softmax(student), f.softmax(teacher)
    mixed = f.logsumexp_of(f.stack([f.shift(own), f.shift(theirs)]), 0)
    first = f.kl_div(mixed, theirs)
    second = f.kl_div(mixed, own)
    both = f.add(f.scale(first), f.scale(second))
    rows = t.new(both.shape[:-1], "bool")
    del first, second
    kept = f.gather(both, rows, (both.shape[0] * both.shape[1], both.shape[2]))
    del both, given
    return f.div(f.total(kept), t.new((), "int64"))
