"""Log-probabilities without logits: the tiles of TRL's fused head (trl 1.16, kernels/chunked_logprob.py, trainer/utils.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record, save
from memcalc.tape.hf import losses

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

ROWS, COLUMNS = 4096, 32768  # TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE
STATISTICS = 7  # fp32 numbers of a row: the largest, sums, the label's logit
OUTPUTS = 4  # what DPOTrainer and SFTTrainer ask for at most


def tiled_log_probs(t: Tape, heads: tuple[Block, ...], hidden: Value, labels: Value) -> Value:
    """_fused_forward behind the backbone: [batch, tokens - 1] log-probabilities, of which every token counts.

    It multiplies the backbone's output with the output embeddings, whatever comes before those.
    """
    weight = losses.head_weight(t, losses.last(heads))
    batch, tokens = labels.shape[0], labels.shape[1] - 1
    mask = t.new((batch, tokens), "bool")
    short = f.narrow(hidden, 1, tokens)
    targets = t.new((batch * tokens,), "int64")
    rows = f.gather(short, mask, (batch * tokens, hidden.shape[-1]))
    scores = tiles(t, rows, weight, targets)
    del rows, short, hidden
    return _put_back(scores, mask)


def _put_back(scores: Value, mask: Value) -> Value:
    """x.new_zeros(mask.shape).masked_scatter(mask, x)."""
    zeros = scores.tape.new(mask.shape, "fp32")
    return f.masked_scatter(zeros, mask, scores)


def tiles(t: Tape, rows: Value, weight: Value, targets: Value) -> Value:
    """ChunkedLogProbFunction.forward over rows [rows, width]: a buffer of one tile, whose width no vocabulary shortens.

    What is saved are the rows, the weight and two numbers a row. Triton folds a tile into its rows' numbers in place.
    """
    node = record(t, _tiles_backward, (rows, weight), (rows, weight, targets))
    t.multiplied(2 * rows.elements * weight.shape[0])
    count, dtype = rows.shape[0], t.autocast or rows.dtype
    found = [t.new((count,), "fp32") for _ in range(STATISTICS)]
    buffer = t.new((min(count, ROWS), COLUMNS), dtype)
    _chunks(t, rows, weight, dtype)
    for _ in range(2):  # log_z, and the entropy or whatever takes its place
        save(t, node, t.new((count,), "fp32"))
    if node:
        node.meta = dtype
    out = t.new((count,), "fp32")
    out.node = node
    del found, buffer
    return out


def _chunks(t: Tape, rows: Value, weight: Value, dtype: str) -> None:
    """The parts of rows and weight that a tile is made of, cast where they are of another dtype."""
    narrow = t.new((min(rows.shape[0], ROWS), rows.shape[1]), dtype) if rows.dtype != dtype else None
    for _ in range(min(-(-weight.shape[0] // COLUMNS), 2)):  # the next is cast while the last one is there
        part = t.new((min(weight.shape[0], COLUMNS), weight.shape[1]), dtype) if weight.dtype != dtype else None
    del narrow, part


def _tiles_backward(node: Node, g: Value) -> Gradients:
    """ChunkedLogProbFunction.backward: the tiles again, and the gradients added up in fp32."""
    rows, weight, *_ = node.load()
    t, dtype = g.tape, node.meta
    t.multiplied(2 * rows.elements * weight.shape[0] * (1 + node.wants(0) + node.wants(1)))
    towards_rows = t.new(rows.shape, "fp32") if node.wants(0) else None
    towards_weight = t.new(weight.shape, "fp32") if node.wants(1) else None
    buffer = t.new((min(rows.shape[0], ROWS), COLUMNS), dtype)
    _chunks(t, rows, weight, dtype)
    made = (
        f.to(towards_rows, rows.dtype) if towards_rows else None,
        f.to(towards_weight, weight.dtype) if towards_weight else None,
    )
    del towards_rows, towards_weight, buffer
    return made
