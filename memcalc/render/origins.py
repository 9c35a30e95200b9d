"""Where the values of a run come from, when another tool's config was read: in a sentence, and row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.render.sections import Section
from memcalc.render.summary import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.explanation.values import Explanation
    from memcalc.report import Origin, Report

LONGEST = 36  # characters of a value worth showing


def sentence(report: Report | Explanation) -> str:
    """What was read from the file, what is the framework's default, what the command line says; '' for a run file."""
    if report.source is None:
        return ""
    own = [_short(path, o) for path, o in report.origins.items() if o.line is not None and not o.default]
    elsewhere = [path for path, o in report.origins.items() if o.line is None and not o.default and o.file != FLAGS]
    defaults = [path for path, o in report.origins.items() if o.default]
    flags = [path for path, o in report.origins.items() if o.file == FLAGS]
    said = [f"{', '.join(own + elsewhere)} from {report.source.file}"] if own or elsewhere else []
    said += [f"defaults of {report.source.format}: {', '.join(defaults)}"] if defaults else []
    said += [f"the command line: {', '.join(flags)}"] if flags else []
    return f"Read as {report.source.format}: {'; '.join(said)}"


def table(report: Report | Explanation) -> Section | None:
    """Each value of the run that was read, and where it is written; None for a run file."""
    if report.source is None:
        return None
    rows = tuple(
        (path, _shown(value_at(report.run, path)), where(origin, report.source.file))
        for path, origin in report.origins.items()
    )
    return Section(f"Read as {report.source.format} from {report.source.file}", ("key", "<value", "where"), rows)


def where(origin: Origin, around: str = "") -> str:
    """`line 12 sequence_len` of the file `around`, the place in another file, the source of a default, or the flag."""
    if origin.default:
        return f"default of {origin.key}: {origin.default}" if origin.key else origin.default
    if origin.line is None:
        return origin.key or origin.file
    if origin.file == around:
        return f"line {origin.line} {origin.key}"
    return f"{origin.file}:{origin.line} {origin.key}"


def value_at(run: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401 - whatever a run holds
    """The value at a dotted path of a run; None where there is none."""
    value: Any = run
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _short(path: str, origin: Origin) -> str:
    """`seq_len (line 12)`."""
    return f"{path} (line {origin.line})"


def _shown(value: object) -> str:
    text = ", ".join(map(name_of, value)) if isinstance(value, (list, tuple)) else name_of(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


FLAGS = "the command line"
