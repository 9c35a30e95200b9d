"""What denoisers add: conditioning vectors, modulation by them, residual blocks of a UNet, two streams of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Sequence
from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class Condition(Sequence):
    """Blocks that make or change the conditioning vector [batch, width] (time, class, pooled text), not the stream.

    `tokens` where they make the other sequence that cross or joint attention reads (projected captions). A vector is
    made of the time step, or of one that is `given` (pooled text). Of numbers that come by `rows` for each sample the
    vectors stand side by side (PixArt's height and width). `image` is how many states of an image are put before the text's.
    """

    tokens: bool = False
    given: bool = False
    rows: int = 1
    image: int = 0


@dataclass(frozen=True, slots=True)
class Sample(Block):
    """A latent drawn from the mean and the logarithm of the variance that an encoder yields, side by side."""


@dataclass(frozen=True, slots=True)
class GatedMap(Block):
    """The first half of a map's channels times the activated second (Sana)."""


@dataclass(frozen=True, slots=True)
class BasicBlock(Sequence):
    """Branches x + f(norm(x)), one after the other; what each but the last adds has the same name (BasicTransformerBlock)."""


@dataclass(frozen=True, slots=True)
class Divided(Block):
    """What the model yields, divided by the time steps."""


@dataclass(frozen=True, slots=True)
class ResBlock(Block):
    """conv2(act(norm2(conv1(act(norm1(x))) + time))) + shortcut(x) (diffusers, ResnetBlock2D.forward).

    `time` projects the conditioning vector; `scale_shift` where it yields a scale and a shift behind norm2. `up` and
    `down` resample both branches before conv1. `shortcut` is a 1x1 convolution where the widths differ.
    """

    norm1: Block | None = None
    conv1: Block | None = None
    time: Block | None = None
    norm2: Block | None = None
    conv2: Block | None = None
    shortcut: Block | None = None
    activation: str = "silu"
    dropout: float = 0.0
    scale_shift: bool = False
    up: bool = False
    down: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return _given(self.norm1, self.conv1, self.time, self.norm2, self.conv2, self.shortcut)


@dataclass(frozen=True, slots=True)
class Modulation(Block):
    """Shifts, scales and gates for a block: linear(silu(condition)), `chunks` vectors of the stream's width.

    Adaptive layer norm (Peebles & Xie 2023). `condition` are blocks of its own that make the vector first (DiT embeds
    time and class in every block). `silu` False where the condition comes activated. `shared` where the vectors are
    those of all blocks (PixArt); a `table` [chunks, width] in place of the linear is added to the condition itself.
    `borrowed` is the path of the module whose parameters make the condition, where they are not its own.
    """

    linear: Block | None = None
    chunks: int = 6
    condition: Block | None = None
    silu: bool = True
    shared: bool = False
    table: Raw | None = None
    borrowed: str = ""

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return _given(None if self.borrowed else self.condition, self.linear, self.table)


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
        return _given(self.modulation, self.table, first, self.mixer, self.cross, *behind, self.feed)


@dataclass(frozen=True, slots=True)
class RowBlock(Block):
    """A layer that reads text and video in one row, each modulated by three of six vectors (CogVideoX).

    Twice: norm both by one of `norms`, modulate, `mixer` or `feed`, gate, add. `dropout` is of what `feed` yields.
    """

    modulations: tuple[Block, ...] = ()
    norms: tuple[Block, ...] = ()
    mixer: Block | None = None
    feed: Block | None = None
    dropout: float = 0.0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        (first, second), (before, behind) = self.modulations, self.norms
        return _given(first, before, self.mixer, second, behind, self.feed)


@dataclass(frozen=True, slots=True)
class FramePatches(Sequence):
    """Frames cut into squares of `patch` pixels, the text's projection behind (CogVideoX).

    `placed` positions of a fixed table are added (0: the video's part of `head_dim` channels is rotated instead);
    `frames` make a patch together. `dropout` is of text and video in one row.
    """

    patch: int = 2
    frames: int = 1
    placed: int = 0
    head_dim: int = 0
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Frames(Block):
    """Tokens back to the frames of a video, squares of `patch` pixels."""

    patch: int = 2


@dataclass(frozen=True, slots=True)
class WideModulate(Block):
    """norm(x) (1 + scale) + shift in fp32, cast back, with vectors of the Modulation before it (Wan)."""


@dataclass(frozen=True, slots=True)
class GridTables(Block):
    """Tables of `dim` channels that rotate patches of a video by frames, rows and columns, up to `longest` of each (Wan)."""

    dim: int = 0
    patch: tuple[int, ...] = (1, 2, 2)
    longest: int = 1024


@dataclass(frozen=True, slots=True)
class TablePositions(Block):
    """Fixed positions in fp32 added to the tokens; `cropped` from the middle of a table for larger images.

    A table of `stored` positions is kept; for images of another size they are made anew (0: of any size).
    """

    cropped: bool = False
    stored: int = 0


@dataclass(frozen=True, slots=True)
class PickedPositions(Raw):
    """A learned table [1, positions, width], of which the middle of its square is picked and added to the tokens (AuraFlow)."""


@dataclass(frozen=True, slots=True)
class Registers(Raw):
    """Learned tokens [1, n, width] put before the text's, copied for every sample and in its dtype (AuraFlow)."""


@dataclass(frozen=True, slots=True)
class Cut(Block):
    """A map cut into squares of `patch` pixels, each a token of channels · patch² (a copy); the inverse of Unflatten."""

    patch: int = 2


@dataclass(frozen=True, slots=True)
class AxialRotary(Block):
    """Tables that rotate text and image tokens, of `axes` channels for each axis of their positions (FLUX).

    Made `apart` for text and image, and put together (FLUX.2).
    """

    axes: tuple[int, ...] = ()
    apart: bool = False


@dataclass(frozen=True, slots=True)
class ComplexRotary(Block):
    """Complex numbers that rotate image tokens, put together for each step, and text tokens: `dim` channels (Qwen-Image)."""

    dim: int = 0


@dataclass(frozen=True, slots=True)
class SampleTables(Block):
    """Complex numbers that rotate text, image and both in one row, of `axes` channels, for every sample (Lumina)."""

    axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SampleRows(Block):
    """Text and image of each sample put into one row; or (`back`) the image's tokens cut out again (Lumina)."""

    back: bool = False


@dataclass(frozen=True, slots=True)
class VideoTables(Block):
    """Tables of `width` channels, all heads', that rotate the tokens of a video by their coordinates (LTX)."""

    width: int = 0


@dataclass(frozen=True, slots=True)
class Modulate(Block):
    """x (1 + scale) + shift, with vectors of the block's Modulation; of one vector x (1 + scale).

    `apart` where that is a statement of its own, so that what the norm before it read has no name any more.
    """

    apart: bool = False


@dataclass(frozen=True, slots=True)
class Gate(Block):
    """x times a gate of the block's Modulation (`tanh` of it: Lumina)."""

    tanh: bool = False


@dataclass(frozen=True, slots=True)
class JointAttention(Attention):
    """Attention over image and context tokens together, each with projections of its own (Esser et al. 2024).

    The context's queries, keys and values are `context`, with `context_norms`; `context_out` projects its part of the
    output, None in the last block, whose context goes nowhere.
    """

    context: tuple[Block, ...] = ()
    context_norms: tuple[Block, ...] = ()
    context_out: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        middle = _given(self.q, self.k, self.v, self.q_norm, self.k_norm)
        return (*self.before, *middle, *self.context, *self.context_norms, *_given(self.out, self.context_out))


@dataclass(frozen=True, slots=True)
class JointBlock(Block):
    """A layer over two streams, image and context tokens (diffusers, JointTransformerBlock.forward).

    Each stream: x + gate · attention(modulate(norm(x))), then x + gate · mlp(modulate(norm(x))); its modulation gives
    the vectors of both branches. `dual` is a second attention of image tokens alone, which reads the same norm (SD
    3.5). A context without `context_mlp` ends here: its tokens are not used again. `formula` says whose forward it is.
    """

    width: int = 0
    modulation: Block | None = None
    context_modulation: Block | None = None
    attention: JointAttention | None = None
    dual: Block | None = None
    mlp: Block | None = None
    context_mlp: Block | None = None
    formula: str = ""

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        modulations = (self.modulation, self.context_modulation)
        return _given(*modulations, self.attention, self.dual, self.mlp, self.context_mlp)


@dataclass(frozen=True, slots=True)
class SingleBlock(Block):
    """x + gate · out([attention(y), act(up(y))]), y = modulate(norm(x)): attention and MLP at once, over all tokens.

    `out` reads both results concatenated (diffusers, FluxSingleTransformerBlock.forward).
    """

    width: int = 0
    modulation: Block | None = None
    attention: Block | None = None
    up: Block | None = None
    activation: str = "gelu_pytorch_tanh"
    out: Block | None = None
    formula: str = ""

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return _given(self.modulation, self.attention, self.up, self.out)


@dataclass(frozen=True, slots=True)
class OneRow(Block):
    """From here on text and image tokens lie in one row; or (`back`) the image tokens are alone again (FLUX.2).

    `named` where the text's stream, or both, keep their names beside the row (Chroma, AuraFlow).
    """

    back: bool = False
    named: Literal["", "text", "both"] = ""


def _given(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block)
