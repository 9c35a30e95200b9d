"""MaxText's YAML and model files. Expectations: src/maxtext/configs/base.yml; parameters: the models' published counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.models import load_model
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

BASE = "base_config: base.yml\nmodel_name: llama2-7b\nper_device_batch_size: 4\nmax_target_length: 4096\n"


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **{"gpus": 8, **flags}).run)


def test_what_is_not_written_is_as_in_base_yml() -> None:
    found = reading(BASE, gpus=8)
    assert found.format == "maxtext"
    assert found.run == {
        "model": "llama2-7b", "seq_len": 4096, "grad_accum": 1, "batch_size": 4, "precision": "mixed-bf16",
        "sharding": {"strategy": "fsdp"}, "checkpointing": "full", "attention": "flash", "optimizer": "adamw",
    }  # fmt: skip
    assert found.origins["seq_len"].line == 4
    assert "base.yml" in found.origins["checkpointing"].default


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("remat_policy: minimal_with_context\n", {"checkpointing": "selective"}),
    ("remat_policy: none\n", {"checkpointing": "none"}),
    ("attention: dot_product\n", {"attention": "eager"}),
    ("weight_dtype: bfloat16\n", {"precision": {"recipe": "bf16", "gradients": "fp32"}}),
    ("weight_dtype: bfloat16\ngrad_dtype: bfloat16\n", {"precision": "bf16"}),
    ("dtype: float32\n", {"precision": "fp32"}),
    ("mu_dtype: bfloat16\n", {"precision": {"recipe": "mixed-bf16", "optimizer_states": "bf16"}}),
    ("ici_tensor_parallelism: 2\n", {"parallel": {"tensor": 2}}),
    ("ici_data_parallelism: 2\n", {"sharding": {"strategy": "hsdp", "replicate": 2}}),
    ("ici_data_parallelism: -1\nici_fsdp_parallelism: 1\n", {"sharding": {"strategy": "ddp"}}),
    ("optimizer_memory_host_offload: true\n", {"offload": "optimizer"}),
    ("opt_type: adam_pax\n", {"optimizer": "adamw"}),
    ("use_dpo: true\n", {"batch_size": 8, "companions": [{"role": "reference"}]}),  # a chosen and a rejected row each
    ("teacher_overrides: {model_name: llama3.1-8b}\n", {"companions": [{"role": "teacher", "model": "llama-3.1-8b"}]}),
    ("student_overrides: {model_name: llama3.1-8b}\n", {"model": "llama-3.1-8b"}),
    ("base_num_decoder_layers: 5\n", {"model": {"preset": "llama2-7b", "num_hidden_layers": 5}}),
    ("lora: {enable_lora: true, lora_rank: 8, lora_weight_qtype: nf4}\n",
     {"lora": {"rank": 8, "targets": "all-linear", "dtype": "param"}, "quantize": "nf4"}),
]  # fmt: skip


@pytest.mark.parametrize(("more", "expected"), RUNS, ids=[more.splitlines()[0] for more, _ in RUNS])
def test_a_key_at_a_time(more: str, expected: dict[str, Any]) -> None:
    run = read(BASE + more)
    assert parts(run, expected) == expected


def test_the_mesh_says_how_many_devices_there_are() -> None:
    run = dict(reading(BASE + "ici_fsdp_parallelism: 64\nici_data_parallelism: 2\n").run)
    assert (run["gpus"], run["sharding"]) == (128, {"strategy": "hsdp", "replicate": 2})
    assert "gpus-not-in-config" in codes(reading(BASE))


def test_a_base_that_is_there_is_laid_under(tmp_path: Path) -> None:
    (tmp_path / "mine.yml").write_text("base_config: base.yml\nremat_policy: none\nmax_target_length: 64\n", "utf-8")
    text = BASE.replace("base.yml", "mine.yml")
    run = dict(reading(text, gpus=8, folder=tmp_path).run)
    assert (run["checkpointing"], run["seq_len"]) == ("none", 4096)
    assert "not-found" in codes(reading(text, gpus=8))


def test_less_than_a_sequence_a_device() -> None:
    found = reading(BASE.replace("size: 4", "size: 0.5"), gpus=8)
    assert found.run["batch_size"] == 1
    assert "fraction" in codes(found)


MODELS: list[tuple[str, float]] = [  # a model file, and the model's parameters in billions as published
    (("decoder_block: mistral\nbase_emb_dim: 4096\nbase_num_query_heads: 32\nbase_num_kv_heads: 8\nbase_mlp_dim: 14336\n"
     "base_num_decoder_layers: 32\nhead_dim: 128\nvocab_size: 32000\n"), 7.241),
    (("decoder_block: gemma2\nbase_emb_dim: 4608\nbase_num_query_heads: 32\nbase_num_kv_heads: 16\nbase_mlp_dim: 36864\n"
     "base_num_decoder_layers: 23\nhead_dim: 128\nvocab_size: 256128\nlogits_via_embedding: true\n"), 27.228),
    (("decoder_block: gpt_oss\nbase_emb_dim: 2880\nbase_num_query_heads: 64\nbase_num_kv_heads: 8\nbase_mlp_dim: 2880\n"
     "base_moe_mlp_dim: 2880\nbase_num_decoder_layers: 24\nhead_dim: 64\nvocab_size: 201088\nnum_experts: 32\n"
     "num_experts_per_tok: 4\nattention_bias: true\n"), 20.915),
    (("decoder_block: llama4\nbase_emb_dim: 5120\nbase_num_query_heads: 40\nbase_num_kv_heads: 8\nbase_mlp_dim: 16384\n"
     "base_moe_mlp_dim: 8192\nbase_num_decoder_layers: 48\nhead_dim: 128\nvocab_size: 202048\nnum_experts: 128\n"
     "num_experts_per_tok: 1\ninterleave_moe_layer_step: 2\nuse_qk_norm: false\n"), 400.712),
]  # fmt: skip


@pytest.mark.parametrize(("text", "billions"), MODELS, ids=[text.split()[1] for text, _ in MODELS])
def test_a_model_file_has_the_published_parameters(text: str, billions: float) -> None:
    found = reading(text)
    assert found.format == "maxtext-model"
    assert load_model(found.run["model"]).parameters / 1e9 == pytest.approx(billions, abs=0.001)


def test_a_block_that_is_not_known_is_refused() -> None:
    with pytest.raises(RunInvalid, match=r"train.yaml:1 decoder_block: the layers of 'envy' are not known"):
        reading("decoder_block: envy\nbase_emb_dim: 64\n")


def test_a_dtype_that_is_none() -> None:
    with pytest.raises(RunInvalid, match="'int8' is none of bfloat16"):
        read(BASE + "weight_dtype: int8\n")
