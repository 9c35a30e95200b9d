"""From a path to a run: what is recognised, what flags change, where the report says its values come from."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.__main__ import main
from memcalc.configs import Asked, detect, formats, module_of
from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate
from tests.configs.reader import document

if TYPE_CHECKING:
    from pathlib import Path

TRL = """\
# sft
model_name_or_path: mistralai/Mistral-7B-v0.1
dtype: bfloat16
use_peft: true
lora_r: 16
lora_target_modules: [q_proj, v_proj]
max_length: 1024
per_device_train_batch_size: 2
mystery_of_theirs: 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "train.yaml").write_text(TRL)
    return tmp_path / "train.yaml"


def answer(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main([*words]) == code
    out = capsys.readouterr()
    return json.loads(out.out) if code == 0 else out.err


def test_a_report_says_where_its_values_come_from(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = answer(capsys, "estimate", str(file), "--gpus", "8", "--gpu", "h100", "--lora", "32", "--format", "json")
    assert report["source"] == {"format": "trl", "file": str(file)}
    origins = report["origins"]
    assert origins["seq_len"] == {"file": str(file), "line": 7, "key": "max_length", "default": ""}
    assert origins["optimizer"]["default"] == "transformers/training_args.py"
    assert origins["gpus"] == {"file": "the command line", "line": None, "key": "--gpus", "default": ""}
    assert "lora.rank" not in origins
    assert report["run"]["lora"]["rank"] == 32
    assert "gpus-not-in-config" not in {note["code"] for note in report["assumptions"]}
    assert "default" not in {note["code"] for note in report["assumptions"] if note["path"] == "precision"}
    assert report["warnings"][0]["code"] == "keys-not-read"
    assert "mystery_of_theirs (line 9)" in report["warnings"][0]["message"]


def test_a_table_says_it_too(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(file), "--gpus", "8"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Read as trl: " in shown
    assert "seq_len (line 7)" in shown
    assert "the command line: gpus" in shown
    assert main(["estimate", str(file), "--gpus", "8", "--origins"]) == 0
    assert "line 7 max_length" in " ".join(capsys.readouterr().out.split())


def test_explain_reads_the_same(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    explained = answer(capsys, "explain", str(file), "--gpus", "8", "--format", "json")
    assert explained["origins"]["seq_len"]["line"] == 7
    assert explained["source"]["format"] == "trl"


def test_python_and_standard_input_read_it_as_well(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = estimate(file)
    assert report.source is not None
    assert report.source.format == "trl"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TRL.encode())))
    piped = answer(capsys, "estimate", "-", "--format", "json")
    assert piped["memory"] == report.model_dump()["memory"]


def test_python_says_what_a_file_leaves_open(tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2}, "train_batch_size": 64}')
    report = estimate(tmp_path / "zero.json", over={"model": "gpt2", "gpus": 8, "seq_len": 256})
    assert (report.run["batch_size"], report.gpu.count, report.run["seq_len"]) == (8, 8, 256)
    assert report.origins["seq_len"].file == "the call"
    assert estimate({"model": "gpt2"}, over={"batch_size": 3}).run["batch_size"] == 3
    with pytest.raises(RunInvalid, match="--model"):
        estimate(tmp_path / "zero.json", over={"gpus": 8})


def test_set_wins_over_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = answer(capsys, "estimate", str(file), "--set", "lora.rank=4", "--set", "seq_len=128", "--format", "json")
    assert (report["run"]["lora"]["rank"], report["run"]["seq_len"]) == (4, 128)
    assert report["run"]["lora"]["targets"] == ["q_proj", "v_proj"]
    assert report["origins"]["lora.rank"]["key"] == "--lora.rank"
    assert report["origins"]["lora.targets"]["line"] == 6


def test_faults_are_told_at_the_key_that_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.yaml").write_text(TRL.replace("[q_proj, v_proj]", "[no_such_module]"))
    told = answer(capsys, "estimate", str(tmp_path / "train.yaml"), code=3)
    assert "train.yaml:6 lora_target_modules (lora.targets)" in told


def test_a_format_may_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("learning_rate: 2e-5\n")
    report = answer(
        capsys, "estimate", str(tmp_path / "x.yaml"), "--from", "trainer", "--model", "gpt2", "--format", "json"
    )
    assert report["source"]["format"] == "training-arguments"
    assert "did you mean axolotl" in answer(capsys, "estimate", str(tmp_path / "x.yaml"), "--from", "axolot", code=2)


def test_what_nobody_knows_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.yaml").write_text("services: 1\nvolumes: 2\nnetworks: 3\nversion: 4\n")
    told = answer(capsys, "estimate", str(tmp_path / "x.yaml"), code=3)
    assert "neither a run file nor a config that is recognised (services, volumes, networks" in told
    assert len(told.splitlines()) == 2


def test_a_run_file_stays_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("model: gpt2\nbatchsize: 3\noptimzer: adamw\n")
    told = answer(capsys, "estimate", str(tmp_path / "run.yaml"), code=3)
    assert "did you mean batch_size" in told
    assert "did you mean optimizer" in told
    (tmp_path / "run.yaml").write_text("model: gpt2\nmodel: gpt2\n")
    assert "written twice" in answer(capsys, "estimate", str(tmp_path / "run.yaml"), code=3)


def test_a_foreign_key_written_twice_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(TRL + "max_length: 64\n")
    report = estimate(tmp_path / "train.yaml")
    assert report.run["seq_len"] == 64
    assert "key-repeated" in {note.code for note in report.warnings}


HOSTILE: list[tuple[bytes, int]] = [
    (b"", 4), (b"\0\0\0", 4), (b"\xff\xfe\xfa", 4), (b"a: &a [*a]\n", 4), (b"a: " + b"[" * 500, 4), (b"{" * 500, 4),
    (b"a: !!python/object/apply:os.system [ls]\n", 4), (b"{% if x %}\nmodel: {{ y }}\n", 4), (b"#!/bin/sh\nrm -rf /\n", 4),
    (b"- 1\n- 2\n", 4), (b"{" + b'"a": {' * 50, 4), (b"x" * (17 * 2**20), 4), (b"[section\nkey", 4),
    (b"base_model: [1]\nsequence_len: {a: 1}\nadapter: 3\n", 3), (b"peft_type: {}\n", 3), (b"distributed_type: [1]\n", 3),
    (b"zero_optimization: {stage: [3]}\ntrain_batch_size: x\n", 3), (b"quantization: {quant_algo: [1]}\n", 3),
    (b"model_name_or_path: {a: 1}\nuse_peft: 7\nlora_r: x\n", 3),
    (b"per_device_train_batch_size: 1e999\noutput_dir: 1\nlearning_rate: 2\n", 3),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "code"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_files_are_refused_with_a_documented_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], raw: bytes, code: int
) -> None:
    (tmp_path / "train.yaml").write_bytes(raw)
    assert main(["estimate", str(tmp_path / "train.yaml")]) == code
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("name", formats())
def test_every_format_has_the_contract(name: str) -> None:
    module = module_of(name)
    assert name == module.NAME
    assert module.TITLE
    assert module.recognises(document("a: 1\n")) == 0
    assert module.recognises(document("model: llama-2-7b\nprecision: bf16\nlora: {rank: 8}\ngpus: 8\n")) == 0


@pytest.mark.parametrize("name", formats())
@pytest.mark.parametrize(
    "text", ["a: 1\n", "a: {b: [1, {c: null}]}\n", "model: {name: [1]}\n", "model: x\ntrainer: 1\ntraining: [1]\n"]
)
def test_every_reader_takes_anything(name: str, text: str) -> None:
    made = document(text)
    assert isinstance(module_of(name).recognises(made), int)
    with contextlib.suppress(RunInvalid):
        module_of(name).read(made, Asked({"model": "gpt2", "gpus": 8}))


def test_the_surest_wins() -> None:
    assert detect(document('{"zero_optimization": {"stage": 1}, "train_batch_size": 8}')) == "deepspeed"
    assert detect(document('{"peft_type": "LORA", "base_model_name_or_path": "x"}')) == "peft"
    assert detect(document("distributed_type: NO\n")) == "accelerate"
    assert detect(document('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')) == "hf-config"
    assert detect(document("some: 1\nthing: 2\n")) == ""
