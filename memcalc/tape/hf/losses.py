"""The loss: transformers' own (loss/loss_utils.py), and the ways others found not to hold all logits in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Linear
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.rules import Around, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

CHUNKS = 8  # torchtune's num_output_chunks


def language_model_loss(t: Tape, model: Model, heads: tuple[Block, ...], hidden: Value, labels: Value) -> tuple[Value, Value]:
    """(loss, what the model's outputs hold) of a causal language model, by the loss that the run asks for."""
    match t.setting.loss:
        case "fused-linear" if len(heads) == 1 and isinstance(heads[0], Linear):
            loss = fused_linear_loss(t, heads[0], hidden, labels)
            return loss, loss
        case "chunked":
            loss = chunked_loss(t, heads, hidden, labels)
            return loss, loss
        case "standard":
            logits = headed(t, heads, hidden)
            return causal_lm_loss(t, logits, labels, fp32=model.loss_fp32), logits
        case _:
            logits = headed(t, heads, hidden)
            return fused_loss(t, logits, labels), logits


def headed(t: Tape, heads: tuple[Block, ...], hidden: Value) -> Value:
    """The logits."""
    around = Around()
    for head in heads:
        hidden = run(t, head, hidden, around)
    return hidden


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


def fused_loss(t: Tape, logits: Value, labels: Value) -> Value:
    """Cross entropy in one kernel that keeps the logits and a log-sum-exp a row, and writes the gradient over them.

    unsloth, kernels/cross_entropy_loss.py (Fast_CrossEntropyLoss); Liger's is the same with the gradient made at once.
    """
    flat = f.view(logits, -1, logits.shape[-1])
    node = record(t, _fused_backward, (flat,), (flat, labels))
    losses, norms = t.new((flat.shape[0],), "fp32"), t.new((flat.shape[0],), "fp32")
    save(t, node, norms)
    del losses
    loss = t.new((), "fp32")
    loss.node = node
    return loss


def _fused_backward(node: Node, _: Value) -> Gradients:
    logits, *_saved = node.load()
    return (logits,)


def fused_linear_loss(t: Tape, head: Linear, hidden: Value, labels: Value) -> Value:
    """Liger's fused linear cross entropy: logits chunk by chunk, gradients of input and weight made in the forward pass.

    ops/fused_linear_cross_entropy.py: as many chunks as the vocabulary is wider than the hidden size, each of a power
    of two of rows; the weight's gradient grows by a product that is widened before it is added.
    """
    weight = head_weight(t, head)
    rows, (vocabulary, width) = hidden.elements // hidden.shape[-1], weight.shape
    chunk = 1 << (-(-rows // -(-vocabulary // width)) - 1).bit_length()
    node = record(t, _fused_linear_backward, (hidden, weight))
    losses, towards_input = t.new((rows,), "fp32"), t.new(hidden.shape, hidden.dtype)
    towards_weight = t.new(weight.shape, weight.dtype) if weight.node else None
    for _ in range(min(2, -(-rows // chunk))):  # more chunks are like these
        logits = t.new((min(chunk, rows), vocabulary), hidden.dtype)
        if towards_weight:
            product = t.new(weight.shape, hidden.dtype)
            wide = f.to(product, "fp32")
            del product, wide
        del logits
    del losses, labels
    loss = t.new((), "fp32")
    save(t, node, towards_input)
    save(t, node, towards_weight)
    loss.node = node
    return loss


def _fused_linear_backward(node: Node, _: Value) -> Gradients:
    return tuple(node.load())


def chunked_loss(t: Tape, heads: tuple[Block, ...], hidden: Value, labels: Value) -> Value:
    """Logits and their loss chunk by chunk of the sequence; each chunk's log-softmax is kept for the backward pass.

    torchtune, modules/loss/cross_entropy_loss.py (LinearCrossEntropyLoss).
    """
    count = min(t.setting.chunks or CHUNKS, hidden.shape[1])
    sizes = [hidden.shape[1] // count + (i < hidden.shape[1] % count) for i in range(count)]
    labels = t.new(labels.shape, "int64")
    loss = t.new((), "fp32")
    for part in f.split(hidden, sizes, 1):
        logits = f.to(headed(t, heads, f.contiguous(part)), "fp32")
        loss = f.add(loss, f.cross_entropy(f.view(logits, -1, logits.shape[-1]), labels))
        del logits
    return f.scale(loss)


def head_weight(t: Tape, head: Linear) -> Value:
    """The weight of the head, by the name it has in the model."""
    path, t.path = t.path, head.name
    weight = t.weight("weight", (head.outputs, head.inputs), head.tied_to)
    t.path = path
    return weight
