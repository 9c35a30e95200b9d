"""Image models: patches, what a head reads, windows, stochastic depth, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.architectures.vision import pair
from memcalc.blocks.basic import Conv, Norm, Select
from memcalc.blocks.image import DropPath, Positions, Prefix, WindowLayer
from memcalc.errors import RunInvalid
from tests.architectures.walk import kinds, order

VIT: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80,
                       "image_size": 32, "patch_size": 8}  # fmt: skip
SWIN: dict[str, Any] = {"embed_dim": 24, "depths": [2, 3], "num_heads": [2, 4], "image_size": 64, "patch_size": 4}


def test_a_size_is_one_number_or_height_and_width() -> None:
    assert pair(224) == (224, 224)
    assert pair([224, 336]) == (224, 336)


def test_an_image_is_cut_into_patches_that_do_not_overlap() -> None:
    model = build("vit", {**VIT, "image_size": [32, 64], "patch_size": [8, 16]})
    assert model.image == (3, 32, 64)
    assert [(conv.kernel, conv.stride) for conv in kinds(model, Conv)] == [((8, 16), (8, 16))]
    assert [table.shape for table in kinds(model, Positions)] == [(1, 4 * 4 + 1, 48)]  # patches and the class token


def test_vits_embeddings_run_in_the_order_of_their_forward() -> None:
    model = build("vit", {**VIT, "architectures": ["ViTModel"]})
    assert order(model, Conv, Prefix, Positions, Norm)[:4] == ["Conv", "Prefix", "Positions", "Norm"]


@pytest.mark.parametrize(
    ("model_type", "name", "read", "width"),
    [
        ("vit", "ViTForImageClassification", "first", 48),
        ("ijepa", "IJepaForImageClassification", "mean", 48),
        ("dinov2", "Dinov2ForImageClassification", "first+mean", 96),
        ("beit", "BeitForImageClassification", "mean", 48),
    ],
)
def test_what_a_classifier_reads(model_type: str, name: str, read: str, width: int) -> None:
    model = build(model_type, {**VIT, "architectures": [name], "num_labels": 7})
    assert read in {select.what for select in kinds(model, Select)}
    assert next(t.shape for t in model.tensors if t.name == "classifier.weight") == (7, width)
    assert model.kind == "image"


def test_without_labels_there_is_no_classifier() -> None:
    names = {t.name for t in build("vit", {**VIT, "num_labels": 0}).tensors}
    assert not any(name.startswith("classifier") for name in names)


def test_rates_that_rise_from_layer_to_layer_begin_with_none() -> None:
    swin = build("swin", {**SWIN, "drop_path_rate": 0.1})
    assert len(kinds(swin, DropPath)) == 4  # one behind the attention of every layer but the first
    assert kinds(build("swin", {**SWIN, "drop_path_rate": 0.0}), DropPath) == []
    assert len(kinds(build("dinov2", {**VIT, "drop_path_rate": 0.1}), DropPath)) == 6  # the same rate in every layer


def test_every_second_layer_is_shifted_while_the_map_is_larger_than_a_window() -> None:
    windows = kinds(build("swin", {**SWIN, "window_size": 8}), WindowLayer)  # maps of 16 and 8 tokens a side
    assert [(w.size, w.shifted) for w in windows] == [(8, False), (8, True), (8, False), (8, False), (8, False)]
    narrow = kinds(build("swin", {**SWIN, "window_size": 12}), WindowLayer)
    assert [(w.size, w.shifted) for w in narrow[2:]] == [(8, False)] * 3


def test_a_resnet_layer_projects_its_shortcut_only_where_something_changes() -> None:
    def projected(**changes: Any) -> int:
        given = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic", **changes}
        return sum(t.count for t in build("resnet", given).tensors if t.name.endswith("shortcut.convolution.weight"))

    assert projected() == 1
    assert projected(downsample_in_first_stage=True) == 2


def test_where_a_bottleneck_halves_the_map() -> None:
    given = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]}
    halving = {}
    for early in (False, True):
        convs = kinds(build("resnet", {**given, "downsample_in_bottleneck": early}), Conv)
        halving[early] = [conv.kernel for conv in convs if conv.stride == 2]
    assert halving == {False: [(7, 7), (3, 3), (1, 1)], True: [(7, 7), (1, 1), (1, 1)]}  # stem, layer, shortcut


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("vit", {**VIT, "architectures": ["ViTForSomethingElse"]}),
    ("swin", {**SWIN, "architectures": ["SwinBackbone"]}),
    ("segformer", {"architectures": ["SegformerForDepth"]}),
    ("sam", {"architectures": ["SamForVideo"]}),
    ("llava", {"architectures": ["LlavaForRetrieval"]}),
]


@pytest.mark.parametrize(("model_type", "given"), REFUSED)
def test_an_unknown_head_is_refused(model_type: str, given: dict[str, Any]) -> None:
    with pytest.raises(RunInvalid, match=r"model\.architectures: the head of \w+ is not known"):
        build(model_type, given)


def test_a_list_where_a_number_belongs_is_refused() -> None:
    with pytest.raises(RunInvalid, match="do not make a vit"):
        build("vit", {**VIT, "num_channels": [3]})
    with pytest.raises(RunInvalid, match=r"model\.depths"):
        build("swin", {**SWIN, "depths": [10**9, 2]})
