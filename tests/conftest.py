"""Options and fixtures that several tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest

from memcalc.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome: TypeAlias = "tuple[int, str, str]"  # exit code, stdout, stderr


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """memcalc with these words: exit code, stdout, stderr."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("MEMCALC_TRACEBACK", raising=False)

    def call(*words: str) -> Outcome:
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call
