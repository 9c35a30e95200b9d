"""Temporaries of a step against peaks recorded from the libraries, and the way they add up."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.optimizers import Parameter, resolve

# Extra bytes live at the peak of `step()` (third step; dispatched tensor by tensor, CPU), over the parameters' bytes:
# nine weights of 128x128 but for a 256x256 in the middle, a model of three times its largest parameter.
# (how memcalc is asked, peak / largest parameter in fp32, the same in bf16)
RECORDED: list[tuple[dict[str, Any], float, float]] = [
    ({"name": "adamw", "implementation": "foreach"}, 3.0, 3.0),
    ({"name": "adamw", "implementation": "for-loop"}, 2.25, 2.25),
    ({"name": "adamw", "implementation": "fused"}, 0.0, 0.0),
    ({"name": "adamw", "implementation": "foreach", "amsgrad": True}, 3.0, 3.0),
    ({"name": "adam", "implementation": "foreach"}, 3.0, 3.0),
    ({"name": "adam", "implementation": "for-loop"}, 2.25, 2.25),
    ({"name": "adam", "implementation": "fused"}, 0.0, 0.0),
    ({"name": "adam", "implementation": "foreach", "weight_decay": 0.1}, 3.0, 3.0),
    ({"name": "sgd", "implementation": "foreach"}, 0.0, 0.0),
    ({"name": "sgd", "implementation": "foreach", "momentum": 0.9}, 0.0, 0.0),
    ({"name": "sgd", "implementation": "foreach", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, 3.0, 3.0),
    ({"name": "sgd", "implementation": "foreach", "weight_decay": 0.1}, 3.0, 3.0),
    ({"name": "sgd", "implementation": "for-loop", "momentum": 0.9}, 0.0, 0.0),
    ({"name": "sgd", "implementation": "fused", "momentum": 0.9}, 0.0, 0.0),
    ({"name": "nadam", "implementation": "foreach"}, 3.0, 3.0),
    ({"name": "nadam", "implementation": "for-loop"}, 2.25, 2.25),
    ({"name": "radam", "implementation": "foreach"}, 3.0, 3.0),
    ({"name": "radam", "implementation": "for-loop"}, 5.0, 5.0),  # after the warm-up; 2.0 in the first five steps
    ({"name": "adamax", "implementation": "foreach"}, 3.0, 3.0),
    ({"name": "adamax", "implementation": "for-loop"}, 1.0, 1.0),
    ({"name": "adagrad", "implementation": "foreach"}, 6.0, 6.0),
    ({"name": "adagrad", "implementation": "for-loop"}, 1.25, 1.25),
    ({"name": "adadelta", "implementation": "foreach"}, 6.0, 6.0),
    ({"name": "adadelta", "implementation": "for-loop"}, 2.25, 2.25),
    ({"name": "rmsprop", "implementation": "foreach"}, 3.0, 3.0),
    ({"name": "rmsprop", "implementation": "for-loop"}, 1.25, 1.25),
    ({"name": "rprop", "implementation": "foreach"}, 4.25, 4.5),
    ({"name": "rprop", "implementation": "for-loop"}, 3.0, 3.0),
    ({"name": "asgd", "implementation": "foreach"}, 3.0, 3.0),
    ({"name": "asgd", "implementation": "for-loop"}, 0.0, 0.0),
    ({"name": "adafactor", "library": "torch", "implementation": "foreach"}, 3.0, 3.0),
    ({"name": "adafactor", "library": "torch", "implementation": "for-loop"}, 1.258, 1.258),
    ({"name": "muon"}, 3.0, 5.0),
    ({"name": "adafactor"}, 2.2502, 8.5003),
    ({"name": "adafactor", "beta1": 0.9}, 2.008, 8.0159),
    ({"name": "came"}, 3.5001, 9.0001),
    ({"name": "lion"}, 2.0, 2.0),
    ({"name": "schedule-free-adamw"}, 3.0, 3.0),
    ({"name": "prodigy"}, 1.25, 1.25),
    ({"name": "adamw-8bit"}, 0.0, 0.0),
    ({"name": "adamw-32bit"}, 0.0, 0.0),
    ({"name": "galore-adamw"}, 3.5, 3.5),
    ({"name": "galore-adamw", "rank": 32}, 2.375, 2.375),
    ({"name": "galore-adafactor"}, 3.0, 8.0),
    ({"name": "galore-adafactor", "rank": 32}, 2.25, 6.5),
    ({"name": "apollo"}, 3.504, 3.504),
    ({"name": "apollo-mini"}, 2.0118, 2.0118),
    ({"name": "adopt"}, 6.0, 6.0),
    ({"name": "ademamix", "library": "pytorch_optimizer"}, 6.0, 6.0),
    ({"name": "came", "library": "pytorch_optimizer"}, 6.0198, 6.0198),
    ({"name": "adafactor", "library": "pytorch_optimizer"}, 7.5393, 3.0785),
    ({"name": "mars", "library": "pytorch_optimizer"}, 9.0001, 9.0001),
    ({"name": "prodigy", "library": "pytorch_optimizer", "implementation": "for-loop"}, 1.25, 1.25),
    ({"name": "stable-adamw", "library": "pytorch_optimizer"}, 3.0003, 9.0005),
    ({"name": "lamb"}, 3.0006, 3.0006),
    ({"name": "adabelief"}, 6.0, 6.0),
    ({"name": "soap", "library": "pytorch_optimizer"}, 6.0, 6.0),
    ({"name": "stable-adamw"}, 2.0, 2.0),
    ({"name": "adamw-optimi"}, 1.0, 1.0),
    ({"name": "adam-mini"}, 2.0117, 2.0117),
    ({"name": "adamw-8bit-torchao"}, 2.0079, 4.0157),  # the buffers of what TorchInductor compiles, all held to its end
]


def recorded_model(dtype: str) -> list[tuple[Parameter, int]]:
    small, large = Parameter((128, 128), dtype), Parameter((256, 256), dtype)
    return [(small, 4), (large, 1), (small, 4)]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("spec", "fp32", "bf16"), RECORDED)
def test_the_peak_of_a_step_is_the_recorded_one(spec: dict[str, Any], fp32: float, bf16: float, dtype: str) -> None:
    largest = 256 * 256 * (4 if dtype == "fp32" else 2)
    ratio = fp32 if dtype == "fp32" else bf16
    assert resolve(spec).step_peak(recorded_model(dtype)) / largest == pytest.approx(ratio, rel=0.015, abs=1e-9)


def test_dtypes_step_one_after_the_other_where_they_step_together() -> None:
    group = [(Parameter((100, 100), "bf16"), 3), (Parameter((10, 10), "fp32"), 2)]
    assert (
        resolve("adamw").step_peak(group) == 3 * 100 * 100 * 2 + 2 * 10 * 10 * 4
    )  # recorded: the first one's name lasts


def test_a_loop_holds_the_temporaries_of_the_one_before() -> None:
    loop = resolve({"name": "adamw", "implementation": "for-loop"})
    small, large = Parameter((10,), "fp32"), Parameter((1000,), "fp32")
    assert loop.step_peak([(small, 1), (large, 1)]) == 2 * 4000 + 40
    assert loop.step_peak([(large, 1), (small, 1)]) == 2 * 4000
    assert loop.step_peak([(large, 2)]) == 3 * 4000


def test_the_parameters_of_a_layer_take_turns_before_the_next_layer_does() -> None:
    loop = resolve({"name": "adamw", "implementation": "for-loop"})
    up, down, norm = ("layers.{0..3}." + name for name in ("up", "down", "norm"))
    layer = [
        (Parameter((10, 100), "fp32", name=up), 4), (Parameter((10, 10), "fp32", name=down), 4),
        (Parameter((10,), "fp32", name=norm), 4),
    ]  # fmt: skip
    assert loop.step_peak(layer) == 40 + 2 * 4000
    assert loop.step_peak([(Parameter((10, 100), "fp32"), 1), *layer]) == 4000 + 2 * 4000


def test_no_parameters_need_no_temporaries() -> None:
    assert resolve("adamw").step_peak([]) == 0


def test_a_bias_comes_right_behind_its_matrix_and_nothing_of_that_is_held_after_it() -> None:
    loop = resolve({"name": "adamw", "implementation": "for-loop"})
    layer = [
        (Parameter((10, 100), "fp32", name="layers.{0..3}.up.weight"), 4),
        (Parameter((100,), "fp32", name="layers.{0..3}.up.bias"), 4),
        (Parameter((100, 10), "fp32", name="layers.{0..3}.down.weight"), 4),
    ]
    plain = [entry for entry in layer if len(entry[0].shape) > 1]
    assert loop.step_peak(plain) == 4000 + 2 * 4000
    assert loop.step_peak(layer) == 4000 + 2 * 4000  # the next layer's first behind the last
    bias = (Parameter((10,), "fp32", name="layers.{0..3}.down.bias"), 4)
    assert loop.step_peak([*layer, bias]) == 400 + 2 * 4000


def test_what_only_matrices_let_go_of_outlives_the_vectors_between_them() -> None:
    came = resolve("came")
    up, bias, down = (
        Parameter(shape, "fp32", name=f"{name}")
        for shape, name in (((10, 100), "up.weight"), ((100,), "up.bias"), ((100, 10), "down.weight"))
    )
    assert came.step_peak([(up, 1), (down, 1)]) == (2 + 3) * 4000  # res and res_approx of the first
    behind = came.step_peak([(up, 1), (bias, 1), (down, 1)])
    assert behind == (1 + 3) * 4000 + 400 + 40  # update, res, res_approx of the first, the product and its two factors


# Recorded as above, on fake tensors, in bytes; a kernel's rows and columns are those of its last two axes
KERNELS: list[tuple[str | dict[str, Any], list[tuple[int, ...]], int]] = [
    ("came", [(10, 100), (100,), (100, 10)], 16452),
    ("came", [(64, 32, 1, 1)], 40964),
    ("came", [(64, 32, 1, 1), (64,), (32, 64, 1, 1)], 49164),
    ("came", [(64, 32, 3, 3), (64,), (32, 32, 3, 3)], 270340),
    ("came", [(96, 1, 4), (96,), (64, 96)], 75916),
    ({"name": "adafactor", "library": "torch"}, [(64, 32, 1, 1)], 32768),
    ({"name": "adafactor", "library": "torch"}, [(64, 32, 1, 1), (64,), (32, 64, 1, 1)], 33280),
    ({"name": "adafactor", "library": "torch"}, [(64, 32, 3, 3), (64,), (32, 32, 3, 3)], 131072),
    ({"name": "adafactor", "library": "torch"}, [(96, 1, 7, 7), (384, 96, 1, 1)], 608640),
]


@pytest.mark.parametrize(("spec", "shapes", "recorded"), KERNELS)
def test_rows_and_columns_of_kernels_may_be_as_large_as_these(
    spec: str | dict[str, Any], shapes: list[tuple[int, ...]], recorded: int
) -> None:
    group = [(Parameter(shape, "fp32", "conv", f"{number}.weight"), 1) for number, shape in enumerate(shapes)]
    assert 0 <= recorded - resolve(spec).step_peak(group) <= 12  # scalars of four bytes


def test_a_1x1_kernel_has_two_factors_of_its_own_size() -> None:
    """transformers 5.23, optimization.py Adafactor._approx_sq_grad: the update, both factors and their product."""
    kernel = Parameter((64, 32, 1, 1), "fp32", "conv", "weight")
    assert resolve("adafactor").step_peak([(kernel, 1)]) == 4 * 8192


def test_matrices_of_muon_and_the_others_of_adamw_do_not_step_at_once() -> None:
    """torch 2.13, optim/_muon.py: three matrices and two of the smaller side; AdamW's roots of all others together."""
    muon = resolve("muon")
    matrix, table = Parameter((64, 32), "bf16", "linear", "q.weight"), Parameter((512, 64), "bf16", "embedding", "e")
    alone = 3 * 64 * 32 * 2 + 2 * 32 * 32 * 2
    assert muon.step_peak([(matrix, 2)]) == alone
    assert muon.step_peak([(table, 1)]) == 512 * 64 * 2
    assert muon.step_peak([(table, 1), (matrix, 2)]) == 512 * 64 * 2


def test_names_that_are_all_held_are_given_away_one_by_one() -> None:
    """galore-torch 1.0, adamw.py: denom and norm_grad of what has no projection."""
    galore = resolve({"name": "galore-adamw", "rank": 4})
    stacks = [Parameter((2, 10, size), "fp32", "expert", f"experts.{size}") for size in (100, 50)]
    assert galore.step_peak([(stacks[0], 1)]) == 2 * 8000
    assert galore.step_peak([(stacks[0], 1), (stacks[1], 1)]) == 2 * 8000 + 4000
    assert galore.step_peak([(stacks[1], 1), (stacks[0], 1)]) == 4000 + 2 * 8000
