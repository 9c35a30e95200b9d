"""MobileBERT, Luke and wav2vec 2.0's kin: parameters as transformers 5.23 counts them, and what stands idle."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.blocks.base import Unused
from memcalc.blocks.speech import ConformerConvolution, FeatureProjection
from memcalc.errors import RunInvalid
from tests.architectures.walk import kinds


@pytest.mark.parametrize(
    ("model_type", "name", "config", "parameters"),
    [
        ("mobilebert", "MobileBertForMaskedLM", {}, 36_596_538),
        ("mobilebert", "MobileBertModel", {"use_bottleneck_attention": True}, 23_664_896),
        ("luke", "LukeForMaskedLM", {}, 314_445_435),
        ("luke", "LukeForQuestionAnswering", {}, 273_911_554),
        ("unispeech", "UniSpeechForCTC", {}, 94_396_320),
        ("unispeech-sat", "UniSpeechSatForXVector", {}, 100_482_908),
        ("data2vec-audio", "Data2VecAudioForCTC", {}, 93_188_896),
        ("wav2vec2-conformer", "Wav2Vec2ConformerForCTC", {"vocab_size": 32}, 179_754_912),
        ("wav2vec2-conformer", "Wav2Vec2ConformerModel", {"position_embeddings_type": "rotary"}, 172_633_984),
    ],
)
def test_parameters_are_those_of_the_librarys_class(
    model_type: str, name: str, config: dict[str, Any], parameters: int
) -> None:
    assert build(model_type, {**config, "architectures": [name]}).parameters == parameters


def test_queries_as_wide_as_the_bottleneck_need_one() -> None:
    with pytest.raises(RunInvalid, match="key_query_shared_bottleneck"):
        build("mobilebert", {"key_query_shared_bottleneck": False})


def test_lukes_entities_are_idle_where_none_are_given() -> None:
    model = build("luke", {"num_hidden_layers": 2})
    idle = {tensor.name.rpartition(".")[0] for tensor in model.tensors if tensor.idle}
    assert "luke.entity_embeddings.entity_embeddings" in idle
    assert "luke.encoder.layer.{0..1}.attention.self.w2e_query" in idle
    assert "luke.encoder.layer.{0..1}.attention.self.query" not in idle


def test_a_conformers_convolution_sees_both_sides_or_past_frames_alone() -> None:
    both, past = (
        kinds(build(name, {"vocab_size": 32}), ConformerConvolution)[0]
        for name in ("wav2vec2-conformer", "wav2vec2-bert")
    )
    assert (both.ahead, both.turned) == (0, False)
    assert (past.ahead, past.turned) == (30, True)


def test_wav2vec2_bert_reads_frames_and_the_others_a_waveform() -> None:
    frames = {
        name: kinds(build(name, {"vocab_size": 32}), FeatureProjection)[0].frames
        for name in ("wav2vec2-bert", "wav2vec2-conformer", "wav2vec2", "hubert")
    }
    assert frames == {"wav2vec2-bert": 160, "wav2vec2-conformer": 0, "wav2vec2": 0, "hubert": 0}


def test_a_decoder_alone_has_its_cross_attention_but_does_not_run_it() -> None:
    alone = build("bart", {"architectures": ["BartForCausalLM"]})
    whole = build("bart", {"architectures": ["BartForConditionalGeneration"]})
    assert any("encoder_attn" in tensor.name and tensor.idle for tensor in alone.tensors)
    assert not any("encoder_attn" in tensor.name and tensor.idle for tensor in whole.tensors)


def test_a_table_that_nothing_is_tied_to_is_idle() -> None:
    for tied in (True, False):
        model = build("pegasus", {"tie_word_embeddings": tied})
        shared = next(tensor for tensor in model.tensors if tensor.name == "model.shared.weight")
        assert shared.idle is not tied
    assert kinds(build("deberta-v2", {"norm_rel_ebd": "layer_norm", "relative_attention": False}), Unused)


def test_a_nystromformer_of_fewer_landmarks_is_refused() -> None:
    """Its mask [batch, 1, seq, seq] does not fit scores of landmarks (modeling_nystromformer.py)."""
    with pytest.raises(RunInvalid, match="num_landmarks"):
        build("nystromformer", {"num_landmarks": 32})
