"""What detectors of an open vocabulary add: boxes of patches, whose classes are texts (Minderer et al. 2022, OWL-ViT)."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.blocks.basic import Embedding
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class HiddenTable(Embedding):
    """A table of tokens that the class doesn't show as its input embeddings: none asks for a gradient beside adapters."""


@dataclass(frozen=True, slots=True)
class BothTowers(Block):
    """An image's tokens and the `queries` texts that are asked of it, each pooled and projected, and their cosines.

    `pooled` is the norm of an image's first token, which a detector also norms all patches with; `seen` and `scale` make
    cosines that no box depends on.
    """

    vision: Block | None = None
    pooled: Block | None = None
    text: Block | None = None
    seen: Block | None = None
    read: Block | None = None
    scale: Block | None = None
    queries: int = 1

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.vision, self.pooled, self.text, self.seen, self.read, self.scale)


@dataclass(frozen=True, slots=True)
class TextClasses(Block):
    """Cosines of every patch and every text, moved and scaled by what the patch says."""

    project: Block | None = None
    shift: Block | None = None
    scale: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.project, self.shift, self.scale)


@dataclass(frozen=True, slots=True)
class OpenDetector(Block):
    """Both towers; of every patch, times the class token, a class among the texts, a box, and whether it is an object."""

    towers: Block | None = None
    norm: Block | None = None
    classes: Block | None = None
    boxes: Block | None = None
    objects: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.towers, self.classes, self.boxes, self.objects, self.norm)
