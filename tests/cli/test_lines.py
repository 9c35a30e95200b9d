"""JSON lines: a run per line in, a report per line out, each as `estimate` alone would answer it."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

from memcalc import estimate
from memcalc.__main__ import main
from memcalc.cli.lines import LONGEST

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

RUNS: list[dict[str, Any]] = [
    {"model": "gpt2", "precision": "fp32"},
    {"model": "gpt2", "precision": "bf16", "batch_size": 2, "gpu": "h100-80gb"},
]


def answered(text: bytes, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """(exit code, the document of each line) of these lines on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    code = main(["estimate", *words, "--format", "jsonl"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_report_per_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"\n\n".join(json.dumps(run).encode() for run in RUNS)
    code, documents = answered(text, ["-"], capsys, monkeypatch)
    assert code == 0
    assert documents == [estimate(run).model_dump() for run in RUNS]


def test_flags_win_over_every_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n".join(json.dumps(run) for run in RUNS).encode()
    _, documents = answered(text, ["--opt", "adamw8bit", "--set", "seq_len=64"], capsys, monkeypatch)
    assert {(d["run"]["optimizer"], d["run"]["seq_len"]) for d in documents} == {("adamw-8bit", 64)}


def test_a_bad_line_keeps_its_place(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    good = json.dumps(RUNS[0]).encode()
    lines = [
        good,
        b'{"model": "gpt3000"}',
        b'{"model": "gpt2", "batch_size": 0}',
        b"{",
        b"[1]",
        b"x" * (LONGEST + 10),
        good,
    ]
    code, documents = answered(b"\n".join(lines), [], capsys, monkeypatch)
    assert code == 4
    assert [d["kind"] for d in documents] == ["estimate", *["error"] * 5, "estimate"]
    assert [(d["line"], d["exit_code"]) for d in documents[1:6]] == [(2, 2), (3, 3), (4, 4), (5, 4), (6, 4)]
    assert "batch_size: 0 is out of range" in documents[2]["message"]


def test_a_file_of_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "runs.jsonl", tmp_path / "reports.jsonl"
    file.write_text("\n".join(json.dumps(run) for run in RUNS), "utf-8")
    assert main(["estimate", str(file), "--format", "jsonl", "--output", str(out)]) == 0
    assert [json.loads(line)["run"]["batch_size"] for line in out.read_text("utf-8").splitlines()] == [1, 2]
    assert main(["estimate", str(tmp_path / "none.jsonl"), "--format", "jsonl"]) == 4
    assert "none.jsonl can't be read: No such file" in capsys.readouterr().err
