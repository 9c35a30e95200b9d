"""What the tape needs to know of each parameter: its dtype, and whether it learns."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from memcalc.tensors import expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcalc.tensors import Tensor


class Weights:
    """The tensors of a run by the names the blocks give them: whole groups by their pattern, single ones by name."""

    def __init__(self, tensors: Iterable[Tensor], stored: Callable[[Tensor], str]) -> None:
        self._tensors, self._stored = tuple(tensors), stored
        self._groups = {tensor.name: tensor for tensor in self._tensors}
        self.adapters = any(tensor.role == "adapter" for tensor in self._tensors)
        self._packed = frozenset(tensor.module for tensor in self._tensors if tensor.role == "quantized")

    @cached_property
    def _single(self) -> dict[str, Tensor]:
        return {name: tensor for tensor in self._tensors for name in expand(tensor.name)}

    def find(self, name: str) -> Tensor | None:
        """The tensor of that name, or of the first name that a pattern stands for."""
        return self._groups.get(name) or self._single.get(name) or self._single.get(next(expand(name)))

    @cached_property
    def _packed_names(self) -> frozenset[str]:
        return frozenset(name for pattern in self._packed for name in expand(pattern))

    def packed(self, module: str) -> bool:
        """Whether the weight of a module is stored quantised."""
        return bool(self._packed) and (module in self._packed or next(expand(module)) in self._packed_names)

    def adapter(self, module: str, name: str) -> Tensor | None:
        """The tensor that an adapter has put into a module, if one is there."""
        return self.find(f"{module}.{name}") if self.adapters else None

    def of(self, name: str) -> tuple[str, bool]:
        """(dtype it is kept in, whether it learns)."""
        tensor = self.find(name)
        if tensor is None:
            raise KeyError(name)
        return self._stored(tensor), tensor.trainable and not tensor.buffer
