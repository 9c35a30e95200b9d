"""Which kind of layer a path belongs to: embedding, attention, mlp, norm, head.

A model's blocks say so: the first block on the way down that is of a kind gives it to everything inside it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Stack
from memcalc.blocks.basic import Conv, Embedding, Linear, Norm
from memcalc.blocks.mla import CompressedAttention, Mla
from memcalc.blocks.mlp import Experts, Mlp, Moe, Router
from memcalc.tape.hf.programs import split
from memcalc.tensors import count_of, expand, numbers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.model import Model

LAYER, REST = "residual stream", "other"
BLOCKS: tuple[tuple[tuple[type[Block], ...], str], ...] = (
    ((Attention, Mla, CompressedAttention), "attention"),
    ((Moe, Experts, Router), "experts"),
    ((Mlp,), "mlp"),
    ((Norm,), "norm"),
    ((Embedding,), "embedding"),
    ((Conv,), "convolution"),
)
RECURRENT = frozenset({"memcalc.blocks.ssm", "memcalc.blocks.rwkv"})
# files of an implementation whose functions are of a kind wherever they run, and only outside modules that have one
ALWAYS = {"losses": "loss", "adapters": "adapters"}
OUTSIDE = {"masks": "positions and masks", "rotary": "positions and masks", "surroundings": "positions and masks",
           "alibi": "positions and masks", "programs": "inputs and outputs"}  # fmt: skip
_NUMBERED = re.compile(r"\{[^{}]*\}|(?<![^.])\d+(?![^.])")


class Where(NamedTuple):
    """A kind of layer, and the module that is of it."""

    kind: str
    module: str


class Kinds:
    """The kinds of a model's modules, by their paths."""

    def __init__(self, model: Model) -> None:
        self._found: dict[str, str] = {}
        heads = split(model.body)[1]
        for path, kind in _walk(model.body, "", heads):
            self._found.setdefault(path, kind)
            self._found.setdefault(alike(path), kind)

    def of(self, path: str, family: str = "") -> Where:
        """The kind of what is made in `path`, by a function of the file `family` of an implementation."""
        if family in ALWAYS:
            return Where(ALWAYS[family], path)
        module = path
        while module:
            kind = self._found.get(module) or self._found.get(alike(module))
            if kind:
                break
            module = module.rpartition(".")[0]
        else:
            kind, module = REST, path
        return Where(OUTSIDE.get(family, kind) if kind in (LAYER, REST) else kind, module)


def _walk(block: Block, above: str, heads: tuple[Block, ...]) -> Iterator[tuple[str, str]]:
    """(path, kind) of every block that is of a kind, and of every numbered layer."""
    path = f"{above}.{block.name}" if above and block.name else above or block.name
    kind = _kind(block, heads)
    if kind:
        yield path, kind
        return
    for indices, part in block.groups():
        if indices is None:
            yield from _walk(part, path, heads)
            continue
        below = f"{path}.{numbers(indices)}" if path else numbers(indices)
        yield from _walk(part, below, heads)
        yield below, LAYER


def _kind(block: Block, heads: tuple[Block, ...]) -> str:
    if isinstance(block, Stack):
        return ""
    found = next((kind for classes, kind in BLOCKS if isinstance(block, classes)), "")
    if any(block is head for head in heads) and found != "norm":
        return "head"
    if not found and type(block).__module__ in RECURRENT:
        return "recurrent mixer"
    return found or ("linear" if isinstance(block, Linear) else "")


@lru_cache(maxsize=4096)
def alike(path: str) -> str:
    """The path with `*` for every number: the same for all layers of a stack."""
    return _NUMBERED.sub("*", path)


def merged(paths: Iterable[str]) -> str:
    """One pattern for paths that are alike: in place of each of their numbers, all that stand there."""
    found = sorted(set(paths))
    if len(found) == 1:
        return found[0]
    columns = [sorted(set(column)) for column in zip(*(path.split(".") for path in _parted(found)), strict=True)]
    return ".".join(_union(column) if len(column) > 1 else column[0] for column in columns).replace("\0", ".")


def _union(pieces: Iterable[str]) -> str:
    return numbers(sorted({int(name) for piece in pieces for name in expand(piece.replace("\0", "."))}))


def _parted(paths: Iterable[str]) -> Iterator[str]:
    """The dots inside braces hidden, so that a path can be split at the others."""
    return (re.sub(r"\{[^{}]*\}", lambda found: found[0].replace(".", "\0"), path) for path in paths)


def modules_of(pattern: str) -> int:
    """How many modules a pattern stands for; 1 where it is none."""
    try:
        return count_of(pattern)
    except ValueError:
        return 1
