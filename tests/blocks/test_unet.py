"""Blocks of UNets: the order of their parts."""

from __future__ import annotations

from memcalc.blocks.basic import Conv, Norm
from memcalc.blocks.unet import ResBlock


def test_the_parts_of_a_residual_block_run_in_order_and_may_be_absent() -> None:
    norm, conv = Norm("norm1", 4, "group"), Conv("conv1", 4, 4, (3, 3))
    assert ResBlock("", norm, conv).parts() == (norm, conv)
    assert ResBlock("", norm, conv, shortcut=Conv("short", 4, 4, (1, 1))).parts()[-1].name == "short"
