"""What every denoiser adds: conditioning vectors, modulation by them, positions and patches of a latent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Sequence, given
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class Condition(Sequence):
    """Blocks that make or change the conditioning vector [batch, width] (time, class, pooled text), not the stream.

    `tokens` where they make the other sequence that cross or joint attention reads (projected captions). A vector is
    made of the time step, or of one that is `given` (pooled text). Of numbers that come by `rows` for each sample the
    vectors stand side by side (PixArt's height and width). `image` is how many states of an image are put before the text's;
    a vector that is given `makes` so many states, in place of a text's. What several conditions read is `named`.
    """

    tokens: bool = False
    given: bool = False
    rows: int = 1
    image: int = 0
    makes: int = 0
    named: str = ""


@dataclass(frozen=True, slots=True)
class Sample(Block):
    """A latent drawn from the mean and the logarithm of the variance that an encoder yields, side by side."""


@dataclass(frozen=True, slots=True)
class Modulation(Block):
    """Shifts, scales and gates for a block: linear(silu(condition)), `chunks` vectors of the stream's width.

    Adaptive layer norm (Peebles & Xie 2023). `condition` are blocks of its own that make the vector first (DiT embeds
    time and class in every block). `silu` False where the condition comes activated, by another `activation` in Krea 2.
    `shared` where the vectors are those of all blocks (PixArt); a `table` [chunks, width] in place of the linear is added
    to the condition itself.
    `borrowed` is the path of the module whose parameters make the condition, where they are not its own.
    """

    linear: Block | None = None
    chunks: int = 6
    condition: Block | None = None
    silu: bool = True
    shared: bool = False
    table: Raw | None = None
    borrowed: str = ""
    activation: str = "silu"

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(None if self.borrowed else self.condition, self.linear, self.table)


@dataclass(frozen=True, slots=True)
class Modulate(Block):
    """x (1 + scale) + shift, with vectors of the block's Modulation; of one vector x (1 + scale).

    `apart` where that is a statement of its own, so that what the norm before it read has no name any more; `once` where
    it is one expression with the norm, whose output has no name either (AdaLayerNormContinuous).
    """

    apart: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class ModulatedBlock(Block):
    """A layer of one stream: x + gate · mixer(modulate(norm(x))), x + cross(x), x + gate · feed(modulate(norm(x))).

    Its six vectors come from a `modulation` of its own (DiT), or are the shared ones plus its `table` (PixArt).
    """

    modulation: Block | None = None
    table: Raw | None = None
    norms: tuple[Block, ...] = ()
    mixer: Block | None = None
    cross: Block | None = None
    feed: Block | None = None
    formula: str = ""

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        first, *behind = self.norms
        return given(self.modulation, self.table, first, self.mixer, self.cross, *behind, self.feed)


@dataclass(frozen=True, slots=True)
class TablePositions(Block):
    """Fixed positions in fp32 added to the tokens; `cropped` from the middle of a table for larger images.

    A table of `stored` positions is kept; for images of another size they are made anew (0: of any size).
    """

    cropped: bool = False
    stored: int = 0


@dataclass(frozen=True, slots=True)
class Cut(Block):
    """A map cut into squares of `patch` pixels, each a token of channels · patch² (a copy); the inverse of Unflatten."""

    patch: int = 2


@dataclass(frozen=True, slots=True)
class FirstTokens(Block):
    """The first `count` tokens of a row alone: those of the image that is made, without the ones it is made of."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class ActiveVector(Block):
    """silu(vector), once for all modulations (CogView4)."""


@dataclass(frozen=True, slots=True)
class FirstHalf(Block):
    """The conditioning vectors of the first half of the rows alone."""


@dataclass(frozen=True, slots=True)
class GatedMap(Block):
    """The first half of a map's channels times the activated second (Sana)."""
