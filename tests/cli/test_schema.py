"""Schemas: every kind there is, each holding the documents that its command gives."""

from __future__ import annotations

import json

import pytest

from memcalc.__main__ import main
from memcalc.cli.schema import KINDS
from memcalc.presets import names

FIRST = {"run": "model", "budget": "budget"}  # a key that the schema has; else the document's kind


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_schema(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", kind]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert FIRST.get(kind, "kind") in schema["properties"]


def test_a_kind_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "reprot"]) == 2
    assert "did you mean report?" in capsys.readouterr().err


def test_every_key_of_a_run_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "run"]) == 0
    schema = json.loads(capsys.readouterr().out)
    told = {key: part["description"] for key, part in schema["properties"].items()}
    assert all(text.endswith((".", "…", "`", "one", "720x1280")) for text in told.values())
    assert told["seq_len"] == "Tokens of a sequence."
    assert schema["properties"]["quantize"]["examples"] == names("quantizations")  # no other command lists them
    assert told["train"].endswith("One item may stand for a list of one")
