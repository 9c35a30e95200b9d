"""Attention of encoders and encoder-decoders that don't go through transformers' common form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, project
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Attention, "whisper")
def whisper(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """WhisperAttention.forward: queries are scaled first, and every part is copied head by head (modeling_whisper.py)."""
    read = around.encoder if block.cross and around.encoder else x
    q = f.contiguous(heads(f.scale(run(t, block.q, x, around)), block.heads))  # type: ignore[arg-type] - it has one
    k = f.contiguous(heads(run(t, block.k, read, around), block.heads))  # type: ignore[arg-type]
    v = f.contiguous(heads(run(t, block.v, read, around), block.heads))  # type: ignore[arg-type]
    return project(t, block, attend(t, block, q, k, v, around), around)
