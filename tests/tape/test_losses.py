"""What the ways to compute the loss keep until the backward pass, for T tokens, a vocabulary of V and a width of H."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.errors import RunInvalid
from memcalc.models import load_model

CONFIG = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 8,
          "num_key_value_heads": 8, "vocab_size": 65_536, "num_hidden_layers": 2, "tie_word_embeddings": False}  # fmt: skip
T, V, H = 4 * 1024, 65_536, 1024
RUN = {"model": CONFIG, "precision": "bf16", "optimizer": "none", "batch_size": 4, "seq_len": 1024}
CLASSIFIER = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "hidden_size": 64, "vocab_size": 100,
              "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip


def kept(loss: Any) -> int:
    """Activations at the end of the forward pass, beyond those of a run without logits."""
    return estimate({**RUN, "loss": loss}).memory.components.activations - fused_linear()


def fused_linear() -> int:
    run = {**RUN, "loss": "fused-linear"}
    return estimate(run).memory.components.activations - 2 * T * H - 2 * V * H  # gradients of hidden states and weight


@pytest.mark.parametrize(
    ("loss", "kept_bytes"),
    [
        ("standard", 4 * T * V),  # log-softmax in fp32
        ("fused", 4 * T * V),  # the fp32 copy of the logits, over which the gradient is written
        ("chunked", 4 * T * V),  # every chunk's log-softmax
    ],
)
def test_what_a_loss_keeps(loss: str, kept_bytes: int) -> None:
    assert kept(loss) == pytest.approx(kept_bytes, rel=0.02)


@pytest.mark.parametrize(
    ("loss", "kept_bytes"),
    [
        ("log-probs", 2 * T * V),  # each row's log-softmax, in the dtype of the logits
        ("log-softmax", 4 * T * V),  # that of all rows, in fp32
        ("label-smoothing", 4 * T * V),  # the log-softmax and its negative
        ({"kind": "log-probs", "nll": True}, 3 * T * V),  # and that of the chosen half
        (
            "distillation",
            14 * T * V,
        ),  # both distributions, their mixture with its parts, and what of the divergences is read
        ("fused-log-probs", 2 * T * H),  # the rows whose tokens are scored
        ("kernel-log-probs", 2 * T * V),  # the logits themselves
        ({"kind": "kernel-log-probs", "fp32": True}, 4 * T * V),
        ({"kind": "kernel-log-probs", "entropy": True}, 2 * T * V),
    ],
)
def test_what_a_trainers_loss_keeps(loss: Any, kept_bytes: int) -> None:
    assert kept(loss) == pytest.approx(kept_bytes, rel=0.03)


@pytest.mark.parametrize("precision", ["bf16-autocast", "amp-bf16"])
def test_outside_of_autocast_logits_are_in_fp32(precision: str) -> None:
    made = [estimate({**RUN, "precision": precision, "loss": loss}).memory for loss in ("log-probs", "log-softmax")]
    assert made[0].components.activations == pytest.approx(made[1].components.activations, rel=0.01)


def test_tiles_are_as_wide_as_they_are_whatever_the_vocabulary() -> None:
    """A buffer of 4096 rows at most and 32768 columns, beside fp32 gradients of the hidden states and the head's weight."""
    run = {**RUN, "loss": "fused-log-probs", "checkpointing": "full"}
    found = estimate(run).memory
    ground = found.persistent - found.components.gradients
    least = 2 * 4092 * 32_768 + 4 * 4092 * H + 4 * V * H + 2 * V * H
    assert least < found.phases.backward - ground < 1.1 * least


@pytest.mark.parametrize("loss", ["log-probs", "fused-log-probs", "distillation"])
def test_they_are_of_language_models(loss: str) -> None:
    run = {"model": "bert-base", "precision": "bf16", "seq_len": 64}
    usual, asked = estimate(run), estimate({**run, "loss": loss})
    assert asked.memory == usual.memory
    assert [note.code for note in asked.warnings if note.path == "loss"] == ["standard-loss"]


@pytest.mark.parametrize(("model", "tokens"), [("t5-small", 8 * 32), ("bert-base", 8 * 64)])
def test_labels_of_other_models_are_smoothed_where_they_are(model: str, tokens: int) -> None:
    """Two copies in the dtype of the logits, in place of cross entropy's one: T5's in that dtype too, BERT's."""
    run = {"model": model, "precision": "bf16", "batch_size": 8, "seq_len": 64, "target_len": 32}
    usual, smoothed = estimate(run), estimate({**run, "loss": "label-smoothing"})
    vocabulary = {"t5-small": 32_128, "bert-base": 30_522}[model]
    more = smoothed.memory.components.activations - usual.memory.components.activations
    assert more == pytest.approx(2 * tokens * vocabulary, rel=0.01)
    assert not [note for note in smoothed.warnings if note.path == "loss"]


def test_the_head_alone_makes_tiles() -> None:
    """ModernBERT's decoder has a layer before its output embeddings, which a fused head passes over."""
    model = {"model_type": "modernbert-decoder", "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
             "vocab_size": 1031, "intermediate_size": 600}  # fmt: skip
    run = {"model": model, "precision": "bf16", "batch_size": 2, "seq_len": 512}
    fused = estimate({**run, "loss": "fused-log-probs"})
    assert not [note for note in fused.warnings if note.path == "loss"]
    assert fused.memory.phases.backward > 2 * 1022 * 32_768


def test_the_peak_of_the_standard_loss_is_twelve_bytes_a_logit() -> None:
    run = {**RUN, "checkpointing": "full"}
    peak = estimate(run).memory.phases.backward
    without = estimate({**run, "loss": "fused-linear"}).memory
    ground = without.persistent - without.components.gradients
    assert peak - ground == pytest.approx(12 * T * V, rel=0.02)


def test_chunks_shrink_the_peak_but_not_what_is_kept() -> None:
    peaks = [estimate({**RUN, "loss": {"kind": "chunked", "chunks": n}}).memory.phases.forward for n in (2, 8, 32)]
    assert peaks[0] > peaks[1] > peaks[2]


@pytest.mark.parametrize("loss", ["fused-linear", "chunked"])
@pytest.mark.parametrize("model", ["git-base", "blip-image-captioning-base"])
def test_logits_that_are_cut_before_the_loss_are_made_whole(model: str, loss: str) -> None:
    """GitForCausalLM and BlipTextLMHeadModel shift their logits themselves: no part of them has a loss of its own."""
    run = {"model": model, "precision": "bf16", "seq_len": 64}
    usual, asked = estimate(run), estimate({**run, "loss": loss})
    assert asked.memory == usual.memory
    assert [note.code for note in asked.warnings if note.path == "loss"] == ["standard-loss"]


@pytest.mark.parametrize(
    ("loss", "most"),
    [
        (
            "kernel-log-probs",
            8,
        ),  # the gradient where the logits were, copied twice on its way through `div_`, and divided
        ({"kind": "kernel-log-probs", "entropy": True}, 8),  # the entropy's gradient is added to, and goes that way too
        ({"kind": "kernel-log-probs", "fp32": True}, 8),  # the logits in fp32, and their gradient
    ],
)
def test_the_peak_of_a_kernels_log_probabilities(loss: Any, most: int) -> None:
    run = {**RUN, "checkpointing": "full", "loss": loss}
    without = estimate({**run, "loss": "fused-linear"}).memory
    ground = without.persistent - without.components.gradients
    assert estimate(run).memory.phases.backward - ground == pytest.approx(most * T * V, rel=0.03)  # and hidden states


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"num_labels": 1}, "regression"),
        ({"num_labels": 3}, ""),
        ({"num_labels": 3, "problem_type": "regression"}, "regression"),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, "multi-label"),
        ({"num_labels": 1, "architectures": ["LlamaForTokenClassification"]}, ""),
    ],
)
def test_what_a_classifier_is_asked_for(given: dict[str, Any], problem: str) -> None:
    assert load_model({**CLASSIFIER, **given}).problem == problem


def test_a_problem_that_there_is_not() -> None:
    with pytest.raises(RunInvalid, match="multi_label_classification"):
        load_model({**CLASSIFIER, "problem_type": "multi_label"})


def test_many_labels_of_each_image() -> None:
    """Kept are the logits and as many labels, in place of a log-softmax; both in the dtype of the model."""
    labels, batch = 20_000, 64
    model = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 64, "num_hidden_layers": 1,
             "num_attention_heads": 2, "intermediate_size": 128, "image_size": 32, "num_labels": labels}  # fmt: skip
    run = {"precision": "bf16", "batch_size": batch, "attention": "eager"}
    one, many = (
        estimate({**run, "model": {**model, "problem_type": f"{kind}_label_classification"}}).memory.components
        for kind in ("single", "multi")
    )
    assert many.activations - one.activations == pytest.approx(2 * labels * batch, rel=0.01)
