"""CLAP: sounds compared with texts (modeling_clap.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.sounds import MelImage, TimeMean
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(MelImage)
def mel_image(t: Tape, block: MelImage, x: Value, around: Around) -> Value:
    """ClapAudioEncoder.forward up to its patches: batch_norm, reshape_mel2img."""
    batch, channels, frames, bins = x.shape
    x = f.transpose(run(t, block.norm, f.transpose(x, 1, 3), around), 1, 3)
    t.held.append(x)
    wide = block.side * block.ratio
    if frames < wide:
        x = maps.interpolate(x, (wide, bins))
    if bins < block.side // block.ratio:
        x = maps.interpolate(x, (wide, block.side // block.ratio))
    x = f.reshape(x, batch, channels * block.ratio, block.side, -1)
    x = f.contiguous(f.permute(x, 0, 1, 3, 2))
    return f.reshape(x, batch, channels, block.side, block.side)


@rule(TimeMean)
def time_mean(_: Tape, block: TimeMean, x: Value, around: Around) -> Value:
    """The end of ClapAudioEncoder.forward."""
    batch, width = x.shape[0], x.shape[2]
    x = f.contiguous(f.permute(x, 0, 2, 1))
    bins = block.side // block.ratio
    x = f.reshape(x, batch, width, block.side // bins, bins, block.side)
    x = f.contiguous(f.permute(x, 0, 1, 3, 2, 4))
    around.outputs.append(x)
    return f.mean(f.reshape(x, batch, width, -1), -1, keep=False)


def compared(t: Tape, texts: Value, sounds: Value) -> tuple[Value, Value]:
    """ClapModel.forward behind its towers: cosines both ways, each times its temperature, and the loss of both."""
    sounds, texts = (f.div(x, f.vector_norm(x, -1)) for x in (sounds, texts))
    scale_text, scale_sound = (f.exp(t.weight(f"logit_scale_{name}", ())) for name in "ta")
    of_texts = f.mul(f.matmul(texts, f.swap(sounds)), scale_text)
    of_sounds = f.mul(f.matmul(sounds, f.swap(texts)), scale_sound)
    first = f.cross_entropy(of_texts, t.new((texts.shape[0],), "int64"))
    second = f.cross_entropy(f.swap(of_sounds), t.new((texts.shape[0],), "int64"))
    return f.scale(f.add(first, second)), of_sounds
