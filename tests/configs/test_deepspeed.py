"""DeepSpeed's JSON: what the engine makes of stages, 16 bits, `auto` and two of three batch sizes.

The expectations are those of deepspeed/runtime/config.py, zero/config.py and engine.py (0.19).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.configs.deepspeed import attach
from memcalc.configs.reading import Asked
from memcalc.configs.table import Sheet
from memcalc.errors import RunInvalid
from tests.configs.reader import codes, document, reading

if TYPE_CHECKING:
    from pathlib import Path


def read(data: dict[str, Any], **flags: Any) -> dict[str, Any]:
    found = reading(json.dumps(data), "deepspeed", name="ds.json", **{"model": "gpt2", "gpus": 8, **flags})
    return dict(found.run)


ZERO3 = {
    "zero_optimization": {
        "stage": 3, "reduce_bucket_size": "auto", "stage3_max_live_parameters": 1e9, "max_reuse_distance": 0,
        "offload_param": {"device": "cpu", "pin_memory": True}, "offload_optimizer": {"device": "none"}, "overlap_comm": False,
    }
}  # fmt: skip


def test_zero_keeps_its_own_words() -> None:
    assert read(ZERO3)["sharding"] == {
        "strategy": "zero3", "reduce_bucket_size": "auto", "stage3_max_live_parameters": 10**9, "stage3_max_reuse_distance": 0,
        "overlap_comm": False, "offload_param": {"device": "cpu", "pin_memory": True},
    }  # fmt: skip


PRECISIONS: list[tuple[dict[str, Any], str]] = [
    ({}, "fp32"),
    ({"bf16": {"enabled": True}}, "mixed-bf16"),
    ({"fp16": {"enabled": True, "loss_scale": 0}}, "mixed-fp16"),
    ({"fp16": {"loss_scale": 0}}, "fp32"),
    ({"bf16": {"enabled": False}, "fp16": {"enabled": "true"}}, "mixed-fp16"),
    ({"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}, "mixed-bf16"),
    ({"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}, "mixed-bf16-fp32-grads"),
]


@pytest.mark.parametrize(("data", "recipe"), PRECISIONS)
def test_sixteen_bits_have_a_master_copy(data: dict[str, Any], recipe: str) -> None:
    assert read({"zero_optimization": {"stage": 2}, **data})["precision"] == recipe


BATCHES: list[tuple[dict[str, Any], tuple[int | None, int | None]]] = [
    ({"train_batch_size": 32768, "train_micro_batch_size_per_gpu": 16}, (16, 256)),
    ({"train_batch_size": 256, "gradient_accumulation_steps": 1}, (32, 1)),
    ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}, (4, 2)),
    ({"train_batch_size": 64}, (8, None)),
    ({"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto"}, (None, None)),
]


@pytest.mark.parametrize(("data", "expected"), BATCHES)
def test_two_batch_sizes_give_the_third(data: dict[str, Any], expected: tuple[int | None, int | None]) -> None:
    run = read({"zero_optimization": {"stage": 1}, **data})
    assert (run.get("batch_size"), run.get("grad_accum")) == expected


OPTIMIZERS: list[tuple[dict[str, Any], str | None]] = [
    ({"optimizer": {"type": "AdamW"}}, "deepspeed-fused-adam"),
    ({"optimizer": {"type": "Adam", "params": {"torch_adam": True}}}, "adamw"),
    ({"optimizer": {"type": "Lamb"}}, "deepspeed-fused-lamb"),
    ({"optimizer": {"type": "AdamW"}, "zero_optimization": {"stage": 2, "cpu_offload": True}}, "deepspeed-cpu-adam"),
    ({}, None),
]


@pytest.mark.parametrize(("data", "expected"), OPTIMIZERS)
def test_the_optimizer_is_deepspeed_s_own(data: dict[str, Any], expected: str | None) -> None:
    assert read({"zero_optimization": {"stage": 2}, **data}).get("optimizer") == expected


def test_what_matters_and_is_not_modelled_is_said() -> None:
    data = {"zero_optimization": {"stage": 1, "novel_option": 3}, "bf16": {"enabled": True},
            "activation_checkpointing": {"cpu_checkpointing": True}}  # fmt: skip
    found = reading(json.dumps(data, indent=1), "deepspeed", model="gpt2", gpus=8)
    assert {"not-modelled", "keys-not-read"} <= codes(found)
    assert any("zero_optimization.novel_option" in note.message for note in found.warnings)


@pytest.mark.parametrize(
    "data", [{"zero_optimization": {"stage": 4}}, {"zero_optimization": {"stage": 3, "reduce_bucket_size": "much"}}]
)
def test_values_that_can_not_be_are_faults(data: dict[str, Any]) -> None:
    with pytest.raises(RunInvalid, match="zero_optimization"):
        read(data)


def test_a_model_must_be_named() -> None:
    with pytest.raises(RunInvalid, match="DeepSpeed files name no model; say which: --model"):
        reading('{"zero_optimization": {"stage": 1}}', "deepspeed")


def test_a_trainer_fills_in_auto_and_the_engine_decides(tmp_path: Path) -> None:
    data = {"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}
    (tmp_path / "z3.json").write_text(json.dumps(data))
    outer = Sheet(document("deepspeed: z3.json\nother: 1\n", folder=tmp_path), Asked(), "trl", "TRL")
    outer.put("precision", "bf16", "other")
    outer.put("batch_size", 4, "other")
    assert attach(outer, "deepspeed", half="fp16")
    assert outer.run == {"precision": "mixed-fp16", "batch_size": 4, "sharding": {"strategy": "zero3"}}
    assert outer.origins["sharding.strategy"].file.endswith("z3.json")


def test_neither_half_is_fp32() -> None:
    outer = Sheet(
        document("deepspeed: {bf16: {enabled: auto}, zero_optimization: {stage: 1}}\n"), Asked(), "trl", "TRL"
    )
    attach(outer, "deepspeed", half="")
    assert outer.run["precision"] == "fp32"
    assert outer.origins["sharding.strategy"].line == 1


NAMES: list[tuple[str, str, set[str]]] = [
    ("zero3_bf16.json", "zero3", set()),
    ("configs/ds_z2_offload_config.json", "zero2", {"offload_optimizer"}),
    ("zero3_bf16_cpuoffload_all.json", "zero3", {"offload_optimizer", "offload_param"}),
    ("zero3_bf16_cpuoffload_params.json", "zero3", {"offload_param"}),
    ("zero_stage1_config.json", "zero1", set()),
]


@pytest.mark.parametrize(("name", "strategy", "offloaded"), NAMES)
def test_a_file_that_is_not_there_is_read_by_its_name_with_a_warning(
    name: str, strategy: str, offloaded: set[str]
) -> None:
    outer = Sheet(document(f"deepspeed: {name}\n"), Asked(), "trl", "TRL")
    attach(outer, "deepspeed", half="bf16")
    assert outer.run["precision"] == "mixed-bf16"
    assert outer.run["sharding"]["strategy"] == strategy
    assert {key for key in outer.run["sharding"] if key.startswith("offload")} == offloaded
    assert outer.warnings[0].code == "not-found"


def test_a_file_that_is_not_there_and_says_nothing_is_refused() -> None:
    outer = Sheet(document("deepspeed: mine.json\n"), Asked(), "trl", "TRL")
    with pytest.raises(RunInvalid, match=r"mine\.json"):
        attach(outer, "deepspeed")
