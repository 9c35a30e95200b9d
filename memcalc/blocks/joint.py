"""Blocks of two streams, text and image: joint attention, layers over both or over one row, tables that rotate them."""

from __future__ import annotations

from typing import Literal

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, given
from memcalc.blocks.basic import Raw
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class AxialRotary(Block):
    """Tables that rotate text and image tokens, of `axes` channels for each axis of their positions (FLUX).

    Made `apart` for text and image, and put together (FLUX.2).
    """

    axes: tuple[int, ...] = ()
    apart: bool = False


@dataclass(frozen=True, slots=True)
class HostAngles(Block):
    """Tables of `dim` channels that rotate squares of an image; on the host, copied for every use (CogView4)."""

    dim: int = 0


@dataclass(frozen=True, slots=True)
class ComplexRotary(Block):
    """Complex numbers that rotate image tokens, put together for each step, and text tokens: `dim` channels (Qwen-Image)."""

    dim: int = 0


@dataclass(frozen=True, slots=True)
class PickedPositions(Raw):
    """A learned table [1, positions, width], of which the middle of its square is picked and added to the tokens (AuraFlow)."""


@dataclass(frozen=True, slots=True)
class PlacedRow(Block):
    """Text and image in one row, plus fixed positions of the image's in a square of `side` tokens; then apart (CogView3)."""

    side: int = 0


@dataclass(frozen=True, slots=True)
class Registers(Raw):
    """Learned tokens [1, n, width] put before the text's, copied for every sample and in its dtype (AuraFlow)."""


@dataclass(frozen=True, slots=True)
class JointAttention(Attention):
    """Attention over image and context tokens together, each with projections of its own (Esser et al. 2024).

    The context's queries, keys and values are `context`, with `context_norms`; `context_out` projects its part of the
    output, None in the last block, whose context goes nowhere. `strided` where both parts of the output are projected as they
    lie in the row, not as copies (Ovis-Image).
    """

    context: tuple[Block, ...] = ()
    context_norms: tuple[Block, ...] = ()
    context_out: Block | None = None
    strided: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        middle = given(self.q, self.k, self.v, self.q_norm, self.k_norm)
        return (*self.before, *middle, *self.context, *self.context_norms, *given(self.out, self.context_out))


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
    attention: Attention | None = None
    dual: Block | None = None
    mlp: Block | None = None
    context_mlp: Block | None = None
    formula: str = ""

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        modulations = (self.modulation, self.context_modulation)
        return given(*modulations, self.attention, self.dual, self.mlp, self.context_mlp)


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
        return given(self.modulation, self.attention, self.up, self.out)


@dataclass(frozen=True, slots=True)
class OneRow(Block):
    """From here on text and image tokens lie in one row; or (`back`) the image tokens are alone again (FLUX.2).

    `named` where the text's stream, or both, keep their names beside the row (Chroma, AuraFlow).
    """

    back: bool = False
    named: Literal["", "text", "both"] = ""
