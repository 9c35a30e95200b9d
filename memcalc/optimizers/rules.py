"""State rules of a preset, applied to a parameter: which tensors, of which shape and dtype, and where they live."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from memcalc.dtypes import dtype_name, nbytes
from memcalc.optimizers.terms import holds, size
from memcalc.optimizers.values import StateTensor

if TYPE_CHECKING:
    from memcalc.optimizers.values import Device, Parameter, Scene, Scope

Rule = Any  # a name, or a mapping: one tensor, or a group of them under one condition
SHAPES = frozenset({"parameter", "scalar", "flat", "rows", "columns", "squeezed", "along_axis"})
SHAPE_RULES = frozenset({"per_block", "keep", "drop", "one", "stack", "merged"})
KEYS = frozenset({"name", "dtype", "shape", "storage", "device", "count", "when", "unless", "for_each"})
GROUP_KEYS = frozenset({"when", "unless", "as", "keep", "else", "for_each"})


def apply(rules: Sequence[Rule], scene: Scene, scope: Scope = "parameter") -> Iterator[StateTensor]:
    """The tensors that the rules keep, in their order."""
    for rule in rules:
        if isinstance(rule, str):
            yield from _tensors({"name": rule}, scene, scope)
        elif "for_each" in rule:
            yield from _each_axis(rule, scene, scope)
        elif not _applies(rule, scene):
            yield from apply(rule.get("else", ()), scene, scope)
        elif "keep" in rule:
            yield from apply(rule["keep"], _seen_as(rule, scene), scope)
        else:
            yield from _tensors(rule, scene, scope)


def _seen_as(rule: Mapping[str, Any], scene: Scene) -> Scene:
    """The scene of a group's rules: `as` has them see another tensor, such as the projected gradient."""
    if "as" not in rule or scene.parameter is None:
        return scene
    return replace(scene, parameter=replace(scene.parameter, shape=shape_of(rule["as"], scene)))


def _applies(rule: Mapping[str, Any], scene: Scene) -> bool:
    return ("when" not in rule or holds(rule["when"], scene)) and (
        "unless" not in rule or not holds(rule["unless"], scene)
    )


def _each_axis(rule: Mapping[str, Any], scene: Scene, scope: Scope) -> Iterator[StateTensor]:
    """The rule once per axis of the parameter, `{axis}` in a name standing for the axis' index."""
    inner = {key: value for key, value in rule.items() if key != "for_each"}
    for axis in range(len(scene.parameter.shape) if scene.parameter else 0):
        for tensor in apply([inner], replace(scene, axis=axis), scope):
            yield replace(tensor, name=tensor.name.replace("{axis}", str(axis)))


def _tensors(rule: Mapping[str, Any], scene: Scene, scope: Scope) -> Iterator[StateTensor]:
    shape = shape_of(rule.get("shape", "parameter"), scene)
    stored = shape_of(rule["storage"], scene) if "storage" in rule else shape
    dtype = _dtype(rule.get("dtype", "param"), scene)
    tensor = StateTensor(rule["name"], dtype, shape, nbytes(math.prod(stored), dtype),
                         _device(rule.get("device", "gpu"), scene), scope)  # fmt: skip
    if "count" not in rule:
        yield tensor
        return
    for index in range(size(rule["count"], scene)):
        yield replace(tensor, name=tensor.name.replace("{index}", str(index)))


def _dtype(rule: str, scene: Scene) -> str:
    """`param`: the parameter's own; an option's name: what it says; otherwise a dtype."""
    if rule in scene.options:
        rule = str(scene.options[rule] or "param")
    if rule == "param":
        return scene.parameter.dtype if scene.parameter else "fp32"
    return dtype_name(rule)


def _device(rule: str | Mapping[str, Any], scene: Scene) -> Device:
    """`gpu`, `host`, `paged`; or `{host: condition}`: there where the condition holds, else on the GPU."""
    if isinstance(rule, str):
        return cast("Device", rule)
    return cast("Device", next((where for where, condition in rule.items() if holds(condition, scene)), "gpu"))


def shape_of(rule: Any, scene: Scene) -> tuple[int, ...]:  # noqa: ANN401 - YAML data
    """The shape a rule gives: a word, a list of sizes, or one of the rules with an argument."""
    if isinstance(rule, list):
        return tuple(size(extent, scene) for extent in rule)
    if isinstance(rule, Mapping) and "when" in rule:
        return shape_of(rule["then"] if holds(rule["when"], scene) else rule.get("else", "parameter"), scene)
    if isinstance(rule, Mapping):
        ((kind, argument),) = rule.items()
        return _with_argument(kind, argument, scene)
    if rule == "scalar":
        return ()
    if scene.parameter is None:
        raise ValueError(f"shape {rule!r} of what is kept once, not per parameter")
    if rule == "along_axis":  # one element per index of the axis at hand, the other axes 1
        return tuple(extent if axis == scene.axis else 1 for axis, extent in enumerate(scene.parameter.shape))
    return _by_word(rule, scene.parameter)


def _by_word(word: str, parameter: Parameter) -> tuple[int, ...]:
    shape = parameter.shape
    match word:
        case "parameter":
            return shape
        case "flat":
            return (parameter.elements,)
        case "squeezed":  # without axes of one element
            return tuple(extent for extent in shape if extent != 1)
        case "rows":  # one element per row: the last axis summed up
            return shape[:-1]
        case "columns":  # one per column: the last axis but one summed up
            return shape[:-2] + shape[-1:]
    raise ValueError(f"unknown shape {word!r}; there are {', '.join(sorted(SHAPES | SHAPE_RULES))}, and lists of sizes")


def _with_argument(kind: str, argument: Any, scene: Scene) -> tuple[int, ...]:  # noqa: ANN401
    shape = scene.parameter.shape if scene.parameter else ()
    match kind:
        case "per_block":  # one element per block of so many elements, the last one may be short
            return (size({"ceil": ["elements", argument]}, scene),)
        case "stack":  # so many of the parameter's shape in one tensor
            return (size(argument, scene), *shape)
        case "merged":  # neighbouring axes after the first as one, up to that extent
            return shape[:1] + _merged(shape[1:], size(argument, scene))
        case "keep":  # only these axes
            return tuple(shape[axis] for axis in argument if -len(shape) <= axis < len(shape))
        case "drop":  # all but these axes
            gone = _axes(argument, shape)
            return tuple(extent for axis, extent in enumerate(shape) if axis not in gone)
        case "one":  # these axes reduced to one element, kept
            single = _axes(argument, shape)
            return tuple(1 if axis in single else extent for axis, extent in enumerate(shape))
    raise ValueError(f"unknown shape rule {kind!r}; there are {', '.join(sorted(SHAPES | SHAPE_RULES))}")


def _axes(wanted: Sequence[int], shape: tuple[int, ...]) -> set[int]:
    """The wanted axes that there are, counted from the front."""
    return {axis % len(shape) for axis in wanted if -len(shape) <= axis < len(shape)}


def _merged(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Neighbours multiplied from the back while the product is at most `most` (heavyball, utils.py dim_merger)."""
    merged: list[int] = []
    product = 1
    for extent in reversed(shape):
        if product * extent <= most:
            product *= extent
        elif product > 1:
            merged, product = [*merged, product], extent
        else:
            merged.append(extent)
    return tuple(reversed([*merged, product] if product > 1 else merged))
