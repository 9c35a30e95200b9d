"""Shell completion: names of presets by one look into the index, words of the vocabulary by its annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcalc.presets import Kind

MOST = 200  # what a shell shows at once


def presets_of(kind: Kind) -> Callable[[str], list[str]]:
    """Names of presets that begin with what is typed: ids, then aliases where no id does."""

    def complete(incomplete: str) -> list[str]:
        from memcalc.presets import index, names  # noqa: PLC0415 - only a shell asks

        typed = incomplete.lower()
        found = [name for name in names(kind) if name.startswith(typed)]
        return (found or sorted(alias for alias in index()[kind] if alias.startswith(typed)))[:MOST]

    return complete


def words_of(key: str) -> Callable[[str], list[str]]:
    """The words that a key of a run knows: its own, or those of the key that a bare word stands for."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in _words(key) if word.startswith(incomplete)]

    return complete


def _words(key: str) -> Iterator[str]:
    from memcalc.run import Run  # noqa: PLC0415
    from memcalc.run.spelling import SHORTHAND  # noqa: PLC0415

    hint = get_type_hints(Run)[key]
    if key in SHORTHAND:
        kind = next(part for part in (hint, *get_args(hint)) if isinstance(part, type) and part is not type(None))
        hint = get_type_hints(kind)[SHORTHAND[key]]
    yield from _literals(hint)


def _literals(hint: Any) -> Iterator[str]:  # noqa: ANN401 - any annotation
    for part in get_args(hint):
        if isinstance(part, str):
            yield part
        else:
            yield from _literals(part)
