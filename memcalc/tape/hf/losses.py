"""The loss of transformers (loss/loss_utils.py), and which other one takes its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Sequence
from memcalc.blocks.basic import Cast, Linear, Scale, Softcap
from memcalc.run import OUTER
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def language_model_loss(
    t: Tape, model: Model, heads: tuple[Block, ...], hidden: Value, labels: Value
) -> tuple[Value, Value]:
    """(loss, what the model's outputs hold) of a causal language model, by the loss that the run asks for."""
    heads = opened(heads)
    if t.setting.loss in OUTER and takes(t.setting.loss, heads):
        given = [hidden]
        del hidden
        loss, logits = outer_loss(t, heads, given, labels)
        return routed(t, model, loss), logits
    if t.setting.loss == "chunked" and takes("chunked", heads):
        return chunked_loss(t, heads, hidden, labels)
    if t.setting.loss == "fused-linear" and linear_head(heads):
        loss = fused_linear_loss(t, heads, hidden, labels)
        return loss, loss
    while heads and isinstance(heads[0], Scale):  # a line of the model's own forward, whose name for it stays
        hidden, heads = run(t, heads[0], hidden, Around()), heads[1:]
    logits = headed(t, heads, hidden)
    loss = causal_lm_loss(t, logits, labels, fp32=model.loss_fp32)
    loss = f.add(loss, squared_sums(logits, loss.dtype)) if model.z_loss else loss
    return routed(t, model, loss), logits


def squared_sums(logits: Value, dtype: str) -> Value:
    """logits.logsumexp(dim=-1).to(loss.dtype).pow(2).mean(), weighed (BambaForCausalLM.forward)."""
    squares = f.square(f.to(f.logsumexp_of(logits, -1), dtype))
    return f.scale(f.mean(squares, *range(len(squares.shape)), keep=False))


def routed(t: Tape, model: Model, loss: Value) -> Value:
    """The loss with what balances experts, where the model's routers hand out what they have put out."""
    if not t.routed:
        return loss
    from memcalc.tape.hf.balance import balanced  # noqa: PLC0415 - few losses balance experts

    return balanced(t, model.body, loss)


def outer_loss(t: Tape, heads: tuple[Block, ...], given: list[Value], labels: Value) -> tuple[Value, Value]:
    """A loss that a trainer makes outside of the model's forward, whose last states nobody else names by then."""
    from memcalc.tape.hf import outer_losses  # noqa: PLC0415 - most runs have the standard loss

    return outer_losses.outer_loss(t, heads, given.pop(), labels)


def opened(heads: tuple[Block, ...]) -> tuple[Block, ...]:
    """The heads, each one of a sequence without a name by itself."""
    return tuple(
        part for head in heads for part in (head.blocks if type(head) is Sequence and not head.name else (head,))
    )


def takes(loss: str, heads: tuple[Block, ...]) -> bool:
    """Whether a loss that reads hidden states instead of logits goes with these heads; else the usual one is counted.

    Logits that are cut before the loss reads them, or made by what is no head, can't be made chunk by chunk.
    """
    if loss == "fused-linear":
        return linear_head(heads) is not None
    if loss == "fused-log-probs":
        return linear_head(last(heads)) is not None
    if loss in OUTER:
        return bool(heads)
    return bool(heads) and not any(part.duty == "shift" for head in heads for part in (head, *head.parts()))


def last(heads: tuple[Block, ...]) -> tuple[Block, ...]:
    """The heads from the output embeddings on, without casts of the logits, for whoever computes in fp32 anyway."""
    found = tuple(head for head in heads if not isinstance(head, Cast))
    begins = max((at for at, head in enumerate(found) if isinstance(head, Linear)), default=0)
    return found[begins:]


def linear_head(heads: tuple[Block, ...]) -> Linear | None:
    """The one linear among the heads, behind which comes nothing but a scale or a cap of its output; else None."""
    found = [head for head in heads if isinstance(head, Linear)]
    plain = all(isinstance(head, (Linear, Scale, Softcap)) for head in heads)
    return found[0] if plain and len(found) == 1 else None


def headed(t: Tape, heads: tuple[Block, ...], hidden: Value) -> Value:
    """The logits."""
    around = Around()
    for head in heads:
        if isinstance(head, Softcap):
            given = [hidden]
            del hidden
            hidden = capped(head, given)
        else:
            saving = t.saving
            t.saving = None if isinstance(head, Linear) else saving  # what the head saves is not sent away
            hidden = run(t, head, hidden, around)
            t.saving = saving
    return hidden


def capped(head: Softcap, given: list[Value]) -> Value:
    """Lines of the model's own forward, each of which lets go of what it has read."""
    logits = given.pop()
    if head.nested:
        logits = f.to(logits, "fp32") if head.wide else logits
        return f.scale(f.tanh(f.scale(logits)))
    logits = f.scale(f.to(logits, "fp32") if head.wide else logits)
    logits = f.tanh(logits)
    return f.scale(logits)


def causal_lm_loss(t: Tape, logits: Value, labels: Value, *, fp32: bool = True) -> Value:
    """ForCausalLMLoss: logits in fp32; labels padded by one and shifted."""
    if fp32 and (t.setting.loss != "compiled" or "fp32-logits" in t.setting.fused):
        logits = f.to(logits, "fp32")
    padded, labels = shifted(t, labels)
    logits = f.view(logits, -1, logits.shape[-1])
    return cross_entropy(t, logits, labels)


def shifted(t: Tape, labels: Value) -> tuple[Value, Value]:
    """Labels padded by one, and a contiguous copy of all but the first of each sequence."""
    batch, seq = labels.shape
    padded = t.new((batch, seq + 1), "int64")
    return padded, padded if batch == 1 else t.new((batch, seq), "int64")


def token_loss(t: Tape, logits: Value, labels: Value, *, fp32: bool = False) -> Value:
    """Cross entropy of every row of the logits (ForMaskedLM's own, ForSequenceClassificationLoss)."""
    if fp32:
        logits = f.to(logits, "fp32")
    return cross_entropy(t, f.reshape(logits, -1, logits.shape[-1]), labels)


def smoothed_loss(t: Tape, given: list[Value], labels: Value, others: list[Value]) -> tuple[Value, Value]:
    """The Trainer's loss of smoothed labels, where they are not shifted: (loss, logits), of which nobody else holds the latter.

    Whatever else the model hands back is there in fp32, too: an encoder's last states.
    """
    from memcalc.tape.hf.outer_losses import outputs, smoothed  # noqa: PLC0415 - most runs have the standard loss

    others[:] = [f.to(other, "fp32") if t.autocast else other for other in others]
    logits = outputs(t, given.pop())
    return smoothed(logits, labels, shift=False), logits


def cross_entropy(t: Tape, logits: Value, labels: Value) -> Value:
    """nn.functional.cross_entropy, or what Liger or a divided vocabulary puts in its place."""
    if t.setting.loss == "compiled":
        from memcalc.tape.hf import compiled  # noqa: PLC0415 - most runs have the standard loss

        return compiled.cross_entropy(t, logits)
    if t.setting.loss == "fused":
        from memcalc.tape.hf.lean_losses import in_place_cross_entropy  # noqa: PLC0415

        return in_place_cross_entropy(t, logits)
    ways = t.setting.ways
    if ways and ways.tensor > 1 and logits.shape[-1] < ways.words:
        from memcalc.tape.hf import parallel  # noqa: PLC0415 - few models are divided

        return parallel.cross_entropy(t, f.upper(logits))
    return f.cross_entropy(logits, labels)


def fused_linear_loss(t: Tape, heads: tuple[Block, ...], hidden: Value, labels: Value) -> Value:
    """LigerForCausalLMLoss: the head's weight goes into the loss (liger_kernel, transformers/model/loss_utils.py)."""
    from memcalc.tape.hf.lean_losses import fused_linear_cross_entropy  # noqa: PLC0415 - most runs have the standard loss

    if any(isinstance(other, Scale) for other in heads):
        hidden = f.scale(hidden)
    weight = head_weight(t, heads)
    padded, _labels = shifted(t, labels)
    return fused_linear_cross_entropy(t, f.reshape(hidden, -1, hidden.shape[-1]), weight)


def head_weight(t: Tape, heads: tuple[Block, ...]) -> Value:
    """The weight [vocabulary, width] of the one linear among the heads."""
    head = linear_head(heads)
    assert head  # noqa: S101 - the caller has looked
    path, t.path = t.path, f"{t.path}.{head.name}" if t.path else head.name
    weight = t.weight("weight", (head.outputs, head.inputs), head.tied_to)
    t.path = path
    return weight


def chunked_loss(t: Tape, heads: tuple[Block, ...], hidden: Value, labels: Value) -> tuple[Value, Value]:
    """torchtune's chunked_output and CEWithChunkedOutputLoss: (loss, one of the chunks of logits that are held)."""
    from memcalc.tape.hf.lean_losses import chunked_cross_entropy, cross_entropy_by_chunk  # noqa: PLC0415 - as above

    if "backward-by-chunk" in t.setting.fused and linear_head(heads):
        flat = f.reshape(hidden, -1, hidden.shape[-1])
        loss = cross_entropy_by_chunk(t, flat, head_weight(t, heads), t.setting.chunks or CHUNKS)
        return loss, loss
    parts = chunks(t, hidden)
    logits = [headed(t, heads, part) for part in parts]
    hidden.storage = logits[-1].storage  # the model has returned: no name of it holds its last states any more
    del parts, hidden
    return chunked_cross_entropy(t, logits, labels), logits[-1]


def chunks(t: Tape, hidden: Value) -> tuple[Value, ...]:
    """hidden.chunk(count, dim=1): views of equal length, the last one shorter where it doesn't divide."""
    seq = hidden.shape[1]
    size = -(-seq // (t.setting.chunks or CHUNKS))
    return f.split(hidden, [min(size, seq - start) for start in range(0, seq, size)], 1)


CHUNKS = 8  # torchtune's num_output_chunks


def speech_loss(t: Tape, logits: Value, labels: Value) -> Value:
    """ForCTCLoss of frames [batch, frames, vocab] (loss/loss_ctc.py); cross entropy where clips are classified."""
    if len(logits.shape) == 2:
        return token_loss(t, logits, labels)
    _ones = t.new((t.setting.batch, t.setting.seq), "int64")  # a mask of every sample, to count the frames by
    scores = f.transpose(f.softmax(logits, "fp32"), 0, 1)
    return f.ctc_loss(scores, t.setting.target or -(-logits.shape[1] // 4))
