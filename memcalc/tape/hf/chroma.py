"""Chroma: FLUX's layers, whose vectors are picked from those of one approximator (diffusers, transformer_chroma.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.joint import SingleBlock
from memcalc.blocks.streams import Approximator, PickedVectors
from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.diffusion import sinusoids
from memcalc.tape.hf.dit import at_once, clipped, norm, vectors
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Approximator)
def approximator(t: Tape, block: Approximator, x: Value, around: Around) -> Value:
    """ChromaCombinedTimestepTextProjEmbeddings.forward and ChromaApproximator.forward."""
    batch, quarter = x.shape[0], block.inputs // 4
    t.given((block.count, block.inputs // 2), "fp32", "mod_proj")
    time, guidance = sinusoids(t, batch, quarter), sinusoids(t, batch, quarter)
    places = t.new((batch, block.count, 2 * quarter), time.dtype)
    both = f.repeat(f.unsqueeze(f.cat((time, guidance), 1), 1), block.count, 1)
    made = f.cat((both, places))
    del time, guidance, places, both
    for part in block.blocks:
        made = run(t, part, made, around)
    around.scene.shared = made
    return x


@rule(PickedVectors)
def picked_vectors(_: Tape, block: PickedVectors, x: Value, around: Around) -> Value:
    """pooled_temb[:, first : first + chunks]; a layer of two streams is given twelve, in a tensor of its own."""
    scene = around.scene
    if block.stream == "image":
        scene.pair = f.cat((f.narrow(scene.shared, 1, block.chunks), f.narrow(scene.shared, 1, block.chunks)), 1)
    found = scene.pair if block.stream else scene.shared
    made = f.reshape(f.narrow(found, 1, block.chunks), x.shape[0], -1)
    scene.chunks = [f.unsqueeze(part, 1) for part in f.chunk(made, block.chunks, 1)]
    return x


@rule(SingleBlock, "chroma")
def single_block(t: Tape, block: SingleBlock, x: Value, around: Around) -> Value:
    """ChromaSingleTransformerBlock.forward."""
    assert block.modulation  # noqa: S101 - it picks its vectors
    shift, scale, gate = vectors(t, block.modulation, x, around)
    y = at_once(norm(x), scale, shift)
    inner = activate(block.activation, run(t, block.up, y, around))
    attended = run(t, block.attention, y, around)
    out = f.cat((attended, inner), 2)
    out = f.mul(gate, run(t, block.out, out, around))
    out = f.add(x, out)
    del y, inner, attended
    return clipped(out)
