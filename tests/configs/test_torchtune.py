"""torchtune's recipes. Expectations: recipes/*.py, torchtune/models/*/_model_builders.py, training/_distributed.py of 0.6.1."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

BASE = """\
tokenizer: {_component_: torchtune.models.llama3.llama3_tokenizer, max_seq_len: 2048}
model: {_component_: torchtune.models.llama3_2.llama3_2_1b}
optimizer: {_component_: torch.optim.AdamW, fused: true, lr: 2e-5}
loss: {_component_: torchtune.modules.loss.CEWithChunkedOutputLoss}
batch_size: 2
dtype: bf16
"""
LORA = BASE.replace("llama3_2_1b}", "lora_llama3_2_1b, lora_attn_modules: [q_proj, output_proj], apply_lora_to_mlp: true, "
                    "lora_rank: 64, lora_alpha: 128}")  # fmt: skip
PAIRS = BASE.replace("modules.loss.CEWithChunkedOutputLoss", "rlhf.loss.DPOLoss")
MLP = ["gate_proj", "down_proj", "up_proj"]


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **{"gpus": 1, **flags}).run)


def test_full_tuning_is_pure_bf16() -> None:
    found = reading(BASE, gpus=1)
    assert found.format == "torchtune"
    assert found.run == {
        "seq_len": 2048, "grad_accum": 1, "model": "llama-3.2-1b", "precision": "bf16", "batch_size": 2,
        "optimizer": {"name": "torch.optim.AdamW", "implementation": "fused"}, "checkpointing": "none",
        "loss": {"kind": "chunked", "chunks": 8}, "implementation": "torchtune",
    }  # fmt: skip
    assert found.origins["seq_len"].line == 1


RUNS: list[tuple[str, dict[str, Any]]] = [
    (BASE.replace("bf16", "fp32"), {"precision": "fp32"}),
    (BASE.replace("dtype: bf16\n", ""), {"precision": "fp32"}),
    (BASE + "gradient_accumulation_steps: 8\ndataset: {packed: true}\n",
     {"grad_accum": 8, "packing": None, "batch_size": 2, "seq_len": 2048}),
    (BASE + "enable_activation_checkpointing: true\n", {"checkpointing": "full", "offload": None}),
    (BASE + "enable_activation_checkpointing: true\nenable_activation_offloading: true\n",
     {"checkpointing": {"mode": "full", "offload": True}}),
    (BASE + "enable_activation_offloading: true\n", {"checkpointing": "none", "offload": "activations"}),
    (BASE + "ac_mode: selective\nac_option: 2\n", {"checkpointing": {"mode": "full", "every": 2}}),
    (BASE.replace("torch.optim.AdamW, fused: true", "bitsandbytes.optim.PagedAdamW8bit") + "optimizer_in_bwd: true\n",
     {"optimizer": {"name": "bitsandbytes.optim.PagedAdamW8bit", "in_backward": True}}),
    (BASE.replace("torchtune.modules.loss.CEWithChunkedOutputLoss", "torch.nn.CrossEntropyLoss"), {"loss": None}),
    # adapters are in the model's dtype; names of modules become Hugging Face's
    (LORA,
     {"lora.rank": 64, "lora.alpha": 128, "lora.dtype": "bf16", "lora.targets": ["q_proj", "o_proj", *MLP], "quantize": None}),
    (LORA.replace("lora_llama", "qlora_llama"), {"quantize": "torchao-nf4"}),
    (LORA.replace("lora_rank: 64", "quantize_base: true, use_dora: true"),
     {"quantize": "torchao-nf4", "lora.dora": True, "lora.rank": 8}),
    # what runs beside the model
    (PAIRS, {"batch_size": 4, "companions": [{"role": "reference", "dtype": "bf16"}]}),
    (PAIRS.replace("DPOLoss", "SimPOLoss"), {"batch_size": 4, "companions": None}),
    (LORA.replace("modules.loss.CEWithChunkedOutputLoss", "rlhf.loss.DPOLoss"),
     {"batch_size": 4, "companions": [{"role": "reference", "shared": True}], "loss": "log-softmax"}),
    (LORA + "teacher_model: {_component_: torchtune.models.llama3_1.llama3_1_8b}\n",
     {"companions": [{"role": "teacher", "model": "llama-3.1-8b", "dtype": "bf16"}]}),
    # a model by its dimensions, ${...} of other keys
    (BASE.replace("torchtune.models.llama3_2.llama3_2_1b", "torchtune.models.llama2.llama2, vocab_size: 32000, num_layers: 4, "
                  "num_heads: 8, num_kv_heads: 8, embed_dim: 512, max_seq_len: 2048, norm_eps: 1e-5"),
     {"model.model_type": "llama", "model.num_hidden_layers": 4, "model.hidden_size": 512}),
    (BASE.replace("batch_size: 2", "batch_size: ${rows}\nrows: 6"), {"batch_size": 6}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


def test_several_gpus_shard_with_fsdp2() -> None:
    assert read(BASE, gpus=2)["sharding"] == {
        "strategy": "fsdp", "version": 2, "reshard_after_forward": True, "no_sync": False,
    }  # fmt: skip
    more = read(BASE + "custom_sharded_layers: [tok_embeddings, output]\nfsdp_cpu_offload: true\n", gpus=2)["sharding"]
    assert (more["wrap"], more["cpu_offload"]) == ("layers+embed+head", True)
    assert read(BASE + "data_parallel_replicate_dim: 2\n", gpus=4)["sharding"]["strategy"] == "hsdp"
    assert read(BASE + "tensor_parallel_dim: 2\n", gpus=4)["parallel"] == {"tensor": 2}


LAUNCHES = [("#   tune run --nproc_per_node 4 full_finetune_distributed --config x\n", 4),
            ("# tune run --nnodes 2 --nproc_per_node 8 lora_finetune_distributed --config x\n", 16),
            ("# tune run full_finetune_single_device --config x\n", 1)]  # fmt: skip


@pytest.mark.parametrize(("line", "gpus"), LAUNCHES)
def test_gpus_stand_in_the_launch_line_of_the_comments(line: str, gpus: int) -> None:
    assert reading(line + BASE).run["gpus"] == gpus
    assert "gpus" not in reading(line + BASE, gpus=3).run


def test_ppo_holds_four_models_and_generates() -> None:
    value = "reward_and_value_model: {_component_: torchtune.models.mistral.mistral_reward_7b}\n"
    run = read(BASE.replace("model:", "policy_model:").replace("modules.loss.CEWithChunkedOutputLoss", "rlhf.loss.PPOLoss")
               + value + "ppo_batch_size: 8\ngradient_accumulation_steps: 4\nmax_generated_tokens: 58\n")  # fmt: skip
    assert [(c["role"], c.get("trainable", False)) for c in run["companions"]] == [
        ("reference", False),
        ("reward", False),
        ("value", True),
    ]
    assert (run["batch_size"], run["grad_accum"], run["seq_len"]) == (2, 4, 2106)


def test_without_a_length_and_with_a_compiler_something_is_said() -> None:
    told = codes(reading(BASE.replace(", max_seq_len: 2048", "") + "compile: true\n", gpus=1))
    assert "longest-sample" in told
    assert "not-modelled" not in told


@pytest.mark.parametrize(
    ("switch", "implementation"),
    [("true", "torchtune-compiled"), ("false", "torchtune"), ("{model: false, loss: true}", "torchtune"),
     ("{loss: true}", "torchtune-compiled")],
)  # fmt: skip
def test_layers_are_compiled_as_it_says(switch: str, implementation: str) -> None:
    assert read(BASE + f"compile: {switch}\n")["implementation"] == implementation


def test_modules_that_are_not_known_are_hugging_faces() -> None:
    found = reading(BASE.replace("llama3_2.llama3_2_1b", "gemma2.gemma2_2b") + "compile: true\n", gpus=1)
    assert "implementation" not in found.run
    assert {"modules", "not-modelled"} <= codes(found)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BASE.replace("llama3_2_1b", "llama9_1b"), "llama9_1b"),
        (BASE.replace("batch_size: 2", "batch_size: two"), "batch_size"),
        (BASE.replace("torch.optim.AdamW", "torch.optim.NoSuch"), "nosuch"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1
