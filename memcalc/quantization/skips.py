"""Which modules a library leaves as they are: heads, tied weights, what a model keeps in fp32, what the run names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcalc.adapters.patterns import crosses, is_word
from memcalc.adapters.sites import Module, modules_of, output_embedding, vocabulary
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.dimensions import Dimensions
    from memcalc.quantization.storage import Scheme
    from memcalc.tensors import Tensor

_NUMBERED = re.compile(r"\.\d+\.|\{")


class Skips:
    """The modules a scheme leaves: `skips(name)` for one name, `alike(pattern)` whether all of a pattern fare alike."""

    def __init__(self, keys: Iterable[str], *, layers_only: bool = False) -> None:
        self.keys, self.layers_only = tuple(dict.fromkeys(keys)), layers_only

    def skips(self, name: str) -> bool:
        """Whether a module stays (transformers, quantizers_utils.should_convert_module).

        A key matches from the start up to a dot, as a regular expression, or as an ending.
        """
        if self.layers_only and not _NUMBERED.search(name):
            return True
        boundary = r"(?:(?<=\.)|(?=\.|$))"
        return any(name.endswith(key) or re.match(rf"(?:{key}){boundary}", name) for key in self.keys)

    def alike(self, pattern: str) -> bool:
        """Whether one look decides for all names of a pattern."""
        return "{" not in pattern or all(is_word(key) and not crosses(pattern, key) for key in self.keys)


def skips_of(scheme: Scheme, tensors: tuple[Tensor, ...], model_type: str, dimensions: Dimensions | None) -> Skips:
    """The scheme's own rule, unless the run's names replace it, and the names the model class keeps in fp32."""
    keys = [*scheme.skip_modules]
    if scheme.own_skips and scheme.skip == "head":
        keys += _head_keys(tensors, dimensions)
    elif scheme.own_skips and not isinstance(scheme.skip, str):
        keys += scheme.skip
    if scheme.skip == "head":
        keys += _unpacked("kept_in_fp32", model_type)
    if scheme.exact_class:
        keys += _unpacked("subclasses", model_type)
    return Skips(keys, layers_only=scheme.skip == "outside-layers")


def _unpacked(key: str, model_type: str) -> tuple[str, ...]:
    """Modules of this type of model that the class keeps in fp32, or that are no plain nn.Linear."""
    return tuple(find("adapters", "unpacked-linears")[key].get(model_type, ())) if model_type else ()


def _head_keys(tensors: tuple[Tensor, ...], dimensions: Dimensions | None) -> list[str]:
    """Tied weights, the last parameter and the output embedding (quantizers/base.py, get_keys_to_not_convert).

    The last parameter is a head's or, inside the base model, no linear's. It is taken by its name: of a classifier with
    a bias that is the bias, and the classifier is packed.
    """
    modules = modules_of(tensors)
    tied = [name for t in tensors if t.tied_to for name in (t.name, t.tied_to)]
    own = [t.name for t in tensors if "." in t.name and not t.tied_to and not t.buffer]
    last = [name for name in own[-1:] if name.count(".") == 1]
    head = _head(modules, dimensions)
    return [name.removesuffix(".weight") for name in (*tied, *last, *head)]


def _head(modules: dict[str, Module], dimensions: Dimensions | None) -> list[str]:
    name = output_embedding(modules, vocabulary(modules, dimensions))
    return [name] if name else []
