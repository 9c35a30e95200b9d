"""Adapted: what became of a model's tensors when adapters were put on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.adapters.sites import Site
    from memcalc.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Adapted:
    """The tensors by what they are for.

    `base`: frozen but for biases that are trained. `adapters`: role 'adapter', dtype set. `saved`: trainable copies of
    base modules, whose originals stay in `base`. `buffers`: what adapters keep beside their parameters. `sites` says
    which modules carry an adapter, and of what rank. `followed`: whether the tape runs the method's forward pass.
    """

    base: tuple[Tensor, ...]
    adapters: tuple[Tensor, ...]
    saved: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...]
    sites: tuple[Site, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    followed: bool = True

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them: the base first, as it was ordered."""
        return self.base + self.adapters + self.saved + self.buffers

    @property
    def trainable(self) -> int:
        """Trainable parameters, as peft's get_nb_trainable_parameters counts them."""
        return sum(tensor.parameters for tensor in self.tensors if tensor.trainable)
