"""Files beside configs: what they are is said, with what to give instead; Weights & Biases' export is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.__main__ import main
from memcalc.pipeline import estimate
from memcalc.presets import find

if TYPE_CHECKING:
    from pathlib import Path

CARD = "---\nlicense: mit\nbase_model: mistralai/Mistral-7B-v0.1\ntags: [a]\n---\n# Mine\n\nIt is good.\n"
STRANGERS: list[tuple[str, Any, int, str]] = [
    ("Dockerfile", "FROM nvidia/cuda:12.1.0\nRUN pip install torch\n", 4, "is a Dockerfile: give what the container runs"),
    ("compose.yml", "services: {a: {image: x}}\nversion: '3'\n", 3, "it is a Compose file"),
    ("requirements.txt", "torch==2.4.0\npeft\n", 4, "is a list of Python packages"),
    ("packages", "torch>=2.4\ntransformers==4.40\n", 4, "is a list of Python packages"),
    ("pyproject.toml", '[project]\nname = "x"\n', 3, "it is a Python project's pyproject.toml"),
    ("train.ipynb", {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, 3, "it is a Jupyter notebook"),
    ("trainer_state.json", {"log_history": [], "global_step": 3, "epoch": 1.0}, 3, "it is the Trainer's trainer_state.json"),
    ("training_args.bin", b"PK\x03\x04\0\0", 4, "is the Trainer's pickled TrainingArguments: no pickle is opened"),
    ("pytorch_model.bin", b"\x80\x02\0\xff", 4, "is pickled weights or states: no pickle is opened; give the config.json"),
    ("generation_config.json", {"_from_model_config": True, "eos_token_id": 2}, 3, "it is a generation_config.json"),
    ("tokenizer_config.json", {"tokenizer_class": "X", "model_max_length": 1}, 3, "it is a tokenizer_config.json"),
    ("tokenizer.json", {"added_tokens": [], "pre_tokenizer": None, "version": "1.0"}, 3, "it is a tokenizer's file"),
    ("special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>"}, 3, "it is a tokenizer's file"),
    ("preprocessor_config.json", {"image_processor_type": "X", "size": 224}, 3, "it is a processor's config"),
    ("model.safetensors.index.json", {"metadata": {}, "weight_map": {}}, 3, "it is an index of weights: it names tensors"),
    ("model_index.json", {"_class_name": "FluxPipeline", "_diffusers_version": "0.3"}, 3, "transformer or "),
    ("log.csv", "epoch,loss\n1,2\n", 4, "is a table of data or of a log"),
    ("data.jsonl", '{"a": 1}\n{"a": 2}\n', 4, "is a table of data or of a log"),
    ("README.md", "# Mine\n\nIt is good.\n", 4, "is a text to read"),
    ("README.md", CARD, 4, "is a model card, which does not say how the model is trained; the model it names is mistralai/Mistral"),
    ("README.md", "---\nlicense: mit\n---\n# Mine\n", 4, "it names no base_model"),
    ("other.yaml", "alpaca: 1\n", 3, "neither a run file nor a config that is recognised"),
    ("empty.yaml", "", 4, "is empty; write at least `model: llama-2-7b`"),
    ("recipe.py", "from transformers import Trainer\n", 3, "it is a training script"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "held", "code", "told"), STRANGERS, ids=[f"{one[0]}-{i}" for i, one in enumerate(STRANGERS)]
)
def test_one_message_says_what_it_is(
    name: str, held: Any, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = json.dumps(held) if isinstance(held, dict) else held
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["estimate", str(tmp_path / name)]) == code
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) <= 2


def test_a_folder_is_named_where_the_config_may_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "X"}')
    assert main(["estimate", str(tmp_path / "tokenizer_config.json")]) == 3
    assert f"memcalc estimate {tmp_path}" in capsys.readouterr().err
    assert main(["estimate", str(tmp_path)]) == 4
    assert "holds no config.json" in capsys.readouterr().err


def test_an_export_of_weights_and_biases_is_read(tmp_path: Path) -> None:
    held = {
        "model_name_or_path": "gpt2",
        "per_device_train_batch_size": 4,
        "bf16": True,
        "output_dir": "out",
        "optim": "adamw_torch",
    }
    lines = [f"{key}:\n  desc: null\n  value: {json.dumps(value)}\n" for key, value in held.items()]
    (tmp_path / "config.yaml").write_text(
        "wandb_version: 1\n_wandb:\n  value: {cli_version: '0.15'}\n" + "".join(lines)
    )
    report = estimate(tmp_path / "config.yaml")
    assert (report.run["batch_size"], report.run["precision"], report.model.name) == (4, "amp-bf16", "gpt2")
    assert report.origins["batch_size"].line == 7


def test_what_is_alike_stays_what_it_is(tmp_path: Path) -> None:
    """A trainer's config, a model's and a run file that hold a key of these files."""
    (tmp_path / "run.yaml").write_text("model: gpt2\nbatch_size: 2\n")
    assert estimate(tmp_path / "run.yaml").run["batch_size"] == 2
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token": 1, "eos_token": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert estimate(tmp_path / "config.json").model.parameters == 124_439_808


@pytest.mark.parametrize("kind", find("frameworks", "strangers")["kinds"], ids=lambda kind: kind["is"])
def test_every_kind_is_tried(kind: dict[str, Any]) -> None:
    assert any(kind["is"] in told or kind["instead"].split(",")[0] in told or kind["is"] == "the index of a diffusers pipeline"
               for *_, told in STRANGERS)  # fmt: skip
