"""Questions: a file, a model's name or a repository, with what is said of it besides, as one run that can be answered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from memcalc.configs.reading import Asked
from memcalc.errors import UnknownName, UsageError, shorten
from memcalc.models import is_model_name
from memcalc.paths import exists, is_dir
from memcalc.presets import index
from memcalc.run import keys
from memcalc.run.meant import several
from memcalc.run.question import Draft
from memcalc.run.spelling import LISTS, SHORTHAND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.run.question import Question

STDIN = "-"


def question_of(source: str | None, told: Sequence[tuple[str, Any]], form: str = "", *, hub: bool = False) -> Question:
    """The run of a file or a model's name, with what is `told` of it besides: (dotted key, value), the last wins."""
    over: dict[str, Any] = {}
    told = _apart(told)
    for key, item in told:
        if not _counts(key):  # an item of a list is changed where the list is
            put(over, key, item)
    start = _from_source(source, Asked(over, hub), form)
    given = dict(start.given)
    for key, item in told:
        put(given, key, item)
    if "model" not in given:
        raise UsageError(
            "which model? Name one (memcalc estimate llama-2-7b), or a run file; list models with: memcalc models"
        )
    if hub and "model" in over and isinstance(given["model"], str):
        given["model"] = _fetched(given["model"])
    flags = {key.replace("-", "_"): f"--{key.replace('_', '-')}" for key, _ in told}
    reading = start.reading and start.reading.overridden(flags, "the command line")
    place = reading.place if reading else start.place
    where = (lambda path: path if path.split(".")[0] in over else place(path)) if place else None
    return replace(start, given=given, place=where, reading=reading).question()


def _apart(told: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """What is told, where the number of GPUs in a name such as 8xH100 is told as such, unless another is too."""
    made: list[tuple[str, Any]] = []
    number = dict(told).get("gpus")
    for key, item in told:
        found = several(item) if key == "gpu" else None
        made += [("gpu", found[0]), ("gpus", found[1])] if found and number is None else [(key, item)]
    return made


def _fetched(name: str) -> Any:  # noqa: ANN401 - dimensions
    """The config of a repository that nothing here knows, fetched; any other name as it is."""
    from memcalc.models.names import elsewhere  # noqa: PLC0415

    if is_model_name(name) or _is_path(name) or elsewhere(name) is not None:
        return name
    from memcalc.configs.hub import fetched  # noqa: PLC0415 - only where it was asked for

    return fetched(name)


def _from_source(source: str | None, said: Asked, form: str) -> Draft:
    """What a positional argument holds: a model's name, a run file, another tool's config, a folder, or '-' for stdin."""
    named = source is not None and source != STDIN and (is_model_name(source) or not _is_path(source))
    if form and (named or source is None):
        _no_file(source, form)
    if source is None:
        return Draft({}, "the command line")
    if is_model_name(source):
        return Draft({"model": source}, "the command line")
    if named:
        return _of_the_hub(source, said)
    from memcalc.configs.opening import opened  # noqa: PLC0415 - only files need it

    return opened(source, said, form)


def _no_file(source: str | None, form: str) -> NoReturn:
    """Say that `--from` reads nothing; or, first, that there is no such format."""
    from memcalc.configs import format_name  # noqa: PLC0415 - on the way to an error

    what = "no file is named" if source is None else f"{shorten(source)!r} is no file"
    raise UsageError(f"--from {format_name(form)} says what a file holds, and {what}")


def _of_the_hub(source: str, said: Asked) -> Draft:
    """A repository by its name: on this machine, fetched where that was asked for, or read as a preset's."""
    from memcalc.configs.opening import fetched, opened  # noqa: PLC0415
    from memcalc.models.names import elsewhere, listing  # noqa: PLC0415 - few name a model so

    found = elsewhere(source)
    if found is not None and is_dir(Path(found[0])):
        return opened(found[0], said)
    if found is not None:
        return Draft({"model": source}, "the command line")
    if said.hub:
        return fetched(source, said)
    raise UnknownName("model", source, index()["models"], listing(source))


def _is_path(source: str) -> bool:
    """Whether a word means a file: there is one, or it looks like one; `owner/name` alone looks like a hub's model."""
    path = Path(source)
    if exists(path) or path.suffix in (".yaml", ".yml", ".json", ".toml"):
        return True
    return "/" in source and (source.count("/") != 1 or source.startswith((".", "/", "~")))


def put(given: dict[str, Any], key: str, item: object) -> None:
    """Set a dotted key; a bare word on the way ('lora: 16') becomes the mapping it stands for, a number counts in a list."""
    first, *rest = key.replace("-", "_").split(".")
    if first not in keys() or not rest:  # an unknown key: the validation names it, with the nearest
        given[first] = item
    elif _counts(key):
        given[first] = _counted(first, given.get(first), rest, item)
    else:
        given[first] = _within(given.get(first), _SPELLED.get(first, "name"), rest, item)


def _counts(key: str) -> bool:
    """Whether a dotted key names an item of a list by its place."""
    first, _, rest = key.replace("-", "_").partition(".")
    return first in LISTS and rest.partition(".")[0].isdecimal()


def _within(value: object, spelled: str, steps: Sequence[str], item: object) -> dict[str, Any]:
    """The mapping that a value is, or stands for by its key `spelled`, with one key of it changed."""
    plain = value in (None, False, True)
    made: dict[str, Any] = dict(value) if isinstance(value, dict) else {} if plain else {spelled: value}
    inner = made
    for step in steps[:-1]:
        inner[step] = dict(inner.get(step) or {})
        inner = inner[step]
    inner[steps[-1]] = item
    return made


def _counted(key: str, value: object, steps: Sequence[str], item: object) -> list[Any]:
    """The list that a value is, or is one item of, with one item, or a key of it, changed; UsageError past its end."""
    listed = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    place, *rest = int(steps[0]), *steps[1:]
    if place >= len(listed):
        raise UsageError(f"{key}.{place}: the run lists {len(listed)}, counted from 0")
    listed[place] = _within(listed[place], _SPELLED.get(key, "name"), rest, item) if rest else item
    return listed


# the key that a bare word stands for where a mapping may stand
_SPELLED = {**SHORTHAND, "precision": "recipe", "optimizer": "name", "quantize": "name", "model": "preset",
            "companions": "role"}  # fmt: skip
