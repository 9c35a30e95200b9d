"""Beam: sums weighed by depth."""

from __future__ import annotations

from memcalc.blocks.base import Residual
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class WeighedResidual(Residual):
    """a x + b f(x), with two numbers that depend on the layer (transformers, depth_scaled_residual_add)."""
