r"""Which tensors learn: the patterns of `train` and `freeze`, applied to the tensors of a model.

A pattern is a regular expression, searched for in the whole name, where it has what only those have (^ $ \ ( | +);
else a name, with * and ? and [0-9] as in a shell, that must be whole parts of the tensor's: `lm_head`,
`layers.2?.mlp`, `*norm*`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import translate
from functools import cached_property
from typing import TYPE_CHECKING

from memcalc.adapters.patterns import chosen, sample
from memcalc.dataclass import dataclass
from memcalc.errors import fault, nearest_names, shorten
from memcalc.tensors import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcalc.tensors import Tensor

_REGEX = re.compile(r"[\\^$()|+]")
_NUMBERED = re.compile(r"[0-9?\[]")
_NESTED = re.compile(r"[*+}][^()]*\)[*+{]")  # repetition of a repetition, which can take for ever
LONGEST = 1000


def endless(text: str) -> bool:
    """Whether a regular expression is too long, or repeats a repetition, which can take for ever."""
    return len(text) > LONGEST or _NESTED.search(text) is not None


@dataclass(frozen=True)
class Pattern:
    """One pattern of a run, and where it stands in it."""

    text: str
    where: str

    @cached_property
    def rule(self) -> re.Pattern[str]:
        """What a name must hold; RunInvalid where it is no regular expression, or one that may never end."""
        if endless(self.text):
            raise fault(self.where, f"{shorten(self.text)!r} is too long, or repeats a repetition")
        try:
            return re.compile(self.text if self.is_regex else _parts(self.text))
        except re.error as error:
            raise fault(self.where, f"{shorten(self.text)!r} is no regular expression: {error}") from error

    @property
    def is_regex(self) -> bool:
        """Whether it is written as a regular expression."""
        return _REGEX.search(self.text) is not None

    @property
    def tells_numbers(self) -> bool:
        """Whether it may hold for some layers and not for others."""
        return self.is_regex or _NUMBERED.search(self.text) is not None

    def matches(self, name: str) -> bool:
        """Whether a tensor's name is meant."""
        return self.rule.search(name) is not None


def _parts(glob: str) -> str:
    """The regular expression of whole parts of a name."""
    inside = translate(glob).removeprefix("(?s:").removesuffix(")\\Z").removesuffix(")\\z")
    return rf"(?s)(?:^|\.)(?:{inside})(?:\.|$)"


def patterns(train: Sequence[str], freeze: Sequence[str]) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...]]:
    """Those of both keys of a run."""
    return (
        tuple(Pattern(text, f"train.{i}") for i, text in enumerate(train)),
        tuple(Pattern(text, f"freeze.{i}") for i, text in enumerate(freeze)),
    )


def learning(tensors: Iterable[Tensor], train: Sequence[str], freeze: Sequence[str]) -> tuple[Tensor, ...]:
    """The tensors, each trainable or not: what `train` matches, or all where it is empty, but for what `freeze` does.

    Tied tensors are one parameter, under the name it has first (torch.nn.Module.named_parameters).
    """
    kept, still = patterns(train, freeze)
    alike = not any(pattern.tells_numbers for pattern in (*kept, *still))

    def learns(name: str) -> bool:
        wanted = not kept or any(pattern.matches(name) for pattern in kept)
        return wanted and not any(pattern.matches(name) for pattern in still)

    found: list[Tensor] = []
    for tensor in tensors:
        if tensor.buffer or tensor.tied_to or not tensor.trainable:
            found.append(tensor)
        else:
            found += [replace(tensor, name=name, count=count, trainable=on)
                      for name, count, on in chosen(tensor.name, tensor.count, learns, alike=alike)]  # fmt: skip
    return tuple(found)


def unmatched(tensors: Iterable[Tensor], train: Sequence[str], freeze: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(where, sentence) of each pattern that no tensor has, with names like it."""
    held = [tensor for tensor in tensors if not tensor.buffer]
    for pattern in (*patterns(train, freeze)[0], *patterns(train, freeze)[1]):
        tied = next((t for t in held if t.tied_to and _meets(pattern, t)), None)
        if any(_meets(pattern, tensor) for tensor in held if not tensor.tied_to):
            continue
        if tied:
            yield pattern.where, f"{tied.name} is tied to {tied.tied_to}: they are one parameter, of that name"
            continue
        near = nearest_names(_plain(pattern.text), dict.fromkeys(name for tensor in held for name in _names(tensor)))
        hint = f"; the nearest: {', '.join(near)}" if near else ""
        yield pattern.where, f"no tensor is named like {shorten(pattern.text)!r}{hint}"


def _meets(pattern: Pattern, tensor: Tensor) -> bool:
    if not pattern.tells_numbers:
        return pattern.matches(sample(tensor.name))
    return any(pattern.matches(name) for name in expand(tensor.name))


def _names(tensor: Tensor) -> tuple[str, ...]:
    """What a tensor may be called, without numbers: its whole name, its module, and each part."""
    plain = _plain(sample(tensor.name))
    return plain, plain.rpartition(".")[0], *plain.split(".")


def _plain(text: str) -> str:
    """A pattern or name without numbers and what is special in patterns, to be compared."""
    return re.sub(r"\.\.+", ".", re.sub(r"\[[^\]]*\]|\{[^}]*\}|[\\^$()|+*?]|\d+", "", text)).strip(".")
