"""Backbones that hand on the maps of all their stages, under the names of transformers' …Backbone classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from memcalc.architectures import model_of
from memcalc.architectures.swin import Stage, layer_of, merged, starting
from memcalc.blocks.base import Block, Sequence, Stray, sequence, stack
from memcalc.blocks.basic import Norm
from memcalc.blocks.masking import MapBefore, WindowPyramid
from memcalc.blocks.segmenting import Yielded
from memcalc.errors import fault

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.blocks.image import WindowLayer
    from memcalc.dimensions import Dimensions


def pyramid(c: Dimensions, name: str, maps: int) -> tuple[Block, list[int]]:
    """The backbone of `backbone_config`, and the channels of each of its `maps`: one of every stage."""
    inner = c.backbone_config
    kind = inner.model_type
    if kind not in ("swin", "resnet"):
        raise fault("model.backbone_config", f"a backbone of the type {kind!r} is not known for {c.model_type}")
    _check(inner, maps)
    if kind == "swin":
        return _windows(inner.but(image_size=c.image_size), name)
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


def _windows(c: Dimensions, name: str) -> tuple[WindowPyramid, list[int]]:
    """SwinBackbone: its windows are as large as they are told, on however small a map (always_partition)."""
    cut, (rows, columns) = starting(c)
    widths = [c.embed_dim * 2**i for i in range(len(c.depths))]
    stages: list[Block] = []
    for i, (depth, heads) in enumerate(zip(c.depths, c.num_heads, strict=True)):
        stage = Stage(widths[i], heads, (rows, columns))
        plain, shifted, begin = _layer(c, stage), _layer(c, stage, shifted=True), _layer(c, stage, first=True)
        layers: list[Block] = [plain if i else begin, *(shifted if j % 2 else plain for j in range(1, depth))]
        merge = None
        if i < len(c.depths) - 1:
            merge, rows, columns = merged(stage), (rows + 1) // 2, (columns + 1) // 2
        stages.append(sequence(stack("blocks", layers), MapBefore("", stage.map), merge))
    last = Stray("", (Norm("swin.layernorm", widths[-1], "layer"),))
    norms = tuple(Norm(f"hidden_states_norms.stage{i}", width, "layer") for i, width in enumerate(widths, 1))
    encoder = sequence(stack("layers", stages), name="swin.encoder")
    return WindowPyramid(name, replace(cut, name="swin.embeddings"), encoder, last, norms), widths


def _layer(c: Dimensions, stage: Stage, *, shifted: bool = False, first: bool = False) -> WindowLayer:
    layer = layer_of(c, stage, shifted, first)
    return replace(layer, size=c.window_size, shifted=shifted and c.window_size > 1)
