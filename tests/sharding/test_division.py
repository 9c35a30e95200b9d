"""Divided models: what every rank holds, micro batches in flight, and what Megatron-LM refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import contenders, estimate, every_rank, fullest, load
from memcalc.resolve import resolve
from memcalc.run import Parallel
from memcalc.sharding.pipeline import balanced, dealt, in_flight, stages, uneven
from memcalc.sharding.tensor_parallel import divided, vocabulary
from memcalc.tensors import parameter_count, tensors
from memcalc.ways import Ways

if TYPE_CHECKING:
    from memcalc.plan import Plan

MODELS = ["llama-3-8b", "mixtral-8x7b", "deepseek-v2", "gpt2", "gemma-2-2b"]


def plan(model: str, **more: Any) -> Plan:
    run = {"model": model, "seq_len": 1024, "gpus": 8, "grad_accum": 8, "implementation": "megatron", **more}
    return resolve(load(run).run)


def persistent(model: str, **more: Any) -> int:
    return estimate(
        {"model": model, "seq_len": 512, "grad_accum": 8, "implementation": "megatron", **more}
    ).memory.persistent


@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize("model", MODELS)
def test_the_parts_are_at_least_the_whole(model: str, tensor: int) -> None:
    whole = resolve(load({"model": model}).run).model
    ways = Ways(tensor=tensor, words=vocabulary(whole.body), expert_tensor=tensor)
    body, faults = divided(whole.body, ways)
    part = parameter_count(tensors(body))
    assert not faults
    assert part * tensor >= whole.parameters
    assert part < whole.parameters or tensor == 1


@pytest.mark.parametrize("model", MODELS)
def test_one_way_and_an_unpadded_vocabulary_change_nothing(model: str) -> None:
    whole = resolve(load({"model": model}).run).model
    body, _ = divided(whole.body, Ways(multiple=0, words=vocabulary(whole.body)))
    assert tensors(body) == tensors(whole.body)


@pytest.mark.parametrize("model", ["llama-3-8b", "mixtral-8x7b", "gpt2"])
def test_megatrons_modules_hold_the_same_parameters(model: str) -> None:
    (rank,) = plan(model, gpus=1, sharding={"strategy": "megatron", "make_vocab_size_divisible_by": 1}).ranks
    whole = resolve(load({"model": model}).run).model
    assert parameter_count(rank.tensors) == whole.parameters


def test_stages_hold_every_layer_once() -> None:
    for degrees in (Parallel(pipeline=4), Parallel(pipeline=4, virtual=2), Parallel(pipeline=2, virtual=4)):
        held = [layer for stage in stages(32, degrees) for layer in stage.layers]
        assert sorted(held) == list(range(32))


def test_dualpipe_holds_the_model_twice() -> None:
    held = [layer for stage in stages(32, Parallel(pipeline=4, schedule="dualpipe")) for layer in stage.layers]
    assert sorted(held) == sorted(2 * list(range(32)))


def test_uneven_stages() -> None:
    assert uneven(61, 4, None, 13) == [16, 16, 16, 13]
    assert uneven(61, 4, 14, 15) == [14, 16, 16, 15]
    assert dealt(61, 4) == [15, 16, 16, 14]  # 63 with the table and the head: 16, 16, 16, 15
    assert balanced(78, 12, "type:transformer") == [7] * 11 + [1]  # BigScience's chronicles: the last stage has 1 block
    assert balanced(70, 12, "type:transformer|embedding") == [5, *[6] * 10, 5]  # BLOOM's
    assert uneven(4, 1, 4, None) == [4]
    assert uneven(4, 2, 1, 3) == [1, 3]  # nothing is left for stages between
    with pytest.raises(RunInvalid, match="must be divisible by"):
        uneven(61, 4, 14, None)
    with pytest.raises(RunInvalid, match="2 middle layers remaining but -1"):
        uneven(4, 1, 1, 1)


@pytest.mark.parametrize("pp", [2, 4, 8])
def test_micro_batches_in_flight(pp: int) -> None:
    """Megatron-LM, core/pipeline_parallel/schedules.py: warm-up micro batches, and the one that is worked on."""
    many = Parallel(pipeline=pp)
    assert [in_flight(stage, many, 64)[0] for stage in range(pp)] == list(range(pp, 0, -1))
    assert in_flight(0, many, 1) == (1, 1)
    assert in_flight(pp - 1, replace(many, schedule="gpipe"), 64) == (64, 1)
    chunks, virtual = in_flight(0, replace(many, virtual=2), 64)
    assert chunks / virtual == pp * (1 + (pp - 1) / (pp * virtual))  # Narayanan et al. 2021, section 2.2


def test_more_ranks_never_need_more_per_rank() -> None:
    for more in ([{"tensor": n} for n in (1, 2, 4, 8)], [{"pipeline": n} for n in (1, 2, 4, 8)]):
        sizes = [
            persistent("llama-3-8b", gpus=8 * n, parallel=degrees)
            for n, degrees in zip((1, 2, 4, 8), more, strict=True)
        ]
        assert sizes == sorted(sizes, reverse=True)
    sizes = [persistent("llama-3-8b", gpus=gpus) for gpus in (1, 2, 4, 8, 64, 512)]
    assert sizes == sorted(sizes, reverse=True)


def test_first_and_last_stage_and_one_between() -> None:
    ranks = plan("llama-3-8b", parallel={"pipeline": 4}).ranks
    assert [rank.label for rank in ranks] == ["stage 0 of 4", "stage 1 of 4", "stage 3 of 4"]
    held = [memory.components.activations for _, memory in every_rank(replace(ranks[0], ranks=ranks))]
    assert held[0] > held[1] > held[2]


@pytest.mark.parametrize("implementation", ["hf", "megatron"])
@pytest.mark.parametrize("model", MODELS)
def test_the_fullest_rank_is_among_those_looked_at(model: str, implementation: str) -> None:
    strategy = "megatron" if implementation == "megatron" else "fsdp"
    made = plan(model, parallel={"pipeline": 2}, implementation=implementation, sharding=strategy)
    assert fullest(contenders(made)) == fullest(every_rank(made))


@pytest.mark.parametrize("more", [{}, {"lora": {"rank": 8}}, {"checkpointing": "full"}], ids=str)
@pytest.mark.parametrize("implementation", ["hf", "megatron"])
def test_a_surpassed_rank_is_never_the_fullest(implementation: str, more: dict[str, Any]) -> None:
    strategy = "megatron" if implementation == "megatron" else "fsdp"
    degrees = {"pipeline": 4}
    made = plan("llama-3-8b", parallel=degrees, grad_accum=8, implementation=implementation, sharding=strategy, **more)
    assert [rank.surpassed for rank in made.ranks] == [False, "lora" not in more, False]
    assert fullest(contenders(made)) == fullest(every_rank(made))


def test_sequence_parallelism_saves() -> None:
    plain, shared = (plan("llama-3-8b", parallel={"tensor": 4, "sequence": flag}) for flag in (False, True))
    first, second = (every_rank(each)[0][1].components.activations for each in (plain, shared))
    assert second < first


@pytest.mark.parametrize(
    ("options", "lower"),
    [
        ({"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}, 0.3),
        ({"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 16}, 0.7),
        ({"recompute_granularity": "selective", "recompute_modules": ["mlp"]}, 0.6),
    ],
)
def test_recomputation_saves(options: dict[str, Any], lower: float) -> None:
    plain = every_rank(plan("llama-3-8b"))[0][1].components.activations
    saved = every_rank(plan("llama-3-8b", sharding={"strategy": "megatron", **options}))[0][1].components.activations
    assert saved < lower * plain


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"parallel": {"tensor": 3}, "gpus": 6},
        "num_attention_heads (32) must be a multiple of tensor_model_parallel_size (3)",
    ),
    (
        {"parallel": {"pipeline": 3}, "gpus": 6},
        "number of layers (32) must be divisible by pipeline_model_parallel_size (3)",
    ),
    ({"parallel": {"tensor": 2}, "gpus": 3}, "world_size (3) is not divisible by 2"),
    ({"parallel": {"expert": 2}}, "num_moe_experts must be non None to use expert-parallel"),
    ({"parallel": {"sequence": True}}, "Cannot use sequence parallelism without tensor parallelism"),
    ({"parallel": {"virtual": 2}}, "pipeline-model-parallel size should be greater than 1 with interleaved schedule"),
    ({"parallel": {"pipeline": 4, "virtual": 2}, "grad_accum": 6}, "number of microbatches (6) is not divisible by"),
    ({"parallel": {"context": 3}, "gpus": 3}, "1024 tokens are not divisible by 2 * context_parallel_size"),
    ({"sharding": {"strategy": "megatron", "recompute_granularity": "full"}}, "recompute_method must be"),
    ({"sharding": {"strategy": "megatron", "main_grads_dtype": "bf16"}}, "not using precision-aware optimizer"),
    ({"sharding": {"strategy": "megatron", "distribute_optimizer": True}}, "nearest: distributed_optimizer"),
    ({"model": "mixtral-8x7b", "parallel": {"expert": 3}, "gpus": 6}, "num_moe_experts (8) must be divisible by"),
    ({"model": "mamba-130m", "parallel": {"tensor": 2}}, "tensor parallelism of Mamba blocks is not modelled"),
    (
        {"sharding": "zero2", "parallel": {"pipeline": 2}},
        "ZeRO-2 and ZeRO-3 are incompatible with pipeline parallelism",
    ),
    ({"model": "bge-base-en-v1.5", "seq_len": 512}, "heads that read one state of a sequence are not modelled"),
    ({"sharding": "zero3"}, "zero3 around Megatron-LM's modules is not modelled"),
    (
        {"model": "albert-base-v2", "seq_len": 512, "implementation": "hf", "parallel": {"pipeline": 2}},
        "layers that share their parameters can't be cut into stages",
    ),
]


@pytest.mark.parametrize(("more", "message"), REFUSED, ids=lambda value: value[:30] if isinstance(value, str) else "")
def test_what_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(RunInvalid) as refusal:
        plan(**{"model": "llama-3-8b", **more})
    assert message in str(refusal.value)


LLAMA = 6_738_415_616  # parameters of Llama 2 7B
BYTES: list[tuple[dict[str, Any], float]] = [  # Megatron-LM, docs: dist_optimizer.md; data-parallel degree 8
    ({}, 6 + 12 / 8),
    ({"distributed_optimizer": False}, 18),
    ({"use_precision_aware_optimizer": True, "main_grads_dtype": "bf16", "exp_avg_dtype": "bf16", "exp_avg_sq_dtype": "bf16"},
     4 + 6 / 8),
    ({"use_precision_aware_optimizer": True, "main_grads_dtype": "bf16", "exp_avg_dtype": "fp8", "exp_avg_sq_dtype": "fp8"},
     4 + 4 / 8),
]  # fmt: skip


@pytest.mark.parametrize(("options", "bytes_per_parameter"), BYTES, ids=lambda value: str(value)[:40])
def test_bytes_per_parameter(options: dict[str, Any], bytes_per_parameter: float) -> None:
    memory = estimate({"model": "llama-2-7b", "gpus": 8, "sharding": {"strategy": "megatron", **options}}).memory
    assert memory.persistent == pytest.approx(bytes_per_parameter * LLAMA, rel=1e-6)


def test_buffers_are_padded() -> None:
    """param_and_grad_buffer.py: parameters begin at multiples of 64, the buffer ends at one of the ranks' and 128."""
    (rank,) = plan("gpt2", gpus=6).ranks
    grads = rank.placement.place(rank.tensors).gradients
    assert sum(t.elements for t in grads) % 384 == 0
    assert sum(t.elements for t in grads) >= parameter_count(rank.tensors)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["linear_qkv"], "all-linear"])
def test_adapters_are_put_on_megatrons_linears(targets: Any) -> None:
    (rank,) = plan("llama-3-8b", lora={"rank": 16, "targets": targets}).ranks
    learning = [tensor for tensor in rank.tensors if tensor.trainable]
    names = {tensor.name.split(".lora_")[0].rpartition(".")[2] for tensor in learning}
    assert names == (
        {"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2"} if targets == "all-linear" else {"linear_qkv"}
    )
    qkv = 16 * (4096 + 6144)  # A and B on the one linear of queries, keys and values
    assert sum(tensor.parameters for tensor in learning if "linear_qkv" in tensor.name) == 32 * qkv


def test_states_in_host_memory() -> None:
    there, here = (
        every_rank(plan("llama-3-8b", sharding={"strategy": "megatron", "optimizer_cpu_offload": flag}))[0][1]
        for flag in (True, False)
    )
    assert there.components.optimizer_states == there.components.master_weights == 0
    assert there.host.pinned == 2 * here.components.master_weights
    assert there.host.pageable >= here.components.optimizer_states


def test_what_fsdp_gathers_is_not_kept_by_each_micro_batch_in_flight() -> None:
    """Without resharding the parameters stay gathered, once; DDP has them all anyway."""
    run = {
        "model": "llama-3.2-1b",
        "precision": "bf16",
        "seq_len": 512,
        "gpus": 8,
        "grad_accum": 8,
        "parallel": {"pipeline": 4},
    }
    fsdp = {"strategy": "fsdp", "version": 2, "reshard_after_forward": False, "no_sync": False}
    kept = [
        [memory.components.activations for _, memory, *_ in every_rank(resolve(load({**run, "sharding": how}).run))]
        for how in (fsdp, "ddp")
    ]
    assert kept[0] == pytest.approx(kept[1], rel=0.02)


def test_adapters_of_megatrons_modules_keep_their_inner_states() -> None:
    """LoRALinear: of rank 32 on four linears a layer, 32 states a token each; what is dropped out is kept in full."""

    def kept(**lora: Any) -> int:
        run = {
            "model": "llama-3-8b",
            "gpus": 8,
            "implementation": "megatron",
            "precision": "megatron-bf16",
            "seq_len": 4096,
        }
        return estimate(
            {**run, "sharding": "megatron", "lora": {"targets": "all-linear", **lora}}
        ).memory.components.activations

    assert kept(rank=64) - kept(rank=32) == 32 * 4 * 4096 * 32 * 2
    inputs = 4096 + 4096 + 4096 + 14336  # of its linears
    assert kept(rank=32, dropout=0.1) - kept(rank=32) == 32 * 4096 * inputs * 3


def test_virtual_stages_of_transformers_modules() -> None:
    """ScheduleInterleaved1F1B: chunks of 4 layers, 2 * 3 + 4 + 1 of them in flight on the first of 4 ranks."""
    run = {
        "model": "llama-3-8b",
        "gpus": 8,
        "seq_len": 1024,
        "grad_accum": 8,
        "sharding": "fsdp",
        "checkpointing": "full",
    }
    plain, interleaved = (
        resolve(load({**run, "parallel": {"pipeline": 4, "virtual": virtual}}).run).ranks[0].ways for virtual in (1, 2)
    )
    assert plain is not None
    assert interleaved is not None
    assert (plain.in_flight, plain.chunks) == ((4, 1), 1)
    assert (interleaved.in_flight, interleaved.chunks) == ((11, 2), 2)
    assert estimate({**run, "parallel": {"pipeline": 4, "virtual": 2}}).memory.peak_allocated > 0


def test_mixers_of_state_space_layers_are_whole_on_every_rank() -> None:
    """transformers' base_model_tp_plan of Jamba has nothing of its Mamba layers; without attention nothing is divided."""
    run: dict[str, Any] = {"model": "jamba-v0.1", "seq_len": 256, "precision": "bf16", "checkpointing": "full"}
    one, two = (estimate({**run, "gpus": gpus, "parallel": {"tensor": gpus}}) for gpus in (1, 2))
    share = two.memory.components.weights / one.memory.components.weights
    assert 0.5 < share < 0.6  # experts are nine tenths of it
    assert "whole-mixers" in {note.code for note in two.assumptions}
    with pytest.raises(RunInvalid, match="Mamba2 blocks is not modelled"):
        estimate({**run, "model": "mamba2-2.7b", "gpus": 2, "parallel": {"tensor": 2}})
    with pytest.raises(RunInvalid, match="around Mamba blocks"):
        estimate({**run, "gpus": 2, "parallel": {"tensor": 2, "sequence": True}})
