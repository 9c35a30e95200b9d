"""Command lines as people write them first: each is answered, or told what to write."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from memcalc.__main__ import main
from memcalc.errors import nearest_names

if TYPE_CHECKING:
    from pathlib import Path

TOLD = [
    ("gpt2", "did you mean estimate gpt2?"),
    ("help", "did you mean --help?"),
    ("estmate gpt2", "did you mean estimate?"),
    ("estimate Llama 3 8B", "a name of several words stands in quotes"),
    ("estimate gpt2 --json", "--format json"),
    ("estimate gpt2 --lora-alpha 32", "--set lora.alpha=VALUE"),
    ("estimate gpt2 --gpu 80", "say what memory it has: 80GiB"),
    ("estimate gpt2 --gpu h100 --margin 10", "write a unit"),
    ("estimate gpt2 --gpu 8xh100 --gpus 4", "says 8 GPUs, and gpus says 4"),
    ("recommend gpt2 --gpu 8xh100 --gpus 4", "says 8 GPUs, and gpus says 4"),
    ("recommend gpt2 --gpu 8xh100,4xa100", "how many with --gpus"),
    ("estimate 7b --lora 16", "a bare size has no modules for adapters"),
]


@pytest.mark.parametrize(("line", "told"), TOLD)
def test_what_is_wrong_is_told_with_what_is_right(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) in (2, 3)
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "begins"), [("a.json", "{"), ("a.md", "### gpt2"), ("a.html", "<"), ("a.yaml", "schema"), ("a", "gpt2 ·")]
)
def test_the_end_of_a_files_name_is_its_format(name: str, begins: str, tmp_path: Path) -> None:
    assert main(["estimate", "gpt2", "-o", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_text("utf-8").startswith(begins)


def test_a_gpu_and_a_model_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpus", "gb200", "nvl72", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "gb200"
    assert main(["models", "llama3.1:8b", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "llama-3.1-8b"
    assert main(["models", "qwen3 8b"]) == 0
    assert "qwen3-8b" in capsys.readouterr().out


def test_recommend_takes_the_number_of_gpus_from_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "gpt2", "--gpu", "2xt4", "--keep", "optimizer", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["recommendations"]
    assert {(one["gpu"]["name"], one["gpu"]["count"]) for one in found} == {("t4", 2)}


@pytest.mark.parametrize(("name", "meant"), [("gemma4", "gemma-4-31b"), ("qwen-3.5", "qwen3.5-2b")])
def test_a_family_without_a_size_is_answered_with_its_models(name: str, meant: str) -> None:
    assert meant in nearest_names(name, ["gemma-3-4b", "gemma-4-31b", "gemma-2b", "gemma-7b", "qwen3.5-2b", "qwen3-2b"])
