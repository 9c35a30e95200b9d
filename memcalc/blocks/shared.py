"""A module that a model holds once and runs in several places."""

from __future__ import annotations

from dataclasses import dataclass, field

from memcalc.blocks.base import Block, Param, Sequence
from memcalc.tensors import expand_tensor, tensors


@dataclass(frozen=True, slots=True)
class Shared(Block):
    """`block` run again under another name: its tensors share the memory of those below `owner` (Zamba)."""

    block: Block = field(default_factory=lambda: Sequence(""))
    owner: str = ""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        single = (one for group in tensors(self.block) for one in expand_tensor(group))
        return tuple(Param(t.name, t.shape, t.trainable, f"{self.owner}.{t.name}", t.buffer, t.dtype) for t in single)
