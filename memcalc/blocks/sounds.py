"""What models that compare sounds with texts add: a spectrogram read as an image, and two temperatures."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.blocks.seq2seq import Fork
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class MelImage(Block):
    """[batch, channels, frames, mel bins], normed over the bins, as a square of `side`: stretches of time one above another.

    `ratio` is how many of these there are; frames are interpolated to as many as fill the square (CLAP).
    """

    side: int = 1
    ratio: int = 1
    norm: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.norm)


@dataclass(frozen=True, slots=True)
class TimeMean(Block):
    """Tokens of such a square of `side` tokens put back in the order of time, and their mean: [batch, width]."""

    side: int = 1
    ratio: int = 1


@dataclass(frozen=True, slots=True)
class Heard(Fork):
    """A tower of texts and one of sounds, each direction of whose cosines has a temperature of its own."""
