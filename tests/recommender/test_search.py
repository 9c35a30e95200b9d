"""The search against brute force, and its answers against estimates made on their own."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate, recommend
from memcalc.recommender import measured
from memcalc.recommender.answer import Answers
from memcalc.recommender.evaluate import Evaluator
from memcalc.recommender.pareto import front
from memcalc.recommender.rank import near
from memcalc.recommender.search import Search
from memcalc.recommender.space import Space
from memcalc.recommender.tasks import task_of
from memcalc.resolve import resolve
from memcalc.run.validation import parse_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.recommender.values import Choice, Recommendation

ALONE: dict[str, list[Any]] = {
    "optimizer": ["adamw", "adamw-8bit"],
    "precision": ["mixed-bf16", "bf16"],
    "checkpointing": ["none", "full"],
    "loss": ["standard", "fused-linear"],
    "batch_size": [1, 2, 4, 8, 16],
}
SHARED: dict[str, list[Any]] = {
    "sharding": ["zero2", "fsdp"],
    "checkpointing": ["none", "full"],
    "gpus": [2, 4, 8],
    "batch_size": [1, 2, 4],
}
PINNED = ("optimizer", "precision", "checkpointing", "implementation", "attention", "loss", "batch_size", "sharding", "parallel",
          "expandable_segments",
          "offload", "gpus")  # fmt: skip
SPACES = [
    ({"model": "llama-3.2-1b", "gpu": "rtx-4090", "seq_len": 1024}, ALONE),
    ({"model": "llama-3.2-1b", "gpu": "16GiB", "seq_len": 512}, ALONE),
    ({"model": "llama-3-8b", "gpu": "h100-80gb", "precision": "bf16"}, SHARED),
]


def searched(run: dict[str, Any], axes: dict[str, list[Any]]) -> Recommendation:
    kept = [key for key in PINNED if key not in axes]
    return recommend(run, vary=axes, keep=kept, gpus=axes.get("gpus", [1]), method="full")


def every(run: dict[str, Any], axes: dict[str, list[Any]]) -> list[Choice]:
    """Each combination on its own, estimated in full; those that fit."""
    asked = parse_run(run)
    model = resolve(asked).model
    task = task_of(None, asked, model)
    space = Space(asked, (), (), (), (), {})
    answers = Answers(Search(asked, space, Evaluator()), task)
    combinations = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    choices = [answers.choice(parse_run({**run, **one}), detailed=False) for one in combinations]
    return [
        choice for choice in choices if choice and choice.verdict.headroom is not None and choice.verdict.headroom >= 0
    ]


def usd(choice: Choice) -> float:
    return near(choice.cost.usd_per_million) if choice.cost and choice.cost.usd_per_million else 0.0


def pace(choice: Choice) -> float:
    assert choice.throughput or choice.gpu.name == "16GiB"
    return -near(choice.throughput.per_second) if choice.throughput else 0.0


BEST: dict[str, Callable[[Choice], tuple[float, ...]]] = {
    "fastest": lambda c: (pace(c), c.intrusion.score, c.gpu.count),
    "cheapest": lambda c: (usd(c), c.intrusion.score, c.gpu.count),
    "fewest GPUs": lambda c: (c.gpu.count, usd(c), pace(c), c.intrusion.score),
    "least intrusive": lambda c: (c.intrusion.score, c.gpu.count, usd(c), pace(c)),
}


@pytest.fixture(scope="module", params=SPACES, ids=["1b-24gb", "1b-16gib", "8b-sharded"])
def both(request: pytest.FixtureRequest) -> tuple[Recommendation, list[Choice]]:
    """A space searched, and tried out one by one."""
    run, axes = request.param
    return searched(run, axes), every(run, axes)


def test_the_winners_are_those_of_brute_force(both: tuple[Recommendation, list[Choice]]) -> None:
    answer, tried = both
    assert answer.recommendations
    for row in answer.recommendations:
        for label in row.labels:
            if row.throughput or label == "least intrusive":
                order = BEST[label]
                assert order(row) == min(map(order, tried)), label


def test_the_pareto_set_is_that_of_brute_force(both: tuple[Recommendation, list[Choice]]) -> None:
    answer, tried = both
    assert sorted(map(measured, answer.pareto)) == sorted(map(measured, front(tried, measured)))


def test_as_many_fit_as_are_told(both: tuple[Recommendation, list[Choice]]) -> None:
    answer, tried = both
    assert answer.fitting >= len(tried)


SHOWN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"model": "llama-3-8b", "gpu": "h100-80gb"}, {"gpus": "1"}),
    ({"model": "llama-3-70b", "gpu": "h100-80gb"}, {"gpus": "8,64", "keep": ["parallel", "attention"]}),
    ({"model": "llama-3-8b", "gpu": "rtx-4090", "lora": 16, "margin": "5%"}, {"gpus": "1"}),
    ({"model": "qwen3-8b", "gpu": "rtx-3090"}, {"method": "qlora", "gpus": "1", "keep": ["attention"]}),
    ({"model": "resnet-50", "gpu": "t4"}, {"gpus": "1"}),
]


@pytest.mark.parametrize(("run", "wishes"), SHOWN)
def test_what_is_recommended_fits_when_it_is_estimated_on_its_own(run: dict[str, Any], wishes: dict[str, Any]) -> None:
    answer = recommend(run, **wishes)
    assert answer.recommendations
    for choice in (*answer.recommendations, *answer.pareto):
        alone = estimate(dict(choice.run))
        assert alone.verdict.fits
        assert (alone.memory.total, alone.verdict.headroom) == (choice.memory.total, choice.verdict.headroom)


def test_a_global_batch_is_held() -> None:
    answer = recommend(
        {"model": "llama-3-8b", "gpu": "h100-80gb"}, global_batch=96, gpus="8", keep=["attention", "offload"]
    )
    for choice in answer.recommendations:
        assert choice.run["batch_size"] * choice.run["grad_accum"] * 8 == 96


def test_ten_thousand_candidates_take_few_records() -> None:
    """What makes it fast: a hundred records and a few dozen estimates for a hundred thousand candidates."""
    answer = recommend({"model": "llama-3-8b", "gpu": "h100-80gb"}, gpus="1..8")
    assert answer.searched > 10_000
    assert answer.search.recorded < 200
    assert answer.search.estimated < 80


def test_nothing_fits_names_the_nearest_miss() -> None:
    answer = recommend({"model": "llama-3-70b", "gpu": "rtx-4090"}, gpus="1")
    assert not answer.recommendations
    assert answer.nearest_miss
    assert answer.nearest_miss.verdict.headroom
    assert answer.nearest_miss.verdict.headroom < 0
    assert answer.nearest_miss.intrusion.level == "method"  # it has come to QLoRA
    assert "more than there is on rtx-4090" in answer.lacks


def test_the_nearest_miss_is_one_whose_step_is_small() -> None:
    """Before a step runs all switches of a step lack the same: checkpoints are what spares the most."""
    run = {"model": "llama-3-8b", "gpu": "4GiB"}
    answer = recommend(run, method="qlora", gpus="1", vary={"batch_size": [1]})
    plain = estimate({"model": "llama-3-8b", "lora": {"rank": 16, "targets": "all-linear"}, "quantize": "nf4",
                      "checkpointing": "full"})  # fmt: skip
    assert answer.nearest_miss
    assert answer.nearest_miss.memory.peak_allocated < plain.memory.peak_allocated


def test_kernels_and_a_loss_that_a_trainer_put_together_are_searched_around() -> None:
    """As LLaMA-Factory's `enable_liger_kernel` is read; whatever the micro batch."""
    run = {
        "model": "llama-3.2-1b",
        "gpu": "rtx-4090",
        "implementation": "hf-liger",
        "loss": "fused-linear",
        "batch_size": 2,
    }
    answer = recommend(run, gpus="1", keep=["optimizer", "precision", "offload", "attention"])
    assert answer.search.legal
    assert answer.recommendations


def test_the_modules_that_come_with_megatrons_sharding_are_searched_around() -> None:
    run = {"model": "llama-3-8b", "gpu": "h100-80gb", "gpus": 8, "sharding": "megatron", "precision": "megatron-bf16",
           "parallel": {"tensor": 2}}  # fmt: skip
    answer = recommend(run, keep=["optimizer", "checkpointing", "offload"])
    assert answer.recommendations
    assert answer.asked["implementation"] == "megatron"


def test_experts_are_divided_over_more_gpus_than_one_replica_of_the_dense_layers() -> None:
    run = {"model": "qwen3-30b-a3b", "gpu": "h100-80gb", "gpus": 64, "sharding": "megatron", "precision": "megatron-bf16",
           "parallel": {"tensor": 2, "pipeline": 2, "expert": 8, "sequence": True}}  # fmt: skip
    answer = recommend(
        run, vary={"batch_size": [1, 2]}, keep=["checkpointing", "sharding", "parallel", "expandable_segments"]
    )
    assert answer.recommendations
    assert answer.search.legal == 2


def test_a_method_that_was_asked_for_is_not_left() -> None:
    answer = recommend({"model": "llama-3-8b", "gpu": "rtx-4090"}, method="full", gpus="1", keep=["offload"])
    assert all(choice.run["lora"] is None for choice in answer.recommendations)
    lora = recommend({"model": "llama-3-8b", "gpu": "rtx-4090"}, method="lora", gpus="1")
    assert lora.recommendations
    assert all(choice.run["lora"] and not choice.run["quantize"] for choice in lora.recommendations)


def test_which_gpu_do_i_need() -> None:
    """Over all presets: the smallest, the cheapest per hour and per token, each estimated on its own GPU."""
    answer = recommend({"model": "llama-3-8b"}, method="qlora", keep=["optimizer", "attention", "implementation"])
    labels = {label: choice for choice in answer.recommendations for label in choice.labels}
    assert {"smallest GPU", "cheapest per hour", "cheapest", "fastest"} <= labels.keys()
    assert len(answer.search.axes["gpu"]) > 40
    smallest, hour = labels["smallest GPU"], labels["cheapest per hour"]
    assert smallest.gpu.usable
    assert hour.gpu.usable
    assert smallest.gpu.usable <= hour.gpu.usable
    assert hour.cost
    assert labels["cheapest"].cost
    assert hour.cost.usd_per_hour <= labels["cheapest"].cost.usd_per_hour


# full fine-tuning of 7e9 parameters at 16, 10, 9.5 and 12 bytes each, as articles count them, without activations:
# (optimizer with the article's own bytes per parameter, 80 GB GPUs it needs)
ARTICLES = [
    ("adamw", 2),
    ({"name": "adamw-8bit", "bytes_per_parameter": 2}, 1),
    ({"name": "adafactor", "bytes_per_parameter": 1.5}, 1),
    ({"name": "sgd", "momentum": 0.9}, 2),
]


@pytest.mark.parametrize(("optimizer", "gpus"), ARTICLES)
def test_the_gpus_that_articles_count(optimizer: Any, gpus: int) -> None:
    run = {"model": "7b", "precision": "mixed-fp16", "optimizer": optimizer, "gpu": "80GB"}
    answer = recommend(
        run, gpus="1..8", vary={"optimizer": [optimizer], "sharding": ["zero3"]}, keep=["precision", "offload"]
    )
    fewest = next(choice for choice in answer.recommendations if "fewest GPUs" in choice.labels)
    assert fewest.gpu.count == gpus


def test_optimizers_that_need_tuning_are_a_last_resort() -> None:
    """T5 is trained with Adafactor; a language model gets it only where nothing else fits."""
    language = recommend({"model": "llama-3-8b", "gpu": "h100-80gb"}, gpus="1")
    assert all(change.level != "tuning" for choice in language.recommendations for change in choice.changes)
    t5 = recommend({"model": "t5-small", "gpu": "rtx-4090"}, gpus="1", keep=["attention", "offload", "precision"])
    assert t5.task == "t5"
    assert "adafactor" in t5.search.axes["optimizer"]


def test_a_rejected_neighbour_says_by_how_much_and_where() -> None:
    answer = recommend({"model": "llama-3-8b", "gpu": "h100-80gb"}, gpus="1")
    assert answer.rejected
    places = ("the forward pass", "the backward pass", "the loss", "the optimizer step", "what the allocator reserves")
    for one in answer.rejected:
        assert one.over
        assert one.over > 0
        assert one.where in places
        assert f" over in {one.where}" in one.reason


def test_what_a_switch_spares_is_the_difference_it_makes() -> None:
    answer = recommend({"model": "llama-3-8b", "gpu": "h100-80gb"}, gpus="1", keep=["implementation"])
    for choice in answer.recommendations:
        for change in choice.changes:
            if change.saves is not None:
                without = estimate({**choice.run, change.path: change.before}).memory.peak_allocated
                assert without - choice.memory.peak_allocated == change.saves, change


def test_every_part_of_a_step_can_be_named() -> None:
    """Optimizers that step in the backward pass, with what they leave in host memory, are followed as well."""
    answer = recommend(
        {"model": "llama-3-8b", "gpu": "rtx-4090"}, gpus="1", method="full", vary={"optimizer": ["lomo"]}
    )
    assert answer.recommendations
    assert answer.rejected


def test_a_run_that_fits_by_a_hair_is_said_to() -> None:
    answer = recommend({"model": "llama-3-70b", "gpu": "h100-80gb"}, gpus="8", keep=["attention", "parallel"])
    for choice in answer.recommendations:
        assert choice.verdict.headroom is not None
        assert choice.gpu.usable is not None
        told = any("to spare: ask for more" in hint for hint in choice.hints)
        assert told == (choice.verdict.headroom < choice.gpu.usable // 50)
