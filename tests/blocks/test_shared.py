"""A module that runs in two places."""

from __future__ import annotations

from memcalc.blocks.base import sequence
from memcalc.blocks.basic import Linear, Norm
from memcalc.blocks.shared import Shared
from memcalc.tensors import parameter_count, tensors

MODULE = sequence(Norm("norm", 2), Linear("up", 2, 3))


def test_a_shared_modules_tensors_are_the_owners() -> None:
    ties = {t.name: t.tied_to for t in tensors(Shared("again", MODULE, "first"))}
    assert ties == {"again.norm.weight": "first.norm.weight", "again.up.weight": "first.up.weight"}


def test_a_shared_module_adds_no_parameters() -> None:
    assert parameter_count(tensors(Shared("again", MODULE, "first"))) == 0
