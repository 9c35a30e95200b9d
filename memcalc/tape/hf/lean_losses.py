"""Cross entropies that do not hold all logits in fp32: Liger's, in place or with the head in it, and torchtune's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.hf import compiled

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def in_place_cross_entropy(t: Tape, logits: Value) -> Value:
    """LigerCrossEntropyFunction: the gradient is written over the logits, which are saved in its stead.

    (liger_kernel 0.8.5, ops/cross_entropy.py, cross_entropy_forward.) Unsloth's and flash-attn's do the same.
    """
    logits = f.contiguous(logits)
    node = record(t, _saved_backward, (logits,), (logits,))
    rows = t.new((logits.shape[0],), logits.dtype)
    mask = t.new((logits.shape[0],), "bool")
    checked = t.new((logits.shape[0],), "int64")  # target * target_mask
    del checked
    loss = t.new((), rows.dtype)
    del rows, mask
    loss.node = node
    return loss


def _saved_backward(node: Node, _: Value) -> Gradients:
    """The gradients were made in the forward pass: a loss is the last, so nothing scales them."""
    saved = node.load()
    return tuple(saved)


def fused_linear_cross_entropy(t: Tape, hidden: Value, weight: Value) -> Value:
    """LigerFusedLinearCrossEntropyFunction over rows [rows, width] and the head's weight [vocabulary, width].

    Logits are made chunk by chunk and become their own gradient; those of the input and of the weight, in the weight's
    dtype, are added up at once and saved (liger_kernel 0.8.5, ops/fused_linear_cross_entropy.py). Where input and weight
    are of one dtype a single buffer serves all chunks, else (autocast) the weight is cast anew for each. In fp32 what a
    chunk adds to the weight's gradient is made before it is added.
    """
    rows = hidden.shape[0]
    chunk = chunk_rows(rows, weight.shape[0], weight.shape[1] * t.setting.chunk_size, t.setting.chunks)
    node = record(t, _saved_backward, (hidden, weight))
    t.multiplied(2 * hidden.elements * weight.shape[0] * (1 + bool(hidden.node) + bool(weight.node)))
    towards_input = t.new(hidden.shape, hidden.dtype)
    towards_weight = t.new(weight.shape, weight.dtype) if weight.node else None
    losses, mask = t.new((rows,), "fp32"), t.new((rows,), "bool")
    if t.autocast and hidden.dtype != t.autocast:
        _cast_chunks(t, weight, hidden.dtype, chunk, count=-(-rows // chunk))
    else:
        buffer = t.new((chunk, weight.shape[0]), hidden.dtype)
        added = t.new(weight.shape, "fp32") if towards_weight and hidden.dtype == "fp32" else None
        del buffer, added
    loss = t.new((), "fp32")
    del losses, mask
    save(t, node, towards_input if hidden.node else None)
    save(t, node, towards_weight)
    loss.node = node
    return loss


def chunk_rows(rows: int, vocabulary: int, width: int, chunks: int = 0) -> int:
    """Rows of a chunk: so many that its logits are no larger than the input, rounded up to a power of two."""
    if chunks:
        return -(-rows // chunks)
    least = -(-rows // -(-vocabulary // width))
    return int(min(1 << (least - 1).bit_length(), rows))


def _cast_chunks(t: Tape, weight: Value, dtype: str, chunk: int, count: int) -> None:
    """The products of chunks under autocast: `x @ weight.t()`, whose cast no cache keeps, and `grad @ weight`."""
    with t.no_grad():
        for _ in range(min(count, 2)):  # the others are like the second
            narrow = t.new((chunk, weight.shape[1]), t.autocast)
            cast = t.new(weight.shape, t.autocast)
            logits = t.new((chunk, weight.shape[0]), t.autocast)
            del narrow, cast
            _kept = f.lower(weight)
            product = t.new((chunk, weight.shape[1]), t.autocast)
            del product
            del logits
    del dtype


def chunked_cross_entropy(t: Tape, chunks: list[Value], labels: Value) -> Value:
    """CEWithChunkedOutputLoss.forward: each chunk's logits are cast to fp32 on their own; its log-softmax stays.

    (torchtune 0.6.1, modules/loss/ce_chunked_output_loss.py.) What is spared is the fp32 copy of the other chunks, not
    their log-softmax; torchtune compiles the loss of a chunk, where it compiles at all, and then that is spared too.
    """
    batch, total = t.new(labels.shape, "int64"), None
    count = t.new((), "int64")
    for logits in chunks:
        flat = f.reshape(logits, -1, logits.shape[-1])
        targets = t.new((flat.shape[0],), "int64")
        whole = "compiled" in t.setting.fused
        loss = compiled.cross_entropy(t, flat) if whole else f.cross_entropy(f.to(flat, "fp32"), targets)
        total = loss if total is None else f.add(total, loss)
        del flat, loss
    del batch
    assert total  # noqa: S101 - there is a chunk
    return f.div(total, count)


def cross_entropy_by_chunk(t: Tape, hidden: Value, weight: Value, chunks: int) -> Value:
    """torchtitan's ChunkedLossWrapper over rows [rows, width]: each chunk goes forward and back before the next.

    (components/loss.py.) The gradient of the hidden states is put together in fp32 and handed on when all chunks are
    through; that of the head's weight is made anew for each and added up.
    """
    rows = hidden.shape[0]
    node = record(t, _by_chunk_backward, (hidden, weight))
    t.multiplied(2 * hidden.elements * weight.shape[0] * (1 + bool(hidden.node) + bool(weight.node)))
    towards_input = t.new(hidden.shape, "fp32")
    towards_weight = _chunk_of_logits(t, -(-rows // chunks), weight, hidden.dtype)
    if chunks > 1:  # the others are like the second
        added = _chunk_of_logits(t, -(-rows // chunks), weight, hidden.dtype)
        del added
    loss = t.new((), "fp32")
    save(t, node, towards_input if hidden.node else None)
    save(t, node, towards_weight)
    loss.node = node
    return loss


def _chunk_of_logits(t: Tape, rows: int, weight: Value, dtype: str) -> Value | None:
    """One chunk forward and back, compiled or not: the gradient of the weight, if it learns."""
    shape = (rows, weight.shape[0])
    logits = t.new(shape, dtype)
    if "compiled" in t.setting.fused:
        gradient = t.new(shape, dtype)
    else:
        wide = t.new(shape, "fp32")
        scores = t.new(shape, "fp32")
        del wide
        towards_scores, towards_wide = t.new(shape, "fp32"), t.new(shape, "fp32")
        del scores, towards_scores
        gradient = t.new(shape, dtype)
        del towards_wide
    del logits
    towards_input = t.new((rows, weight.shape[1]), dtype)
    towards_weight = t.new(weight.shape, weight.dtype) if weight.node else None
    del gradient, towards_input
    return towards_weight


def _by_chunk_backward(node: Node, _: Value) -> Gradients:
    """The gradient of the hidden states in their own dtype, and what was added up for the weight."""
    towards_input, towards_weight = node.load()
    edge = node.edges[0]
    return (f.to(towards_input, edge.dtype) if edge else None), towards_weight
