"""What image models add: patches as tokens, learned tokens and positions, pooling, resampling, skip connections.

Maps are [batch, channels, height, width], tokens [batch, tokens, width]. A kind without fields of its own has no
tensors; it tells the tape what happens to the value that passes through.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from memcalc.blocks.base import Block, Sequence, given
from memcalc.blocks.basic import Raw
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Flatten(Block):
    """[batch, channels, height, width] -> [batch, height · width, channels]: a map read as tokens (a view, or `copied`).

    `whole` makes one row of it all: [batch, channels · height · width] (nn.Flatten). `inner` where they were tokens
    before, and a part of a layer only looked at them as a map.
    """

    whole: bool = False
    copied: bool = False
    inner: bool = False


@dataclass(frozen=True, slots=True)
class Axes(Block):
    """The axes of x in another order (a view, or `copied`): a map with its channels last, (0, 2, 3, 1), or first again."""

    order: tuple[int, ...] = ()
    copied: bool = False


@dataclass(frozen=True, slots=True)
class Untokened(Block):
    """A map with its channels last, which layers read as it is (Segment Anything)."""


@dataclass(frozen=True, slots=True)
class Unflatten(Block):
    """Tokens back to a map; `patch` > 1 spreads each token over patch x patch pixels (a DiT's unpatchify).

    A view of the tokens, unless `copied` to lie in memory as maps do. `inner` where they are tokens again behind it.
    """

    patch: int = 1
    copied: bool = True
    inner: bool = False


@dataclass(frozen=True, slots=True)
class Prefix(Raw):
    """Learned tokens [1, n, width] put before the others (class, register, distillation tokens): a concatenation."""


@dataclass(frozen=True, slots=True)
class Positions(Raw):
    """A learned or fixed table [1, tokens, width] added to the tokens."""


@dataclass(frozen=True, slots=True)
class FixedPositions(Block):
    """A table [1, tokens, width] of sinusoids that lies on the host, copied for every use and added (VideoMAE)."""

    tokens: int = 0
    width: int = 0


@dataclass(frozen=True, slots=True)
class ChannelScale(Raw):
    """x times a learned value per channel, or one for all (LayerScale; Touvron et al. 2021)."""


@dataclass(frozen=True, slots=True)
class ResponseNorm(Block):
    """Global response normalisation of ConvNeXt V2: x + weight · (x · |x| / mean |x|) + bias (Woo et al. 2023)."""

    width: int = 0
    own_names: tuple[str, str] = ("weight", "bias")

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return tuple(Raw(name, (1, 1, 1, self.width)) for name in self.own_names)


@dataclass(frozen=True, slots=True)
class DropPath(Block):
    """Stochastic depth: whole samples of a residual branch dropped with probability up to p (Huang et al. 2016)."""

    p: float = 0.0


@dataclass(frozen=True, slots=True)
class Pool(Block):
    """Pooling of a map; `kernel` 0 reduces the whole map to one pixel (adaptive)."""

    kind: Literal["max", "average"] = "average"
    kernel: int = 0
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Resample(Block):
    """A map enlarged `factor` times along each axis by interpolation (the learned convolution follows as a block)."""

    factor: int = 2
    mode: Literal["nearest", "bilinear"] = "nearest"


@dataclass(frozen=True, slots=True)
class Pad(Block):
    """Zeros put around a map: `amount` pixels in all along each axis (a copy)."""

    amount: int = 1


@dataclass(frozen=True, slots=True)
class SamePad(Block):
    """Zeros around a map as TensorFlow pads it for a convolution; a copy, also where none are needed (MobileNet)."""

    kernel: int = 3
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True, slots=True)
class PixelGroups(Block):
    """A map as groups of pixels, those at the same place in every `patch` x `patch` square; or (`back`) a map again (MobileViT)."""

    patch: int = 2
    back: bool = False


@dataclass(frozen=True, slots=True)
class MergeNeighbours(Block):
    """`factor`² neighbouring tokens concatenated to one of `factor`² times the width (Swin, Qwen2-VL's merger).

    Tokens that lie row by row in a `map` (rows, columns) are gathered (Swin), those of a square map are `shuffled`, first
    along one axis, then along the other (InternVL), `loose` where that stays a view (Aya Vision); others already lie side
    by side.
    """

    factor: int = 2
    map: tuple[int, int] | None = None
    shuffled: bool = False
    loose: bool = False


@dataclass(frozen=True, slots=True)
class Shortcut(Block):
    """layer(x) + projection(x), summed in place; + x itself where there is no projection (a ResNet block)."""

    layer: Block | None = None
    projection: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.layer, self.projection)


@dataclass(frozen=True, slots=True)
class Keep(Block):
    """x is remembered for a later Join, last in first out: the long skip connections of a UNet."""

    duty: ClassVar[str] = "skip"


@dataclass(frozen=True, slots=True)
class Join(Block):
    """x concatenated along its channels with what the last open Keep remembered; `first` of its level, or a later one."""

    first: bool = True
    duty: ClassVar[str] = "skip"


@dataclass(frozen=True, slots=True)
class Local(Sequence):
    """Blocks of one module, which has forgotten what its Keeps remembered when it has run."""


@dataclass(frozen=True, slots=True)
class Windows(Sequence):
    """Blocks that run within windows of size x size tokens of a map; `shifted` rolls the map by half a window first.

    The map is padded to a multiple of `size`, cut into windows (a copy), and put together again behind the blocks
    (Liu et al. 2021; transformers, SwinLayer.forward). A map no larger than a window is one window, not shifted.
    """

    size: int = 7
    shifted: bool = False


@dataclass(frozen=True, slots=True)
class WindowLayer(Block):
    """A layer whose attention runs within windows of size x size of a `map` (rows, columns) of tokens (Swin).

    x + drop_path(mixer(norm(x))), then x + mlp(norm(x)); the norms stand `behind` mixer and MLP in Swin v2. `shifted`
    rolls the map by half a window first. The map is padded to a multiple of `size`. `dropout` is of what mixer and MLP
    yield, in Swin v2 of the MLP alone. `named` where what is made on the way keeps its name as long as the layer runs.
    """

    norms: tuple[Block, ...] = ()
    mixer: Block | None = None
    mlp: Block | None = None
    dropout: Block | None = None
    drop_path: Block | None = None
    map: tuple[int, int] = (0, 0)
    size: int = 7
    shifted: bool = False
    behind: bool = False
    named: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        first, second = self.norms
        row = (self.mixer, first, self.mlp, second) if self.behind else (first, self.mixer, second, self.mlp)
        row = (*row, self.drop_path)
        return given(*row)


@dataclass(frozen=True, slots=True)
class BiasedLayer(Sequence):
    """A layer whose attention adds biases of relative positions to its scores, from a `table` of its own (BEiT).

    `map` is (rows, columns) of the patches, to which a class token comes.
    """

    table: Sequence | None = None
    map: tuple[int, int] = (0, 0)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.table, *self.blocks) if self.table else self.blocks


@dataclass(frozen=True, slots=True)
class SharedBias(BiasedLayer):
    """The biases that all layers add to their scores, made once before them (BEiT)."""


@dataclass(frozen=True, slots=True)
class Embedded(Block):
    """Here the library's input embedding ends, whose output adapters under checkpointing make ask for a gradient."""


@dataclass(frozen=True, slots=True)
class Aside(Sequence):
    """What reads the stream for an output that nobody reads: it runs, and its tensors never get a gradient."""

    idle: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class PatchRotary(Block):
    """Tables of `dim` channels that rotate patches by rows and columns, behind `prefix` tokens that are not (DINOv3)."""

    dim: int = 0
    prefix: int = 0


@dataclass(frozen=True, slots=True)
class KeptMap(Block):
    """The tokens, of which the model also yields a copy as a map [batch, width, rows, columns] (Swin's stages)."""

    map: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Excite(Block):
    """x · sigmoid(expand(act(reduce(mean of the map)))): a weight per channel (squeeze and excitation; Hu et al. 2018)."""

    reduce: Block | None = None
    expand: Block | None = None
    activation: str = "relu"

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.reduce, self.expand)
