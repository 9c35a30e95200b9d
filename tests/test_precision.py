"""Precision recipes: bytes per parameter of each, the frameworks' names for them, and overrides."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from memcalc import presets
from memcalc.errors import RunInvalid, UnknownName
from memcalc.precision import DEFAULT, recipe

# bytes of (weights, master copy, gradients and their copy, two Adam states)
BYTES = {
    "fp64": (8, 0, 8, 16),
    "fp32": (4, 0, 4, 8),
    "bf16": (2, 0, 2, 4),
    "fp16": (2, 0, 2, 4),
    "bf16-autocast": (2, 0, 2, 4),
    "amp-bf16": (4, 0, 4, 8),
    "amp-fp16": (4, 0, 4, 8),
    "amp-fp8": (4, 0, 4, 8),
    "mixed-bf16": (2, 4, 2, 8),  # arXiv:1910.02054, 3.1: 16 bytes
    "mixed-fp16": (2, 4, 2, 8),
    "mixed-bf16-fp32-grads": (2, 4, 4, 8),
    "megatron-bf16": (2, 4, 4, 8),  # Megatron-LM dist_optimizer.md: 18 bytes
    "megatron-fp16": (2, 4, 6, 8),  # Megatron-LM dist_optimizer.md: 20 bytes
    "megatron-fp8": (2, 4, 4, 8),
    "transformer-engine": (2, 0, 2, 4),
    "torchao-fp8": (2, 0, 2, 4),
    "ms-amp-o1": (2, 0, 1, 8),  # the table of MS-AMP: FP16 weights, FP8 gradients, FP32 + FP32 states
    "bf16-fp32-states": (2, 0, 2, 8),
    "fp32-bf16-states": (4, 0, 4, 4),
    "bf16-stochastic-rounding": (2, 0, 2, 4),
}
WIDTH = {"": 0, "fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
NAMES: list[tuple[Any, str]] = [
    ("bf16-true", "bf16"), ("pure_bf16", "bf16"), ("pure-bf16", "bf16"), ("torch.bfloat16", "bf16"), ("BF16", "bf16"),
    ("bf16-mixed", "amp-bf16"), ("amp_bf16", "amp-bf16"), ("16-mixed", "amp-fp16"), (16, "amp-fp16"),
    ("32-true", "fp32"),
    (32, "fp32"), ("64-true", "fp64"), ("16-true", "fp16"), ("O0", "fp32"), ("O1", "amp-fp16"), ("O2", "mixed-fp16"),
    ("O3", "fp16"), ("mixed_bf16", "mixed-bf16"), ("mixed bf16", "mixed-bf16"), ("deepspeed", "mixed-bf16"),
    ("megatron", "megatron-bf16"), ("megatron_amp_O2", "megatron-bf16"), ("fp8", "megatron-fp8"), (None, "mixed-bf16"),
    ("transformer-engine", "transformer-engine"), ("float8", "torchao-fp8"), ("float16", "fp16"), ("half", "fp16"),
    (False, "fp32"), ("no", "fp32"), ("float32", "fp32"), ("stochastic-rounding", "bf16-stochastic-rounding"),
    ("hf-bf16", "bf16-autocast"), ("apex-o2", "megatron-fp16"), (" bf16 ", "bf16"), ("ms-amp", "ms-amp-o1"),
]  # fmt: skip


def test_every_recipe_is_in_the_table() -> None:
    assert set(presets.names("precisions")) == set(BYTES)


@pytest.mark.parametrize(("name", "expected"), BYTES.items())
def test_bytes_per_parameter(name: str, expected: tuple[int, int, int, int]) -> None:
    found = recipe(name)
    gradients = WIDTH[found.gradients] + WIDTH[found.master_gradients]
    assert (WIDTH[found.weights], WIDTH[found.master], gradients, 2 * WIDTH[found.optimizer_dtype]) == expected
    assert found.bytes_per_parameter == sum(expected)


@pytest.mark.parametrize(("written", "name"), NAMES)
def test_the_frameworks_names(written: Any, name: str) -> None:
    assert recipe(written).name == name


def test_what_autocast_does() -> None:
    amp, cast = recipe("amp-bf16"), recipe("bf16-autocast")
    assert (amp.autocast, amp.autocast_cache, amp.compute, amp.frozen) == ("bf16", True, "bf16", "bf16")
    assert (cast.autocast, cast.autocast_cache) == ("bf16", False)  # nothing to cast, so nothing cached
    assert not recipe("mixed-bf16").autocast
    assert recipe("fp32").compute == "fp32"


OVERRIDES: list[tuple[dict[str, Any], int]] = [
    ({}, 16),
    ({"recipe": "bf16"}, 8),
    ({"recipe": "bf16", "optimizer_states": "fp32"}, 12),
    ({"recipe": "bf16", "optimizer_states": "float32"}, 12),
    ({"recipe": "mixed-bf16", "gradients": "fp32"}, 18),
    ({"recipe": "mixed-bf16", "master_weights": "none"}, 8),
    ({"recipe": "mixed-bf16", "master_weights": None}, 8),
    ({"recipe": "mixed-bf16", "master_weights": False}, 8),
    ({"recipe": "mixed-bf16", "weights": "fp32", "gradients": "fp32"}, 16),  # no master copy of what is as wide
    ({"recipe": "mixed-bf16", "optimizer_states": "bf16"}, 12),
    ({"recipe": "bf16", "master_weights": "torch.float32"}, 16),
    ({"gradients": "fp8"}, 15),
    ({"recipe": "megatron-fp16", "master_weights": "none"}, 8),
    ({"recipe": "fp32", "weights": "tf32"}, 16),
]


@pytest.mark.parametrize(("spec", "expected"), OVERRIDES)
def test_overrides(spec: dict[str, Any], expected: int) -> None:
    assert recipe(spec).bytes_per_parameter == expected


def test_overrides_of_compute() -> None:
    found = recipe({"recipe": "amp-bf16", "autocast": "none", "compute": "fp32"})
    assert (found.autocast, found.autocast_cache, found.compute, found.frozen) == ("", False, "fp32", "fp32")
    assert recipe({"recipe": "amp-bf16", "frozen": "fp32"}).frozen == "fp32"
    assert recipe({"recipe": "amp-bf16", "autocast_cache": False}).autocast_cache is False
    assert recipe({"recipe": "bf16"}) == recipe("bf16")


def test_the_storage_of_a_frozen_base_is_said_to_be_no_recipe() -> None:
    with pytest.raises(UnknownName, match="quantize: nf4, with lora"):
        recipe("NF4")


@pytest.mark.parametrize("name", ["bf17", "", "x" * 500, "int8", "../fp32", 7, "ampp"])
def test_an_unknown_recipe_names_the_nearest(name: Any) -> None:
    with pytest.raises(UnknownName, match="unknown precision recipe") as error:
        recipe(name)
    assert len(str(error.value)) < 300
    if name == "bf17":
        assert "bf16" in error.value.nearest
    with pytest.raises(UnknownName):
        recipe({"recipe": name})


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ({"weight": "bf16"}, ["precision.weight"]),
        ({"weights": "bf61", "gradients": "int8"}, ["precision.weights", "precision.gradients"]),
        ({"weights": None}, ["precision.weights"]),
        ({"weights": True}, ["precision.weights"]),
        ({"master_weights": True}, ["precision.master_weights"]),
        ({"optimizer_states": [1]}, ["precision.optimizer_states"]),
        ({"autocast_cache": "yes"}, ["precision.autocast_cache"]),
        ({"recipe": {"recipe": "bf16"}}, ["precision.recipe"]),
        ({1: 2}, ["precision.1"]),
        ([1], ["precision"]),
        (True, ["precision"]),
        (1.5, ["precision"]),
    ],
)
def test_every_wrong_key_and_dtype_is_a_fault(spec: Any, places: list[str]) -> None:
    with pytest.raises(RunInvalid) as error:
        recipe(spec)
    assert [fault.where for fault in error.value.faults] == places


def test_the_nearest_key_is_named() -> None:
    with pytest.raises(RunInvalid, match=r"precision\.master: no such key; nearest: .*master_weights"):
        recipe({"master": "fp32"})
    with pytest.raises(RunInvalid, match="nearest: bf16"):
        recipe({"weights": "bf61"})


@pytest.mark.parametrize("name", BYTES)
def test_every_preset_names_its_source(name: str) -> None:
    path = presets.path_of("precisions", name)
    assert path is not None
    assert path.read_text("utf-8").startswith("# A precision recipe")
    assert yaml.safe_load(path.read_text("utf-8"))["source"]
    assert recipe(name).title


def test_the_default() -> None:
    assert recipe() == recipe(DEFAULT)
