"""The answer of `memcalc check` as GitHub's workflow commands: an annotation at the place where a limit is written.

Syntax: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands ("Setting an error message").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcalc.render.check import exceeded, remedy, summary
from memcalc.render.summary import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.checking.values import Check, Held, Result
    from memcalc.render.page import Page

_PLACE = re.compile(r"(?P<file>[^:]+\.(?:ya?ml|json|toml))(?::(?P<line>\d+))?")


def render(answer: Check, page: Page) -> str:
    """One error per limit that is exceeded, a warning per note, and a line for people."""
    lines = [line for result in answer.results for line in _result(result, page)]
    return "\n".join([*lines, summary(answer)]) + "\n"


def _result(result: Result, page: Page) -> Iterator[str]:
    if result.error:
        yield _command("error", result.source, None, f"memcalc: {result.source}", result.error)
        return
    for limit in result.limits:
        if not limit.passed:
            yield _command("error", *_place(limit, result), f"memcalc: {result.source}", _message(limit, result, page))
    for warning in result.warnings:
        yield _command("warning", result.source, None, f"memcalc: {result.source}", warning)


def _message(limit: Held, result: Result, page: Page) -> str:
    lines = [exceeded(limit, page)]
    if result.largest:
        lines.append(f"largest: {TITLES[result.largest.component]}, {page.size(result.largest.bytes)}")
    lines.append(remedy(result.fix, page))
    return "\n".join(lines)


def _place(limit: Held, result: Result) -> tuple[str, int | None]:
    """The file and the line of a limit; the config itself where the limit is not written in a file."""
    found = _PLACE.match(limit.where)
    return (found["file"], int(found["line"]) if found["line"] else None) if found else (result.source, None)


def _command(kind: str, file: str, line: int | None, title: str, message: str) -> str:
    places = [f"file={_property(file)}", *([f"line={line}"] if line else []), f"title={_property(title)}"]
    return f"::{kind} {','.join(places)}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
