"""TrainingArguments, as JSON or YAML: defaults of transformers 5.23 (training_args.py), aliases, engines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

BARE = {"output_dir": "out", "per_device_train_batch_size": 4, "learning_rate": "2e-5"}


def read(given: dict[str, Any], folder: Path | None = None, **flags: Any) -> dict[str, Any]:
    found = reading(
        json.dumps({**BARE, **given}), "training-arguments", folder, **{"model": "gpt2", "gpus": 4, **flags}
    )
    return dict(found.run)


def test_defaults_have_their_source() -> None:
    found = reading(json.dumps({"output_dir": "x"}), "training-arguments", model="gpt2")
    assert found.run == {
        "gpus": 1, "precision": "fp32", "batch_size": 8, "grad_accum": 1, "optimizer": "adamw_torch_fused", "checkpointing": "none",
    }  # fmt: skip
    assert found.origins["batch_size"].default == "transformers/training_args.py"
    assert "gpus-not-in-config" in codes(found)


PRECISIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "fp32"), ({"bf16": True}, "amp-bf16"), ({"fp16": True}, "amp-fp16"), ({"bf16": "no"}, "fp32"),
    ({"bf16": True, "torch_dtype": "bfloat16"}, "bf16-autocast"), ({"torch_dtype": "bfloat16"}, "bf16"),
    ({"bf16": True, "fsdp": "full_shard auto_wrap"}, "mixed-bf16"),
    ({"bf16": True, "deepspeed": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}}}, "mixed-bf16"),
    ({"deepspeed": {"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}}}, "fp32"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "recipe"), PRECISIONS)
def test_precision_is_what_the_engine_makes_of_the_flags(given: dict[str, Any], recipe: str) -> None:
    assert read(given)["precision"] == recipe


CHECKPOINTS: list[tuple[dict[str, Any], Any]] = [
    ({"gradient_checkpointing": True}, {"mode": "full"}),
    (
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}},
        {"mode": "full", "every": 2},
    ),
    (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"mode": "full", "reentrant": True},
    ),
    ({"gradient_checkpointing": "false"}, "none"),
]


@pytest.mark.parametrize(("given", "expected"), CHECKPOINTS)
def test_checkpointing_under_both_names(given: dict[str, Any], expected: Any) -> None:
    assert read(given)["checkpointing"] == expected


def test_fsdp_config_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "fsdp.json").write_text(json.dumps({"version": 2, "reshard_after_forward": False, "cpu_offload": True}))
    run = read({"fsdp": True, "fsdp_config": "fsdp.json", "bf16": True}, tmp_path)
    assert run["sharding"] == {
        "strategy": "fsdp",
        "version": 2,
        "reshard_after_forward": False,
        "wrap": "accelerate",
        "offload_params": True,
    }


def test_optimizers_by_the_trainer_s_names() -> None:
    assert read({"optim": "paged_adamw_8bit"})["optimizer"] == "paged_adamw_8bit"
    galore = read({"optim": "galore_adamw", "optim_args": "rank=64, update_proj_gap=100"})["optimizer"]
    assert galore == {"name": "galore_adamw", "rank": 64}
    with pytest.raises(RunInvalid, match="did you mean"):
        read({"optim": "adamw_torch_fuse"})


def test_liger_and_attention() -> None:
    run = read({"use_liger_kernel": True, "attn_implementation": "flash_attention_2"}, model="llama-2-7b")
    assert (run["implementation"], run["loss"], run["attention"]) == ("hf-liger", "fused-linear", "flash")


def test_what_is_not_counted_is_said() -> None:
    found = reading(
        json.dumps({**BARE, "torch_compile": True, "neftune_noise_alpha": 5}),
        "training-arguments",
        model="gpt2",
        gpus=1,
    )
    assert [note.code for note in found.warnings] == ["not-modelled", "not-modelled"]


def test_bf16_and_fp16_together_are_refused() -> None:
    with pytest.raises(RunInvalid, match="one of them"):
        read({"bf16": True, "fp16": True})


SCRIPT = "model_name_or_path: Qwen/Qwen2.5-7B\nper_device_train_batch_size: 4\noutput_dir: o\nbf16: true\nlearning_rate: 2e-4\n"


@pytest.mark.parametrize(("more", "expected"), [
    ("", {"lora": None, "quantize": None}),
    ("lora_enable: true\nlora_r: 128\nlora_alpha: 256\n", {"lora.rank": 128, "lora.alpha": 256, "lora.dtype": "fp32"}),
    ("lora_enable: false\nlora_r: 64\n", {"lora": None}),
    ("lora_r: 8\nq_lora: true\n", {"lora.rank": 8, "quantize": "nf4-double"}),
    ("bits: 4\nlora_r: 64\ndouble_quant: false\nquant_type: fp4\n", {"lora.rank": 64, "quantize": "fp4"}),
    ("use_lora: true\n", {"lora.rank": 8}),
    ("use_peft: true\nload_in_8bit: true\nlora_target_modules: [q_proj, v_proj]\n", {
        "quantize": "int8", "lora.targets": ["q_proj", "v_proj"]}),
])  # fmt: skip
def test_adapters_of_scripts_around_the_trainer(more: str, expected: dict[str, Any]) -> None:
    found = reading(SCRIPT + more, form="training-arguments")
    assert parts(found.run, expected) == expected
    assert ("adapters-by-their-keys" in codes(found)) == ("lora" in found.run)
    assert "keys-not-read" not in codes(found)
