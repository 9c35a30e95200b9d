"""What does not go together: positions of text and images, virtual tokens in a cache and checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.errors import RunInvalid

if TYPE_CHECKING:
    from memcalc.report import Report


def test_the_table_of_an_image_tower_does_not_bound_the_text() -> None:
    """transformers 5.23, modeling_qwen3_5.py: pos_embed of the visual part has 2304 rows, of patches."""
    found: Report = estimate({"model": "qwen3.5-0.8b", "seq_len": 4096, "checkpointing": "full"})
    assert found.memory.total


def test_a_table_of_the_text_does() -> None:
    with pytest.raises(RunInvalid, match="1024 learned positions of gpt2"):
        estimate({"model": "gpt2", "seq_len": 2048})


def test_so_does_that_of_a_text_in_one_row_with_an_image() -> None:
    """transformers 5.23, modeling_vilt.py, TextEmbeddings: position_ids has max_position_embeddings columns."""
    with pytest.raises(RunInvalid, match="40 learned positions of vilt"):
        estimate({"model": "vilt-b32-finetuned-vqa", "seq_len": 41})


@pytest.mark.parametrize("method", ["prefix", "cartridge"])
def test_virtual_keys_and_values_do_not_go_with_checkpoints(method: str) -> None:
    """peft 0.21.2, peft_model.py, PeftModel._setup_prompt_encoder."""
    run = {"model": "llama-3.2-1b", "lora": {"method": method}, "seq_len": 64}
    with pytest.raises(RunInvalid, match="does not work with gradient checkpointing"):
        estimate({**run, "checkpointing": "full"})
    assert estimate(run).memory.total


def test_what_is_asked_of_tensor_parallelism_without_any_is_said_to_change_nothing() -> None:
    run: dict[str, Any] = {
        "model": "llama-3.2-1b", "seq_len": 64, "gpus": 2,
        "sharding": {"strategy": "fsdp", "enable_async_tensor_parallel": True}, "parallel": {"tp_plan": "auto"},
    }  # fmt: skip
    found = [note.path for note in estimate(run).warnings if note.code == "no-effect"]
    assert found == ["parallel.tp_plan", "sharding.enable_async_tensor_parallel"]
    divided = estimate({**run, "sharding": "none", "parallel": {"tp_plan": "auto", "tensor": 2}})
    assert not [note for note in divided.warnings if note.code == "no-effect"]


@pytest.mark.parametrize(
    ("loss", "implementation", "path"),
    [
        ({"kind": "fused-log-probs", "nll": True}, "hf", "loss.nll"),
        ({"kind": "log-probs", "fp32": True}, "hf", "loss.fp32"),
        ({"kind": "standard", "entropy": True}, "hf", "loss.entropy"),
        ({"nll": True}, "hf", "loss.nll"),
        ({"chunks": 4}, "hf", "loss.chunks"),
        ({"kind": "log-probs", "chunks": 4}, "hf-liger", "loss.chunks"),
        ({"kind": "log-probs", "nll": True}, "hf", ""),
        ({"chunks": 4}, "hf-liger", ""),
        ({"kind": "chunked", "chunks": 4}, "hf", ""),
    ],
)
def test_what_is_asked_of_a_loss_that_does_not_read_it_is_said(
    loss: dict[str, Any], implementation: str, path: str
) -> None:
    found = estimate({"model": "llama-3.2-1b", "seq_len": 64, "loss": loss, "implementation": implementation})
    assert [note.path for note in found.warnings if note.code == "no-effect"] == ([path] if path else [])


@pytest.mark.parametrize("loss", ["log-probs", "chunked"])
def test_megatrons_modules_have_a_loss_of_their_own(loss: str) -> None:
    run = {"model": "llama-3.2-1b", "seq_len": 64, "implementation": "megatron"}
    found = estimate({**run, "loss": loss})
    assert [note.code for note in found.warnings] == ["standard-loss"]
    assert "whose-loss" not in [note.code for note in found.assumptions]
    assert found.memory == estimate(run).memory


def test_a_trainers_loss_over_divided_logits_is_said_to_be_so() -> None:
    run = {"model": "llama-3.2-1b", "loss": "log-probs", "gpus": 4, "parallel": {"tensor": 4}}
    found = estimate(run)
    assert [note.code for note in found.warnings] == ["divided-logits"]
    assert not estimate({**run, "parallel": {"tensor": 4, "tp_plan": "auto"}}).warnings
    assert not estimate({**run, "loss": "chunked"}).warnings


def test_a_class_that_fails_under_autocast_is_refused_there() -> None:
    run = {"model": "xmod-base", "seq_len": 16, "batch_size": 1}
    with pytest.raises(RunInvalid, match="Index put requires"):
        estimate({**run, "precision": "bf16-autocast"})
    assert estimate({**run, "precision": "bf16"}).model.architecture == "xmod"


@pytest.mark.parametrize(("model_type", "name", "refused"), [("albert", "Albert", True), ("roberta", "Roberta", False)])
def test_virtual_keys_want_a_classifier_whose_base_takes_a_cache(model_type: str, name: str, *, refused: bool) -> None:
    sizes = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 200}
    model = {
        "model_type": model_type,
        "architectures": [f"{name}ForSequenceClassification"],
        "vocab_size": 301,
        **sizes,
    }
    run = {"model": model, "seq_len": 16, "precision": "bf16", "lora": {"method": "prefix", "virtual_tokens": 5}}
    if refused:
        with pytest.raises(RunInvalid, match="does not support past key values"):
            estimate(run)
    else:
        assert estimate(run).memory.peak_allocated > 0
