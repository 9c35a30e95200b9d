"""Adapters on the tape: which methods have a rule, and that each of them passes the gradient on."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.adapters.cards import card
from memcalc.adapters.methods import BUILDERS
from memcalc.tape.hf.methods import FOLLOWED

MODEL = {"model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
WORDS: dict[str, dict[str, Any]] = {
    "c3a": {"rank": 64}, "vblora": {"options": {"vector_length": 64}}, "boft": {"options": {"boft_block_size": 8}},
    "adaption-prompt": {"options": {"adapter_len": 10, "adapter_layers": 2}}, "osf": {"rank": 100},
    "psoft": {"rank": 8}, "cpt": {"virtual_tokens": 4},
}  # fmt: skip
CARDS = [m for m in BUILDERS if "followed" in card(m)]


def test_presets_say_which_methods_have_a_rule() -> None:
    assert {method for method in CARDS if card(method)["followed"]} == set(FOLLOWED)


METHODS = [*CARDS, "adaption-prompt", "cpt", "multitask-prompt", "cartridge"]
PAIRS = [(method, mode) for method in METHODS for mode in ("none", "full") if (method, mode) != ("cartridge", "full")]


@pytest.mark.parametrize(("method", "checkpointing"), PAIRS)  # peft refuses the pair that is left out
def test_the_gradient_reaches_every_parameter(method: str, checkpointing: str) -> None:
    found = estimate({"model": MODEL, "lora": {"method": method, **WORDS.get(method, {})}, "precision": "bf16",
                      "batch_size": 2, "seq_len": 64, "checkpointing": checkpointing})  # fmt: skip
    codes = {note.code for note in found.warnings}
    assert not codes & {"tape-failed", "block-not-modelled", "activations-not-included"}
    assert ("adapter-not-followed" in codes) != card(method)["followed"]
    assert found.memory.components.activations > 0
    assert found.memory.components.gradients >= 2 * found.model.trainable


@pytest.mark.parametrize("words", [
    {"method": "lily"}, {"method": "lily", "options": {"stride_A": 2}, "targets": ["q_proj", "o_proj", "down_proj"]},
    {"method": "tinylora"}, {"method": "unilora"},
], ids="-".join)  # fmt: skip
def test_what_groups_of_layers_share_has_a_gradient_each(words: dict[str, Any]) -> None:
    """When the optimizer steps all gradients are there, though one group's tensors stand for like ones of the others."""
    found = estimate({"model": {**MODEL, "num_hidden_layers": 7}, "lora": {"rank": 16, **words}, "precision": "bf16",
                      "optimizer": "sgd", "batch_size": 1, "seq_len": 64, "checkpointing": "none"}).memory  # fmt: skip
    small = 24 * 1024  # the inputs, and what is left of a grain of 512 bytes for each of up to 42 small gradients
    assert 0 <= found.phases.optimizer - found.persistent <= small
