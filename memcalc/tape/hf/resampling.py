"""Latents that read an image's tokens (modeling_idefics2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.querying import LatentLayer, Resampled
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import attend, heads, project
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Resampled)
def resampled(t: Tape, block: Resampled, x: Value, around: Around) -> Value:
    """Idefics2PerceiverResampler.forward."""
    latents = f.unsqueeze(t.weight("latents", (block.latents, block.width)), 0)
    y = f.expand(latents, x.shape[0], -1, -1)
    inner = Around()
    inner.ready, inner.encoder = True, x
    for part in block.blocks:
        y = run(t, part, y, inner)
    return y


@rule(LatentLayer)
def latent_layer(t: Tape, block: LatentLayer, x: Value, around: Around) -> Value:
    """Idefics2PerceiverLayer.forward, and its attention's: keys and values of the tokens and the latents, joined."""
    latents, context = run(t, block.norm, x, around), run(t, block.context_norm, cast("Value", around.encoder), around)
    mixer = cast("Attention", block.mixer)
    with inside(t, mixer):
        read = f.cat((context, latents), 1)
        q, k, v = run(t, mixer.q, latents, around), run(t, mixer.k, read, around), run(t, mixer.v, read, around)
        q, k, v = heads(q, mixer.heads), heads(k, mixer.kv_heads), heads(v, mixer.kv_heads)
        out = project(t, mixer, attend(t, mixer, q, k, v, around), around)
        del read, q, k, v
    out = f.add(x, out)
    del latents
    return run(t, block.feed, out, around)
