"""Blocks of image models: their tensors and parts."""

from __future__ import annotations

from memcalc.blocks.base import Sum
from memcalc.blocks.basic import Conv, Linear
from memcalc.blocks.diffusion import Condition
from memcalc.blocks.image import ChannelScale, Excite, Flatten, Positions, Prefix, ResponseNorm, Windows
from memcalc.blocks.multimodal import ConvTokens, Images
from memcalc.tensors import Tensor, tensors


def shapes(found: tuple[Tensor, ...]) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in found}


def test_learned_tokens_positions_and_scales_are_parameters_by_their_own_name() -> None:
    blocks = Prefix("cls_token", (1, 1, 4)), Positions("places", (1, 5, 4)), ChannelScale("gamma", (4,))
    assert [shapes(tensors(block)) for block in blocks] == [
        {"cls_token": (1, 1, 4)},
        {"places": (1, 5, 4)},
        {"gamma": (4,)},
    ]


def test_a_transposed_convolution_is_stored_inputs_first() -> None:
    assert shapes(tensors(Conv("up", 8, 4, (2, 2), 2, transposed=True))) == {"up.weight": (8, 4, 2, 2), "up.bias": (4,)}
    assert shapes(tensors(Conv("down", 8, 4, (2, 2), 2, bias=False))) == {"down.weight": (4, 8, 2, 2)}
    assert shapes(tensors(Conv("deep", 8, 8, (3, 3), 1, 8, bias=False))) == {"deep.weight": (8, 1, 3, 3)}


def test_response_normalisation_has_four_axes() -> None:
    assert shapes(tensors(ResponseNorm("grn", 6))) == {"grn.weight": (1, 1, 1, 6), "grn.bias": (1, 1, 1, 6)}


def test_what_only_moves_values_has_no_tensors() -> None:
    assert tensors(Flatten("")) == ()


def test_blocks_within_windows_sums_and_images_keep_their_names() -> None:
    inner = Linear("a", 2, 3)
    for block in (
        Windows("", (inner,)),
        Sum("", (inner,)),
        Images("", (inner,)),
        Condition("", (inner,)),
        ConvTokens("", inner),
    ):
        assert shapes(tensors(block)) == {"a.weight": (3, 2)}


def test_excitation_reduces_before_it_expands() -> None:
    block = Excite("se", Conv("reduce", 8, 2, (1, 1)), Conv("expand", 2, 8, (1, 1)))
    assert list(shapes(tensors(block))) == ["se.reduce.weight", "se.reduce.bias", "se.expand.weight", "se.expand.bias"]
