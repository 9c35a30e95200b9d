"""Tensor: a group of like tensors of a model; names as patterns; a Model's blocks flattened to tensors.

Pattern grammar: `{0..31}` stands for 0 to 31, `{1..61..2}` for every second, `{0..2,4..6}` for a union; several
braces in one name stand for every combination. `count` is the number of names a pattern stands for.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcalc.blocks.base import Block

_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Tensor:
    """`count` tensors of one shape, kind and fate.

    `role` is the kind of module that owns it ('linear', 'conv1d' (GPT-2's transposed linear), 'embedding', 'norm',
    'conv', 'expert', 'parameter'): quantisation, adapters and some optimizers choose by it. `tied_to` names the tensor
    whose memory it shares; a tied tensor takes no bytes of its own. `dtype` is '' where the precision recipe decides.
    `idle` where no step gives it a gradient, though it may learn: it is not used, or what is made of it leads nowhere.
    `unrun` where its module never runs, though it is used: adapters on that module are not.
    """

    name: str
    shape: tuple[int, ...]
    count: int = 1
    role: str = "parameter"
    trainable: bool = True
    tied_to: str = ""
    buffer: bool = False
    dtype: str = ""
    idle: bool = False
    unrun: bool = False

    @property
    def elements(self) -> int:
        """Elements of one of the tensors."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> int:
        """Unique parameters of the whole group: none for a buffer or a tied tensor."""
        return 0 if self.buffer or self.tied_to else self.count * self.elements

    @property
    def module(self) -> str:
        """The pattern of the owning modules: the name without its last part."""
        return self.name.rpartition(".")[0]


def expand(pattern: str) -> Iterator[str]:
    """Every name a pattern stands for."""
    pieces = _BRACES.split(pattern)
    choices = [[piece] if i % 2 == 0 else [str(n) for n in _numbers(piece)] for i, piece in enumerate(pieces)]
    return ("".join(combination) for combination in itertools.product(*choices))


def count_of(pattern: str) -> int:
    """How many names a pattern stands for, without spelling them out; ValueError where it is not a pattern."""
    pieces = _BRACES.split(pattern)
    if any(brace in piece for piece in pieces[::2] for brace in "{}"):
        raise ValueError(f"unmatched brace in {pattern!r}")
    return math.prod(sum(len(run) for run in _runs(piece)) for piece in pieces[1::2])


def indices(number: str) -> Iterable[int]:
    """The numbers that one part of a name stands for, in their order: '{0..2}', or '7'."""
    return _numbers(number.strip("{}"))


def expand_tensor(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors of a group one by one, each with its full name."""
    return (replace(tensor, name=name, count=1) for name in expand(tensor.name))


def _numbers(text: str) -> Iterator[int]:
    return itertools.chain.from_iterable(_runs(text))


def _runs(text: str) -> Iterator[range]:
    for part in text.split(","):
        first, *rest = (int(n) for n in part.split(".."))
        last, step = (*rest, 1)[:2] if rest else (first, 1)
        yield range(first, last + 1, step)


def numbers(indices: Sequence[int]) -> str:
    """The shortest pattern for rising indices: [0, 1, 2] -> '{0..2}', [1, 3, 5] -> '{1..5..2}', [7] -> '7'."""
    if len(indices) == 1:
        return str(indices[0])
    step = indices[1] - indices[0]
    if step > 1 and len(indices) > 2 and all(b - a == step for a, b in itertools.pairwise(indices)):
        return f"{{{indices[0]}..{indices[-1]}..{step}}}"
    return "{" + ",".join(_ranges(indices)) + "}"


def _ranges(indices: Sequence[int]) -> Iterator[str]:
    for _, run in itertools.groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        members = [index for _, index in run]
        yield str(members[0]) if len(members) == 1 else f"{members[0]}..{members[-1]}"


def tensors(block: Block) -> tuple[Tensor, ...]:
    """All tensors below a block in the order of its parts, like layers folded into one pattern each."""
    return tuple(_walk(block, "", 1))


def _walk(block: Block, prefix: str, count: int, *, idle: bool = False, still: bool = False) -> Iterator[Tensor]:
    idle, still = idle or block.idle, still or block.still
    path = f"{prefix}.{block.name}" if prefix and block.name else prefix or block.name
    if block.registered is None:
        yield from _below(block, path, count, idle=idle, still=still)
    else:
        yield from listed(_below(block, path, count, idle=idle, still=still), block.registered)


def _below(block: Block, path: str, count: int, *, idle: bool, still: bool) -> Iterator[Tensor]:
    for own in block.own():
        name = f"{path}.{own.name}" if path and own.name else path or own.name
        learns = own.trainable and not still
        yield Tensor(name, own.shape, count, block.role, learns, own.tied_to, own.buffer, own.dtype, idle, block.unrun)
    for indices, part in block.groups():
        if indices is None:
            yield from _walk(part, path, count, idle=idle, still=still)
        else:
            below = f"{path}.{numbers(indices)}" if path else numbers(indices)
            yield from _walk(part, below, count * len(indices), idle=idle, still=still)


def listed(group: Iterable[Tensor], registered: Sequence[str]) -> tuple[Tensor, ...]:
    """The tensors in the order of Module.parameters(): of the modules in one, the registered come last, in that order.

    A module's own parameters come before those of the modules in it, the registered ones last. `a.b` is the module b of
    those called a.
    """
    places = {name: place for place, name in enumerate(registered, 1)}
    qualified = any("." in name for name in registered)
    met: dict[str, tuple[tuple[int, int], ...]] = {"": ()}

    def order(path: str) -> tuple[tuple[int, int], ...]:
        """Of each module down to this one: its place, and when it was met first."""
        if path not in met:
            above, _, part = path.rpartition(".")
            place = places.get(part) or (qualified and places.get(f"{above.rpartition('.')[2]}.{part}")) or 0
            met[path] = (*order(above), (place, len(met)))
        return met[path]

    def own(number: int, tensor: Tensor) -> tuple[int, int, int]:
        return -1, places.get(tensor.name.rpartition(".")[2], 0), number

    numbered = list(enumerate(group))
    return tuple(tensor for _, tensor in sorted(numbered, key=lambda one: (*order(one[1].module), own(*one))))


def parameter_count(group: Iterable[Tensor]) -> int:
    """Unique parameters: tied tensors and buffers do not count."""
    return sum(tensor.parameters for tensor in group)
