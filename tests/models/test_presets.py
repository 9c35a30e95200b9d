"""What every model preset must hold, whether or not its tensors were measured."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.architectures import build
from memcalc.presets import find, has, names

if TYPE_CHECKING:
    from memcalc.model import Model

NAMES = names("models")


@lru_cache(maxsize=400)
def preset(name: str) -> tuple[dict[str, Any], Model]:
    card = find("models", name)
    return card, build(card["architecture"], card["dimensions"], name)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_an_architecture_and_says_where_its_count_comes_from(name: str) -> None:
    card = find("models", name)
    assert has("architectures", card["architecture"])
    assert set(card) <= {"id", "aliases", "architecture", "dimensions", "parameters", "trainable", "active", "source"}
    assert {"parameters", "confidence"} <= set(card["source"])


@pytest.mark.parametrize("name", NAMES)
def test_a_presets_tensors_add_up_to_its_parameters(name: str) -> None:
    card, model = preset(name)
    assert model.parameters == card["parameters"]


def test_there_are_all_the_presets() -> None:
    assert len(NAMES) >= 317
