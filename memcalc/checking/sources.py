"""Which configs a check looks at: those that are named, or those that the budget file names; patterns are opened."""

from __future__ import annotations

from glob import has_magic
from glob import iglob as opened  # pathlib's does not take absolute patterns
from pathlib import Path
from typing import TYPE_CHECKING

from memcalc.errors import UnreadableInput, UsageError
from memcalc.paths import exists, is_dir

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.checking.budgets import BudgetFile

ENDINGS = (".yaml", ".yml", ".json", ".toml")
MOST = 10_000  # configs of one check


def configs(named: Iterable[str], file: BudgetFile | None) -> list[str]:
    """Paths in the order they are named, each once; UsageError where nothing is, UnreadableInput where nothing matches."""
    words = list(named)
    if not words and file is not None:
        words = [str(file.folder / pattern) for pattern in file.configs()]
    if not words:
        raise UsageError(
            "which configs? Name some (train/*.yaml), or list them in memcalc.yaml: `configs: [train/*.yaml]`"
        )
    found = list(dict.fromkeys(path for word in words for path in _opened(word)))
    if len(found) > MOST:
        raise UsageError(f"{len(found)} configs; at most {MOST} are checked at once")
    return found


def _opened(word: str) -> list[str]:
    """The paths that one word means: a pattern's matches, a plain path itself, a model's name itself."""
    if not has_magic(word) or exists(Path(word)):
        return [_shown(word)]
    matched = sorted(
        path
        for path in opened(word, recursive=True)  # noqa: PTH207
        if Path(path).suffix in ENDINGS or is_dir(Path(path))
    )
    if not matched:
        raise UnreadableInput(f"{word}: no config matches")
    return [_shown(path) for path in matched]


def _shown(path: str) -> str:
    """A path as it is short to read: relative to here, where it is below."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd())) if Path(path).is_absolute() else path
    except ValueError:
        return path
