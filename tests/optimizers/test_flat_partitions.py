"""Optimizers of matrices over ZeRO's flat partitions: what they orthogonalise is a matrix, never a row of all parameters."""

from __future__ import annotations

import pytest

from memcalc import estimate


@pytest.mark.parametrize("name", ["muon", "adago", "adamuon", "normuon", "deepspeed-muon"])
def test_a_partition_is_no_matrix(name: str) -> None:
    run = {"model": "gpt2", "optimizer": name, "precision": "bf16", "gpus": 4, "sharding": "zero1"}
    memory = estimate(run).memory
    assert memory.components.temporary < 16 * memory.components.weights
