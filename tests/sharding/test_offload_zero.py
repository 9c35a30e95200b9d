"""Host memory under DeepSpeed's offload: what is pinned, what is not, and what stays on the GPU."""

from __future__ import annotations

from typing import Any

import pytest

import memcalc
from memcalc.sharding.offload import power

PARTITION = 842_301_952  # an eighth of Llama-2-7B
LARGEST = 131_072_000  # elements of the embedding
CPU = {"device": "cpu"}


def host(sharding: dict[str, Any], **run: Any) -> tuple[int, int]:
    """(pinned, pageable) bytes of one rank."""
    made = memcalc.estimate(
        {"model": "llama-2-7b", "gpus": 8, "checkpointing": "full", "seq_len": 512, "sharding": sharding, **run}
    ).memory.host
    return made.pinned, made.pageable


def test_a_pinned_tensor_takes_a_power_of_two() -> None:
    assert [power(nbytes) for nbytes in (1, 512, 513, 3_369_207_808)] == [1, 512, 1024, 2**32]


def test_zero_2() -> None:
    """The partition's master copy and gradient in fp32, its 16-bit staging, the largest gradient; states pageable."""
    pinned, pageable = host({"strategy": "zero2", "offload_optimizer": CPU})
    assert pinned == 2 * power(4 * PARTITION) + power(2 * PARTITION) + power(2 * LARGEST)
    assert pageable == 8 * PARTITION + 4


def test_zero_2_pins_nothing_where_it_is_told_so() -> None:
    pinned, pageable = host({"strategy": "zero2", "offload_optimizer": {"device": "cpu", "pin_memory": False}})
    assert (pinned, pageable) == (0, (4 + 4 + 2 + 8) * PARTITION + 2 * LARGEST + 4)


def test_zero_2_keeps_whole_gradients_of_several_micro_batches() -> None:
    one, several = (
        host({"strategy": "zero2", "offload_optimizer": {**CPU, "pin_memory": False}}, grad_accum=steps)[1]
        for steps in (1, 4)
    )
    assert several - one == 2 * 899_710_976


def test_zero_3() -> None:
    """Partitions of gradients in bf16 and in fp32, pinned; master copies and states pageable; shards pinned, if they go."""
    gradients = power(2 * PARTITION) + power(4 * PARTITION)
    assert host({"strategy": "zero3", "offload_optimizer": CPU}) == (gradients, 12 * PARTITION + 4)
    both = host({"strategy": "zero3", "offload_optimizer": CPU, "offload_param": CPU})
    assert both == (gradients + power(2 * PARTITION), 12 * PARTITION + 4)


def test_nvme_needs_buffers_alone() -> None:
    """Four of the largest sub-group in fp32; five of 1e8 parameters, and what may stay in host memory."""
    states = {"device": "nvme", "nvme_path": "/nvme"}
    pinned, pageable = host({"strategy": "zero3", "offload_optimizer": states, "offload_param": states})
    pool = power(2 * 5 * 100_000_000)
    assert pinned == power(2 * PARTITION) + 4 * power(4 * PARTITION) + pool + power(2 * PARTITION)
    assert pageable == 4  # a step counter


def test_the_run_s_own_word() -> None:
    assert host({"strategy": "zero3"}, offload="optimizer") == host({"strategy": "zero3", "offload_optimizer": CPU})


@pytest.mark.parametrize(("ratio", "on_the_gpu"), [(1.0, 0), (0.5, 4), (0.25, 6), (0.0, 8)])
def test_twin_flow(ratio: float, on_the_gpu: int) -> None:
    """The first of eight sub-groups are stepped on the GPU, with master copies, states and gradients in fp32."""
    sharding = {"strategy": "zero3", "offload_optimizer": {**CPU, "ratio": ratio}, "sub_group_size": 110_000_000}
    run = {"model": "llama-2-7b", "gpus": 8, "checkpointing": "full", "seq_len": 512, "sharding": sharding}
    held = memcalc.estimate(run).memory.components
    assert held.optimizer_states == 2 * held.master_weights
    assert held.gradients == (held.master_weights if ratio < 1 else 0)
    assert held.master_weights == pytest.approx(4 * PARTITION * on_the_gpu / 8, rel=0.08)


def test_on_the_gpu_parameters_and_a_buffer_for_the_largest_gradient_remain() -> None:
    run = {"model": "llama-2-7b", "gpus": 8, "sharding": {"strategy": "zero2", "offload_optimizer": CPU}}
    memory = memcalc.estimate(run).memory
    assert memory.components.weights == 16 * PARTITION
    assert memory.components.master_weights == memory.components.optimizer_states == memory.components.gradients == 0
    assert memory.phases.optimizer == pytest.approx(16 * PARTITION + 2 * LARGEST, abs=2**20)


def test_a_single_gpu_can_offload() -> None:
    plain, away = (
        memcalc.estimate({"model": "llama-2-7b", "sharding": "zero3", "offload": offload}).memory
        for offload in ("none", "optimizer+params")
    )
    assert plain == memcalc.estimate({"model": "llama-2-7b"}).memory
    assert away.persistent == 0
    assert away.host.pinned > 0


def test_the_host_memory_of_a_node_is_said() -> None:
    """A rank's is in the numbers; eight of the sixteen share a node."""
    report = memcalc.estimate(
        {"model": "llama-2-7b", "gpus": 16, "sharding": "zero3", "offload": "optimizer", "gpu": "h100-80gb"}
    )
    host = report.memory.host.pinned + report.memory.host.pageable
    told = [note.message for note in report.assumptions if note.code == "node"]
    assert told == [f"host memory is one rank's: the 8 of a node take {8 * host / 2**30:.2f} GiB"]


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_stage_1_keeps_copies_of_gradients_in_fp32(checkpointing: str) -> None:
    """grad_accum takes the place of each gradient (_fill_param_grad_accum_attribute): as much goes in the end as has come."""
    model = {
        "model_type": "llama", "hidden_size": 320, "intermediate_size": 1288, "num_hidden_layers": 3,
        "num_attention_heads": 5, "vocab_size": 4000,
    }  # fmt: skip
    run = {
        "model": model,
        "precision": {"recipe": "bf16", "gradients": "fp32"},
        "batch_size": 2,
        "seq_len": 200,
        "gpus": 4,
    }
    report = memcalc.estimate({**run, "sharding": "zero1", "offload": "optimizer", "checkpointing": checkpointing})
    memory = report.memory
    assert all(nbytes >= 0 for nbytes in vars(memory.at_peak).values())
    assert memory.phases.optimizer >= memory.components.weights
    assert memory.phases.backward >= memory.components.weights + 4 * report.model.parameters
