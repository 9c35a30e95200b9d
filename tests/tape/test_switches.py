"""What each switch of a run does to a step: bytes by hand for small models, and laws that hold for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.errors import RunInvalid
from memcalc.tape.hf.lean_losses import chunk_rows

if TYPE_CHECKING:
    from memcalc.report import Memory, Report

LAYERS, B, S, H, WIDTH, V, HEADS, KV = 4, 2, 512, 1024, 2816, 32_000, 16, 8
LLAMA = {"model_type": "llama", "vocab_size": V, "hidden_size": H, "intermediate_size": WIDTH, "num_hidden_layers": LAYERS,
         "num_attention_heads": HEADS, "num_key_value_heads": KV, "tie_word_embeddings": False}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 4, "n_head": 12, "vocab_size": 50_257, "n_positions": 1024}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 64}
LORA = {"rank": 16, "targets": "all-linear"}
U = 2 * B * S * H  # one hidden state in bf16


def report(model: dict[str, Any] | str = "", **switches: Any) -> Report:
    run = {"precision": "bf16", "optimizer": "sgd", "batch_size": B, "seq_len": S, "model": model or LLAMA}
    return estimate({**run, **switches})


def memory(model: dict[str, Any] | str = "", **switches: Any) -> Memory:
    return report(model, **switches).memory


def activations(**switches: Any) -> int:
    return memory(**switches).components.activations


# --- laws


@pytest.mark.parametrize("model", [LLAMA, GPT2, QWEN3], ids=["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"loss": "fused-linear"}, {}),
        ({"loss": "fused"}, {}),
        ({"loss": "chunked"}, {}),
        ({"checkpointing": "full"}, {"checkpointing": "selective"}),
        ({"checkpointing": "selective"}, {}),
        ({"checkpointing": "full"}, {"checkpointing": {"mode": "full", "every": 2}}),
        ({"checkpointing": {"mode": "full", "every": 2}}, {}),
        ({"checkpointing": {"mode": "full", "offload": True}}, {"checkpointing": "full"}),
        ({"offload": "activations"}, {}),
        ({"optimizer": {"name": "adamw", "in_backward": True}}, {"optimizer": "adamw"}),
        ({"optimizer": "lomo"}, {}),
        ({}, {"grad_accum": 4}),
        ({"attention": "sdpa"}, {"attention": "eager"}),
        ({"lora": {**LORA, "dropout": 0.0}}, {"lora": {**LORA, "dropout": 0.1}}),
        ({"lora": LORA}, {"lora": {**LORA, "dora": True}}),
    ],
    ids=lambda switches: "-".join(f"{key}-{value}" for key, value in switches.items()) or "plain",
)
def test_what_never_takes_more(model: dict[str, Any], less: dict[str, Any], more: dict[str, Any]) -> None:
    if model is GPT2 and "attention" in less:
        pytest.skip("dropout on the weights keeps torch from its fused kernel")
    assert memory(model, **less).peak_allocated <= memory(model, **more).peak_allocated


def test_a_quantised_base_keeps_no_more_than_the_plain_one() -> None:
    plain = activations(lora=LORA)
    assert activations(lora=LORA, quantize="nf4") == activations(lora=LORA, quantize="nf4-double") <= plain + 4 * U


# --- losses


def test_fused_linear_keeps_gradients_in_the_place_of_logits() -> None:
    kept = activations(loss="fused-linear") - activations()
    logits = 4 * B * S * V  # log-softmax in fp32
    last_input = U  # what the head would save
    assert kept == pytest.approx(U + 2 * V * H - logits - last_input, abs=2**17)


def test_chunks_of_the_fused_linear_loss_are_of_a_power_of_two() -> None:
    assert chunk_rows(2048, 32_000, 4096) == 256  # 8 chunks of 256
    assert chunk_rows(4096, 128_256, 2048) == 128  # ceil(4096 / 63) = 66, rounded up
    assert chunk_rows(100, 32_000, 64_000) == 100  # never more than there are
    assert chunk_rows(1000, 32_000, 4096, chunks=3) == 334


def test_a_loss_for_language_models_is_not_counted_elsewhere() -> None:
    found = estimate({"model": "bert-base-uncased", "precision": "bf16", "seq_len": 128, "loss": "fused-linear"})
    assert "standard-loss" in [note.code for note in found.warnings]


# --- Liger


def test_liger_saves_the_inputs_of_norms_and_gates_alone() -> None:
    """A layer: two norms 2u and their outputs 2u, q, k, v, their output, gate, up and their product; row statistics."""
    fewer = {**LLAMA, "num_hidden_layers": LAYERS - 1}
    per_layer = activations(implementation="hf-liger") - activations(implementation="hf-liger", model=fewer)
    attention = 2 * U + 2 * U * KV // HEADS + 4 * B * HEADS * S
    assert per_layer == pytest.approx(4 * U + attention + 3 * U * WIDTH // H + 2 * 4 * B * S, abs=2**14)


def test_liger_is_refused_where_it_has_no_kernels() -> None:
    with pytest.raises(RunInvalid, match="kernels for gpt2 are not modelled"):
        report(GPT2, implementation="hf-liger")


# --- checkpoints


def test_selective_checkpointing_keeps_every_second_product_and_attention() -> None:
    """q, v, gate and down of the seven products of a layer, beside its input and what attention puts out."""
    kept = (activations(checkpointing="selective") - activations(checkpointing="full")) / LAYERS
    products = U + U * KV // HEADS + U * WIDTH // H + U
    assert kept == pytest.approx(products + U + 4 * B * HEADS * S, abs=2**12)


def test_offloaded_inputs_wait_in_pinned_memory() -> None:
    away = memory(checkpointing={"mode": "full", "offload": True})
    assert away.host.pinned == LAYERS * U
    assert activations(checkpointing="full") - away.components.activations == pytest.approx(LAYERS * U, abs=2 * U)


def test_offloaded_activations_leave_the_device() -> None:
    """Torchtune's hook sends away whatever autograd saves; but for the head's input, which is asked for at once."""
    run = {"implementation": "torchtune"}
    away, kept = memory(offload="activations", **run), activations(**run)
    assert away.components.activations < kept / 100 + U
    assert away.host.pinned > kept / 2


def test_what_is_saved_again_on_its_way_to_the_host_stays() -> None:
    """TRL's hook: the fp32 copy in a norm is squared and multiplied, q, k and v read one input, gate and up another."""
    away = memory(offload="activations")
    assert activations() / 3 < away.components.activations < activations() * 2 / 3
    assert away.host.pinned > activations() / 4


def test_trls_hook_holds_on_to_frozen_embeddings_and_their_gradient() -> None:
    """It keeps the last node of the backward pass, whose graph ends in what asks for a gradient in a checkpoint's place."""
    run: dict[str, Any] = {"checkpointing": "full", "lora": {"rank": 2, "targets": "all-linear"}}
    away, kept = memory(offload="activations", **run), memory(**run)
    assert away.phases.optimizer - kept.phases.optimizer == 2 * U


@pytest.mark.parametrize(
    ("checkpointing", "where"),
    [
        ({"mode": "selective", "reentrant": True}, "checkpointing.reentrant"),
        ({"mode": "none", "offload": True}, "checkpointing.offload"),
    ],
)
def test_checkpoints_that_torch_does_not_have(checkpointing: dict[str, Any], where: str) -> None:
    with pytest.raises(RunInvalid, match=where):
        report(checkpointing=checkpointing)


# --- optimizers that step in the backward pass


def test_gradients_that_are_used_at_once_do_not_pile_up() -> None:
    weights = memory().components.weights
    freed, kept = memory(optimizer="lomo"), memory()
    assert freed.components.gradients == 0
    assert kept.phases.backward - freed.phases.backward == pytest.approx(0, abs=weights)
    assert freed.phases.optimizer == pytest.approx(weights, abs=2**20)


def test_earlier_micro_batches_leave_their_gradients() -> None:
    once, again = memory(), memory(grad_accum=2)
    assert again.phases.forward - once.phases.forward == once.components.gradients


# --- quantised bases


def test_a_product_with_packed_weights_unpacks_one_weight() -> None:
    """Under checkpointing the largest weight is unpacked beside what is recomputed; nothing of it stays."""
    packed = memory(lora={"rank": 1, "targets": ["q_proj"]}, quantize="nf4", checkpointing="full")
    plain = memory(lora={"rank": 1, "targets": ["q_proj"]}, checkpointing="full")
    assert packed.components.activations == plain.components.activations
    more = (packed.phases.backward - packed.components.weights) - (plain.phases.backward - plain.components.weights)
    assert 0 <= more <= 2 * 2 * H * WIDTH


def test_int8_keeps_its_inputs_even_under_checkpointing() -> None:
    """MatMul8bitLt puts its input on the context as a plain attribute: norms' outputs, attention's, the gated product."""
    lora = {"rank": 1, "targets": ["q_proj"]}
    kept = activations(lora=lora, quantize="int8", checkpointing="full") - activations(lora=lora, checkpointing="full")
    assert kept == pytest.approx(LAYERS * (3 * U + U * WIDTH // H), rel=0.02)


# --- adapters


def test_dora_unpacks_the_whole_update() -> None:
    """What one layer's recomputation needs beside the plain one's: B(A(1)), the weight and more, in fp32, of the widest layer."""
    run = {"checkpointing": "full", "loss": "fused-linear"}
    plain, dora = (memory(lora={**LORA, "dora": on}, **run).phases.backward for on in (False, True))
    assert dora - plain > 2 * 4 * H * WIDTH


@pytest.mark.parametrize(
    "method", ["adalora", "loha", "lokr", "ia3", "vera", "oft", "prompt", "prefix", "p-tuning", "ln-tuning"]
)
def test_every_method_is_followed(method: str) -> None:
    found = report(lora={"method": method})
    assert not [note for note in found.warnings if note.code in ("tape-failed", "block-not-modelled")]
    assert found.memory.components.activations > 0


def test_virtual_tokens_lengthen_the_sequence() -> None:
    short, long = (activations(lora={"method": "prompt", "virtual_tokens": n}) for n in (1, 129))
    longer = activations(lora={"method": "prompt", "virtual_tokens": 1}, seq_len=S + 128)
    assert long == pytest.approx(longer, rel=0.01)
    assert long > short


def test_a_copy_is_trained_in_the_place_of_its_original() -> None:
    lora = {"rank": 16, "targets": ["q_proj"]}
    more = (
        memory(lora={**lora, "save_modules": ["lm_head"]}).components.gradients - memory(lora=lora).components.gradients
    )
    assert more == 2 * V * H


# --- attention


def test_flash_attention_is_for_half_precision() -> None:
    with pytest.raises(RunInvalid, match="FlashAttention only supports fp16 and bf16"):
        report(precision="fp32", attention="flash")
    assert report(precision="amp-bf16", attention="flash").memory.peak_allocated


def test_flash_attention_saves_what_sdpa_saves_and_a_random_state() -> None:
    assert activations(attention="flash") - activations(attention="sdpa") == LAYERS * 512


def test_flash_attention_keeps_no_mask_of_the_weights_it_drops() -> None:
    assert memory(GPT2, attention="flash").peak_allocated < memory(GPT2, attention="eager").peak_allocated


def test_a_class_without_flash_attention_refuses_it() -> None:
    with pytest.raises(RunInvalid, match="does not support Flash Attention 2"):
        report("t5-small", attention="flash")


# --- positions


@pytest.mark.parametrize(
    ("model", "asked", "where"),
    [
        ("gpt2", {"seq_len": 1025}, "seq_len: 1025 tokens are more than the 1024"),
        ("opt-125m", {"seq_len": 2049}, "seq_len: 2049 tokens are more than the 2048"),
        ("bert-base-uncased", {"seq_len": 513}, "seq_len: 513 tokens are more than the 512"),
        ("bart-base", {"seq_len": 512, "target_len": 1025}, "target_len: 1025 tokens"),
    ],
)
def test_learned_positions_end(model: str, asked: dict[str, int], where: str) -> None:
    with pytest.raises(RunInvalid, match=where):
        report(model, **asked)


@pytest.mark.parametrize(("model", "seq_len"), [("llama-2-7b", 8192), ("t5-small", 1024), ("opt-125m", 2048)])
def test_other_positions_only_warn(model: str, seq_len: int) -> None:
    assert report(model, seq_len=seq_len).memory.peak_allocated


# --- experts


MIXTRAL = {"model_type": "mixtral", "vocab_size": V, "hidden_size": H, "intermediate_size": WIDTH, "num_hidden_layers": 2,
           "num_attention_heads": HEADS, "num_key_value_heads": KV, "num_local_experts": 4, "num_experts_per_tok": 2}  # fmt: skip
EXPERTS = 2 * 4 * 3 * H * WIDTH  # bytes of one layer's experts in bf16


def test_experts_that_bitsandbytes_packs_are_unpacked_whole_and_kept() -> None:
    lora = {"rank": 8, "targets": ["q_proj"]}
    plain, packed = (memory(MIXTRAL, lora=lora, quantize=q) for q in ("nf4", {"name": "nf4", "experts": True}))
    more = packed.components.activations - plain.components.activations
    assert more == pytest.approx(2 * EXPERTS, rel=0.01)
    assert packed.components.weights < plain.components.weights


def test_lora_on_a_parameter_makes_it_anew() -> None:
    beside = {"rank": 8, "targets": ["q_proj"]}
    aimed = {**beside, "parameters": ["mlp.experts.gate_up_proj"]}
    more = memory(MIXTRAL, lora=aimed).components.activations - memory(MIXTRAL, lora=beside).components.activations
    assert more == pytest.approx(2 * (EXPERTS * 2 // 3 + 2 * U), rel=0.02)  # the weight, and both copies of each token


def test_liger_keeps_less_of_experts() -> None:
    fused = memory(MIXTRAL, implementation="hf-liger", loss="standard").components.activations
    assert fused < memory(MIXTRAL).components.activations


def test_positions_added_in_every_layer_go_into_a_re_entrant_checkpoint() -> None:
    """CosmosTransformer3DModel.forward calls each block with them by position."""
    run = {"model": "cosmos-1.0-7b-text2world", "checkpointing": {"mode": "full", "reentrant": True}}
    assert "tape-failed" not in {note.code for note in estimate(run).warnings}
