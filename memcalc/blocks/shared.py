"""A module that a model holds once and runs in several places."""

from __future__ import annotations

from dataclasses import field

from memcalc.blocks.base import Block, Param, Sequence
from memcalc.dataclass import dataclass
from memcalc.tensors import expand_tensor, tensors


@dataclass(frozen=True, slots=True)
class Shared(Block):
    """`block` run again under another name: its tensors share the memory of those below `owner` (Zamba)."""

    block: Block = field(default_factory=lambda: Sequence(""))
    owner: str = ""

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        single = (one for group in tensors(self.block) for one in expand_tensor(group))
        return tuple(Param(t.name, t.shape, t.trainable, f"{self.owner}.{t.name}", t.buffer, t.dtype) for t in single)


@dataclass(frozen=True, slots=True)
class Hybrid(Sequence):
    """A layer of Zamba's: a transformer that others share, a linear, and a recurrent layer (`blocks`, in that order).

    `transformer` is what runs, of the tensors below `owner` ('': the layer's own); `use` says which of its uses this
    is. It reads the stream beside the embeddings; the linear of what it yields is added to what the recurrent layer's
    norm reads (transformers, Zamba2HybridLayer).
    """

    transformer: Sequence = field(default_factory=lambda: Sequence(""))
    owner: str = ""
    use: int = 0
