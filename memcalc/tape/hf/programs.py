"""Whole models: from the input to the loss, for each kind of model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Stack
from memcalc.tape import functions as f
from memcalc.tape.hf.losses import causal_lm_loss
from memcalc.tape.hf.masks import causal_mask
from memcalc.tape.hf.rotary import rotary_tables
from memcalc.tape.rules import Around, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Sequence
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def causal_lm(t: Tape, body: Sequence) -> tuple[Value, Value]:
    """LlamaForCausalLM.forward: (loss, logits)."""
    base, head = body.blocks
    ids = t.given((t.setting.batch, t.setting.seq), "int64")
    hidden = decoder(t, base, ids)
    logits = run(t, head, hidden, Around())
    return causal_lm_loss(t, logits, ids), logits


def decoder(t: Tape, base: Block, ids: Value) -> Value:
    """LlamaModel.forward: embeddings, then positions, mask and rotary tables, then layers and the last norm."""
    t.path, around = base.name, Around()
    parts = list(base.parts())
    first = next(i for i, part in enumerate(parts) if isinstance(part, Stack))
    embedded = ids
    for part in parts[:first]:
        embedded = run(t, part, embedded, around)
    around.positions = f.shift(t.new((ids.shape[1],), "int64"))
    surroundings(t, parts[first], embedded, around)
    hidden = embedded
    for part in parts[first:]:
        hidden = run(t, part, hidden, around)
    t.path = ""
    return hidden


def surroundings(t: Tape, layers: Block, x: Value, around: Around) -> None:
    """What the layers need and share: masks of every window, rotary tables."""
    batch, seq = x.shape[:2]
    mixers = list(attentions(layers))
    for window in dict.fromkeys(mixer.window for mixer in mixers):
        around.masks[window] = causal_mask(t, batch, seq, x.dtype, window)
    dims = {mixer.rotary_dim for mixer in mixers if mixer.rotary_dim}
    if dims:
        around.rotary = rotary_tables(t, 1, seq, dims.pop(), x.dtype)


def attentions(block: Block) -> Iterator[Attention]:
    """Every distinct attention below a block, in order."""
    if isinstance(block, Attention):
        yield block
    for _, part in block.groups():
        yield from attentions(part)
