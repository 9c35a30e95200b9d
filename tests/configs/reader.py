"""What the tests of readers share: text in, a Reading out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.configs import Asked, Reading, read
from memcalc.configs.documents import Document, document_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def document(text: str, name: str = "train.yaml", folder: Path | None = None) -> Document:
    """A document as if it were read from a file of that name."""
    return document_of(text, name, (folder or Path()) / name)


def reading(text: str, form: str = "", folder: Path | None = None, name: str = "train.yaml", **flags: Any) -> Reading:
    """The reading of a file's text, beside flags of the command line."""
    found = read(document(text, name, folder), form, Asked(flags))
    assert found is not None, "no format recognises it"
    return found


def codes(found: Reading) -> set[str]:
    """The codes of everything that was noted."""
    return {note.code for note in (*found.warnings, *found.assumptions)}


def parts(run: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """What a run has under dotted paths; None where it has nothing."""
    return {path: _at(run, path) for path in paths}


def _at(run: Any, path: str) -> Any:
    for step in path.split("."):
        run = run.get(step) if isinstance(run, dict) else None
    return run
