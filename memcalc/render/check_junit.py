"""The answer of `memcalc check` as JUnit XML: a suite per config, a case per limit (the schema that CI servers read)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from memcalc.render.check import exceeded, kept, name_of, remedy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.checking.values import Check, Held, Result
    from memcalc.render.page import Page

_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML 1.0 has no place for


def render(answer: Check, page: Page) -> str:
    """The whole document; no times, so that the same answer gives the same text."""
    failures = sum(not limit.passed for result in answer.results for limit in result.limits)
    errors = sum(bool(result.error) for result in answer.results)
    tests = sum(_count(result) for result in answer.results)
    head = f'<testsuites name="memcalc" tests="{tests}" failures="{failures}" errors="{errors}">'
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', head]
    for result in answer.results:
        lines += _suite(result, page)
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def _count(result: Result) -> int:
    return max(len(result.limits), 1)


def _suite(result: Result, page: Page) -> Iterator[str]:
    failed = sum(not limit.passed for limit in result.limits)
    yield (f'  <testsuite name={_quoted(result.source)} tests="{_count(result)}" failures="{failed}" '
           f'errors="{int(bool(result.error))}">')  # fmt: skip
    if result.error:
        yield f'    <testcase classname={_quoted(result.name)} name="estimate">'
        yield f"      <error message={_quoted(result.error.splitlines()[0])}>{_text(result.error)}</error>"
        yield "    </testcase>"
    elif not result.limits:
        yield f'    <testcase classname={_quoted(result.name)} name="estimate"/>'
    for limit in result.limits:
        yield from _case(limit, result, page)
    yield "  </testsuite>"


def _case(limit: Held, result: Result, page: Page) -> Iterator[str]:
    name = f"    <testcase classname={_quoted(result.name)} name={_quoted(limit.path)}"
    if limit.passed:
        yield f"{name}><system-out>{_text(kept(limit, page))}</system-out></testcase>"
        return
    told = "\n".join([exceeded(limit, page), remedy(result.fix, page)])
    yield f"{name}>"
    yield f"      <failure message={_quoted(exceeded(limit, page))} type={_quoted(name_of(limit))}>{_text(told)}</failure>"
    yield "    </testcase>"


def _quoted(text: str) -> str:
    return quoteattr(_UNPRINTABLE.sub("?", text))


def _text(text: str) -> str:
    return escape(_UNPRINTABLE.sub("?", text))
