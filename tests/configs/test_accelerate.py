"""accelerate's YAML: processes, precision, engine; FSDP's options with and without their prefix.

The expectations are those of accelerate 1.15, utils/dataclasses.py and commands/config/config_args.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.configs.fsdp import words_of
from memcalc.errors import RunInvalid
from tests.configs.reader import codes, reading


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, "accelerate", model="gpt2", **flags).run)


FSDP1 = """\
distributed_type: FSDP
mixed_precision: bf16
num_processes: 8
num_machines: 2
fsdp_config:
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_backward_prefetch: BACKWARD_PRE
  fsdp_forward_prefetch: false
  fsdp_offload_params: true
  fsdp_sharding_strategy: {strategy}
  fsdp_use_orig_params: true
  fsdp_state_dict_type: SHARDED_STATE_DICT
"""


def test_fsdp1_in_its_own_words() -> None:
    run = read(FSDP1.format(strategy="SHARD_GRAD_OP"))
    assert (run["gpus"], run["precision"]) == (8, "mixed-bf16")
    assert run["sharding"] == {
        "strategy": "fsdp", "version": 1, "sharding_strategy": "SHARD_GRAD_OP", "wrap": "layers", "offload_params": True,
        "forward_prefetch": False, "use_orig_params": True, "backward_prefetch": "BACKWARD_PRE",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("written", "strategy"), [("NO_SHARD", "ddp"), ("3", "ddp"), ("1", "fsdp"), ("HYBRID_SHARD", "hsdp"), (4, "hsdp")]
)
def test_strategies_by_name_and_by_number(written: str | int, strategy: str) -> None:
    sharding = read(FSDP1.format(strategy=written))["sharding"]
    assert sharding["strategy"] == strategy
    assert sharding.get("replicate") == (2 if strategy == "hsdp" else None)


def test_fsdp2_reshards_and_checkpoints() -> None:
    run = read("""\
distributed_type: FSDP
mixed_precision: bf16
fsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: false, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP,
              fsdp_activation_checkpointing: true}
parallelism_config: {parallelism_config_tp_size: 2, parallelism_config_dp_replicate_size: 2, parallelism_config_dp_shard_size: 2}
""", gpus=8)  # fmt: skip
    assert run["sharding"] == {
        "strategy": "hsdp",
        "version": 2,
        "reshard_after_forward": False,
        "wrap": "accelerate",
        "replicate": 2,
    }
    assert run["checkpointing"] == "full"
    assert run["parallel"] == {"tensor": 2, "tp_plan": "auto"}


def test_without_a_policy_the_whole_model_is_gathered() -> None:
    assert read("distributed_type: FSDP\nfsdp_config: {}\n", gpus=4)["sharding"]["wrap"] == "none"


PRECISIONS = [("no", "fp32"), ("'no'", "fp32"), ("bf16", "amp-bf16"), ("fp16", "amp-fp16"), ("fp8", "amp-fp8")]


@pytest.mark.parametrize(("written", "recipe"), PRECISIONS)
def test_mixed_precision_is_autocast_around_fp32_weights(written: str, recipe: str) -> None:
    run = read(f"distributed_type: MULTI_GPU\nmixed_precision: {written}\nnum_processes: 4\n")
    assert (run["precision"], run["sharding"]["strategy"], run["gpus"]) == (recipe, "ddp", 4)


@pytest.mark.parametrize(("written", "recipe"), [("no", "fp32"), ("bf16", "mixed-bf16"), ("fp16", "mixed-fp16")])
def test_zero_that_is_asked_for_keeps_copies_of_its_own(written: str, recipe: str) -> None:
    text = f"distributed_type: MULTI_GPU\nmixed_precision: {written}\nnum_processes: 4\n"
    assert read(text, sharding="zero3")["precision"] == recipe


def test_a_single_process_is_not_sharded() -> None:
    run = read("distributed_type: NO\nmixed_precision: bf16\n")
    assert "sharding" not in run
    assert run["gpus"] == 1


def test_deepspeed_s_few_keys() -> None:
    run = read("""\
distributed_type: DEEPSPEED
mixed_precision: bf16
deepspeed_config: {zero_stage: 3, offload_optimizer_device: cpu, offload_param_device: none, gradient_accumulation_steps: 4}
num_processes: 8
""")
    assert run["sharding"] == {"strategy": "zero3", "offload_optimizer": {"device": "cpu"}}
    assert (run["precision"], run["grad_accum"]) == ("mixed-bf16", 4)


def test_deepspeed_s_stage_is_two_where_it_is_not_written() -> None:
    found = reading("distributed_type: DEEPSPEED\ndeepspeed_config: {}\n", "accelerate", model="gpt2", gpus=2)
    assert found.run["sharding"] == {"strategy": "zero2"}
    assert "accelerate" in found.origins["sharding.strategy"].default


def test_the_number_of_processes_is_asked_for() -> None:
    found = reading("distributed_type: FSDP\nfsdp_config: {}\n", "accelerate", model="gpt2")
    assert found.run["gpus"] == 1
    assert "gpus-not-in-config" in codes(found)


@pytest.mark.parametrize("text", ["distributed_type: NO\nmixed_precision: fp3\n", FSDP1.format(strategy="SHARD_ALL")])
def test_values_that_can_not_be_are_faults(text: str) -> None:
    with pytest.raises(RunInvalid):
        read(text)


def test_the_trainer_s_words() -> None:
    assert words_of("full_shard auto_wrap") == ("full_shard", "auto_wrap")
    assert words_of(["shard_grad_op", "offload"]) == ("shard_grad_op", "offload")
    assert words_of(True) == ("full_shard",)
    assert words_of("") == words_of(None) == words_of(False) == ()
