"""HiDream-I1: text states of every layer of a language model, one for each layer here; mixtures of experts."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class LayerTexts(Block):
    """The states of a language model's layers, each projected (`projections`), and at last those of another encoder.

    `kept` is how many layers' states there are, `widths` are the channels of theirs and of the other's.
    """

    projections: tuple[Block, ...] = ()
    kept: int = 1
    widths: tuple[int, int] = (0, 0)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.projections


@dataclass(frozen=True, slots=True)
class TurnTables(Block):
    """Tables of two by two numbers that rotate the tokens of image and text, of `axes` channels each."""

    axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PatchTurns(Block):
    """The same of an image's tokens alone, for heads that lie one after the other (PRX)."""

    axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TextLayers(Block):
    """Layers of which each reads its own states of the text: `joint` ones in a stream beside the image's, then in one `row`."""

    joint: Block | None = None
    row: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.joint, self.row)


@dataclass(frozen=True, slots=True)
class PickedExperts(Block):
    """`top` of the `experts` for every token, weighed, and one that all share; rows are picked by masks, expert by expert.

    `silent` where the experts run without gradients (force_inference_output).
    """

    experts: Block | None = None
    router: Block | None = None
    shared: Block | None = None
    top: int = 2
    silent: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.shared, self.experts, self.router)


@dataclass(frozen=True, slots=True)
class PatchOutput(Block):
    """Tokens back to squares of `patch` pixels; `singly`, image by image, put together to a map."""

    patch: int = 2
    singly: bool = False
