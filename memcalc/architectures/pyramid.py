"""Backbones that hand on the maps of all their stages, under the names of transformers' …Backbone classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

from memcalc.architectures import model_of
from memcalc.architectures.swin import Stage, layer_donut, layer_of, merged, starting
from memcalc.blocks.base import Block, Sequence, Stray, sequence, stack
from memcalc.blocks.basic import Norm
from memcalc.blocks.masking import MapBefore, WindowPyramid
from memcalc.blocks.segmenting import Yielded
from memcalc.errors import fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.blocks.base import Stack
    from memcalc.blocks.image import WindowLayer
    from memcalc.dimensions import Dimensions


def pyramid(c: Dimensions, name: str, maps: int, *, older: bool = False) -> tuple[Block, list[int]]:
    """The backbone of `backbone_config`, and the channels of each of its `maps`: one of every stage.

    `older` where a Swin is MaskFormer's own, which hands on all its maps whatever it is told.
    """
    inner = c.backbone_config
    kind = inner.model_type
    if kind not in ("swin", "resnet"):
        raise fault("model.backbone_config", f"a backbone of the type {kind!r} is not known for {c.model_type}")
    if kind == "resnet" or not older:
        _check(inner, maps)
    if kind == "swin":
        return _windows(inner.but(image_size=c.image_size), name, older=older)
    model = model_of(inner.but(architectures=["ResNetModel"]))
    stem, encoder, _pool = cast("Sequence", model.body).blocks
    stages = cast("Stack", cast("Sequence", encoder).blocks[0])
    layers = replace(stages, layers=tuple(sequence(stage, Yielded("")) for stage in stages.layers))
    return Sequence(name, (stem, Sequence(encoder.name, (layers,)))), list(inner.hidden_sizes)


def _check(c: Dimensions, maps: int) -> None:
    """RunInvalid where the backbone hands on another number of maps than one of every stage."""
    stages = [f"stage{i}" for i in range(1, len(c.depths) + 1)]
    given = c.get("out_features") or [["stem", *stages][i] for i in c.get("out_indices") or [-1]]
    if list(given) != stages or len(stages) != maps:
        raise fault("model.backbone_config.out_features", f"{maps} maps are read, one of every stage of the backbone: "
                                                         f"{', '.join(f'stage{i + 1}' for i in range(maps))}")  # fmt: skip


class Names(NamedTuple):
    """What a backbone of Swin's calls its parts, and whose layers it has; whether it copies its maps before it norms them."""

    inner: str
    norms: tuple[str, ...]
    layer: Callable[[Dimensions, Stage, bool, bool], WindowLayer]
    copied: bool


def _windows(c: Dimensions, name: str, *, older: bool = False) -> tuple[WindowPyramid, list[int]]:
    """SwinBackbone, and the `older` MaskFormerSwinBackbone: windows as large as they are told, on however small a map."""
    cut, (rows, columns) = starting(c)
    count = range(len(c.depths))
    own = Names("swin", tuple(f"hidden_states_norms.stage{i + 1}" for i in count), layer_of, True)
    if older:
        own = Names("model", tuple(f"hidden_states_norms.{i}" for i in count), layer_donut, False)
    widths, maps = [c.embed_dim * 2**i for i in count], []
    stages: list[Block] = []
    for i, (depth, heads) in enumerate(zip(c.depths, c.num_heads, strict=True)):
        stage, merge = Stage(widths[i], heads, (rows, columns)), None
        layers = stack("blocks", _layers(c, own, stage, depth, first=i == 0))
        if i < len(c.depths) - 1:
            merge, rows, columns = merged(stage), (rows + 1) // 2, (columns + 1) // 2
        stages.append(sequence(layers, MapBefore("", stage.map, own.copied), merge))
        maps.append(stage.map)
    last = Stray("", (Norm(f"{own.inner}.layernorm", widths[-1], "layer"),))
    norms = tuple(Norm(norm, width, "layer") for norm, width in zip(own.norms, widths, strict=True))
    encoder = sequence(stack("layers", stages), name=f"{own.inner}.encoder")
    body = WindowPyramid(name, replace(cut, name=f"{own.inner}.embeddings"), encoder, last, norms, tuple(maps))
    return body, widths


def _layers(c: Dimensions, own: Names, stage: Stage, depth: int, *, first: bool) -> list[Block]:
    """Every second one shifted (always_partition); the very first drops no path."""

    def layer(*, shifted: bool = False, first: bool = False) -> WindowLayer:
        made = own.layer(c, stage, shifted, first)
        return replace(made, size=c.window_size, shifted=shifted and c.window_size > 1)

    plain, shifted = layer(), layer(shifted=True)
    return [layer(first=True) if first else plain, *(shifted if j % 2 else plain for j in range(1, depth))]
