"""Modules of a model, and Sites: the modules an adapter is put on, with the sizes its tensors follow from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memcalc.dimensions import Dimensions
    from memcalc.tensors import Tensor

_NUMBERED = re.compile(r"\.\d+(\.|$)|\{")


@dataclass(frozen=True, slots=True)
class Module:
    """The like modules `name` stands for: `kind` is the role of their tensors ('linear', 'conv1d', 'embedding', …)."""

    name: str
    kind: str
    count: int
    tensors: tuple[Tensor, ...]

    @property
    def weight(self) -> Tensor | None:
        """Its tensor named weight."""
        return next((t for t in self.tensors if t.name == f"{self.name}.weight"), None)

    @property
    def bias(self) -> Tensor | None:
        """Its tensor named bias."""
        return next((t for t in self.tensors if t.name == f"{self.name}.bias"), None)


@dataclass(frozen=True, slots=True)
class Site:
    """`count` like modules (or, with `parameter`, tensors of modules) that carry one adapter each.

    `inputs` and `outputs` are features; of an embedding, rows and width. `kernel` and `groups` are a convolution's,
    `experts` the leading size of a stacked 3-D parameter, `depth` how many further wrappers lie around this one.
    """

    module: str
    count: int
    kind: str
    inputs: int
    outputs: int
    rank: int = 0
    kernel: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False
    feedforward: bool = False
    parameter: str = ""
    experts: int = 1
    depth: int = 0


def modules_of(tensors: Iterable[Tensor]) -> dict[str, Module]:
    """{pattern: Module} of all modules that own tensors, in order; one whose tensors are another's is of that one's kind."""
    found: dict[str, list[Tensor]] = {}
    roles: dict[str, str] = {}
    for tensor in tensors:
        found.setdefault(tensor.module, []).append(tensor)
        roles[tensor.name] = tensor.role
    return {name: Module(name, _kind(own[0], roles), own[0].count, tuple(own)) for name, own in found.items()}


def _kind(tensor: Tensor, roles: Mapping[str, str]) -> str:
    return roles.get(tensor.tied_to, tensor.role) if tensor.role == "parameter" else tensor.role


def site(module: Module, name: str, count: int, rank: int) -> Site | None:
    """The site on (some of) these modules; None where they have no weight that features could be read from."""
    weight, bias = module.weight, module.bias is not None
    if weight is None or len(weight.shape) < 2:
        return None
    first, second, *kernel = weight.shape
    if module.kind in ("conv1d", "embedding"):
        return Site(name, count, module.kind, first, second, rank, bias=bias)
    if module.kind == "conv":
        groups = first if second == 1 < first else 1  # depthwise; other groupings do not show in the shape
        return Site(name, count, "conv", second * groups, first, rank, tuple(kernel), groups, bias)
    return Site(name, count, module.kind, second, first, rank, bias=bias) if not kernel else None


def vocabulary(modules: Mapping[str, Module], dimensions: Dimensions | None) -> int:
    """Rows of the token embedding: the config's vocab_size, else those of the tallest embedding; 0 without one."""
    if dimensions is not None:
        text = dimensions.get("text_config")
        size = dimensions.get("vocab_size") or (text.get("vocab_size") if text is not None else None)
        if isinstance(size, int):
            return size
    rows = [m.weight.shape[0] for m in modules.values() if m.kind == "embedding" and m.weight is not None]
    return max(rows, default=0)


def output_embedding(modules: Mapping[str, Module], vocab: int) -> str:
    """The module that makes logits over the vocabulary: the last unnumbered linear with that many outputs, or ''."""
    heads = [
        m.name
        for m in modules.values()
        if m.kind == "linear" and m.weight is not None and m.weight.shape[0] == vocab and not _NUMBERED.search(m.name)
    ]
    return heads[-1] if heads else ""


def input_embedding(modules: Mapping[str, Module], vocab: int) -> Module | None:
    """The token embedding: the first embedding with that many rows that is not tied to another."""
    return next(
        (m for m in modules.values()
         if m.kind == "embedding" and m.weight is not None and m.weight.shape[0] == vocab and not m.weight.tied_to),
        None,
    )  # fmt: skip
