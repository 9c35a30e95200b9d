"""What speech encoders add: a weight-normed convolution, vector quantisation, statistics of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Param, Residual, Sequence, given
from memcalc.blocks.basic import Conv, Linear, Raw
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class WeightNormConv(Conv):
    """A convolution whose weight is g · v / |v|, the norm taken per position of the kernel (weight_norm, dim=2).

    Two tensors stand for the weight (torch.nn.utils.parametrizations); the weight itself is made anew in each forward.
    """

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return tuple(self._own())

    def _own(self) -> Iterator[Param]:
        if self.bias:
            yield Param("bias", (self.outputs,))
        yield Param("parametrizations.weight.original0", (*[1] * (1 + len(self.kernel)), self.kernel[-1])[-3:])
        yield Param("parametrizations.weight.original1", (self.outputs, self.inputs // self.conv_groups, *self.kernel))


@dataclass(frozen=True, slots=True)
class GatedBiasAttention(Attention):
    """WavLM's: a relative bias, looked up once, that each head of each layer gates by its query (Chen et al. 2021).

    `gate_rows` projects a head's channels to 8 numbers.
    """

    gate_rows: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        middle = (self.q, self.k, self.v, self.gate_rows, self.bias_table, self.out)
        return given(*middle)


@dataclass(frozen=True, slots=True)
class FeatureProjection(Sequence):
    """The convolutions' features, normed where there is a norm, projected to the layers' width.

    `yields` where the normed features are part of the model's output (wav2vec 2.0, for its quantizer). `frames` are the
    channels of the frames that the model is given where no convolutions make them of a waveform.
    """

    yields: bool = False
    frames: int = 0


@dataclass(frozen=True, slots=True)
class LocalPositions(Residual):
    """x + positions made of x and its neighbours, which the function that also runs the layers gives a name."""


@dataclass(frozen=True, slots=True)
class ChannelsFirst(Sequence):
    """Blocks that work on [batch, channels, frames], between two exchanges of axes."""


@dataclass(frozen=True, slots=True)
class OddFrames(Block):
    """The one frame too many that a padded convolution with an even kernel of `size` puts out, cut off."""

    size: int = 1


@dataclass(frozen=True, slots=True)
class ConformerConvolution(Sequence):
    """Norm, a pointwise convolution twice as wide and its gated half, a depthwise one, norm, activation, pointwise, dropout.

    `ahead` frames are put before the first, so that the depthwise one sees past frames only (0: its own padding).
    `turned` where the second norm reads the channels last; `masked` where frames of padding are blanked out before.
    """

    ahead: int = 0
    turned: bool = True
    masked: bool = False


@dataclass(frozen=True, slots=True)
class FirstTwo(Block):
    """The mean of the first two tokens, class and distillation (AST)."""


@dataclass(frozen=True, slots=True)
class LayerSum(Raw):
    """The hidden states of all layers, each times a weight of its own, added up (SUPERB's classifiers)."""


@dataclass(frozen=True, slots=True)
class Quantizer(Block):
    """Gumbel-softmax choice among `entries` code vectors in each of `groups` groups (Baevski et al. 2020)."""

    groups_of: int = 1
    entries: int = 1
    width: int = 0
    project: Block | None = None

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        return (Param("codevectors", (1, self.groups_of * self.entries, self.width // self.groups_of)),)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.project,) if self.project else ()


@dataclass(frozen=True, slots=True)
class Statistics(Block):
    """[batch, seq, width] to [batch, 2 width]: mean and standard deviation over the sequence (x-vectors)."""


@dataclass(frozen=True, slots=True)
class TimeDelay(Block):
    """Each frame with its neighbours, `size` of them `dilation` apart, through one linear layer: a TDNN's."""

    kernel: Linear | None = None
    size: int = 1
    dilation: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.kernel)


@dataclass(frozen=True, slots=True)
class HeardSoFar(Sequence):
    """A stack of layers behind a projection; behind half of them the letters heard so far are added to the stream.

    What it reads are frames of `frames` channels.
    """

    frames: int = 0


@dataclass(frozen=True, slots=True)
class Squeezed(Sequence):
    """Layers over the means of every `factor` frames, to which a `places` convolution of that stride adds positions.

    What they yield is `spread` over as many frames again (SEW; Wu et al. 2021).
    """

    factor: int = 1
    places: WeightNormConv | None = None
    spread: Block | None = None
    activation: str = "gelu"

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.places, *self.blocks, self.spread)


@dataclass(frozen=True, slots=True)
class Subsampled(Sequence):
    """Frames of `frames` channels through strided convolutions as a map, then one linear layer (Fast Conformer).

    `masked` where it is told which frames are padding. Sinusoids of all distances are made of what it yields; `dropout`
    is of that, `places_dropout` of them.
    """

    frames: int = 0
    masked: bool = False
    dropout: float = 0.0
    places_dropout: float = 0.0
