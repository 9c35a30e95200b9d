"""Speech models: their sources, convolutions and heads."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Residual
from memcalc.blocks.basic import Activation, Conv, Embedding, Norm
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.seq2seq import Encoder
from memcalc.blocks.speech import GatedBiasAttention, WeightNormConv
from memcalc.errors import RunInvalid
from tests.architectures.walk import every, kinds

WAVE: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40,
    "conv_dim": [8, 8, 10], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 2],
    "num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


def test_whisper_reads_twice_as_many_mel_frames_as_it_has_positions() -> None:
    encoder = kinds(build("whisper", {}), Encoder)[0]
    assert encoder.source == (80, 3000)
    assert [(conv.stride, conv.padding) for conv in every(encoder) if isinstance(conv, Conv)] == [(1, 1), (2, 1)]


def test_whispers_keys_have_no_bias_and_its_encoders_positions_are_not_trained() -> None:
    model = build("whisper", {})
    names = {tensor.name.rpartition(".layers.")[2] for tensor in model.tensors}
    assert not any(name.endswith("k_proj.bias") for name in names)
    trained = {b.rows: b.trainable for b in kinds(model, Embedding) if b.name == "embed_positions"}
    assert trained == {1500: False, 448: True}
    assert model.context == 448


def test_speech2text_halves_its_frames_in_each_convolution() -> None:
    encoder = kinds(build("speech_to_text", {}), Encoder)[0]
    assert encoder.source == (0, 80)
    assert [conv.stride for conv in every(encoder) if isinstance(conv, Conv)] == [2, 2]
    assert [a.function for a in every(encoder) if isinstance(a, Activation)] == ["glu", "glu"]


@pytest.mark.parametrize(("stable", "wanted"), [
    (False, ["Residual", "Attention", "Norm", "Residual", "Mlp", "Norm"]),
    (True, ["Residual", "Norm", "Attention", "Residual", "Norm", "Mlp"]),
])  # fmt: skip
def test_stable_layers_are_pre_norm(stable: bool, wanted: list[str]) -> None:
    model = build("wav2vec2", {**WAVE, "num_hidden_layers": 1, "do_stable_layer_norm": stable})
    found = [type(b).__name__ for b in every(model.body) if isinstance(b, (Residual, Norm, Attention, Mlp))]
    start = found.index("Attention") - (2 if stable else 1)
    assert found[start : start + 6] == wanted


@pytest.mark.parametrize(("kind", "norms"), [("group", ["group"]), ("layer", ["layer"] * 3)])
def test_features_are_normed_once_or_in_every_layer(kind: str, norms: list[str]) -> None:
    model = build("wav2vec2", {**WAVE, "feat_extract_norm": kind})
    stack = [b for b in kinds(model, Norm) if b.name == "layer_norm" and b.width == 8] if kind == "group" else None
    found = [b.kind for b in stack] if stack is not None else [b.kind for b in kinds(model, Norm)][:3]
    assert found == norms


def test_the_position_convolution_is_weight_normed_or_batch_normed() -> None:
    assert len(kinds(build("hubert", WAVE), WeightNormConv)) == 1
    batch = build("hubert", {**WAVE, "conv_pos_batch_norm": True})
    assert not kinds(batch, WeightNormConv)
    assert [b.name for b in kinds(batch, Norm) if b.kind == "batch"] == ["batch_norm"]


def test_wavlm_looks_its_biases_up_once_and_gates_them_everywhere() -> None:
    mixers = kinds(build("wavlm", WAVE), GatedBiasAttention)
    assert [bool(b.bias_table) for b in mixers] == [True, False]
    assert all(b.gate_rows for b in mixers)


def test_hubert_has_no_speaker_vectors() -> None:
    with pytest.raises(RunInvalid, match=r"model\.architectures.*ForXVector"):
        build("hubert", {**WAVE, "architectures": ["HubertForXVector"]})


def test_moonshines_decoder_is_gated_and_rotated_by_nine_tenths_of_a_head() -> None:
    model = build("moonshine", {})
    assert {mlp.fused for mlp in kinds(model, Mlp)} == {False, True}
    assert {b.rotary_dim for b in kinds(model, Attention) if not b.cross} == {32}  # 0.9 of 36
    assert {b.rotary_dim for b in kinds(model, Attention) if b.cross} == {0}
