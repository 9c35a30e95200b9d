"""DeepSpeed's options, what it refuses, laws of its stages, and worked figures of Llama-2-7B on eight GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import memcalc
from memcalc.errors import RunInvalid
from memcalc.models import from_preset
from memcalc.resolve import resolve
from memcalc.run import Run
from memcalc.run.spelling import spelled_out
from memcalc.run.validation import parse_run
from memcalc.sharding.deepspeed import deepspeed
from memcalc.sharding.scatter import Reducer
from memcalc.sharding.zero import Zero
from memcalc.sharding.zero3 import ZeroThree
from memcalc.sharding.zero12 import Bf16Optimizer, ZeroOneTwo
from memcalc.sharding.zero_options import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.report import Memory

PARAMETERS = 6_738_415_616
PLAIN = {"model": "llama-2-7b", "checkpointing": "full", "seq_len": 1024}
STAGES = ("zero0", "zero1", "zero2", "zero3")


def made(name: str, options: Mapping[str, Any], ranks: int = 8, **run: Any) -> Zero:
    """The strategy of a run."""
    strategy = deepspeed(name, options, ranks, Run(model="llama-2-7b", **run), from_preset("llama-2-7b"))
    assert isinstance(strategy, Zero)
    return strategy


def memory(sharding: Any, **run: Any) -> Memory:
    """The memory of Llama-2-7B on eight GPUs."""
    return memcalc.estimate({**PLAIN, "gpus": 8, "sharding": sharding, **run}).memory


def test_defaults() -> None:
    """runtime/zero/config.py."""
    settings = made("zero3", {}).settings
    assert settings == Settings()
    assert settings.reduce_bucket_size == settings.allgather_bucket_size == 500_000_000
    assert settings.stage3_prefetch_bucket_size == 50_000_000
    assert settings.stage3_param_persistence_threshold == 100_000
    assert [made(name, {}).overlaps for name in STAGES] == [False, False, False, True]


@pytest.mark.parametrize(
    ("precision", "options", "dtype", "accumulated", "kind"),
    [
        ("mixed-bf16", {}, "bf16", "bf16", ZeroOneTwo),
        ("bf16", {}, "bf16", "bf16", ZeroOneTwo),
        ("mixed-fp16", {"grad_accum_dtype": "fp32"}, "fp16", "fp32", ZeroOneTwo),
        ("mixed-bf16", {"grad_accum_dtype": "fp32"}, "bf16", "fp32", Bf16Optimizer),
        ("mixed-bf16-fp32-grads", {}, "bf16", "fp32", Bf16Optimizer),
        (
            "mixed-bf16",
            {"grad_accum_dtype": "fp32", "offload_optimizer": {"device": "cpu"}},
            "bf16",
            "fp32",
            ZeroOneTwo,
        ),
        ("fp32", {}, "fp32", "fp32", ZeroOneTwo),
        ("amp-bf16", {}, "fp32", "fp32", ZeroOneTwo),
    ],
)
def test_dtypes_and_the_optimizer_around(
    precision: str, options: Mapping[str, Any], dtype: str, accumulated: str, kind: type[Zero]
) -> None:
    """runtime/engine.py, get_data_types and _do_optimizer_sanity_check."""
    strategy = made("zero1", options, precision=precision)
    assert (strategy.dtype, strategy.gradient_dtype, type(strategy)) == (dtype, accumulated, kind)


def test_auto_follows_from_the_hidden_size() -> None:
    """transformers/integrations/deepspeed.py: H², 0.9 H² and 10 H."""
    names = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
    settings = made("zero3", dict.fromkeys(names, "auto")).settings
    assert [getattr(settings, name) for name in names] == [16_777_216, 15_099_494, 40_960]


def test_auto_needs_a_hidden_size() -> None:
    with pytest.raises(RunInvalid, match=r"sharding\.reduce_bucket_size: auto follows from the hidden size"):
        memcalc.estimate({"model": "7b", "gpus": 8, "sharding": {"strategy": "zero2", "reduce_bucket_size": "auto"}})


def test_old_names() -> None:
    settings = made("zero3", {"max_live_parameters": 5e8, "prefetch_bucket_size": "1e7"}).settings
    assert (settings.stage3_max_live_parameters, settings.stage3_prefetch_bucket_size) == (500_000_000, 10_000_000)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("zero2", {"reduce_buket_size": 5e8}, "nearest: reduce_bucket_size"),
        ("zero2", {"overlap_comm": "maybe"}, "neither true nor false"),
        ("zero2", {"offload_param": {"device": "cpu"}}, "valid only with stage 3"),
        ("zero2", {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}, "Partial offloading only supported for ZeRO Stage 3"),
        ("zero3", {"offload_optimizer": {"device": "disk"}}, "one of none, cpu, nvme"),
        ("zero3", {"offload_optimizer": {"devise": "cpu"}}, "has no key devise"),
        ("zero3", {"offload_optimizer": {"device": "cpu", "ratio": 2}}, "no share between 0 and 1"),
        ("zero0", {"offload_optimizer": {"device": "cpu"}}, "valid for ZeRO stage 1, 2, 3"),
        ("zero0", {"grad_accum_dtype": "fp32"}, "unsupported mix"),
        ("zero1", {"allgather_bucket_size": 3}, "multiple of nccl_start_alignment_factor"),
        ("zero3", {"zero_hpz_partition_size": 3}, "8 ranks are no multiple of 3"),
        ("zero2", {"zero_hpz_partition_size": 4}, "is for stage 3"),
        ("zero3", {"compute_grad_norm": False}, "only with ZeRO stages 1 and 2"),
    ],
)  # fmt: skip
def test_what_deepspeed_refuses(name: str, options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(RunInvalid, match=message):
        made(name, options)


def test_a_whole_section_is_taken() -> None:
    """zero_optimization as it stands in a config: its stage, and keys that change nothing."""
    section = {
        "stage": 3,
        "overlap_comm": False,
        "stage3_gather_16bit_weights_on_model_save": True,
        "load_from_fp32_weights": 1,
    }
    assert made("zero3", section) == made("zero3", {"overlap_comm": False})
    with pytest.raises(RunInvalid, match=r"sharding\.stage"):
        made("zero2", section)


def test_old_words_for_offload() -> None:
    """cpu_offload and cpu_offload_param, and nothing where they are false."""
    settings = made("zero3", {"cpu_offload": True, "cpu_offload_param": True}).settings
    assert (settings.offload_optimizer.device, settings.offload_param.device) == ("cpu", "cpu")
    assert made("zero2", {"cpu_offload": False}) == made("zero2", {"offload_optimizer": None}) == made("zero2", {})


@pytest.mark.parametrize(
    ("word", "strategy", "moved"),
    [
        ("ZeRO-3", "zero3", set()), ("zero_2", "zero2", set()), ("deepspeed-zero1", "zero1", set()), ("stage 0", "zero0", set()),
        ("deepspeed_stage_2_offload", "zero2", {"offload_optimizer"}),
        ("deepspeed_stage_3_offload", "zero3", {"offload_optimizer", "offload_param"}), ("DDP", "ddp", set()),
    ],
)  # fmt: skip
def test_words_for_a_stage(word: str, strategy: str, moved: set[str]) -> None:
    """As in Lightning's strategies and in prose."""
    read = spelled_out({"sharding": word})["sharding"]
    assert (read["strategy"], set(read["options"])) == (strategy, moved)


def test_process_groups() -> None:
    """hpZ's within a node beside the world's; MiCS's that share, and those that repeat them."""
    assert made("zero3", {}, 16).communicators == made("zero2", {}, 16).communicators == (16,)
    assert made("zero3", {"zero_hpz_partition_size": 8}, 16).communicators == (16, 8)
    assert made("zero3", {"mics_shard_size": 4}, 16).communicators == (16, 4, 4)


def test_without_norms() -> None:
    """compute_grad_norm: false leaves out the largest gradient in fp64, where that is the most of the step."""
    options = {"strategy": "zero2", "grad_accum_dtype": "fp32"}
    peaks = [
        memory({**options, "compute_grad_norm": norm}, optimizer="deepspeed-fused-adam").phases.optimizer
        for norm in (True, False)
    ]
    assert peaks[0] - peaks[1] == 8 * 11008 * 4096


def test_every_fault_at_once() -> None:
    with pytest.raises(RunInvalid) as caught:
        made("zero3", {"bucket": 1, "overlap_comm": 2, "sub_group_size": -1})
    assert [fault.where for fault in caught.value.faults] == [
        "sharding.bucket", "sharding.overlap_comm", "sharding.sub_group_size",
    ]  # fmt: skip


@pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
def test_one_rank_is_none(stage: str) -> None:
    alone = memcalc.estimate({**PLAIN, "sharding": stage}).memory
    assert alone == memcalc.estimate(PLAIN).memory


@pytest.mark.parametrize("stage", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("precision", ["mixed-bf16", "mixed-fp16", "mixed-bf16-fp32-grads"])
def test_more_ranks_never_need_more_between_steps(stage: str, precision: str) -> None:
    """Parts add up to at least the whole, no part is larger than it."""
    held = [
        memcalc.estimate({**PLAIN, "gpus": n, "sharding": stage, "precision": precision}).memory.components
        for n in (2, 4, 8, 24, 64)
    ]
    for component in ("master_weights", "optimizer_states", "weights"):
        sizes = [getattr(one, component) for one in held]
        if component == "weights" and stage != "zero3":  # padding to twice the ranks
            assert max(sizes) - min(sizes) <= 2 * 2 * 64
        else:
            assert sizes == sorted(sizes, reverse=True)
        for size, n in zip(sizes, (2, 4, 8, 24, 64), strict=True):
            assert size * n >= getattr(memcalc.estimate(PLAIN).memory.components, component)


def test_worked_figures_of_zero_1() -> None:
    """Parameters and gradients whole, a bucket of 5e8; masters and states of an eighth: 38,061,285,888 bytes in all."""
    found = memory("zero1")
    held = found.components
    assert (held.weights, held.master_weights) == (13_476_831_232, 3_369_207_808)
    assert held.optimizer_states == 6_738_415_616
    assert found.peak_phase == "backward"
    assert found.at_peak.buffers == 1_000_000_000
    static = found.peak_allocated - found.at_peak.activations - found.at_peak.temporary
    assert abs(static - 38_061_285_888) < 2**20


def test_worked_figures_of_zero_2() -> None:
    """The fullest rank keeps the gradients of 899,710,976 elements; at the step they are flat and in fp32, too."""
    found = memory("zero2")
    assert found.components.gradients == 1_799_421_952
    assert found.phases.optimizer - found.persistent == pytest.approx(6 * PARAMETERS / 8, abs=2**20)


def test_worked_figures_of_zero_3() -> None:
    """Shards and partitions of gradients; the bucket and 266,240 small parameters stay; no more than 1e9 are gathered."""
    found = memory("zero3")
    held = found.components
    assert held.weights == held.gradients == 1_684_603_904
    assert held.buffers - found.at_peak.buffers >= 0
    base = 1_000_000_000 + 2 * 266_240
    assert base + 2 * 1_000_000_000 <= held.buffers <= base + 2 * 1_250_000_000


@pytest.mark.parametrize("accumulated", ["", "fp32"])
def test_bytes_per_parameter_after_a_step(accumulated: str) -> None:
    """(2 + 12/N) P under ZeRO-1 and 2, 16 P/N or 18 P/N and the bucket under ZeRO-3."""
    options = {"grad_accum_dtype": accumulated} if accumulated else {}
    held = memory({"strategy": "zero2", **options}).components
    assert held.weights + held.master_weights + held.optimizer_states == 2 * PARAMETERS + 12 * PARAMETERS // 8
    held = memory({"strategy": "zero3", **options}).components
    kept = held.weights + held.gradients + held.master_weights + held.optimizer_states
    assert kept == (18 if accumulated else 16) * PARAMETERS // 8


def test_adapters_have_masters_and_the_rest_is_sharded() -> None:
    """ZeRO-3 with PEFT: frozen parameters are shards and no more; adapters, cast with the model, have masters and states."""
    found = memory("zero3", lora={"rank": 8, "targets": ["q_proj", "v_proj"]}).components
    adapters = 2 * 32 * 2 * 4096 * 8
    assert found.weights == 2 * (PARAMETERS + adapters) // 8
    assert found.master_weights == 4 * adapters // 8
    assert found.optimizer_states == 8 * adapters // 8
    assert found.gradients == 2 * adapters // 8


def test_frozen_weights_in_int8() -> None:
    plain, packed = (
        memory({"strategy": "zero3", "zero_quantized_nontrainable_weights": packed}, lora=8).components.weights
        for packed in (False, True)
    )
    assert plain - packed == PARAMETERS // 8


def test_mics_shares_out_within_a_group() -> None:
    assert isinstance(made("zero3", {"mics_shard_size": 4}), ZeroThree)
    assert memory({"strategy": "zero3", "mics_shard_size": 4}).components.weights == 2 * PARAMETERS // 4


def test_sub_groups_bound_the_step() -> None:
    """The largest sub-group at a time: parameters until they are at least as many as sub_group_size."""
    whole, small = (memory({"strategy": "zero3", "sub_group_size": size}).phases.optimizer for size in (1e9, 1e8))
    assert whole - small > 6 * (PARAMETERS // 8 - 150_000_000)
    strategy = made("zero3", {"sub_group_size": 10})
    assert isinstance(strategy, ZeroThree)
    assert strategy.subgroups([4, 4, 4, 20, 1]) == [12, 20, 1]


def test_gradients_larger_than_a_bucket() -> None:
    """Two matrices of a layer that do not fit: the first's partition begins where the second waits with its own storage."""
    report = memcalc.estimate({"model": "falcon-180b", "gpus": 16, "sharding": "zero2"})
    assert not [note for note in report.warnings if note.code == "tape-failed"]
    assert report.memory.phases.backward > 2 * 179_000_000_000


def test_quantised_gradients_are_sent_in_int4() -> None:
    """qgZ (all_to_all_quant_reduce): two copies in int4, two of what is summed in the node, and that in 16 bits."""
    sharding = {"strategy": "zero3", "zero_quantized_gradients": True}
    plan = resolve(parse_run({"model": "llama-2-7b", "gpus": 16, "sharding": sharding}))
    reducer = Reducer(plan.placement)  # type: ignore[arg-type]  # it is ZeRO-3
    elements, shard = 4096 * 4096, 2 * 4096 * 4096 // 16
    reducer.bucket = [elements]
    assert reducer.quantized() == elements + elements // 8 + 2 * elements // 8
    reducer.bucket = [elements + 1]
    assert reducer.quantized() == (shard + 512) * 16  # not a multiple of 2 * 16: as it is
    reducer.bucket = [elements, elements]
    assert reducer.quantized() > elements + elements // 8 + 2 * elements // 8


def test_adapters_in_a_leaf_module_come_with_all_of_it() -> None:
    """Mixtral's blocks are DeepSpeed's leaf modules: one call for router, experts and what peft put into both."""
    model = {"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "vocab_size": 512,
             "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4}  # fmt: skip
    report = memcalc.estimate({"model": model, "gpus": 4, "seq_len": 32, "sharding": "zero3", "checkpointing": "full",
                               "lora": {"rank": 4, "targets": "all-linear"}})  # fmt: skip
    assert not [note for note in report.warnings if note.code == "tape-failed"]
