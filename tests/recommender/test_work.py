"""The operations of a step, against counts made by hand and against published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.recommender.evaluate import Evaluator
from memcalc.recommender.heights import slowest
from memcalc.run.validation import parse_run
from tests.recommender.published import worked

if TYPE_CHECKING:
    from memcalc.recommender.work import Work

# 2 operations for each weight of a matrix and token, 4 * seq * width for each token and layer of attention
TOKENS, LAYERS, WIDTH = 1024, 32, 4096
MATRICES = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * 11008) + WIDTH * 32000
FORWARD = 2 * TOKENS * MATRICES
SCORES = 4 * TOKENS**2 * WIDTH * LAYERS


def test_a_llama_by_hand() -> None:
    """Forward once, backward twice for matrices and two and a half times in the attention kernel."""
    found = worked(model="llama-2-7b", seq_len=TOKENS)
    assert found.forward == FORWARD + SCORES
    assert found.attention == SCORES + 5 * SCORES // 2
    assert found.backward == 2 * FORWARD + 5 * SCORES // 2


def test_eager_attention_is_two_products_each_way() -> None:
    found = worked(model="llama-2-7b", seq_len=TOKENS, attention="eager")
    assert (found.forward, found.attention) == (FORWARD + SCORES, 0)
    assert found.backward == 2 * (FORWARD + SCORES)


def test_a_checkpoint_runs_the_layers_again_but_not_the_head() -> None:
    plain, full = (
        worked(model="llama-2-7b", seq_len=TOKENS),
        worked(model="llama-2-7b", seq_len=TOKENS, checkpointing="full"),
    )
    head = 2 * TOKENS * WIDTH * 32000
    again = full.backward - plain.backward
    down = (
        2 * TOKENS * LAYERS * WIDTH * 11008
    )  # the last product of a layer saves its input: what it yields is not needed
    assert again == plain.forward - head - down
    assert full.forward == plain.forward


def test_frozen_weights_need_no_gradient_of_their_own() -> None:
    """Rank 8 on q and v of a model whose matrices are frozen: one product back, not two, and none to the embedding."""
    found = worked(model="llama-2-7b", seq_len=TOKENS, lora={"rank": 8, "targets": ["q_proj", "v_proj"]})
    adapters = 2 * TOKENS * LAYERS * 2 * 8 * 2 * WIDTH
    assert found.forward == FORWARD + SCORES + adapters
    first = 2 * TOKENS * (3 * WIDTH**2 + 2 * 8 * WIDTH)  # q, k, v and both A of the first layer
    assert found.backward == FORWARD + 5 * SCORES // 2 + 2 * adapters - first


def test_a_token_meets_two_of_eight_experts() -> None:
    found = worked(model="mixtral-8x7b", seq_len=256)
    active = 12_879_925_248 - 32000 * 4096  # parameters a token meets, but for the embedding, which is looked up
    norms = 65 * 4096
    assert found.forward == 2 * 256 * (active - norms) + 4 * 256**2 * 4096 * 32


PUBLISHED = [  # multiply-adds of one image of 224 x 224, as the papers count them
    ("resnet-50", 4.09e9, 0.01),  # He et al. 2015 say 3.8 without the projections; torchvision's table says 4.09
    ("vit-large-patch16-224", 61.6e9, 0.04),  # Touvron et al. 2021, DeiT, table of ViT-L/16
]


@pytest.mark.parametrize(("model", "products", "within"), PUBLISHED)
def test_images(model: str, products: float, within: float) -> None:
    assert worked(model=model).forward / 2 == pytest.approx(products, rel=within)


def test_quantised_weights_are_multiplied_all_the_same() -> None:
    plain = worked(model="llama-2-7b", seq_len=TOKENS, lora=8)
    packed = worked(model="llama-2-7b", seq_len=TOKENS, lora=8, quantize="nf4")
    assert plain.flops == packed.flops
    assert packed.made > plain.made


def test_the_fused_loss_makes_the_same_products() -> None:
    plain, fused = (worked(model="llama-2-7b", seq_len=TOKENS, loss=loss) for loss in ("standard", "fused-linear"))
    assert plain.flops == fused.flops


def test_operations_by_the_kind_of_block() -> None:
    """Each kind's matrices three times (forward, and back to the input and to the weight), the scores three and a half."""
    run = parse_run({"model": "llama-2-7b", "seq_len": TOKENS})
    found = Evaluator().flops(run, "adamw")
    first = 2 * TOKENS * LAYERS
    assert found["mlp"] == 3 * first * 3 * WIDTH * 11008
    assert found["attention"] == 3 * first * 4 * WIDTH**2 + SCORES + 5 * SCORES // 2
    assert found["head"] == 3 * 2 * TOKENS * WIDTH * 32000
    assert sum(found.values()) == worked(model="llama-2-7b", seq_len=TOKENS).flops


def rank_of(**keys: Any) -> Work:
    run = parse_run({"model": "llama-3-8b", "seq_len": 8192, **keys})
    steps = Evaluator().heights(run, "adamw")
    assert steps
    return slowest(steps).work


MEGATRON: dict[str, Any] = {"implementation": "megatron", "precision": "megatron-bf16"}


def test_megatrons_modules_make_the_same_products() -> None:
    ours, theirs = rank_of(), rank_of(**MEGATRON)
    assert (theirs.forward, theirs.backward, theirs.attention) == (ours.forward, ours.backward, ours.attention)
    assert theirs.made < ours.made / 2  # in fewer, fused steps


@pytest.mark.parametrize("keys", [{"parallel": {"tensor": 8}}, {"parallel": {"context": 8}},
                                  {**MEGATRON, "parallel": {"tensor": 8}}, {**MEGATRON, "parallel": {"context": 8}}])  # fmt: skip
def test_eight_ranks_share_the_products(keys: dict[str, Any]) -> None:
    """Tensor parallelism divides matrices and heads, context parallelism tokens, which still attend to all others."""
    whole, part = rank_of(), rank_of(gpus=8, **keys)
    assert part.attention == pytest.approx(whole.attention / 8, rel=1e-6)
    assert part.forward == pytest.approx(whole.forward / 8, rel=0.002)  # the vocabulary is padded
    assert part.backward == pytest.approx(whole.backward / 8, rel=0.002)
