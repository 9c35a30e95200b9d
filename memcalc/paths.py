"""Looking at a path that somebody wrote: what no file can be called, or what may not be looked at, is not there.

Path's own methods raise OSError for a name that is too long and for a folder that is closed; a word of a run may be
either, and it may be a model's name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def exists(path: Path) -> bool:
    """Whether something is there."""
    return _true(path.exists)


def is_dir(path: Path) -> bool:
    """Whether a folder is there."""
    return _true(path.is_dir)


def is_file(path: Path) -> bool:
    """Whether a regular file is there."""
    return _true(path.is_file)


def expanded(path: Path) -> Path:
    """The path with `~` as the home folder, where somebody of that name has one."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises where there is none


def _true(look: Callable[[], bool]) -> bool:
    try:
        return look()
    except (OSError, ValueError):
        return False
