"""What a model's name means: a preset spelled otherwise, the repository it is a copy of, its files in the hub's cache.

A name is looked up without regard to case, first as it is, then as the repository it is a copy of (a quantised upload of
the same model, named so by its owner): each such reading comes with a note.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.errors import shorten
from memcalc.models.hub_cache import is_repository, snapshot
from memcalc.paths import is_file
from memcalc.presets import has, index

if TYPE_CHECKING:
    from collections.abc import Iterator

# ends of a repository's name that say how its weights are packed, not what model it is
_PACKED: Final = re.compile(
    r"-(unsloth-)?bnb-4bit|-bnb-8bit|-gptq(-int[48]|-4bit)?(-128g)?|-awq(-int4)?|-4bit|-8bit|-fp8(-dynamic)?|-nvfp4|-bf16|-hf",
    re.IGNORECASE,
)
CONFIG: Final = "config.json"
LONGEST: Final = 300  # characters of a name
_JOINTS: Final = re.compile(r"[\s_:]+")
_DIGITS: Final = re.compile(r"(?<=[0-9])[\s._:/-]+(?=[0-9])")
_BETWEEN: Final = re.compile(r"(?<![0-9])[\s._:/-]+|[\s._:/-]+(?![0-9])")
_SAME: Final = "tuning for chat or instructions leaves the dimensions as they are"
_SEPARATOR: Final = re.compile(r"[-_]+")
_SIZE: Final = re.compile(r"(\d+x)?\d+(\.\d+)?[bm]")
# what those ends mean for adapters that are trained on the packed weights: each uploader's usual settings
_STORAGE: Final = tuple((re.compile(f"{end}$", re.IGNORECASE), spec) for end, spec in (
    ("-bnb-4bit", "nf4-double"), ("-bnb-8bit", "int8"), ("-gptq-(int8|8bit)", {"name": "gptq", "bits": 8}),
    ("-gptq(-int4|-4bit)?(-128g)?", "gptq"), ("-awq(-int4)?", "awq"), ("-nvfp4", "nvfp4"),
))  # fmt: skip
# ends that say how a model was tuned; tuning does not change its dimensions
_TUNED: Final = re.compile(
    r"-(instruct|chat|it|base|pt|sft|dpo|thinking|reasoning)(-v?\d[\d.]*|-\d{4})?$", re.IGNORECASE
)


def packing(name: str) -> Any:  # noqa: ANN401 - a run's `quantize`, or None
    """How the weights of a repository are packed, as the end of its name says; None where it does not."""
    return next((spec for end, spec in _STORAGE if end.search(name)), None)


def listing(name: str) -> str:
    """Where a model of a name that nothing here knows may come from: the presets, a file, for a repository the hub."""
    hub = ", or let --hub fetch its config.json" if "/" in name and is_repository(name) else ""
    return f"memcalc models (or name a file that exists{hub})"


def contained(name: str) -> str | None:
    """The preset whose name, with its size, is part of a repository's (OpenHermes-2.5-Mistral-7B); the longest."""
    words = _SEPARATOR.split(name[:LONGEST].rpartition("/")[2].lower())
    spans = ((i, j) for i in range(len(words)) for j in range(len(words), i, -1))
    longest = sorted(spans, key=lambda span: (span[0] - span[1], span[0]))[:200]
    runs = (words[i:j] for i, j in longest if j - i > 1 and any(_SIZE.fullmatch(word) for word in words[i:j]))
    return next((run for run in map("-".join, runs) if has("models", run)), None)


def elsewhere(name: str) -> tuple[str, str] | None:
    """A hub's name as what stands for it without the network, with a note: its cached files, else a preset's name."""
    folder = snapshot(name) if len(name) <= LONGEST else None
    if folder is not None and is_file(folder / CONFIG):
        return str(folder), f"{name} as it is in the local cache of the hub"
    found = ((other, why) for other, why in alike(name) if has("models", other))
    return next(((other, f"{shorten(name)} is read as {other}: {why}") for other, why in found), None)


def alike(name: str) -> Iterator[tuple[str, str]]:
    """Names that stand for the same dimensions as a hub's name, surest first, each with the reason."""
    joined = _JOINTS.sub("-", name.strip())
    if joined != name:
        yield joined, "words are joined by dashes"
    owner, slash, repository = joined.rpartition("/")
    plain = _PACKED.sub("", repository)
    if plain != repository:
        yield f"{owner}{slash}{plain}", "the end of its name says how its weights are packed"
    if not slash:
        yield from ((held, "the repository of that name") for held in held_as(plain))
    if slash:
        yield repository, "the repository of that name, whoever holds it"
        if plain != repository:
            yield plain, "the repository of that name, whoever holds it, with its weights packed otherwise"
    base = _TUNED.sub("", plain)
    if base != plain:
        yield from ((other, _SAME) for other in (base, *held_as(base)))
    elif slash:
        for end in ("-base", "-instruct", "-chat", "-it", "-hf"):
            yield f"{plain}{end}", "a base model and its tuned forms have the same dimensions"
    yield from ((spelled, "the same name, spelled otherwise") for spelled in _spelled(name, base))


def _spelled(*names: str) -> Iterator[str]:
    """The presets that have one of the names but for its dashes, spaces and colons, where only one does."""
    known = index()["models"]
    for name in names:
        wanted = _squeezed(name)
        paths = {path: known_as for known_as, path in known.items() if _squeezed(known_as) == wanted}
        if len(paths) == 1:
            yield from paths.values()


def _squeezed(name: str) -> str:
    """A name without its separators; those between two digits are all alike (3.1-8b, 3.1:8b)."""
    return _BETWEEN.sub("", _DIGITS.sub(".", name.lower()))


def held_as(repository: str) -> list[str]:
    """The names of presets that are of a repository called so, with the owner before it."""
    end = f"/{repository.lower()}"
    return [name for name in index()["models"] if name.endswith(end)]
