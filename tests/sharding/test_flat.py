"""Flat buffers and their partitions, against what DeepSpeed's loops over parameters yield."""

from __future__ import annotations

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.models import from_preset
from memcalc.sharding.buckets import Reducer
from memcalc.sharding.flat import Flat, Piece, flat_of, ordered
from memcalc.tensors import Tensor

TENSORS = (
    Tensor("embed.weight", (7, 3)),
    Tensor("layers.{0..2}.up.weight", (2, 5), 3),
    Tensor("layers.{0..2}.up.bias", (2,), 3),
    Tensor("layers.{0,2}.gate.weight", (11,), 2),
    Tensor("layers.1.experts.{0..3}.weight", (2, 2), 4),
    Tensor("norm.weight", (3,)),
)


def test_layer_after_layer() -> None:
    found = [(tensor.name.rpartition("}.")[2], *numbers, elements) for tensor, numbers, elements in ordered(TENSORS)]
    assert found == [
        ("embed.weight", 21),
        ("up.weight", 0, 10), ("up.bias", 0, 2), ("gate.weight", 0, 11),
        ("up.weight", 1, 10), ("up.bias", 1, 2), *[("weight", 1, expert, 4) for expert in range(4)],
        ("up.weight", 2, 10), ("up.bias", 2, 2), ("gate.weight", 2, 11),
        ("norm.weight", 3),
    ]  # fmt: skip


STAGES = (
    Tensor("stages.0.layers.{0..1}.weight", (2,), 2),
    Tensor("stages.0.layers.{0..1}.bias", (1,), 2),
    Tensor("stages.1.layers.{0..2}.weight", (4,), 3),
)


def test_layers_of_stages() -> None:
    """named_parameters goes through a layer before it comes to the next, however deep the layers lie."""
    assert [numbers for _, numbers, _ in ordered(STAGES)] == [(0, 0), (0, 0), (0, 1), (0, 1), (1, 0), (1, 1), (1, 2)]
    flat = Flat(STAGES, 2)
    assert flat.found("stages.0.layers.{0..1}.bias", 1)[0][1] == [Piece(5, 1)]
    assert flat.found("stages.1.layers.{0..2}.weight", 1)[0][1] == [Piece(10, 4)]
    assert flat.found("stages.1.layers.{0..2}.weight")[0][1] == [Piece(6, 4), Piece(10, 4), Piece(14, 4)]


@pytest.mark.parametrize("strategy", ["zero1", "zero2"])
@pytest.mark.parametrize("model", ["gpt2", "t5-small", "resnet-50", "swin-base-patch4-window7-224", "sd-1.5-unet"])
def test_every_gradient_goes_through_the_buckets_once(
    model: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that come again, tables that are tied, stages with layers of their own: all parameters, none twice."""
    there: list[Piece] = []
    fill = Reducer.fill

    def noted(self: Reducer, piece: Piece) -> None:
        there.append(piece)
        fill(self, piece)

    monkeypatch.setattr(Reducer, "fill", noted)
    forget()
    run = {"model": model, "gpus": 4, "sharding": strategy}
    assert estimate(run).model.trainable == sum(piece.elements for piece in there)
    assert len(set(there)) == len(there)
    forget()


@pytest.mark.parametrize("ranks", range(1, 12))
def test_partitions(ranks: int) -> None:
    """get_partition_info and initialize_gradient_partition, rank by rank."""
    flat = Flat(TENSORS, ranks)
    assert flat.elements == 98
    assert flat.size == ranks * flat.partition
    assert flat.size % (2 * ranks) == 0
    assert 0 <= flat.size - flat.elements < 2 * ranks
    for rank in range(ranks):
        first, last = rank * flat.partition, (rank + 1) * flat.partition
        reached = [piece for piece in flat.pieces if piece.start < last and piece.start + piece.elements > first]
        assert flat.overlapping(rank) == reached
        assert flat.whole(rank) == sum(piece.elements for piece in reached)
        assert sum(elements for _, elements in flat.inside(rank)) == (flat.partition if reached else 0)
    for piece in flat.pieces:
        assert sum(elements for _, elements in flat.owners(piece)) == piece.elements
    assert flat.whole(flat.fullest) == max(flat.whole(rank) for rank in range(ranks))


def test_round_robin() -> None:
    """_round_robin_reorder: with two ranks every other parameter first, then the others."""
    flat = Flat(TENSORS, 2, round_robin=True)
    plain = [elements for _, _, elements in ordered(TENSORS)]
    assert [piece.elements for piece in flat.pieces] == plain[::2] + plain[1::2]


def test_aligned_parameters() -> None:
    """parameter_alignment: no padding behind the last."""
    flat = Flat(TENSORS[:4], 2, 8)
    assert [piece.start for piece in flat.pieces] == [0, 24, 40, 48, 64, 80, 88, 104, 112]
    assert flat.elements == 123


def test_pieces_by_name() -> None:
    flat = Flat(TENSORS, 2)
    assert flat.found("layers.{0..2}.up.bias")[0][1] == [Piece(54, 2)]
    assert flat.found("layers.{0..2}.up.bias")[1] == [Piece(31, 2), Piece(54, 2), Piece(82, 2)]
    assert len(flat.found("layers.1.experts.{0..3}.weight")[1]) == 4


def test_llama_2_7b() -> None:
    """Of a partition of 842,301,952 elements DeepSpeed keeps the gradients of 843,087,872 to 899,710,976."""
    flat = flat_of(from_preset("llama-2-7b").tensors, 8)
    assert flat.partition == 842_301_952
    assert max(flat.whole(rank) for rank in range(8)) == 899_710_976
    assert min(flat.whole(rank) for rank in range(8)) == 843_087_872


def test_a_number_within_a_name_is_no_layer() -> None:
    listed = [Tensor("mlp.fc2.weight", (2,)), Tensor("mlp.fc1.weight", (3,)), Tensor("norm1.weight", (4,))]
    assert [(numbers, elements) for _, numbers, elements in ordered(listed)] == [((), 2), ((), 3), ((), 4)]
