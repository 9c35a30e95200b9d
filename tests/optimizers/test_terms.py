"""The small language of presets: sizes, conditions, shapes."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.optimizers.rules import shape_of
from memcalc.optimizers.terms import holds, size
from memcalc.optimizers.values import Parameter, Scene

SCENE = Scene(
    Parameter((6, 4, 10), "bf16", "linear", "layers.0.q_proj.weight"),
    {"rank": 3, "amsgrad": True, "beta1": None, "momentum": 0.9},
    {"low": {"min": ["rank", "smaller"]}},
    {"tall": {"axis0": {"min": "axis1"}}},
    "foreach",
    axis=1,
)


@pytest.mark.parametrize(
    ("term", "value"),
    [
        (7, 7), ("elements", 240), ("axis0", 6), ("axis1", 4), ("axis-1", 10), ("axis-2", 4), ("smaller", 4), ("larger", 10),
        ("ndim", 3), ("axis", 4), ("rank", 3), ("low", 3), ({"max": ["axis0", 8]}, 8), ({"times": ["rank", "axis0"]}, 18),
        ({"ceil": ["elements", 7]}, 35), ({"floor": ["elements", 7]}, 34), ({"round_up": ["elements", 7]}, 245),
        ({"plus": ["axis0", 1, 2]}, 9), ({"part": ["axis0", "momentum"]}, 6), ({"part": ["axis-1", 0.25]}, 3),
    ],
)  # fmt: skip
def test_sizes(term: Any, value: int) -> None:
    assert size(term, SCENE) == value


@pytest.mark.parametrize(
    ("condition", "true"),
    [
        ({}, True), ({"ndim": 3}, True), ({"ndim": {"min": 2, "max": 3}}, True), ({"ndim": {"below": 3}}, False),
        ({"elements": {"multiple_of": 16}}, True), ({"elements": {"multiple_of": 7}}, False), ({"dtype": ["fp16", "bf16"]}, True),
        ({"dtype": {"not": "bf16"}}, False), ({"role": "embedding"}, False), ({"name": {"contains": ["q_proj", "k_proj"]}}, True),
        ({"name": {"end": "bias"}}, False), ({"name": {"not": {"contains": ["q_proj"]}}}, False), ({"amsgrad": True}, True),
        ({"beta1": None}, True), ({"beta1": {"not": None}}, False),
        ({"beta1": {"above": 0}}, False),
        ({"momentum": {"above": 0}}, True), ({"implementation": ["foreach", "fused"]}, True), ("tall", True),
        ({"not": "tall"}, False), ({"all": ["tall", {"ndim": 2}]}, False),
        ({"any": [{"ndim": 2}, {"rank": 3}]}, True), ({"any": [{"ndim": 2}, {"rank": 4}]}, False),
        ({"low": {"min": "rank"}}, True),
    ],
)  # fmt: skip
def test_conditions(condition: Any, true: bool) -> None:
    assert holds(condition, SCENE) is true


@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        ("parameter", (6, 4, 10)), ("scalar", ()), ("flat", (240,)), ("rows", (6, 4)), ("columns", (6, 10)),
        ("along_axis", (1, 4, 1)), ({"per_block": 100}, (3,)), ({"stack": 2}, (2, 6, 4, 10)), ({"merged": 40}, (6, 40)),
        ({"merged": 39}, (6, 4, 10)), ({"keep": [0, 5]}, (6,)),
        ({"drop": [-1]}, (6, 4)),
        ({"one": [-2, 7]}, (6, 1, 10)), (["rank", "axis-1"], (3, 10)), ([], ()),
        ({"when": "tall", "then": "rows", "else": "columns"}, (6, 4)), ({"when": {"ndim": 2}, "then": "rows"}, (6, 4, 10)),
    ],
)  # fmt: skip
def test_shapes(rule: Any, shape: tuple[int, ...]) -> None:
    assert shape_of(rule, SCENE) == shape


@pytest.mark.parametrize("wrong", ["elemnts", "beta1", "momentum", "dtype", {"root": ["elements", 2]}])
def test_a_wrong_size_in_a_preset_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"size|unknown"):
        size(wrong, SCENE)


@pytest.mark.parametrize("wrong", ["row", {"per_blok": 3}])
def test_a_wrong_shape_in_a_preset_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="unknown shape"):
        shape_of(wrong, SCENE)


def test_what_is_kept_once_knows_no_parameter() -> None:
    once = Scene(None, {})
    with pytest.raises(ValueError, match="kept once"):
        size("elements", once)
    with pytest.raises(ValueError, match="kept once"):
        shape_of("rows", once)
