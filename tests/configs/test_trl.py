"""TRL's YAML: which trainer, its defaults, its other models. Expectations: trl/trainer/*_config.py and *_trainer.py."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

SFT = "model_name_or_path: Qwen/Qwen2.5-0.5B\nper_device_train_batch_size: 2\nmax_length: 512\n"


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(SFT + text, **{"gpus": 8, **flags}).run)


def test_sft_with_trl_s_defaults() -> None:
    found = reading("model_name_or_path: Qwen/Qwen2.5-0.5B\ndataset_name: x/y\n", gpus=8)
    assert found.format == "trl"
    assert found.run == {
        "model": "Qwen/Qwen2.5-0.5B", "precision": "amp-bf16", "batch_size": 8, "grad_accum": 1, "optimizer": "adamw_torch_fused",
        "checkpointing": {"mode": "full"}, "seq_len": 1024, "loss": "fused-log-probs",
    }  # fmt: skip
    assert found.origins["checkpointing"].default == "trl/trainer/base_config.py"
    assert found.origins["seq_len"].default == "trl/trainer/sft_config.py"
    assert found.origins["model"].line == 1


PRECISIONS = [
    ("dtype: bfloat16\nbf16: true\n", "bf16-autocast"), ("torch_dtype: bfloat16\nbf16: true\n", "bf16-autocast"),
    ("torch_dtype: null\nbf16: true\n", "amp-bf16"), ("fp16: true\n", "amp-fp16"), ("bf16: false\n", "fp32"),
    ("bf16: false\ndtype: bfloat16\n", "bf16"), ("dtype: auto\n", "bf16-autocast"),
    ("deepspeed: zero3_bf16.json\n", "mixed-bf16"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "recipe"), PRECISIONS)
def test_precision(text: str, recipe: str) -> None:
    assert read(text)["precision"] == recipe


@pytest.mark.parametrize(
    ("sharding", "recipe"),
    [
        ("zero3", "mixed-bf16"),
        ({"strategy": "zero1"}, "mixed-bf16"),
        ("fsdp", "mixed-bf16"),
        ("ddp", "amp-bf16"),
        ("ZeRO-2", "mixed-bf16"),
        ("FULL_SHARD", "mixed-bf16"),
        ("NO_SHARD", "amp-bf16"),
        (None, "amp-bf16"),
    ],
)
def test_precision_follows_from_the_engine_that_is_asked_for(sharding: object, recipe: str) -> None:
    assert read("bf16: true\n", sharding=sharding)["precision"] == recipe
    assert (
        read("fsdp: full_shard\nbf16: true\n", sharding=sharding)["precision"] == "mixed-bf16"
    )  # as the config has it


def test_qlora_keeps_adapters_in_bf16() -> None:
    run = read(
        "use_peft: true\nload_in_4bit: true\nlora_r: 32\nlora_target_modules: [q_proj, v_proj]\nuse_bnb_nested_quant: true\n"
    )
    assert run["lora"] == {"rank": 32, "alpha": 32, "dropout": 0.05, "targets": ["q_proj", "v_proj"], "dtype": "bf16"}
    assert run["quantize"] == "nf4-double"


def test_lora_leaves_targets_and_dtype_to_peft() -> None:
    assert read("use_peft: yes\n")["lora"] == {"rank": 16, "alpha": 32, "dropout": 0.05}
    assert read("use_peft: true\nlora_target_modules: all-linear\n")["lora"]["targets"] == "all-linear"
    assert "lora" not in read("lora_r: 64\n")


def test_a_frozen_base_stays_as_it_was_loaded() -> None:
    assert read("use_peft: true\n")["precision"] == {"recipe": "amp-bf16", "frozen": "fp32"}
    assert read("use_peft: true\ndtype: bfloat16\n")["precision"] == "bf16-autocast"
    assert read("use_peft: true\ndeepspeed: zero2.json\n")["precision"] == "mixed-bf16"
    assert read("", lora=8)["precision"] == {"recipe": "amp-bf16", "frozen": "fp32"}


def test_preferences_are_compared_without_dropout() -> None:
    assert read("use_peft: true\nbeta: 0.1\n")["lora"]["dropout"] == 0
    assert read("use_peft: true\nbeta: 0.1\ndisable_dropout: false\n")["lora"]["dropout"] == 0.05


def test_under_zero3_adapters_keep_the_dtype_of_the_base() -> None:
    run = read("use_peft: true\ndeepspeed: zero3.json\n")
    assert run["lora"]["dtype"] == "bf16"
    assert run["checkpointing"] == {"mode": "full", "reentrant": True}


REFERENCE = [{"role": "reference", "model": "same", "dtype": "bf16"}]
PREFERENCES: list[tuple[str, int, list[dict[str, Any]] | None]] = [
    ("beta: 0.1\n", 4, REFERENCE),
    ("beta: 0.1\nprecompute_ref_log_probs: true\n", 4, None),
    ("beta: 0.1\nuse_peft: true\n", 4, [{"role": "reference", "shared": True}]),
    ("beta: 0.1\noutput_dir: data/zephyr-orpo\n", 4, None),
    ("beta: 0.1\ndesirable_weight: 1.0\n", 2, REFERENCE),
    ("beta: 0.1\nloss_type: kto\n", 2, REFERENCE),
    ("center_rewards_coefficient: 0.01\n", 4, None),
]


@pytest.mark.parametrize(("text", "rows", "companions"), PREFERENCES)
def test_preferences_are_pairs_with_a_reference(text: str, rows: int, companions: list[dict[str, Any]] | None) -> None:
    run = read("dtype: bfloat16\n" + text)
    assert run["batch_size"] == rows
    assert run.get("companions") == companions


LOSSES: list[tuple[str, Any]] = [
    ("", "fused-log-probs"),
    ("use_liger_kernel: true\n", "fused-log-probs"),
    ("label_smoothing_factor: 0.1\n", "label-smoothing"),
    ("label_smoothing_factor: 0.1\nloss_type: dft\n", "fused-log-probs"),
    ("label_smoothing_factor: 0.1\nbeta: 0.1\n", "fused-log-probs"),
    ("beta: 0.1\n", "fused-log-probs"),
    ("beta: 0.1\nloss_type: kto\n", "fused-log-probs"),
    ("num_generations: 8\n", "fused-log-probs"),
    ("cpo_alpha: 0.5\n", {"kind": "log-probs", "nll": True}),
    ("cpo_alpha: 0\n", "log-probs"),
    ("beta: 0.1\noutput_dir: data/zephyr-orpo\n", {"kind": "log-probs", "nll": True}),
    ("seq_kd: true\nteacher_model_name_or_path: gpt2\n", "distillation"),
    ("center_rewards_coefficient: 0.01\n", None),
]


@pytest.mark.parametrize(("text", "loss"), LOSSES)
def test_each_trainer_has_its_own_loss(text: str, loss: Any) -> None:
    assert read("dtype: bfloat16\n" + text).get("loss") == loss


def test_distillation_generates_and_holds_a_teacher() -> None:
    run = read(
        "teacher_model_name_or_path: Qwen/Qwen2.5-7B\nmax_completion_length: 256\nmax_prompt_length: 256\ndtype: bfloat16\n"
    )
    assert parts(run, ("seq_len", "loss", "companions.0")) == {
        "seq_len": 512,
        "loss": "fused-log-probs",
        "companions.0": None,
    }
    assert run["companions"] == [{"role": "teacher", "model": "Qwen/Qwen2.5-7B", "dtype": "bf16"}]


def test_grpo_has_a_reference_where_beta_is_not_zero() -> None:
    base = "num_generations: 8\nmax_prompt_length: 256\nmax_completion_length: 512\ndtype: bfloat16\n"
    assert "companions" not in read(base)
    run = read(base + "beta: 0.04\n")
    assert run["companions"] == [{**REFERENCE[0], "after": False}]
    assert run["seq_len"] == 768
    assert run["batch_size"] == 2


def test_vllm_in_the_same_process_takes_its_share() -> None:
    base = "num_generations: 8\nuse_vllm: true\n"
    assert read(base)["margin"] == "30%"
    assert read(base + "vllm_gpu_memory_utilization: 0.5\n")["margin"] == "50%"
    assert "margin" not in read(base + "vllm_mode: server\n")
    assert "margin" not in read(base + "vllm_enable_sleep_mode: true\n")


def test_ppo_holds_four_models() -> None:
    run = read(
        "num_ppo_epochs: 4\nresponse_length: 128\nmax_prompt_length: 384\nreward_model_path: gpt2\ndtype: bfloat16\n"
    )
    assert [(c["role"], c["model"], c.get("trainable", False)) for c in run["companions"]] == [
        ("reference", "same", False), ("reward", "gpt2", False), ("value", "gpt2", True),
    ]  # fmt: skip
    assert run["seq_len"] == 512


def test_rows_without_padding_lie_in_one() -> None:
    assert read("packing: true\n")["packing"] is True
    assert read("padding_free: true\n")["packing"] is True
    assert "packing" not in read("packing: true\npacking_strategy: wrapped\n")


def test_liger_attention_and_offloading() -> None:
    run = read(
        "use_liger_kernel: true\nattn_implementation: kernels-community/flash-attn3\nactivation_offloading: true\n"
    )
    assert (run["implementation"], run["attention"], run["offload"]) == ("hf-liger", "flash", "activations")


def test_a_model_that_no_preset_has_is_refused_and_can_be_said() -> None:
    text = "model_name_or_path: nobody/nothing\nper_device_train_batch_size: 1\nmax_length: 64\n"
    with pytest.raises(RunInvalid, match="nobody/nothing"):
        reading(text)
    assert "model" not in reading(text, model="gpt2").run


def test_names_that_say_more_are_noted() -> None:
    found = reading("model_name_or_path: someone/Mistral-7B-v0.1-dolphin\nmax_length: 64\nuse_peft: false\n", gpus=1)
    assert found.run["model"] == "mistral-7b-v0.1"
    assert "read-as" in codes(found)


def test_values_that_can_not_be_are_faults() -> None:
    with pytest.raises(RunInvalid) as caught:
        read("dtype: int3\ngradient_accumulation_steps: some\noptim: nothing_like_it\n")
    assert len(caught.value.faults) == 3


def test_a_variable_of_the_environment_is_told_to_be_none_of_ours() -> None:
    with pytest.raises(
        RunInvalid, match=r"'\$\{BATCH\}' is not a number; variables of the environment are not filled in"
    ):
        reading("model_name_or_path: gpt2\nper_device_train_batch_size: ${BATCH}\nmax_length: 512\n")
