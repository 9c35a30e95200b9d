"""Names of models that configs hold: what a run says for them, how their weights are packed, what is told of others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from memcalc.configs.names import companion, unknown
from memcalc.configs.reading import Asked
from memcalc.configs.table import Sheet
from memcalc.errors import RunInvalid
from memcalc.models.names import packing
from tests.configs.reader import codes, document, reading
from tests.configs.test_checkpoint import LLAMA

if TYPE_CHECKING:
    from pathlib import Path

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
