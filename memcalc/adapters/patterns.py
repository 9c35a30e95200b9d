"""Which of the names that a pattern stands for a rule chooses, told in patterns again.

A rule on endings is mostly the same for every name of a pattern ('q_proj' of `layers.{0..31}.self_attn.q_proj`), and
then one look suffices. Only a rule that reaches into the numbers (`layers.3.mlp`, a regular expression) opens it.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar

from memcalc.tensors import expand, numbers

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_BRACES = re.compile(r"\{[^{}]*\}")
_FIRST = re.compile(r"\{(\d+)[^{}]*\}")
_DOT = re.compile(r"\.(?![^{}]*\})")
_WORD = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def sample(pattern: str) -> str:
    """The first of the names: 'layers.{0..31}.mlp' -> 'layers.0.mlp'."""
    return _FIRST.sub(r"\1", pattern)


def size(pattern: str) -> int:
    """How many names a pattern stands for."""
    return math.prod(sum(1 for _ in expand(braces)) for braces in _BRACES.findall(pattern))


def parents(name: str) -> list[str]:
    """The modules a tensor or module lies in, outermost first, patterns too: 'a.{0..3}.b' -> ['a', 'a.{0..3}']."""
    return [name[: dot.start()] for dot in _DOT.finditer(name)]


def is_word(text: str) -> bool:
    """Whether a text is a plain dotted name without the numbers of layers: as a regular expression it is an ending."""
    return _WORD.fullmatch(text) is not None


def crosses(pattern: str, ending: str) -> bool:
    """Whether names of one pattern may differ in having this ending: it reaches beyond the last braces."""
    tail = pattern.rpartition("}")[2]
    return tail != pattern and len(ending) > len(tail) and ending.endswith(tail)


def partition(pattern: str, choose: Callable[[str], T | None]) -> tuple[tuple[T, str], ...]:
    """The names that `choose` gives a value, as (value, pattern), names of equal value together; None is left out."""
    braces = _BRACES.search(pattern)
    if braces is None:
        value = choose(pattern)
        return () if value is None else ((value, pattern),)
    head, tail = pattern[: braces.start()], pattern[braces.end() :]
    alike: dict[tuple[tuple[T, str], ...], list[int]] = {}
    for number in expand(braces.group()):
        parts = partition(f"{head}{number}{tail}", choose)
        cut = len(head) + len(number)
        alike.setdefault(tuple((value, name[cut:]) for value, name in parts), []).append(int(number))
    return tuple(
        (value, f"{head}{numbers(sorted(found))}{rest}") for parts, found in alike.items() for value, rest in parts
    )


def chosen(
    pattern: str, count: int, choose: Callable[[str], T | None], *, alike: bool
) -> tuple[tuple[str, int, T], ...]:
    """(pattern, count, value) of the names that `choose` gives a value; `alike`: one look decides for all."""
    if not alike:
        return tuple((part, size(part), value) for value, part in partition(pattern, choose))
    value = choose(sample(pattern))
    return () if value is None else ((pattern, count, value),)
