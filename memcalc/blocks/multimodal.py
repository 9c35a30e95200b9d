"""What models of images and text add: images that become tokens of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from memcalc.blocks.base import Block, Sequence
from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class Images(Sequence):
    """Reads the images of a sequence; what it yields takes the place of the image tokens among the embeddings.

    `image` is (channels, height, width) of one image, empty where images may have any size. `tokens` is how many
    tokens of the text one image becomes, 0 where that depends on its size. The text runs without it where a batch has
    no images. `feature` is which of the tower's hidden states is read, None where its output is; `without_first` leaves
    out its class token; `listed` where what comes of each image is put together again by a copy, `masked` where a mask
    tells image tokens apart. `scattered` where one image of that size to a sequence is what a step is counted with;
    else the text runs alone.
    """

    duty: ClassVar[str] = "tower"

    image: tuple[int, ...] = ()
    tokens: int = 0
    feature: int | None = None
    without_first: bool = False
    listed: bool = False
    masked: bool = False
    scattered: bool = False


@dataclass(frozen=True, slots=True)
class PooledTokens(Block):
    """Tokens of a square map of `side` tokens a side, averaged over squares of `kernel` x `kernel` (Gemma 3)."""

    side: int = 1
    kernel: int = 1


@dataclass(frozen=True, slots=True)
class Matrix(Raw):
    """A bare matrix [inputs, outputs] that the stream is multiplied by."""


@dataclass(frozen=True, slots=True)
class ConvTokens(Block):
    """Patches that come as rows of pixels [patches, channels * frames * height * width], through a convolution.

    Its kernel is a whole patch: a linear map of every row (Qwen2-VL's patch embedding).
    """

    conv: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.conv,) if self.conv else ()


@dataclass(frozen=True, slots=True)
class PerLayerEmbeddings(Sequence):
    """Made once, before the layers: every token's embedding for each layer, [batch, seq, layers, width].

    A table read by token ids, plus a projection of the token's embedding under a norm (Gemma 3n and 4).
    """


@dataclass(frozen=True, slots=True)
class PerLayerInput(Block):
    """x times this layer's slice of the PerLayerEmbeddings."""


@dataclass(frozen=True, slots=True)
class Sounds(Sequence):
    """Reads the recordings of a sequence; what it yields takes the place of the audio tokens among the embeddings."""

    duty: ClassVar[str] = "tower"
