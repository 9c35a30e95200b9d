"""LightningCLI's YAML. Expectations: lightning.pytorch's Trainer, strategies/deepspeed.py and fsdp.py,
plugins/precision/fsdp.py and callbacks/weight_averaging.py."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

FIT = """\
seed_everything: 42
trainer:
  accelerator: gpu
  devices: 4
  num_nodes: 2
  precision: bf16-mixed
  strategy: ddp
  accumulate_grad_batches: 8
  max_epochs: 3
model:
  class_path: mine.Finetuner
  init_args: {model_name: Qwen/Qwen2.5-0.5B, learning_rate: 1.0e-4, gradient_checkpointing: true}
data:
  class_path: mine.Texts
  init_args: {batch_size: 16, max_length: 512}
optimizer:
  class_path: torch.optim.AdamW
  init_args: {lr: 1.0e-4, fused: true}
"""
FSDP = """strategy:
    class_path: lightning.pytorch.strategies.FSDPStrategy
    init_args: {sharding_strategy: SHARD_GRAD_OP, auto_wrap_policy: [mine.Layer], cpu_offload: true}"""

OWN = """strategy:
    class_path: lightning.pytorch.strategies.DeepSpeedStrategy
    init_args: {config: {zero_optimization: {stage: 1, reduce_bucket_size: 1000000}}}"""
MESH = """strategy:
    class_path: lightning.pytorch.strategies.ModelParallelStrategy
    init_args: {tensor_parallel_size: 2, data_parallel_size: 4}"""
BUCKETS = {"allgather_bucket_size": 2 * 10**8, "reduce_bucket_size": 2 * 10**8, "sub_group_size": 10**12, "overlap_comm": True,
           "contiguous_gradients": True, "reduce_scatter": True}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [
    (FIT, {"model": "Qwen/Qwen2.5-0.5B", "gpus": 8, "precision": "amp-bf16", "sharding.strategy": "ddp", "grad_accum": 8,
           "batch_size": 16, "seq_len": 512, "checkpointing": "full",
           "optimizer": {"name": "torch.optim.AdamW", "implementation": "fused"}}),
    (FIT.replace("strategy: ddp", FSDP), {  # gathered in fp32, reduced in bf16
        "precision": "amp-bf16", "sharding": {
            "strategy": "fsdp", "version": 1, "sharding_strategy": "SHARD_GRAD_OP", "wrap": "layers", "offload_params": True,
            "reduce_dtype": "bf16", "use_orig_params": True}}),
    (FIT.replace("strategy: ddp", FSDP.replace("SHARD_GRAD_OP", "HYBRID_SHARD")), {
        "sharding.strategy": "hsdp", "sharding.replicate": 2, "sharding.sharding_strategy": "HYBRID_SHARD"}),
    (FIT.replace("strategy: ddp", "strategy: fsdp_cpu_offload").replace("bf16-mixed", "bf16-true"), {
        "precision": "bf16", "sharding": {"strategy": "fsdp", "version": 1, "sharding_strategy": "FULL_SHARD", "wrap": "none",
                                          "offload_params": True, "use_orig_params": True}}),
    (FIT.replace("strategy: ddp", "strategy: deepspeed_stage_3_offload").replace("bf16-mixed", "16-mixed"), {
        "precision": "mixed-fp16", "sharding": {
            "strategy": "zero3", **BUCKETS, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}}),
    (FIT.replace("strategy: ddp", "strategy: deepspeed_stage_2").replace("bf16-mixed", "bf16-true"), {
        "precision": "mixed-bf16", "sharding": {"strategy": "zero2", **BUCKETS}}),
    (FIT.replace("strategy: ddp", OWN), {
        "precision": "mixed-bf16", "sharding": {"strategy": "zero1", "reduce_bucket_size": 1000000}, "batch_size": 16}),
    (FIT.replace("strategy: ddp", MESH), {
        "parallel.tensor": 2, "sharding": {"strategy": "fsdp", "version": 2, "wrap": "layers"}, "precision": "amp-bf16"}),
    (FIT.replace("strategy: ddp", "strategy: ddp_find_unused_parameters_true"), {"sharding": {"strategy": "ddp"}}),
    (FIT.replace("strategy: ddp", "callbacks: [{class_path: lightning.pytorch.callbacks.EMAWeightAveraging}]"), {
        "companions": [{"role": "ema"}], "sharding.strategy": "ddp"}),
    (FIT.replace("bf16-mixed", "transformer-engine"), {"precision": "transformer-engine"}),
    (FIT.replace("devices: 4", "devices: [0, 1]").replace("  precision: bf16-mixed\n", ""), {"gpus": 4, "precision": "fp32"}),
    (FIT.replace("bf16-mixed", "bf16-true").replace("devices: 4", 'devices: "0,"').replace("num_nodes: 2", "num_nodes: 1"), {
        "gpus": 1, "precision": "bf16", "sharding": None}),
    ("fit:\n" + "".join(f"  {line}\n" for line in FIT.splitlines()), {"gpus": 8, "batch_size": 16}),
])  # fmt: skip
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    found = reading(text)
    assert (found.format, parts(found.run, expected)) == ("lightning", expected)
    assert estimate_run(parse_run(dict(found.run))).memory.peak_allocated > 2**28


def test_a_class_of_the_user_s_needs_a_model() -> None:
    text = FIT.replace("model_name: Qwen/Qwen2.5-0.5B, ", "").replace("batch_size: 16, ", "")
    with pytest.raises(
        RunInvalid, match=r"the model is mine\.Finetuner, whose code is not run; say which model it is: --model"
    ):
        reading(text)
    found = reading(text, model="gpt2")
    assert "batch-in-code" in codes(found)
    assert found.origins["precision"].line == 6


@pytest.mark.parametrize(("old", "new", "message"), [
    ("bf16-mixed", "int4", "'int4' is not modelled"), ("devices: 4", "devices: many", "'many' is not a number"),
    ("Qwen/Qwen2.5-0.5B", "mine/own-7z", "mine/own-7z is no preset"), ("torch.optim.AdamW", "mine.Warp", "unknown optimizer"),
])  # fmt: skip
def test_what_can_not_be_right(old: str, new: str, message: str) -> None:
    with pytest.raises(RunInvalid, match=message):
        reading(FIT.replace(old, new))
