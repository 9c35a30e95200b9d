"""A saved answer, shown again: the same text as the first time, and what can't be shown is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

ASKED = ["llama-3-8b", "--precision", "bf16", "--gpu", "h100-80gb"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """What estimate wrote."""
    file = tmp_path / "saved.json"
    assert main(["estimate", *ASKED, "--format", "json", "--output", str(file)]) == 0
    return file


@pytest.mark.parametrize("form", ["table", "json", "yaml", "csv", "markdown", "html"])
def test_a_saved_answer_reads_as_the_first_time(form: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(saved), "--format", form]) == 0
    again = capsys.readouterr().out
    assert main(["estimate", *ASKED, "--format", form]) == 0
    assert again == capsys.readouterr().out


EDITS: list[tuple[dict[str, Any], int, str]] = [
    ({"kind": "check"}, 3, "kind: 'check' is not an estimate"),
    ({"schema_version": "2.0"}, 3, "'2.0' can't be read here, 1.x can"),
    ({"memory": {}}, 3, "memory.components: Field required"),
    ({"gpu": 3}, 3, "gpu: "),
]


@pytest.mark.parametrize(("edit", "code", "says"), EDITS, ids=[says for _, _, says in EDITS])
def test_bad_documents(
    edit: dict[str, Any], code: int, says: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved.write_text(json.dumps({**json.loads(saved.read_text("utf-8")), **edit}), "utf-8")
    assert main(["report", str(saved)]) == code
    assert says in capsys.readouterr().err


def test_no_such_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nowhere.json"]) == 4
    assert "nowhere.json: no such file" in capsys.readouterr().err
