"""Encoder-decoders: two stacks, of which the second reads what the first yields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.seq2seq import Decoder, Encoder, Fork, Shared
from memcalc.tape.hf.layers import sequence
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Shared)
def shared(_: Tape, block: Shared, x: Value, around: Around) -> Value:  # noqa: ARG001
    """A table that encoder and decoder read under names of their own."""
    return x


@rule(Encoder)
def encoder(t: Tape, block: Encoder, x: Value, around: Around) -> Value:
    """T5Stack.forward over the source."""
    around.encoder = sequence(t, block, x, Around())
    t.held.clear()
    return around.encoder


@rule(Decoder)
def decoder(t: Tape, block: Decoder, x: Value, around: Around) -> Value:
    """T5Stack.forward over the target, the labels shifted by one."""
    inner = Around()
    inner.encoder = around.encoder
    return sequence(t, block, t.target or x, inner)


@rule(Fork)
def fork(t: Tape, block: Fork, x: Value, around: Around) -> Value:
    """Branches that each yield an output of the model; the first is what the loss reads."""
    outputs = [run(t, branch, x, around) for branch in block.branches]
    return outputs[0]
