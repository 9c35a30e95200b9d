"""torchtitan's TOML. Expectations: torchtitan/config/job_config.py, models/llama3/infra/parallelize.py of 0.2.2."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

BASE = '[model]\nname = "llama3"\nflavor = "8B"\n[training]\nseq_len = 4096\n'
MIXTURE = '[model]\nname = "qwen3"\nflavor = "30B-A3B"\n[training]\nseq_len = 4096\n'
NAMES: dict[str, Any] = {"gpus": 8, "name": "job.toml"}


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **{**NAMES, **flags}).run)


def test_the_defaults_of_a_job() -> None:
    found = reading(BASE, **NAMES)
    assert found.format == "torchtitan"
    assert found.run == {
        "model": "llama-3.1-8b", "seq_len": 4096, "precision": "mixed-bf16", "batch_size": 8, "grad_accum": 1,
        "optimizer": {"name": "torch.optim.AdamW", "implementation": "fused"},
        "checkpointing": {"mode": "full", "every": 2},
        "sharding": {"strategy": "fsdp", "version": 2, "wrap": "layers+embed+head", "reshard_after_forward": "default",
                     "param_dtype": "bf16", "reduce_dtype": "fp32", "no_sync": False},
        "implementation": "torchtitan",
    }  # fmt: skip
    assert found.origins["model"].line == 3
    assert found.origins["batch_size"].default == "torchtitan/config/job_config.py"


RUNS: list[tuple[str, dict[str, Any]]] = [
    (BASE + "local_batch_size = 2\nglobal_batch_size = 64\n", {"batch_size": 2, "grad_accum": 4}),
    (BASE + "batch_size = 4\n", {"batch_size": 4}),
    (BASE + 'mixed_precision_param = "float32"\n', {"precision": "fp32", "sharding.param_dtype": "fp32"}),
    (BASE + 'dtype = "bfloat16"\n', {"precision": "bf16"}),
    (BASE + "enable_cpu_offload = true\n", {"sharding.cpu_offload": True}),
    # two layouts of the same degrees
    (BASE + "[parallelism]\ntensor_parallel_degree = 2\ndata_parallel_shard_degree = 4\n",
     {"parallel": {"tensor": 2, "sequence": True}}),
    (BASE + "[parallelism]\ntensor_parallel_degree = 2\nenable_async_tensor_parallel = true\ndata_parallel_shard_degree = 4\n",
     {"sharding.enable_async_tensor_parallel": True}),
    (BASE + "[parallelism]\nenable_async_tensor_parallel = true\ndata_parallel_shard_degree = 4\n",
     {"sharding.enable_async_tensor_parallel": None}),  # nothing to overlap
    (BASE + "tensor_parallel_degree = 2\ndata_parallel_shard_degree = -1\n[experimental]\ncontext_parallel_degree = 2\n",
     {"parallel": {"tensor": 2, "sequence": True, "context": 2}}),
    ('[model]\nname = "llama4"\nflavor = "17bx16e"\n[parallelism]\nexpert_parallel_degree = 8\n',
     {"parallel.expert": 8, "implementation": "torchtitan"}),
    (BASE + "[float8]\nenable_float8_linear = true\nenable_fsdp_float8_all_gather = true\n",
     {"sharding.enable_fsdp_float8_all_gather": True}),
    (BASE + "[quantize.linear.float8]\nenable_fsdp_float8_all_gather = true\n",
     {"sharding.enable_fsdp_float8_all_gather": None}),  # nothing is converted
    (BASE + "batch_size = 2\n", {"batch_size": 2, "sharding.wrap": "layers", "sharding.reshard_after_forward": True}),
    (BASE + "[parallelism]\ndata_parallel_replicate_degree = 2\n", {"sharding.strategy": "hsdp", "sharding.replicate": 2}),
    (BASE + "[parallelism]\ndata_parallel_replicate_degree = 8\ndata_parallel_shard_degree = 1\n", {"sharding": "ddp"}),
    (BASE + "[parallelism]\nexpert_parallel_degree = 4\n", {"parallel": None, "sharding.strategy": "fsdp"}),
    (MIXTURE + "[parallelism]\nexpert_parallel_degree = 4\ntensor_parallel_degree = 2\n",
     {"parallel": {"tensor": 2, "sequence": True, "expert": 4, "expert_tensor": 1}, "implementation": "torchtitan"}),
    (MIXTURE + "[parallelism]\nexpert_parallel_degree = 4\ntensor_parallel_degree = 2\nexpert_tensor_parallel_degree = 2\n",
     {"parallel": {"tensor": 2, "sequence": True, "expert": 4, "expert_tensor": 2}}),
    (BASE + 'mixed_precision_reduce = "bfloat16"\n', {"sharding.reduce_dtype": "bf16"}),
    (BASE + '[parallelism]\nfsdp_reshard_after_forward = "never"\n', {"sharding.reshard_after_forward": False}),
    (BASE + 'local_batch_size = 8\n[parallelism]\npipeline_parallel_degree = 4\npipeline_parallel_schedule = "Interleaved1F1B"\n',
     {"batch_size": 1, "grad_accum": 8, "parallel": {"pipeline": 4, "schedule": "interleaved"},
      "sharding.reshard_after_forward": False, "sharding.no_sync": True}),
    # checkpoints
    (BASE + '[activation_checkpoint]\nmode = "full"\n', {"checkpointing": "full"}),
    (BASE + '[activation_checkpoint]\nmode = "none"\n', {"checkpointing": "none"}),
    (BASE + '[activation_checkpoint]\nmode = "selective"\nselective_ac_option = "op"\n', {"checkpointing": "selective"}),
    (BASE + '[activation_checkpoint]\nmode = "selective"\nselective_ac_option = "3"\n',
     {"checkpointing": {"mode": "full", "every": 3}}),
    # optimizers
    (BASE + '[optimizer]\nname = "Adam"\nimplementation = "foreach"\n',
     {"optimizer": {"name": "torch.optim.Adam", "implementation": "foreach"}}),
    (BASE + '[optimizer]\nname = "AdamW"\nearly_step_in_backward = true\n', {"optimizer.in_backward": True}),
    (BASE.replace("8B", "405B"), {"model": "llama-3.1-405b"}),
    (BASE.replace("llama3", "qwen3").replace("8B", "0.6B"), {"model": "qwen3-0.6b"}),
    (BASE.replace("llama3", "deepseek_v3").replace("8B", "16B"), {"model": "deepseek-v2-lite"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


def test_one_gpu_trains_under_autocast() -> None:
    run = read(BASE, gpus=1)
    assert run["precision"] == "amp-bf16"
    assert "sharding" not in run


def test_gpus_stand_in_the_comment_or_in_the_degrees() -> None:
    assert reading("# NOTE: this toml config is a preset for 64 A100 GPUs.\n" + BASE, name="job.toml").run["gpus"] == 64
    degrees = "[parallelism]\ndata_parallel_shard_degree = 4\ntensor_parallel_degree = 2\n"
    assert reading(BASE + degrees, name="job.toml").run["gpus"] == 8


def test_what_is_not_counted_is_named() -> None:
    found = reading(BASE + "new_key = 1\n[compile]\nenable = true\n[fault_tolerance]\nenable = true\n", **NAMES)
    assert [note.code for note in found.warnings].count("not-modelled") == 1
    assert "keys-not-read" in codes(found)


def test_what_is_compiled() -> None:
    found = read(BASE + "[compile]\nenable = true\n")
    assert (found["implementation"], found["loss"]) == ("torchtitan-compiled", "compiled")
    assert "loss" not in read(BASE + '[compile]\nenable = true\ncomponents = ["model"]\n')
    older = read(BASE + "compile = true\n")
    assert older["implementation"] == "torchtitan-compiled"
    assert "loss" not in older


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BASE.replace("8B", "9B"), "9B"),
        (BASE.replace("4096", '"long"'), "seq_len"),
        (BASE + '[optimizer]\nname = "NoSuch"\n', "nosuch"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1
