"""Megatron-LM's YAML, scripts and lists of arguments. Expectations: megatron/training/arguments.py, core/*config.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.configs.megatron_models import mixed_layers
from memcalc.errors import RunInvalid, UnreadableInput
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

FLAT = """\
num_layers: 24
hidden_size: 2048
num_attention_heads: 16
seq_length: 4096
max_position_embeddings: 4096
vocab_size: 50257
micro_batch_size: 2
global_batch_size: 64
bf16: true
"""
SECTIONS = """\
system:
  tensor_model_parallel_size: 2
  pipeline_model_parallel_size: 2
  sequence_parallel: true
  use_distributed_optimizer: true
  overlap_grad_reduce: true
  precision: {bf16: true, attention_softmax_in_fp32: true}
  recompute_granularity: full
  recompute_method: block
  recompute_num_layers: 4
model:
  num_layers: 32
  hidden_size: 4096
  num_attention_heads: 32
  group_query_attention: true
  num_query_groups: 8
  seq_length: ${model.max_position_embeddings}
  max_position_embeddings: 8192
  swiglu: true
  disable-bias-linear: true
  normalization: RMSNorm
  use_rotary_position_embeddings: true
  untie_embeddings_and_output_weights: true
  hidden_dropout: 0.0
  attention_dropout: 0.0
  micro_batch_size: 1
  global_batch_size: 128
data:
  tokenizer: {tokenizer_type: Llama3TokenizerFS, vocab_size: 128256, make_vocab_size_divisible_by: 64}
"""
MIXTURE = SECTIONS.replace(
    "  swiglu",
    """\
  multi_latent_attention: true
  kv_lora_rank: 512
  num_experts: 64
  moe_router_topk: 6
  moe_ffn_hidden_size: 1408
  moe_shared_expert_intermediate_size: 2816
  moe_router_score_function: sigmoid
  moe_router_enable_expert_bias: true
  moe_layer_freq: "[0]+[1]*31"
  swiglu""",
)
SCRIPT = """\
#!/bin/bash
# --num-layers 7
GPUS_PER_NODE=8
NNODES=${NNODES:-2}
TP=4
HIDDEN=4096
DISTRIBUTED_ARGS=(--nproc_per_node $GPUS_PER_NODE --nnodes $NNODES --master_addr localhost)
MODEL_ARGS=(
    --num-layers 32 --hidden-size ${HIDDEN}
    --num-attention-heads 32 # of all
    --seq-length 2048 --max-position-embeddings 2048
    --swiglu --normalization "RMSNorm"
)
OPTIONS=" \\
    --micro-batch-size 1 --global-batch-size $((4 * 8)) \\
    --tensor-model-parallel-size $TP --lr 6.0e-5 --fp16"
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py ${MODEL_ARGS[@]} ${OPTIONS} \\
    --vocab-file $1 --merge-file $2 | tee log
"""


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **flags).run)


def test_arguments_as_they_are_where_nothing_else_is_said() -> None:
    found = reading(FLAT)
    assert found.format == "megatron"
    assert found.run == {
        "gpus": 1, "seq_len": 4096, "implementation": "megatron", "precision": "megatron-bf16", "checkpointing": "none",
        "sharding": {"strategy": "megatron", "distributed_optimizer": False}, "batch_size": 2, "grad_accum": 32,
        "optimizer": "adamw",
        "model": {
            "model_type": "megatron_gpt", "num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 16,
            "vocab_size": 50257, "intermediate_size": 8192, "hidden_act": "gelu", "gated": False, "normalization": "layer",
            "attention_bias": True, "mlp_bias": True, "qkv_bias": True, "qk_norm": False, "tie_word_embeddings": True,
            "hidden_dropout": 0.1, "attention_dropout": 0.1, "position_embedding": "learned", "max_position_embeddings": 4096,
        },
    }  # fmt: skip
    assert found.origins["batch_size"].line == 7
    assert "gpus-not-in-config" in codes(found)


RUNS: list[tuple[str, dict[str, Any]]] = [
    (SECTIONS, {
        "gpus": 4, "parallel": {"tensor": 2, "pipeline": 2, "sequence": True}, "grad_accum": 128, "seq_len": 8192,
        "checkpointing": "full", "model.num_key_value_heads": 8, "model.intermediate_size": 10880, "model.gated": True,
        "model.attention_bias": False, "model.position_embedding": "rope",
        "sharding": {"strategy": "megatron", "distributed_optimizer": True, "overlap_grad_reduce": True,
                     "make_vocab_size_divisible_by": 64, "recompute_granularity": "full", "recompute_method": "block",
                     "recompute_num_layers": 4}}),
    # groups count only with group_query_attention
    (SECTIONS.replace("group_query_attention: true", "group_query_attention: false"), {"model.num_key_value_heads": None}),
    # FlagScale's widths: raised to a multiple
    (SECTIONS.replace("swiglu: true", "swiglu: true\n  multiple_of: 4096\n  hidden_dim_multiplier: 1.3"),
     {"model.intermediate_size": 16384}),
    (SECTIONS.replace("use_distributed_optimizer: true", "fp8_format: hybrid"),
     {"sharding.fp8": "hybrid", "sharding.distributed_optimizer": False}),
    (SECTIONS.replace("granularity: full", "granularity: selective\n  recompute_modules: [core_attn, mlp]"),
     {"checkpointing": "selective", "sharding.recompute_modules": ["core_attn", "mlp"], "sharding.recompute_method": None}),
    (FLAT + "checkpoint_activations: true\n",
     {"checkpointing": "full", "sharding.recompute_method": "uniform", "sharding.recompute_num_layers": 1}),
    (FLAT + "sequence_parallel: true\n", {"parallel": None}),
    (FLAT.replace("bf16: true", "optimizer: sgd"), {"precision": "fp32", "optimizer": "sgd-momentum"}),
    (FLAT + "no_gradient_accumulation_fusion: true\nsquared_relu: true\n",
     {"sharding.gradient_accumulation_fusion": False, "model.hidden_act": "relu2"}),
    (SECTIONS.replace("  sequence_parallel", "  num_layers_per_virtual_pipeline_stage: 4\n  sequence_parallel"),
     {"parallel.virtual": 4, "parallel.schedule": "interleaved"}),
    (SECTIONS + "peft_type: lora\nlora_dim: 16\nlora_target_modules: [linear_qkv, linear_fc1]\n",
     {"lora.rank": 16, "lora.targets": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]}),
    (MIXTURE, {
        "model.kv_lora_rank": 512, "model.q_lora_rank": None, "model.num_experts": 64, "model.moe_layers": [0] + [1] * 31,
        "model.router_scores": "sigmoid", "model.router_correction": True, "model.shared_expert_intermediate_size": 2816}),
    (MIXTURE + "expert_model_parallel_size: 8\nexpert_tensor_parallel_size: 1\n",
     {"gpus": 16, "parallel.expert": 8, "parallel.expert_tensor": 1}),
    (SCRIPT, {
        "gpus": 16, "parallel": {"tensor": 4}, "grad_accum": 8, "precision": "megatron-fp16", "model.num_hidden_layers": 32,
        "model.vocab_size": 50257, "model.normalization": "rms"}),
    ("--num-layers 2\n--hidden-size=64\n--num-attention-heads 4\n--seq-length 128\n--micro-batch-size 4\n--vocab-size 1000\n",
     {"batch_size": 4, "model.hidden_size": 64}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


ATTENTION = 4096 * (4096 + 2 * 8 * 128) + 4096 * 4096  # q, k, v with 8 groups, and the projection
MLP = 3 * 4096 * 10880
TABLES = 2 * 128256 * 4096 + 4096  # and the last norm
LATENT = 4096 * 32 * 192 + 4096 * 576 + 512 + 512 * 32 * 256 + 32 * 128 * 4096
EXPERTS = 64 * 3 * 4096 * 1408 + 3 * 4096 * 2816 + 64 * 4096
BIASED = 4 * (4096 * 4096 + 4096) + MLP + 2 * 10880 + 4096
PARAMETERS = [
    (SECTIONS, 32 * (ATTENTION + MLP + 2 * 4096) + TABLES),
    (MIXTURE, 32 * (LATENT + 2 * 4096) + MLP + 31 * EXPERTS + TABLES),
    (SCRIPT, 32 * (BIASED + 2 * 4096) + (50257 + 2048) * 4096 + 4096),
]


@pytest.mark.parametrize(("text", "parameters"), PARAMETERS)
def test_it_gives_an_estimate(text: str, parameters: int) -> None:
    report = estimate_run(parse_run(read(text)))
    assert report.memory.total > 0
    assert report.model.parameters == parameters


def test_a_vocabulary_of_the_command_line() -> None:
    without = FLAT.replace("vocab_size: 50257\n", "")
    assert read(without, model={"vocab_size": 1000})["model"]["vocab_size"] == 1000
    assert "model" not in read(without, model="gpt2")
    named = without + "tokenizer_type: HuggingFaceTokenizer\ntokenizer_model: meta-llama/Meta-Llama-3-8B\n"
    assert read(named)["model"]["vocab_size"] == 128256


def test_a_line_of_a_script() -> None:
    found = reading(SCRIPT)
    assert (found.origins["batch_size"].key, found.origins["batch_size"].line) == ("micro_batch_size", 15)


@pytest.mark.parametrize(("written", "expected"), [
    (2, [1, 0, 1, 0]), ("2", [1, 0, 1, 0]), ([0, 1, 1, 1], [0, 1, 1, 1]), ("([0]*1+[1]*3)", [0, 1, 1, 1]),
])  # fmt: skip
def test_which_layers_are_mixtures(written: Any, expected: list[int]) -> None:
    assert mixed_layers(written, 4) == expected


@pytest.mark.parametrize("written", ["[0]*2", "[1]*10**9", "__import__('os')[0]", "[[[", "[1]*-1"])
def test_a_pattern_that_is_none(written: str) -> None:
    with pytest.raises(ValueError, match=r"layers"):
        mixed_layers(written, 4)


def test_an_experiment_over_the_config_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "8b.yaml").write_text(SECTIONS, "utf-8")
    runner = (
        "defaults: [_self_, {train: 8b}]\nexperiment: {seed: 1, runner: {nproc_per_node: 8, nnodes: 2}}\naction: run\n"
    )
    found = reading(runner, folder=tmp_path)
    assert (found.format, found.run["gpus"], found.run["grad_accum"]) == ("megatron", 16, 32)
    with pytest.raises(UnreadableInput, match=r"train/9b\.yaml"):
        reading(runner.replace("8b", "9b"), folder=tmp_path)


def test_what_is_not_counted_is_named() -> None:
    assert "not-modelled" in codes(reading(SECTIONS.replace("  sequence", "  use_dualpipev: true\n  sequence")))
    assert "not-modelled" in codes(reading(SECTIONS.replace("  swiglu", "  patch_dim: 14\n  swiglu")))
    assert "does-not-divide" in codes(reading(SECTIONS, gpus=12))
    found = reading(SECTIONS.replace("  swiglu", "  moe_of_tomorrow: 3\n  swiglu"))
    assert "moe_of_tomorrow" in str(found.warnings)


@pytest.mark.parametrize(("text", "told"), [
    (FLAT.replace("vocab_size: 50257\n", ""), "--set model.vocab_size"),
    (FLAT.replace("50257", "xxx"), "'xxx' is not a number"),
    (SECTIONS.replace("RMSNorm", "BatchNorm"), "BatchNorm"),
    (SECTIONS.replace("  swiglu", "  freeze_LM: true\n  swiglu"), "frozen"),
    (SECTIONS.replace("  swiglu", "  peft_type: ia3\n  swiglu"), "ia3"),
    (SCRIPT.replace("--micro-batch-size 1", "--micro-batch-size $3"), "'\\$3' is not a number"),
    ("system: {tensor_model_parallel_size: 1, micro_batch_size: 2, context_parallel_size: 1}\n", "does not describe its model"),
])  # fmt: skip
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("text", [
    FLAT + "hybrid_override_pattern: M-M*\n", FLAT + "encoder_num_layers: 12\n", SCRIPT.replace("pretrain_gpt", "pretrain_bert"),
])  # fmt: skip
def test_models_that_are_no_decoders_of_this_kind(text: str) -> None:
    with pytest.raises(RunInvalid, match="whose layers these words do not describe"):
        read(text)
    assert "model" not in read(text, model="gpt2")
