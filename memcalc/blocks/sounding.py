"""Blocks of a denoiser that makes video and sound together: two streams that read each other's tokens (LTX-2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class StreamTables(Block):
    """Tables that rotate the tokens of video and sound by their coordinates, each among its own and for the other's.

    Of `widths` channels (video, sound, both for the other), in `heads`, halves apart where they are `split`. `sound` is
    how many tokens of sound there are.
    """

    widths: tuple[int, int, int] = (0, 0, 0)
    heads: tuple[int, int] = (1, 1)
    split: bool = False
    sound: int = 0


@dataclass(frozen=True, slots=True)
class SoundStream(Block):
    """The second stream: `tokens` of sound through a linear layer."""

    into: Block | None = None
    tokens: int = 0
    channels: int = 0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.into)


@dataclass(frozen=True, slots=True)
class StreamTexts(Block):
    """The text's states for video and for sound, each projected where there is a projection; `widths` are their channels."""

    projections: tuple[Block, ...] = ()
    widths: tuple[int, int] = (0, 0)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.projections


@dataclass(frozen=True, slots=True)
class TimeVectors(Block):
    """Vectors for all layers, found by the block's name: linear(silu(v)), v an embedding of the time step."""

    embed: Block | None = None
    linear: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.embed, self.linear)


@dataclass(frozen=True, slots=True)
class StreamBlock(Block):
    """A layer of both streams: each reads its own tokens, the text, the other's tokens, and goes through an MLP.

    Of every pair the first is the video's, the second the sound's: `mixers`, `readers` of text, `crossing` (each reads
    the other's), `feeds`, and `norms` before each of these. `tables` are added to the vectors of TimeVectors, `cross_tables`
    to those for the other's tokens, and `prompts` to those for the text, where there are any.
    """

    norms: tuple[tuple[Block, Block], ...] = ()
    mixers: tuple[Attention, ...] = ()
    readers: tuple[Attention, ...] = ()
    crossing: tuple[Attention, ...] = ()
    feeds: tuple[Block, ...] = ()
    tables: tuple[Raw, ...] = ()
    prompts: tuple[Raw, ...] = ()
    cross_tables: tuple[Raw, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        pairs = (self.mixers, self.readers, self.crossing, self.feeds)
        both = zip(self.norms, pairs, strict=True)
        modules = (part for norm, pair in both for i in (0, 1) for part in (norm[i], pair[i]))
        return (*self.tables, *self.prompts, *self.cross_tables, *modules)


@dataclass(frozen=True, slots=True)
class StreamEnds(Block):
    """Each stream normed, modulated by a table plus its time's vector (of `times`), and projected back."""

    tables: tuple[Raw, ...] = ()
    norms: tuple[Block, ...] = ()
    outs: tuple[Block, ...] = ()
    times: tuple[str, ...] = ()

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (*self.tables, *self.norms, *self.outs)
