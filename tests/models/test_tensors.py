"""The tensors of every preset and of every reference config.json equal those of the real model, one by one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.architectures import build
from memcalc.presets import find
from tests.models.reference import CONFIGS, configured, differences, facts, measured

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.tensors import Tensor

MEASURED = measured()
CONFIGURED = configured()


@lru_cache(maxsize=400)
def preset(name: str) -> tuple[dict[str, Any], Model]:
    card = find("models", name)
    return card, build(card["architecture"], card["dimensions"], name)


def unique(groups: tuple[Tensor, ...], *, trainable: bool = False) -> int:
    return sum(t.parameters for t in groups if t.trainable or not trainable)


@pytest.mark.parametrize("name", MEASURED)
def test_a_presets_tensors_are_the_real_ones(name: str) -> None:
    _, model = preset(name)
    assert differences(model.tensors, MEASURED[name]) == []


@pytest.mark.parametrize("name", MEASURED)
def test_a_presets_counts_are_the_published_ones(name: str) -> None:
    card, model = preset(name)
    assert model.parameters == card["parameters"]
    assert unique(model.tensors, trainable=True) == card.get("trainable", card["parameters"])


@pytest.mark.parametrize("name", MEASURED)
def test_no_name_stands_for_two_tensors(name: str) -> None:
    _, model = preset(name)
    names = [t.name for t in model.tensors]
    assert len(names) == len(set(names))
    assert sum(t.count for t in model.tensors) == len({fact[0] for fact in facts(model.tensors)})


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_config_json_yields_the_real_tensors(name: str) -> None:
    config, groups = CONFIGURED[name]
    model = build(config["model_type"], config, name)
    assert differences(model.tensors, groups) == []


def test_every_reference_config_has_its_tensors() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} <= set(CONFIGURED)
