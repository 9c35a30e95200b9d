"""What models of images and text add: images that become tokens of the text."""

from __future__ import annotations

from typing import ClassVar, Literal

from memcalc.blocks.base import Block, Param, Sequence, Stack, Unused
from memcalc.blocks.basic import Embedding, Raw
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """How images of any size are cut: squares of `patch` pixels and `frames` frames, `merge` x `merge` of them to a token.

    Sides become multiples of patch · merge pixels, the nearest ones, or the next where they are rounded `up`.
    They come as `rows` of pixels, each a patch, or as images.
    """

    patch: int
    merge: int = 1
    frames: int = 1
    up: bool = False
    rows: bool = True

    def of(self, size: tuple[int, int], frames: int) -> tuple[int, int, int]:
        """(frames, rows, columns) of patches of an image, or video, of that size in pixels."""
        unit = self.patch * self.merge
        rows, columns = (max(1, -(-n // unit) if self.up else round(n / unit)) * self.merge for n in size)
        return -(-frames // self.frames), rows, columns


@dataclass(frozen=True, slots=True)
class Crops:
    """How an image is cut into tiles of `side` pixels: as the best of some `resolutions`, and a small one of all of it.

    Each tile becomes `patches` x `patches` tokens; of what is put together again, the margins that padding added are cut
    off, and what is left is shrunk to about the tokens of `most` tiles, where that is not 0 (LLaVA-NeXT, OneVision).
    """

    resolutions: tuple[tuple[int, int], ...]
    side: int
    patches: int
    most: int = 0

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of tiles: select_best_resolution (transformers, image_processing_utils.py)."""

        def fitness(resolution: tuple[int, int]) -> tuple[int, int]:
            scale = min(resolution[0] / size[0], resolution[1] / size[1])
            used = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
            return used, used - resolution[0] * resolution[1]

        high, wide = max(self.resolutions, key=fitness)
        return high // self.side, wide // self.side

    def unpadded(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of tokens without the margins: unpad_image (modeling_llava_next.py)."""
        rows, columns = (n * self.patches for n in self.grid(size))
        if size[1] / size[0] > columns / rows:
            return rows - (rows - int(round(size[0] * columns / size[1], 7))) // 2 * 2, columns
        return rows, columns - (columns - int(round(size[1] * rows / size[0], 7))) // 2 * 2

    def shrunk(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of tokens in the end (LlavaOnevisionModel.pack_image_features)."""
        rows, columns = self.unpadded(size)
        ratio = (rows * columns / (self.most * self.patches**2)) ** 0.5 if self.most else 0
        return (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)

    def tokens(self, size: tuple[int, int]) -> int:
        """Tokens of an image: those of the whole, and rows of the tiles' with a token that ends each."""
        rows, columns = self.shrunk(size)
        return self.patches**2 + rows * (columns + 1)


@dataclass(frozen=True, slots=True)
class PackedCrops(Block):
    """The tokens of an image's tiles, put together as a map whose rows end with a learned token of `width` channels."""

    width: int = 0
    crops: Crops | None = None


@dataclass(frozen=True, slots=True)
class Images(Sequence):
    """Reads the images of a sequence; what it yields takes the place of the image tokens among the embeddings.

    * `image` is (channels, height, width) of one image, empty where images may have any size, which `grid` or `crops` cut.
      `tokens` is how many tokens of the text one image becomes, 0 where that depends on its size.
    * `scattered` where the tower's steps are known: else, or where a batch has no images, the text runs without it.
    * `feature` is which of the tower's hidden states is read, None where its output is; several are read side by side.
      `without_first` leaves out its class token. `copied` where the pixels are, without images that are padding (Idefics 3).
    * `shrinks` where images of any size are taken as they are: into how many times fewer rows and columns of tokens; one more
      token is their mean.
    * `listed` where what comes of each image is put together again by a copy, `masked` where a mask tells image tokens
      apart ("windows": in layers with a window alone), `axes` where every token of the text has a place on three axes.
      `returned` where what comes of the images is an output of the model, too (image_hidden_states).
    * `outer` where the function that reads them also runs the head and the loss: their names last to its end (Llama 4).
    * `asks` where the library knows the tower's input embedding, which adapters under checkpointing make ask for a gradient.
    """

    duty: ClassVar[str] = "tower"

    image: tuple[int, ...] = ()
    tokens: int = 0
    feature: int | tuple[int, ...] | None = None
    without_first: bool = False
    listed: bool = False
    masked: bool | Literal["windows"] = False
    scattered: bool = False
    grid: Grid | None = None
    crops: Crops | None = None
    asks: bool = True
    copied: bool = False
    axes: bool = False
    returned: bool = True
    shrinks: int = 0
    outer: bool = False

    @property
    def features(self) -> tuple[int, ...]:
        """Which of the tower's hidden states are read; none where its output is."""
        return self.feature if isinstance(self.feature, tuple) else () if self.feature is None else (self.feature,)


@dataclass(frozen=True, slots=True)
class PooledTokens(Block):
    """Tokens of a square map of `side` tokens a side, averaged over squares of `kernel` x `kernel` (Gemma 3)."""

    side: int = 1
    kernel: int = 1


@dataclass(frozen=True, slots=True)
class SecondGates(Block):
    """The first half of the channels times silu of the second (Aya Vision)."""


@dataclass(frozen=True, slots=True)
class MaskedAlways(Block):
    """Every layer of the text has a mask, also where a batch holds no images (Gemma 4 unified)."""


@dataclass(frozen=True, slots=True)
class UnitRows(Block):
    """Every token divided by its length (ColPali)."""


@dataclass(frozen=True, slots=True)
class Probabilities(Block):
    """A softmax over the channels, of tokens that are to be words (Ovis 2)."""


@dataclass(frozen=True, slots=True)
class VisualWords(Raw):
    """A table [words, width] of whose rows every token is a mixture; the last `marks` rows stand around images (Ovis 2)."""

    marks: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("weight", self.shape),)


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
class GridPositions(Embedding):
    """A square table of positions that is stretched to every image: four rows of it, weighed, to each patch (Qwen3-VL)."""


@dataclass(frozen=True, slots=True)
class SampledPositions(Embedding):
    """A square table of positions that every image samples as one picture, bicubically and in fp32 (GLM-4V)."""


@dataclass(frozen=True, slots=True)
class MergedSquares(Block):
    """`merge` x `merge` neighbours that lie side by side in a row of patches, as small maps, through a convolution (GLM-4V)."""

    merge: int = 2
    conv: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.conv,) if self.conv else ()


@dataclass(frozen=True, slots=True)
class GridRotary(Block):
    """Tables of `dim` channels that rotate patches by rows and columns, for all layers of a tower; in fp32 where `wide`."""

    dim: int = 0
    wide: bool = True


@dataclass(frozen=True, slots=True)
class PatchRow(Block):
    """The maps of several images as one row of patches (Pixtral)."""


@dataclass(frozen=True, slots=True)
class RowMask(Block):
    """A mask of all pairs in a row of patches, which keeps images apart (Pixtral)."""


@dataclass(frozen=True, slots=True)
class Unfolded(Block):
    """`factor` x `factor` neighbours of each image, side by side, from a row of patches (Mistral 3)."""

    factor: int = 2


@dataclass(frozen=True, slots=True)
class GridOrder(Block):
    """Patches put in the order of the windows that they attend in (Qwen2.5-VL), `merge`² at a time; or back again."""

    merge: int = 1
    back: bool = False


@dataclass(frozen=True, slots=True)
class DeepStack(Stack):
    """Mergers of the states that some layers of a tower yield, numbered like them: those `at` which each reads."""

    at: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Unseen(Unused):
    """A tower in a step without images: it is there as it would be with some."""


@dataclass(frozen=True, slots=True)
class ReadsImages(Sequence):
    """A layer of the text that attends to images alone, and is left out where there are none (Llama 3.2 Vision)."""


@dataclass(frozen=True, slots=True)
class PerLayerEmbeddings(Sequence):
    """Made once, before the layers: every token's embedding for each layer, [batch, seq, layers, width].

    A table read by token ids, plus a projection of the token's embedding under a norm (Gemma 3n and 4); or, where there
    is no table, that projection alone (EmbeddingGemma 2).
    """


@dataclass(frozen=True, slots=True)
class PerLayerInput(Block):
    """x times this layer's slice of the PerLayerEmbeddings."""


@dataclass(frozen=True, slots=True)
class MarkedEmbedding(Embedding):
    """A table of tokens and, apart from it, the row of the token that ends an image (T5Gemma 2).

    `tied_to` is the module of such a pair whose memory both share.
    """

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        names = "weight", "eoi_embedding"
        shapes = (self.rows, self.width), (self.width,)
        tied = [f"{self.tied_to}.{name}" if self.tied_to else "" for name in names]
        return tuple(Param(*each[:2], True, each[2]) for each in zip(names, shapes, tied, strict=True))


@dataclass(frozen=True, slots=True)
class Sounds(Sequence):
    """Reads the recordings of a sequence; what it yields takes the place of the audio tokens among the embeddings."""

    duty: ClassVar[str] = "tower"
