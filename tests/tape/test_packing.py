"""Packing: the sequences of a micro batch in one row, and what tells them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.errors import RunInvalid
from memcalc.tape import functions as f
from memcalc.tape.hf.masks import packed_mask
from memcalc.tape.recorder import Tape
from memcalc.tape.setting import Setting
from memcalc.tape.weights import Weights
from tests.tape.tapes import live, parameter, peak, run_back

if TYPE_CHECKING:
    from memcalc.report import Memory

B, S, HEADS, LAYERS = 4, 512, 8, 2
T = B * S
LLAMA = {"model_type": "llama", "vocab_size": 8000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": LAYERS,
         "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "max_position_embeddings": 1024}  # fmt: skip


def memory(model: dict[str, Any] | str = "", **more: Any) -> Memory:
    return estimate({"model": model or LLAMA, "precision": "bf16", "batch_size": B, "seq_len": S, **more}).memory


def tape(sequences: int = B) -> Tape:
    return Tape(Setting(packed=sequences, compute="bf16"), Weights((), str))


def test_flash_attention_keeps_what_it_keeps_of_a_batch_and_where_sequences_begin() -> None:
    more = memory(attention="flash", packing=True).components.activations
    more -= memory(attention="flash").components.activations
    tables = 2 * 2 * (T - S) * 64  # cos and sin of every token, in bf16
    begins = LAYERS * 512
    labels = 8 * 512 - 512  # a batch's labels are shifted by a copy, a row's are not
    assert more == pytest.approx(begins + tables, abs=2**16 + labels)


def test_sdpa_gets_a_boolean_mask_of_the_row_and_makes_numbers_of_it_in_every_layer() -> None:
    more = memory(packing=True).components.activations - memory(attention="flash", packing=True).components.activations
    assert more == pytest.approx(LAYERS * 2 * T * T, abs=2**16)


def test_eager_scores_are_of_the_whole_row() -> None:
    whole = memory(attention="eager", packing=True).components.activations
    each = memory(attention="eager").components.activations
    assert whole - each == pytest.approx(LAYERS * HEADS * (4 + 2) * (T * T - B * S * S), rel=0.05)


@pytest.mark.parametrize(("windowed", "squares"), [(False, 3), (True, 4)])
def test_a_mask_is_joined_from_others_as_large(*, windowed: bool, squares: int) -> None:
    t = tape()
    mask = packed_mask(t, T, "bf16", "sdpa", windowed=windowed)
    assert mask is not None
    assert live(t) == T * T
    assert peak(t) == pytest.approx(squares * T * T, rel=0.02)


def test_flash_attention_of_packed_rows_rounds_up_each_sequence() -> None:
    def above(sequences: int) -> int:
        t = tape(sequences)
        q = parameter(t, 1, HEADS, T, 64, dtype="bf16")
        out = f.flash_attn(q, q, q)
        since, held = len(t.events), live(t)
        run_back(t, out)
        return peak(t, since) - held

    assert above(5) - above(4) == 128 * HEADS * (64 + 1) * 4


def test_positions_are_those_of_a_sequence() -> None:
    table = {"model_type": "gpt2", "vocab_size": 8000, "n_positions": S, "n_embd": 512, "n_layer": 2, "n_head": 8}
    assert memory(table, packing=True).peak_allocated > 0
    with pytest.raises(RunInvalid, match="learned positions"):
        memory(table, packing=True, seq_len=S + 1)


def test_only_causal_language_models_are_packed() -> None:
    with pytest.raises(RunInvalid, match="packing: sequences are packed into one row for causal language models"):
        memory("bert-base-uncased", packing=True)


def test_a_model_that_hands_on_no_positions_is_told() -> None:
    said = estimate({"model": "bloom-560m", "packing": True, "seq_len": 64}).assumptions
    assert "no mask from this model's positions" in next(note.message for note in said if note.path == "packing")
