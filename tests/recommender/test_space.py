"""The search space: what is tried, and what is never generated."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from memcalc.errors import UnknownName, UsageError
from memcalc.gpus import gpu
from memcalc.model import Kind
from memcalc.models import load_model
from memcalc.presets import find, names
from memcalc.recommender.legality import goes_with, named, runs_on
from memcalc.recommender.space import Space, space
from memcalc.recommender.tasks import task_of
from memcalc.recommender.wishes import by_method
from memcalc.run.validation import parse_run


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


def test_a_trainers_own_loss_has_no_other_in_its_place() -> None:
    assert {shape.loss.kind for shape in around(loss="fused-log-probs").shapes} == {"fused-log-probs"}
    assert {shape.loss.kind for shape in around().shapes} > {"fused-linear"}


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
    expected = {"t5-small": "adafactor", "resnet-50": "sgd-momentum", "llama-3-8b": "adamw", "sdxl-unet": "adamw-8bit",
                "yolos-tiny": "sgd-momentum"}  # fmt: skip
    for name, first in expected.items():
        run = parse_run({"model": name})
        assert task_of(None, run, load_model(name)).optimizers[0][0] == first, name
    adapted = parse_run({"model": "llama-3-8b", "lora": 16, "quantize": "nf4"})
    assert task_of(None, adapted, load_model("llama-3-8b")).optimizers[0][0] == "paged-adamw-8bit"


def test_every_kind_of_model_has_one_task() -> None:
    """A classifier of texts is trained as a language model is; those of images are of the kind `image`."""
    claimed = [kind for name in names("tasks") for kind in find("tasks", name).get("kinds", ())]
    assert sorted(claimed) == sorted(set(get_args(Kind)) - {"tensors"})
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    assert task_of(None, parse_run({"model": config}), load_model(config)).name == "language"


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


def test_tuning_is_opt_in() -> None:
    drop_in = {named(spec).name for spec in around().optimizers}
    assert {"adafactor", "lion", "came"} & drop_in == set()
    assert {"adafactor", "lion", "came"} <= {named(spec).name for spec in around(tuning=True).optimizers}
