"""JSON lines: a run per line in, a report per line out, so that sweeps pipe through jq."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.errors import MemcalcError, UnreadableInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from memcalc.report import Report
    from memcalc.run import Run

    Estimated = Callable[[Run, Path | None], Report]

LONGEST = 2**20  # bytes of a line


def answers(source: str, told: Sequence[tuple[str, Any]], estimated: Estimated) -> Iterator[tuple[str, int]]:
    """(line of JSON, exit code) for each run in a file or on standard input ("-"); what is `told` wins over each.

    A line that can't be answered gives `{"kind": "error", "line": 3, "exit_code": 3, "message": …}` in its place.
    """
    name = "standard input" if source == "-" else source
    for number, text in _lines(source):
        yield _answer(text, name, number, told, estimated)


def _answer(
    text: bytes, source: str, number: int, told: Sequence[tuple[str, Any]], estimated: Estimated
) -> tuple[str, int]:
    try:
        return _asked(text, f"{source}:{number}", told, estimated).model_dump_json(), 0
    except MemcalcError as error:
        fault = {"kind": "error", "line": number, "exit_code": error.exit_code, "message": str(error)}
        return json.dumps(fault, ensure_ascii=False), error.exit_code


def _asked(text: bytes, source: str, told: Sequence[tuple[str, Any]], estimated: Estimated) -> Report:
    from memcalc.run.asking import put  # noqa: PLC0415
    from memcalc.run.question import Draft  # noqa: PLC0415

    given = dict(_mapping(text, source))
    for key, item in told:
        put(given, key, item)
    return Draft(given, source).question().answer(estimated)


def _mapping(text: bytes, source: str) -> Mapping[str, Any]:
    if len(text) > LONGEST:
        raise UnreadableInput(f"{source}: a line of more than {LONGEST} bytes")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableInput(f"{source}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UnreadableInput(f'{source}: wanted is a run, such as {{"model": "llama-2-7b"}}')
    return data


def _lines(source: str) -> Iterator[tuple[int, bytes]]:
    """(number, text) of each line that holds something."""
    if source == "-":
        yield from _filled(sys.stdin.buffer)
        return
    try:
        with Path(source).open("rb") as file:
            yield from _filled(file)
    except OSError as error:
        raise UnreadableInput(f"{source} can't be read: {error.strerror or error}") from None


def _filled(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := stream.readline(LONGEST + 1):
        number += 1
        rest = line
        while len(rest) > LONGEST and not rest.endswith(b"\n"):  # what is too long is not kept
            rest = stream.readline(LONGEST + 1)
        if line.strip():
            yield number, line
