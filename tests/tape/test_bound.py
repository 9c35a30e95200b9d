"""Where there is no rule, an upper bound: above what the same block keeps where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc import estimate
from memcalc.blocks.attention import Attention
from memcalc.blocks.mlp import Mlp
from memcalc.known import forget
from memcalc.tape import rules

if TYPE_CHECKING:
    from memcalc.blocks.base import Block

RUN = {"model": "llama-3.2-1b", "precision": "bf16", "seq_len": 1024}


@pytest.mark.parametrize("kind", [Mlp, Attention])
def test_a_block_without_a_rule_is_bounded_from_above_and_said(
    kind: type[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = estimate(RUN)
    forget()
    monkeypatch.setattr(rules, "_RULES", {key: rule for key, rule in rules._RULES.items() if key[0] is not kind})  # noqa: SLF001
    monkeypatch.setattr(rules, "_MISSING", {(kind, "")})
    bounded = estimate(RUN)
    forget()
    assert bounded.memory.components.activations > known.memory.components.activations
    assert bounded.memory.phases.forward > known.memory.phases.forward
    assert bounded.memory.phases.backward > known.memory.phases.backward
    assert bounded.memory.phases.optimizer == known.memory.phases.optimizer
    assert bounded.memory.components.gradients == known.memory.components.gradients
    assert [note.code for note in bounded.warnings] == ["block-not-modelled"]
    assert not known.warnings
