"""Names of models: as they are, as repositories are called that hold copies, spelled otherwise, inside another name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from memcalc import estimate
from memcalc.errors import UnknownName
from memcalc.models import load_model
from memcalc.models.names import alike, contained, elsewhere
from tests.configs.test_checkpoint import LLAMA

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [
    ("unsloth/Llama-3.2-1B-Instruct-unsloth-bnb-4bit", "unsloth/Llama-3.2-1B-Instruct"),
    ("unsloth/Llama-3.2-1B-bnb-4bit", "unsloth/Llama-3.2-1B"), ("TheBloke/Llama-2-7B-GPTQ", "Llama-2-7B"),
    ("somebody/Mistral-7B-v0.1", "Mistral-7B-v0.1"), ("Llama 3 8B", "Llama-3-8B"), ("gpt-oss:20b", "gpt-oss-20b"),
    ("Qwen2.5-7B-Instruct", "qwen/qwen2.5-7b-instruct"), ("qwen3-8b-instruct", "qwen3-8b"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), NAMES)
def test_a_copy_is_read_as_what_it_copies_and_says_so(name: str, expected: str) -> None:
    found = elsewhere(name)
    assert found is not None
    assert found[0] == expected
    assert found[1].startswith(f"{name} is read as {expected}: ")
    assert load_model(name).notes[-1] == found[1]


@pytest.mark.parametrize(
    ("name", "stored"), [("x/Llama-2-7B-GPTQ", "gptq"), ("x/Llama-2-7B-4bit", None), ("llama-2-7b", None)]
)
def test_a_run_with_adapters_leaves_the_base_as_its_name_says(name: str, stored: str | None) -> None:
    found = estimate({"model": name, "lora": 8})
    assert found.run["quantize"] == stored
    assert ("stored" in {note.code for note in found.assumptions}) == bool(stored)
    assert estimate({"model": name, "lora": 8, "quantize": "int8"}).run["quantize"] == "int8"


@pytest.mark.parametrize("name", ["nosuch", "some body/model", "some/model"])
def test_where_else_a_model_may_come_from(name: str) -> None:
    with pytest.raises(UnknownName) as told:
        load_model(name)
    assert ("--hub" in str(told.value)) == (name == "some/model")


def test_a_folder_comes_before_a_name_that_only_reads_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qwen2.5-7b-instruct").mkdir()
    (tmp_path / "qwen2.5-7b-instruct" / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.chdir(tmp_path)
    assert load_model("qwen2.5-7b-instruct").architecture == "llama"


def test_the_surest_reading_comes_first() -> None:
    names = [name for name, _ in alike("unsloth/Qwen2.5-7B-Instruct-bnb-4bit")]
    assert names[:3] == ["unsloth/Qwen2.5-7B-Instruct", "Qwen2.5-7B-Instruct-bnb-4bit", "Qwen2.5-7B-Instruct"]


CONTAINED = [
    ("teknium/OpenHermes-2.5-Mistral-7B", "mistral-7b"), ("x/SmolLM3-3B-checkpoints", "smollm3-3b"),
    ("x/my-llama-2-7b-chat-tuned", "llama-2-7b"), ("x/mistral-large", None), ("x/OpenHermes", None), ("x/gpt2-thing", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), CONTAINED)
def test_a_fine_tune_s_name_holds_its_base_and_size(name: str, expected: str | None) -> None:
    assert contained(name) == expected
