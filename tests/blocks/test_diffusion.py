"""Blocks that every denoiser has: the order of their parts."""

from __future__ import annotations

from memcalc.blocks.basic import Linear
from memcalc.blocks.diffusion import Modulation


def test_a_modulation_makes_its_condition_first() -> None:
    linear, vector = Linear("linear", 4, 24), Linear("emb", 4, 4)
    assert Modulation("norm1", linear, 6, vector).parts() == (vector, linear)
