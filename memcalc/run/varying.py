"""One key of a run changed, its value read as in a run file: what sweeps and searches vary."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from memcalc.run.spelling import spelled_out
from memcalc.run.validation import parse_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.run import Run

# the key that a bare word stands for where a mapping may stand
NAMED = {"precision": "recipe", "optimizer": "name", "quantize": "name", "model": "preset"}


def varied(run: Run, key: str, value: Any) -> Run:  # noqa: ANN401 - whatever a key holds
    """The run with one key changed; a dot reaches into a mapping (lora.rank). RunInvalid where there is no such key or value."""
    first, _, inner = key.replace("-", "_").partition(".")
    whole = _within(getattr(run, first, None), first, inner, value) if inner else value
    read = parse_run({"model": run.model, first: whole})
    changed = {said: getattr(read, said) for said in spelled_out({first: whole})}
    return replace(run, **changed)


def all_varied(run: Run, values: Mapping[str, Any]) -> Run:
    """The run with several keys changed, one after the other."""
    for key, value in values.items():
        run = varied(run, key, value)
    return run


def _within(held: Any, first: str, inner: str, value: Any) -> dict[str, Any]:  # noqa: ANN401
    """What a key holds, as a mapping, with an inner key changed."""
    if is_dataclass(held) and not isinstance(held, type):
        made = {key: item for key, item in asdict(held).items() if item is not None}
    elif isinstance(held, str):
        made = {NAMED.get(first, "name"): held}
    else:
        made = dict(held or {})
    before, _, last = inner.rpartition(".")
    place = made
    for step in before.split(".") if before else ():
        place[step] = dict(place.get(step) or {})
        place = place[step]
    place[last] = value
    return made
