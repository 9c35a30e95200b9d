"""Configs that Megatron-LM, NeMo and GPT-NeoX are run with, as published: what each means, and the parameters of its model.

Parameters are those of the released model, with the rows that a padded vocabulary adds; names are presets'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from memcalc.configs import Asked, Reading, read
from memcalc.configs.documents import open_document
from memcalc.models import load_model
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import parts

REAL = Path(__file__).parent / "real_megatron"
# file -> (the released model, rows added to it x their width, what the file means)
RUNS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "megatron-llama3-8b.yaml": ("llama-3-8b", 0, {
        "precision": "megatron-bf16", "batch_size": 1, "grad_accum": 2048, "seq_len": 4096, "gpus": 8, "checkpointing": "none",
        "parallel": {"tensor": 4, "pipeline": 2, "sequence": True}, "sharding.distributed_optimizer": True}),
    "megatron-qwen3-30b-a3b.yaml": ("qwen3-30b-a3b", 2 * (151851 - 151936) * 2048, {
        "parallel": {"pipeline": 2, "expert": 4}, "batch_size": 1, "grad_accum": 32, "seq_len": 4096, "gpus": 8,
        "model.num_experts": 128, "model.num_experts_per_tok": 8}),
    "megatron-qwq-32b.yaml": ("qwen2.5-32b", 2 * (151851 - 152064) * 5120 - 64 * (5120 + 2 * 1024), {  # and no biases
        "parallel": {"tensor": 8, "sequence": True}, "model.qkv_bias": False, "grad_accum": 128}),
    "megatron-aquila-34b.yaml": ("", 0, {
        "parallel": {"tensor": 4, "pipeline": 4, "sequence": True}, "model.intermediate_size": 24576, "grad_accum": 1024,
        "sharding.make_vocab_size_divisible_by": 64}),
    "megatron-deepseek-16b-lora.yaml": ("", 0, {
        "lora.rank": 32, "lora.alpha": 64, "model.kv_lora_rank": 512, "model.q_lora_rank": None,
        "parallel": {"tensor": 2, "pipeline": 2, "expert": 2, "sequence": True}}),
    "nemo-llama2-70b.yaml": ("llama-2-70b", 0, {
        "gpus": 1024, "parallel": {"tensor": 4, "pipeline": 4, "virtual": 5, "schedule": "interleaved", "sequence": True},
        "precision": "megatron-bf16", "batch_size": 1, "grad_accum": 32, "seq_len": 4096, "checkpointing": "none"}),
    "nemo-mixtral-8x7b.yaml": ("mixtral-8x7b", 0, {
        "gpus": 64, "parallel": {"pipeline": 4, "expert": 8, "virtual": 8, "schedule": "interleaved"}, "grad_accum": 16,
        "sharding.grad_reduce_in_bf16": True, "sharding.fp8": None}),
    "nemo-gpt3-175b-fp8.yaml": ("gpt3-175b", 0, {
        "gpus": 512, "sharding.fp8": "hybrid", "sharding.fp8_param": True, "batch_size": 2, "grad_accum": 64,
        "model.intermediate_size": 49152, "model.position_embedding": "learned"}),
    "nemo-falcon-7b.yaml": ("falcon-7b", 65024 * 4544, {
        "gpus": 128, "model.parallel_residual": "one", "model.num_key_value_heads": 1, "model.tie_word_embeddings": False}),
    "nemo-llama2-7b-lora.yaml": ("llama-2-7b", 0, {
        "gpus": 8, "precision": {"recipe": "amp-bf16", "frozen": "fp32"}, "batch_size": 4, "grad_accum": 4, "seq_len": 4096,
        "lora": {"rank": 32, "alpha": 32, "targets": ["q_proj", "k_proj", "v_proj"], "dtype": "fp32"}}),
    "neox-20b.yml": ("gpt-neox-20b", 0, {
        "gpus": 8, "parallel": {"tensor": 2, "pipeline": 4}, "precision": "mixed-fp16", "batch_size": 4, "grad_accum": 32,
        "seq_len": 2048, "checkpointing": "full", "sharding.strategy": "zero1", "sharding.reduce_bucket_size": 1260000000}),
    "neox-pythia-6.9b.yml": ("pythia-6.9b", 0, {
        "gpus": 2, "parallel": {"tensor": 2}, "precision": "mixed-fp16", "batch_size": 8, "grad_accum": 2, "attention": "flash"}),
    "neox-llama2-13b.yml": ("llama-2-13b", 2 * (50258 - 32000) * 5120 + 40 * (2 * 13824 + 5120), {  # and biases of MLPs
        "parallel": {"tensor": 2}, "precision": "fp32", "sharding": {"strategy": "zero0"}, "model.intermediate_size": 13824}),
    "neox-mamba-2.8b.yml": ("mamba-2.8b", (50304 - 50280) * 2560, {"sharding.strategy": "zero1", "batch_size": 4}),
    "neox-bnb-125m.yml": ("", 0, {"optimizer": "adamw-8bit", "sharding": {"strategy": "zero0"}, "checkpointing": "full"}),
}  # fmt: skip


def reading(name: str) -> Reading:
    found = read(open_document(REAL / name), "", Asked({}))
    assert found is not None
    return found


@pytest.mark.parametrize("name", RUNS)
def test_a_published_config_means_this_run(name: str) -> None:
    found, expected = reading(name), RUNS[name][2]
    assert found.format == {"megatron": "megatron", "nemo": "nemo", "neox": "gpt-neox"}[name.partition("-")[0]]
    assert parts(found.run, expected) == expected
    assert "keys-not-read" not in {note.code for note in found.warnings}


@pytest.mark.parametrize("name", [name for name, (model, _, _) in RUNS.items() if model])
def test_its_model_is_the_one_that_was_released(name: str) -> None:
    model, added, _ = RUNS[name]
    spec = reading(name).run["model"]
    assert load_model(spec).parameters == load_model(model).parameters + added


@pytest.mark.parametrize("name", RUNS)
def test_it_gives_an_estimate(name: str) -> None:
    report = estimate_run(parse_run(dict(reading(name).run)))
    assert report.memory.total > report.memory.persistent > 0


def test_every_file_says_where_it_comes_from() -> None:
    known = yaml.safe_load((REAL / "INDEX.yaml").read_text("utf-8"))
    assert set(known) == set(RUNS) == {path.name for path in REAL.iterdir()} - {"INDEX.yaml"}
