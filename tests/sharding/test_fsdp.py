"""FSDP's placement, words and notes; the steps it takes are held to recordings in tests/reference and test_memtracker."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.errors import RunInvalid
from memcalc.pipeline import load
from memcalc.resolve import resolve
from memcalc.sharding.fsdp1 import Flattened
from memcalc.sharding.fsdp2 import FullyShard, cut, from_options
from memcalc.sharding.groups import paths
from memcalc.tape.setting import Setting
from memcalc.tape.units import Wrapped
from memcalc.tensors import Tensor

P, ROWS = 6_738_415_616, 32_000 * 4_096  # parameters of Llama 2 7B, and of its embedding
BLOCK, ROOT = 202_383_360, 2 * ROWS + 4_096  # parameters of a layer; of embedding, norm and head


def memory(sharding: Any, **more: Any) -> Any:
    return estimate({"model": "llama-2-7b", "gpus": 8, "sharding": sharding, **more}).memory


@pytest.mark.parametrize(("shape", "ways", "part"), [
    ((3, 64), 8, (1, 64)), ((32_000, 4_096), 8, (4_000, 4_096)), ((10,), 4, (3,)), ((), 4, (1,)), ((7, 2, 2), 2, (4, 2, 2)),
])  # fmt: skip
def test_a_parameter_is_cut_along_its_first_dimension(shape: tuple[int, ...], ways: int, part: tuple[int, ...]) -> None:
    """FSDPParam._init_sharded_param: every rank's part is as large as the largest."""
    assert cut(Tensor("weight", shape), ways).shape == part


@pytest.mark.parametrize(("given", "kept", "seen"), [
    ("", "fp32", "fp32"), ("bf16", "fp32", "bf16"), ("fp32", "bf16", "fp32"), ("bf16", "int64", "int64"),
])  # fmt: skip
def test_buffers_of_numbers_are_cast_to_a_dtype_of_their_own(given: str, kept: str, seen: str) -> None:
    """FSDP1's MixedPrecision.buffer_dtype, of floating-point buffers alone (_cast_buffers_to_dtype_and_device)."""
    buffer = Tensor("inv_freq", (64,), dtype=kept, buffer=True)
    assert Flattened(buffer_dtype=given).buffered(buffer, Setting()) == seen


@pytest.mark.parametrize(("given", "wrap", "layers", "root", "head"), [
    (None, "layers", True, False, True),  # fully_shard's None: all but the root
    (True, "layers", True, True, True), (False, "layers", False, False, False), (2, "layers", 2, 2, 2),
    (1, "layers", False, False, False), (4, "layers", True, True, True),  # over one rank, and over all of them
    ("default", "layers+embed+head", True, False, False), ("always", "layers+embed+head", True, False, True),
    ("never", "layers+embed+head", False, False, False),  # torchtitan's words (apply_fsdp)
    (True, "accelerate", True, False, False),  # fsdp2_prepare_model
])  # fmt: skip
def test_who_reshards_after_forward(given: Any, wrap: str, layers: Any, root: Any, head: Any) -> None:
    options = {"wrap": wrap} if given is None else {"reshard_after_forward": given, "wrap": wrap}
    made = from_options(options, 4, 4, micro_batches=1, offload="none")
    assert (made.reshard, made.root_reshards, made.head_reshards) == (layers, root, head)


def test_gradients_add_up_on_the_host_where_shards_are_there() -> None:
    parts = (Tensor("weight", (8, 8)),)
    assert FullyShard(shards=2, offloads=True).place(parts).accumulated == ()
    assert FullyShard(shards=2).place(parts).accumulated is None


def test_the_worked_example() -> None:
    """Llama 2 7B on 8 GPUs, fp32 shards gathered in bf16: 4P/8, 4P/8 and 8P/8 (torch's own tracker says the same)."""
    held = memory({"strategy": "fsdp", "reduce_dtype": "fp32"}).components
    assert (held.weights, held.gradients, held.optimizer_states) == (4 * P // 8, 4 * P // 8, P)
    assert held.master_weights == 0


@pytest.mark.parametrize(("options", "buffers"), [
    ({}, 2 * ROOT + (2 + 2 + 2) * BLOCK),  # the root; a unit, the next one's gather, the last one's reduction
    ({"reduce_dtype": "fp32"}, 2 * ROOT + (2 + 2 + 4) * BLOCK),
    ({"reshard_after_forward": False, "reduce_dtype": "fp32"}, 2 * P + 4 * BLOCK),
])  # fmt: skip
def test_gathered_parameters_of_a_step(options: dict[str, Any], buffers: int) -> None:
    """2 bytes for each gathered parameter, 4 for one reduced in fp32; besides, casts of shards come and go."""
    most = memory({"strategy": "fsdp", **options}, checkpointing="full").components.buffers
    assert buffers <= most <= 1.11 * buffers


def test_accumulation_without_reduction_keeps_whole_gradients() -> None:
    """set_requires_gradient_sync(False): gradients of all parameters in reduce_dtype, on every GPU."""
    sync, plain = ({"strategy": "fsdp", "reduce_dtype": "fp32", "no_sync": value} for value in (False, True))
    more = memory(plain, grad_accum=4).phases.forward - memory(sync, grad_accum=4).phases.forward
    assert more == pytest.approx(4 * P - 4 * P // 8, rel=1e-3)


def test_hybrid_sharding_shards_within_a_node() -> None:
    """Eight GPUs to a node; where reductions are in a dtype of their own, their outputs stay to the end of the step."""
    wide, narrow = ({"strategy": "hsdp", "reduce_dtype": dtype} for dtype in ("fp32", "bf16"))
    assert memory(wide, gpus=16).components == memory({"strategy": "fsdp", "reduce_dtype": "fp32"}).components
    assert memory(narrow, gpus=16).components.buffers - memory("fsdp").components.buffers > P // 8


def test_offload_leaves_the_gpu_what_is_gathered() -> None:
    """CPUOffloadPolicy: pinned copies take the next power of two each, the optimizer's states stay pageable."""
    away = memory({"strategy": "fsdp", "cpu_offload": True})
    assert away.persistent == 0
    assert away.host.pageable >= P
    assert 8 * P // 8 <= away.host.pinned <= 16 * P // 8
    assert memory("fsdp", offload="optimizer+params") == away


def test_adapters_are_cut_like_all_else() -> None:
    lora = {"rank": 16, "targets": ["q_proj", "v_proj"]}
    whole = memory("ddp", precision="bf16", lora=lora).components
    shard = memory("fsdp", precision="bf16", lora=lora).components
    assert shard.gradients * 8 == whole.gradients
    assert shard.optimizer_states * 8 == whole.optimizer_states


def test_packed_weights_are_sharded_as_floats_only() -> None:
    """accelerate leaves bitsandbytes' integers out of the sharding; kept as bf16, an eighth of them is on each GPU."""
    lora = {"rank": 16, "targets": ["q_proj", "v_proj"]}
    packed, whole = (
        {"precision": "bf16", "lora": lora, "quantize": how} for how in ({"name": "nf4", "storage": "bf16"}, "nf4")
    )
    integers, floats = memory("fsdp", **whole), memory("fsdp", **packed)
    linear = 32 * 202_375_168 // 2
    assert integers.components.weights - floats.components.weights == pytest.approx(linear * 7 // 8, rel=1e-4)
    assert "packed integers" in " ".join(
        note.message for note in estimate({"model": "llama-2-7b", "gpus": 8, "sharding": "fsdp", **whole}).assumptions
    )


def test_flat_parameters_are_aligned_and_padded() -> None:
    """use_orig_params: each parameter begins at a multiple of 16 bytes, and the whole divides among the ranks."""
    plain, visible = (Flattened("fsdp", 7, shards=7, param_dtype="bf16", visible=value) for value in (False, True))
    members = [Tensor("a", (3,)), Tensor("b", (5,)), Tensor("c", (8, 2))]
    assert [handle.elements for handle in plain.handles(members)] == [24]
    assert [handle.elements for handle in visible.handles(members)] == [
        35
    ]  # 3 -> 8, 8 + 5 -> 16, 16 + 16 -> 35 = 5 x 7


@pytest.mark.parametrize(("visible", "first", "layers"), [(False, 8, 8), (True, 8, 0), (False, 0, 0)])
def test_layers_that_no_gradient_comes_to_stay_gathered(visible: bool, first: int, layers: int) -> None:
    """_catch_all_reshard takes what has its shard's views since the forward for let go of; the frozen root it reshards.

    So it is on real tensors, too. With use_orig_params the views are the whole's until then, and it is not mistaken.
    """
    how = {"strategy": "fsdp", "version": 1, "use_orig_params": visible}
    run: dict[str, Any] = {"precision": "bf16", "optimizer": "sgd", "batch_size": 1, "seq_len": 64,
                           "train": [f"model.layers.{number}" for number in range(first, 32)]}  # fmt: skip
    kept, full = (memory({**how, "sharding_strategy": word}, **run) for word in ("SHARD_GRAD_OP", "FULL_SHARD"))
    assert kept.phases.optimizer - full.phases.optimizer == 2 * layers * BLOCK


REFUSED = [
    ({"strategy": "fsdp", "reshard_after_foward": True}, {}, "nearest: reshard_after_forward"),
    ({"strategy": "fsdp", "version": 1, "reshard_after_forward": True}, {}, "has no such option"),
    ({"strategy": "fsdp", "limit_all_gathers": True}, {}, "fsdp (version 2) has no such option"),
    ({"strategy": "fsdp", "reshard_after_forward": 3}, {}, "it should be a factor of 8, not 3"),
    ({"strategy": "fsdp", "reduce_dtype": "int8"}, {}, "is no dtype to train in"),
    ({"strategy": "fsdp", "wrap": "layer"}, {}, "did you mean layers?"),
    ({"strategy": "fsdp", "version": 1, "sharding_strategy": "FULL"}, {}, "did you mean FULL_SHARD?"),
    ({"strategy": "hsdp", "replicate": 3}, {}, "can't be shared among 3 replicas"),
    ({"strategy": "hsdp", "replicate": "two"}, {}, "sharding.replicate: 'two' is no whole number"),
    ({"strategy": "fsdp", "version": 1, "replicate": False}, {}, "sharding.replicate: False is no whole number"),
    ("fsdp", {"offload": "optimizer"}, "write offload: optimizer+params"),
    ({"strategy": "fsdp", "version": 1}, {"precision": "bf16", "lora": 8, "quantize": "nf4"}, "uniform dtype"),
    ({"strategy": "ddp", "bucket_cap": 25}, {}, "nearest: bucket_cap_mb"),
    ({"strategy": "ddp", "comm_hook": "bf16"}, {}, "did you mean bf16_compress?"),
]  # fmt: skip


@pytest.mark.parametrize(("sharding", "more", "words"), REFUSED, ids=str)
def test_what_the_framework_refuses(sharding: Any, more: dict[str, Any], words: str) -> None:
    with pytest.raises(RunInvalid) as caught:
        memory(sharding, **more)
    assert words in str(caught.value)


def test_all_wrong_options_are_listed_at_once() -> None:
    with pytest.raises(RunInvalid) as caught:
        memory({"strategy": "fsdp", "wrapp": 1, "reduce_dtype": "int8", "no_sync": 3})
    assert len(caught.value.faults) == 3


def test_gathers_and_reductions_have_streams_of_their_own_where_a_gpu_is_named() -> None:
    """Blocks made on one stream serve no other: gathers' and reductions' are reserved on top."""
    run = {"model": "llama-3.2-1b", "gpus": 8, "checkpointing": "full", "sharding": {"strategy": "fsdp"}}
    alone, on_gpu = (estimate({**run, **more}).memory for more in ({}, {"gpu": "h100"}))
    assert on_gpu.peak_allocated == alone.peak_allocated
    assert on_gpu.reserved > alone.reserved
    ddp = {**run, "sharding": "ddp"}
    assert estimate({**ddp, "gpu": "h100"}).memory.reserved == estimate(ddp).memory.reserved


def test_layers_named_for_prefetch_are_gathered_in_advance() -> None:
    """Each one more that is named is gathered, in bf16, while a layer runs."""
    names = ("modules_to_forward_prefetch", "modules_to_backward_prefetch")
    three, four = (
        memory({"strategy": "fsdp", **dict.fromkeys(names, count)}, seq_len=128).components.buffers for count in (3, 4)
    )
    assert four - three == 2 * BLOCK


def test_weights_of_linear_layers_are_gathered_in_fp8() -> None:
    """A byte for each element of a layer's linear weights: in what is gathered for two layers, and copied out for one."""
    model = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8,
             "num_key_value_heads": 8, "vocab_size": 64, "num_hidden_layers": 6}  # fmt: skip
    run: dict[str, Any] = {"model": model, "precision": "mixed-bf16", "gpus": 8, "seq_len": 16, "checkpointing": "full"}
    plain, narrow = (
        estimate({**run, "sharding": {"strategy": "fsdp", "enable_fsdp_float8_all_gather": wanted}}).memory
        for wanted in (False, True)
    )
    linear = 4 * 1024 * 1024 + 3 * 1024 * 4096
    assert plain.phases.forward - narrow.phases.forward == pytest.approx(3 * linear, rel=0.02)
    assert plain.components.weights == narrow.components.weights
    assert plain.components.gradients == narrow.components.gradients


def test_peft_fails_with_original_parameters_under_dora() -> None:
    """Recorded with torch 2.13.0 and peft 0.21.2: IndexError in tuners/lora/dora.py, get_lora_weight; without them it runs."""
    lora = {"rank": 8, "targets": ["q_proj"], "dora": True}
    run: dict[str, Any] = {"model": "llama-3.2-1b", "gpus": 4, "lora": lora}
    fsdp = {"strategy": "fsdp", "version": 1}
    with pytest.raises(RunInvalid, match="DoRA fails with FSDP's use_orig_params"):
        estimate({**run, "sharding": {**fsdp, "use_orig_params": True}})
    for how in ({}, {"use_orig_params": True, "sharding_strategy": "NO_SHARD"}):
        assert estimate({**run, "sharding": {**fsdp, **how}}).memory.peak_allocated


@pytest.mark.parametrize(
    ("type_", "stages", "layers"), [("swin", 4, 0), ("convnext", 3, 18), ("convnextv2", 0, 18), ("resnet", 0, 16)]
)
def test_stages_and_their_layers_are_units_as_no_split_modules_has_them(type_: str, stages: int, layers: int) -> None:
    """SwinStage alone, ConvNextStage around ConvNextLayer (the first has nothing beside them); others name their layers."""
    model = resolve(load({"model": {"model_type": type_}, "precision": "bf16"}).run).model
    found = Wrapped(paths(model, "layers"), model.tensors)
    units = {path: sum(len(numbers) for _, numbers in found.alike(path)) for path in found.layers}
    within = sum(count for path, count in units.items() if path.split(".")[-2].isdigit())
    assert (sum(units.values()) - within, within) == (stages, layers)
