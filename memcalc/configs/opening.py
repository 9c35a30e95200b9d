"""Open what a command line or the API names: a run file, another tool's config, a checkpoint; one mapping comes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memcalc.configs import Asked, formats, is_foreign, read
from memcalc.configs.documents import open_document
from memcalc.configs.names import missing
from memcalc.errors import Fault, MemcalcError, RunInvalid, nearest_names, shorten
from memcalc.paths import is_dir, is_file
from memcalc.reading import STDIN
from memcalc.run import keys
from memcalc.run.question import Draft

__all__ = ["Asked", "fetched", "opened"]

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Reading


def opened(source: str | os.PathLike[str], asked: Asked | None = None, form: str = "") -> Draft:
    """What a path holds (or standard input, "-"), read as `form` or as what it is recognised as.

    UnreadableInput, RunInvalid, or UsageError where `form` is no format.
    """
    asked = asked or Asked()
    path = Path(source)
    if is_dir(path) or _is_weights(path):
        from memcalc.configs.hf_folder import read_folder, read_weights  # noqa: PLC0415 - few runs are checkpoints

        return _of_a_reading(read_folder(path, asked) if is_dir(path) else read_weights(path, asked), asked)
    document = _told(source)
    if form or is_foreign(document):
        reading = read(document, form, asked)
        if reading is not None:
            return _of_a_reading(reading, asked)
        _refuse_strangers(document)
    wrong = document.unreadable or document.repeated
    if wrong is not None:
        raise wrong
    beside = None if str(source) == STDIN else Path(source).parent
    return Draft(dict(document.data), document.source, _placing(document), beside)


def _told(source: str | os.PathLike[str]) -> Document:
    """The document of a path; of what is no config at all a message that says what it is."""
    from memcalc.configs import strangers  # noqa: PLC0415 - few files are none

    try:
        document = open_document(source)
    except MemcalcError:
        strangers.refuse_name(Path(source))
        raise
    if strangers.is_pipeline(document):
        strangers.refuse(document)
    return strangers.unwrapped(document)


def _refuse_strangers(document: Document) -> None:
    """One message, instead of a fault for each key, where a mapping is neither a run file nor a config that is known."""
    from memcalc.configs import strangers  # noqa: PLC0415 - few files are none

    strangers.refuse(document)
    strange = [key for key in document.data if not nearest_names(key, keys())]
    if len(strange) > len(document.data) / 2 and (len(strange) > 2 or len(strange) == len(document.data)):
        shown = ", ".join(map(shorten, strange[:4]))
        what = f"neither a run file nor a config that is recognised ({shown} …); say what it is with --from: "
        raise RunInvalid([Fault("", what + ", ".join(formats()))], document.source)


def _is_weights(path: Path) -> bool:
    """Whether a file is one of weights, by its name or its first bytes."""
    if path.suffix == ".safetensors":
        return is_file(path)
    try:
        if not path.is_file():  # nor is a pipe, whose first bytes would be gone
            return False
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except (OSError, ValueError):
        return False


def fetched(name: str, asked: Asked) -> Draft:
    """What the hub holds under a repository's name."""
    from memcalc.configs.hub import read_repository  # noqa: PLC0415 - only where it was asked for

    return _of_a_reading(read_repository(name, asked), asked)


def _of_a_reading(reading: Reading, asked: Asked) -> Draft:
    if "model" not in reading.run and asked.model is None:
        raise RunInvalid([Fault("model", missing(reading.title))], reading.source)
    return Draft(dict(reading.run), reading.source, reading.place, None, reading)


def _placing(document: Document) -> Callable[[str], str]:
    def place(path: str) -> str:
        file, line = document.where(path)
        return f"{file}:{line} {path}" if line else f"{file} {path}".rstrip()

    return place
