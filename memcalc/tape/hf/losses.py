"""The loss (transformers/loss/loss_utils.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def causal_lm_loss(t: Tape, logits: Value, labels: Value, *, fp32: bool = True) -> Value:
    """ForCausalLMLoss: logits in fp32; labels padded by one and shifted."""
    if fp32:
        logits = f.to(logits, "fp32")
    batch, seq = labels.shape
    labels = t.new((batch, seq + 1), "int64")
    shifted = labels if batch == 1 else t.new((batch, seq), "int64")
    logits = f.view(logits, -1, logits.shape[-1])
    return f.cross_entropy(logits, shifted)


def token_loss(logits: Value, labels: Value, *, fp32: bool = False) -> Value:
    """Cross entropy of every row of the logits (ForMaskedLM's own, ForSequenceClassificationLoss)."""
    if fp32:
        logits = f.to(logits, "fp32")
    return f.cross_entropy(f.reshape(logits, -1, logits.shape[-1]), labels)
