"""Names of the hub, as presets: as they are, without what says how they are packed or tuned, or with the name inside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from memcalc import estimate
from memcalc.configs.names import alike, companion, contained, elsewhere, packing, unknown
from memcalc.configs.reading import Asked
from memcalc.configs.table import Sheet
from memcalc.errors import RunInvalid, UnknownName
from memcalc.models import load_model
from tests.configs.reader import codes, document, reading
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


PACKED = [
    ("unsloth/Llama-3.2-1B-bnb-4bit", "nf4-double"), ("TheBloke/Llama-2-7B-GPTQ", "gptq"), ("x/Llama-2-7B-AWQ", "awq"),
    ("x/Llama-2-7B-GPTQ-Int8", {"name": "gptq", "bits": 8}), ("x/Llama-2-7B-4bit", None), ("x/Llama-2-7B", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), PACKED)
def test_adapters_leave_weights_as_their_name_says_they_are_packed(name: str, expected: object) -> None:
    assert packing(name) == expected
    text = f"model_name_or_path: {name}\nmax_length: 64\nper_device_train_batch_size: 1\n"
    assert reading(f"{text}use_peft: true\n").run.get("quantize") == expected
    assert "quantize" not in reading(text).run
    assert "quantize" not in reading(f"{text}use_peft: true\n", quantize="int8").run


def test_adapters_leave_weights_as_a_folder_s_config_says(tmp_path: Path) -> None:
    packed = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(packed))
    found = reading("model_name_or_path: base\nmax_length: 64\nuse_peft: true\n", folder=tmp_path)
    assert found.run["model"] == str(tmp_path / "base")
    assert found.run["quantize"] == {"name": "gptq", "bits": 4, "group_size": 64}


CONTAINED = [
    ("teknium/OpenHermes-2.5-Mistral-7B", "mistral-7b"), ("x/SmolLM3-3B-checkpoints", "smollm3-3b"),
    ("x/my-llama-2-7b-chat-tuned", "llama-2-7b"), ("x/mistral-large", None), ("x/OpenHermes", None), ("x/gpt2-thing", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), CONTAINED)
def test_a_fine_tune_s_name_holds_its_base_and_size(name: str, expected: str | None) -> None:
    assert contained(name) == expected


def test_that_reading_is_a_warning() -> None:
    found = reading("model_name_or_path: teknium/OpenHermes-2.5-Mistral-7B\nuse_peft: true\n", gpus=1)
    assert found.run["model"] == "mistral-7b"
    assert [note.code for note in found.warnings] == ["read-as"]
    assert "gpus-not-in-config" not in codes(found)


@pytest.mark.parametrize("name", ["a-" * 10**5 + "7b", "/" * 10**5, "-bnb-4bit" * 10**4])
def test_a_name_without_end_is_no_name(name: str) -> None:
    with pytest.raises(RunInvalid, match="no preset has"):
        reading(f"model_name_or_path: {name}\nuse_peft: true\n")


def test_what_is_known_nowhere_is_told_with_what_to_do() -> None:
    told = unknown("meta-llama/Llama-3.1-9B")
    assert "llama-3.1" in told
    assert "--model" in told
    assert "--hub" in told
    with pytest.raises(RunInvalid, match="no preset has the dimensions of 'x/y'"):
        reading("model_name_or_path: x/y\nuse_peft: true\n")


@pytest.mark.parametrize(
    ("named", "model", "warned"), [("gpt2", "gpt2", False), ("x/y-unheard-of", "same", True), ("null", "same", True)]
)
def test_a_companion_that_nobody_knows_has_the_policys_dimensions(named: str, model: str, warned: bool) -> None:
    sheet = Sheet(document(f"model: gpt2\nteacher: {named}\n"), Asked(), "some", "Some tool")
    assert companion(sheet, "teacher") == model
    assert [(note.code, note.path) for note in sheet.warnings] == (
        [("unknown-model", "train.yaml:2 teacher")] if warned else []
    )
