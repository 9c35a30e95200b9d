"""The search space: what is tried, and what is never generated."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid, UnknownName, UsageError
from memcalc.gpus import gpu
from memcalc.models import load_model
from memcalc.presets import find, names
from memcalc.recommender.legality import goes_with, named, runs_on
from memcalc.recommender.pareto import front, thinned
from memcalc.recommender.space import Space, space
from memcalc.recommender.tasks import task_of
from memcalc.recommender.wishes import Wishes, by_method, cards_of, counts_of, methods, numbers, suited
from memcalc.validation import parse_run


def around(
    cards: tuple[str, ...] = ("h100-80gb",), counts: tuple[int, ...] = (1,), tuning: bool = False, **run: Any
) -> Space:
    asked = parse_run({"model": "llama-3-8b", **run})
    model = load_model(asked.model)
    return space(asked, model, task_of(None, asked, model), tuple(map(gpu, cards)), counts, given={}, tuning=tuning)


def test_one_gpu_shares_nothing_and_several_always_do() -> None:
    for shape in around(counts=(1, 8)).shapes:
        assert (shape.sharding is None) == (shape.gpus == 1) or shape.gpus == 8
        assert (
            shape.gpus == 1
            or not shape.offload.startswith("optimizer")
            or (shape.sharding is not None and shape.sharding.strategy != "ddp")
        )


def test_packed_weights_are_not_shared_out_by_zero() -> None:
    shapes = around(counts=(8,), lora=16, quantize="nf4").shapes
    assert {shape.sharding.strategy if shape.sharding else "ddp" for shape in shapes} == {"ddp", "fsdp"}


def test_bitsandbytes_is_not_stepped_under_fsdp() -> None:
    found = around(counts=(8,))
    fsdp = next(shape for shape in found.shapes if shape.sharding and shape.sharding.strategy == "fsdp")
    libraries = {named(spec).library for spec in found.steps(fsdp, gpu("h100-80gb"))}
    assert "bitsandbytes" not in libraries
    assert "torchao" in libraries


def test_old_gpus_get_fp16_and_no_flash() -> None:
    found = around(("v100-32gb",))
    assert {shape.precision for shape in found.shapes} == {"mixed-fp16", "amp-fp16"}
    assert {shape.attention for shape in found.shapes} == {"sdpa"}
    base = parse_run({"model": "llama-3-8b"})
    new = [shape for shape in found.shapes if runs_on(shape, gpu("h100-80gb"), base)]
    assert new == []  # where there is bf16, fp16 is not tried unless it was asked for


def test_a_tpu_runs_no_cuda_kernels() -> None:
    found = around(("tpu-v5p",))
    assert found.shapes
    for shape in found.shapes:
        assert shape.implementation == "hf"
        assert not goes_with("adamw-8bit", shape, gpu("tpu-v5p"))


def test_optimizers_by_task() -> None:
    """From the decision table of rules of thumb: T5 gets Adafactor, QLoRA paged 8-bit AdamW, vision SGD with momentum."""
    expected = {"t5-small": "adafactor", "resnet-50": "sgd-momentum", "llama-3-8b": "adamw", "sdxl-unet": "adamw-8bit"}
    for name, first in expected.items():
        run = parse_run({"model": name})
        assert task_of(None, run, load_model(name)).optimizers[0][0] == first, name
    adapted = parse_run({"model": "llama-3-8b", "lora": 16, "quantize": "nf4"})
    assert task_of(None, adapted, load_model("llama-3-8b")).optimizers[0][0] == "paged-adamw-8bit"


def test_every_task_names_optimizers_that_exist_and_says_why() -> None:
    assert set(names("tasks")) == {"language", "t5", "vision", "detection", "diffusion", "qlora"}
    for name in names("tasks"):
        card = find("tasks", name)
        assert card["source"]
        for entry in card["optimizers"]:
            assert named(entry["name"]).name == entry["name"]
            assert entry["why"]


def test_an_unknown_task_or_method_names_the_nearest() -> None:
    run = parse_run({"model": "llama-3-8b"})
    with pytest.raises(UnknownName, match="vision"):
        task_of("visoin", run, load_model("llama-3-8b"))
    with pytest.raises(UsageError, match="did you mean qlora"):
        by_method(run, "qlor")


def test_methods_in_order_of_intrusiveness() -> None:
    assert methods(parse_run({"model": "gpt2"}), None) == ("full", "lora", "qlora")
    assert methods(parse_run({"model": "gpt2", "lora": 8}), None) == ("lora", "qlora")
    assert methods(parse_run({"model": "gpt2", "lora": 8}), "full") == ("full",)


def test_tuning_is_opt_in() -> None:
    drop_in = {named(spec).name for spec in around().optimizers}
    assert {"adafactor", "lion", "came"} & drop_in == set()
    assert {"adafactor", "lion", "came"} <= {named(spec).name for spec in around(tuning=True).optimizers}


NUMBERS = [
    ("8", (8,)),
    ("1,2,4", (1, 2, 4)),
    ("8..64", (8, 16, 32, 64)),
    ("3..20", (3, 6, 12, 20)),
    ("1,8..16", (1, 8, 16)),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_numbers_of_gpus(text: str, expected: tuple[int, ...]) -> None:
    assert numbers(text, "gpus") == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "8..4", "a", "1,,2", "8..", "1e99"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(RunInvalid, match="gpus"):
        numbers(text, "gpus")


def test_how_many_gpus_without_being_told() -> None:
    """A node first, then a cluster; one GPU where the GPU itself is the question."""
    run = parse_run({"model": "gpt2", "gpu": "h100-80gb"})
    assert counts_of(run, Wishes(), cards_of(run, Wishes())) == ((1, 2, 4, 8), (16, 32, 64))
    assert counts_of(parse_run({"model": "gpt2", "gpu": "h100-80gb", "gpus": 4}), Wishes(), ()) == ((4,), ())
    open_ = parse_run({"model": "gpt2"})
    assert counts_of(open_, Wishes(), cards_of(open_, Wishes()))[0] == (1,)
    assert {card.vendor for card in cards_of(open_, Wishes())} == {"nvidia", "amd", "intel"}


def test_a_front_is_what_no_other_beats() -> None:
    points = [(float(a), float(b), float((a * 7 + b * 3) % 5)) for a in range(7) for b in range(7)]
    kept = front(points, lambda p: p)
    for point in points:
        beaten = any(all(x <= y for x, y in zip(other, point, strict=True)) and other != point for other in points)
        assert (point in kept) != beaten
    assert front(points, lambda p: p, lambda p: p[2]) == sorted(kept, key=lambda p: (p[2], p)) or sorted(
        front(points, lambda p: p, lambda p: p[2])
    ) == sorted(kept)


def test_equal_points_stay_once() -> None:
    assert front([(1.0, 1.0), (1.0, 1.0), (2.0, 0.0)], lambda p: p) == [(1.0, 1.0), (2.0, 0.0)]
    assert thinned(list(range(100)), 4) == [0, 33, 66, 99]


def test_adapters_go_where_a_model_takes_them() -> None:
    """All linear layers; of Falcon-H1, whose kernels bypass out_proj, those of attention."""
    plain = by_method(parse_run({"model": "llama-3-8b"}), "lora")
    assert suited(plain, None) == plain
    assert plain.lora
    assert plain.lora.targets == "all-linear"
    hybrid = suited(by_method(parse_run({"model": "falcon-h1-3b"}), "lora"), None)
    assert hybrid.lora
    assert hybrid.lora.targets == ("q_proj", "k_proj", "v_proj", "o_proj")
