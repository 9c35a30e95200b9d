"""What the tape needs to know of each parameter: its dtype, and whether it learns."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

from memcalc.adapters.patterns import parents
from memcalc.tensors import expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcalc.tape.spending import Spent
    from memcalc.tensors import Tensor

_DIGIT = re.compile(r"\d")
_NUMBERED = re.compile(r"\.(\d+|\{[^}]*\})(?=\.)")  # behind the path of a stack: which of its layers


COPIES = (".modules_to_save.default", ".ln_tuning_layers.default")  # in the names of trainable copies


def copied(name: str) -> str:
    """The name of the tensor that a trainable copy stands in for; '' where it is no copy."""
    return next((name.replace(mark, "") for mark in COPIES if mark in name), "")


class Weights:
    """The tensors of a run by the names the blocks give them: whole groups by their pattern, single ones by name.

    `seen` is the dtype that modules see a tensor in, `kept` the one it is kept in between steps.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor],
        stored: Callable[[Tensor], str],
        spent: Callable[[Tensor], Spent] | None = None,
        kept: Callable[[Tensor], str] | None = None,
    ) -> None:
        self._tensors, self._stored, self._spent = tuple(tensors), stored, spent
        self.seen, self.kept = stored, kept or stored
        self._groups = {tensor.name: tensor for tensor in self._tensors}
        self.adapters = any(tensor.role == "adapter" for tensor in self._tensors)
        self._mixed = not all(tensor.trainable or tensor.buffer for tensor in self._tensors)
        self.copies = {original: tensor.name for tensor in self._tensors if (original := copied(tensor.name))}
        self.rows = any("trainable_tokens_delta" in tensor.name for tensor in self._tensors)  # of embeddings learn
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
        if not self.adapters:
            return None
        full = f"{module}.{name}"
        single = "{" not in full and _DIGIT.search(full)  # a name without a number is none that a pattern stands for
        return self._groups.get(full) or (self._single.get(full) if single else None)

    def added(self, module: str) -> tuple[Tensor, ...]:
        """The tensors that an adapter has put below a module, whatever their names."""
        return self._added.get(module) or (() if "{" in module else self._single_added.get(module, ()))

    def common(self, method: str) -> tuple[Tensor, ...]:
        """The trained tensors that the sites of an adapter share: they lie in no module and begin with its name."""
        return tuple(
            t for t in self._tensors if t.role == "adapter" and t.trainable and t.name.startswith(f"{method}_")
        )

    @cached_property
    def _added(self) -> dict[str, tuple[Tensor, ...]]:
        modules: dict[str, list[Tensor]] = {}
        for tensor in self._tensors:
            for module in parents(tensor.name) if tensor.role == "adapter" else ():
                modules.setdefault(module, []).append(tensor)
        return {module: tuple(found) for module, found in modules.items()}

    @cached_property
    def _single_added(self) -> dict[str, tuple[Tensor, ...]]:
        return {name: found for pattern, found in self._added.items() for name in expand(pattern)}

    def adapted_layers(self, path: str) -> dict[str, frozenset[int]]:
        """The sets of layers below `path` that learn alike, in adapters or not, by their patterns: {'{0..31}': {0, …, 31}}."""
        found = self._adapted.get(path, ())
        return {pattern: frozenset(int(number) for number in expand(pattern)) for pattern in found}

    @cached_property
    def _adapted(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for tensor in self._tensors:
            tells = tensor.role == "adapter" or (self._mixed and tensor.trainable and not tensor.buffer)
            for place in _NUMBERED.finditer(tensor.name) if tells else ():
                layers = found.setdefault(tensor.name[: place.start()], [])
                if place[1] not in layers:
                    layers.append(place[1])
        return found

    def spent(self, name: str) -> Spent | None:
        """What an optimizer's step with that parameter allocates."""
        tensor = self.find(name)
        return self._spent(tensor) if self._spent and tensor else None

    def of(self, name: str) -> tuple[str, bool]:
        """(dtype it is kept in, whether it learns)."""
        tensor = self.find(name)
        if tensor is None:
            raise KeyError(name)
        return self._stored(tensor), tensor.trainable and not tensor.buffer
