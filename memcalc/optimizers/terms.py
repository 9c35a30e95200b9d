"""The small language of optimizer presets: sizes and conditions, read from YAML as plain data, never as code.

A size is a whole number, a word, an option's name, a name defined under `sizes`, or one of the operations over
sizes: `{min: [a, b]}`, `{max: …}`, `{plus: …}`, `{times: …}`, `{ceil: [a, b]}` (a / b rounded up), `{floor: [a, b]}`,
`{round_up: [a, b]}` (a rounded up to a multiple of b), `{part: [a, fraction]}` (a share of a, rounded up). The
words: `elements`; `axis0`, `axis1`, `axis-1`, `axis-2`: the
extent of one axis, 1 where the tensor has none; `smaller`, `larger`: the smallest and the largest extent; `ndim`;
`axis`: the extent of the axis at hand below `for_each: axis`.

A condition is a mapping; it holds where each of its entries does. A key is a size or `dtype`, `role`, `name`,
`implementation` or an option; the value is what it must equal, a list of which it must be one, or a test
`{min: 4096, max: …, above: …, below: …, multiple_of: …, not: …, contains: […], end: …}`. `any: [condition, …]` holds where
one of them does, `all: [condition, …]` where each does, `not: condition` where it doesn't. A condition can be a name
defined under `conditions`; `contains` takes texts, or the option that holds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memcalc.optimizers.values import Option, Parameter, Scene

WORDS = frozenset({"elements", "axis0", "axis1", "axis2", "axis-1", "axis-2", "smaller", "larger", "ndim", "axis"})
FACTS = frozenset({"dtype", "role", "name"})
OPERATIONS = frozenset({"min", "max", "plus", "times", "ceil", "floor", "round_up", "part"})
TESTS = frozenset({"min", "max", "above", "below", "multiple_of", "not", "contains", "end"})


def size(term: Any, scene: Scene) -> int:  # noqa: ANN401 - YAML data
    """The number a size stands for; ValueError where the preset is wrong."""
    if isinstance(term, int):
        return term
    if isinstance(term, Mapping):
        ((operation, terms),) = term.items()
        if operation == "part":
            return math.ceil(size(terms[0], scene) * _limit(terms[1], scene))
        return _operate(operation, [size(part, scene) for part in terms])
    value = _value(term, scene)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{term!r} is {value!r}, which is not a size")  # noqa: TRY004 - of the preset, not of the call
    return value


def _operate(operation: str, sizes: list[int]) -> int:
    match operation:
        case "min":
            return min(sizes)
        case "max":
            return max(sizes)
        case "plus":
            return sum(sizes)
        case "times":
            return math.prod(sizes)
        case "ceil":
            return -(-sizes[0] // sizes[1])
        case "floor":
            return sizes[0] // sizes[1]
        case "round_up":
            return -(-sizes[0] // sizes[1]) * sizes[1]
    raise ValueError(f"unknown operation {operation!r}; there are {', '.join(sorted(OPERATIONS))}")


def holds(condition: Mapping[str, Any] | str, scene: Scene) -> bool:
    """Whether every entry of a condition holds; a condition may be named under `conditions`."""
    if isinstance(condition, str):
        return holds(scene.conditions[condition], scene)
    return all(_entry(key, wanted, scene) for key, wanted in condition.items())


def _entry(key: str, wanted: Any, scene: Scene) -> bool:  # noqa: ANN401
    if key == "any":
        return any(holds(condition, scene) for condition in wanted)
    if key == "all":
        return all(holds(condition, scene) for condition in wanted)
    if key == "not":
        return not holds(wanted, scene)
    return _matches(_value(key, scene), wanted, scene)


def _matches(value: Any, wanted: Any, scene: Scene) -> bool:  # noqa: ANN401
    if isinstance(wanted, list):
        return any(_matches(value, one, scene) for one in wanted)
    if isinstance(wanted, Mapping):
        return all(_test(test, value, limit, scene) for test, limit in wanted.items())
    return bool(value == wanted)


def _test(test: str, value: Any, limit: Any, scene: Scene) -> bool:  # noqa: ANN401 - one case per test
    match test:
        case "min":
            return value is not None and value >= _limit(limit, scene)
        case "max":
            return value is not None and value <= _limit(limit, scene)
        case "above":
            return value is not None and value > _limit(limit, scene)
        case "below":
            return value is not None and value < _limit(limit, scene)
        case "multiple_of":
            return bool(value % size(limit, scene) == 0)
        case "not":
            return not _matches(value, limit, scene)
        case "contains":
            return any(part in value for part in _texts(limit, scene))
        case "end":
            return bool(value.endswith(limit))
    raise ValueError(f"unknown test {test!r}; there are {', '.join(sorted(TESTS))}")


def _texts(texts: list[str] | str, scene: Scene) -> tuple[str, ...]:
    """The texts themselves, or those that the named option holds: one or several."""
    found = scene.options[texts] if isinstance(texts, str) else texts
    return (found,) if isinstance(found, str) else tuple(str(part) for part in found or ())  # type: ignore[union-attr]


def _limit(limit: Any, scene: Scene) -> float:  # noqa: ANN401
    found = scene.options.get(limit, limit) if isinstance(limit, str) else limit
    return found if isinstance(found, float) else size(limit, scene)


def _value(key: str, scene: Scene) -> Option:
    if key in scene.options:
        return scene.options[key]
    if key in scene.sizes:
        return size(scene.sizes[key], scene)
    if key == "implementation":
        return scene.implementation
    if scene.parameter is None:
        raise ValueError(f"{key!r} is asked of what is kept once, not per parameter")
    if key == "axis" and scene.axis is not None:
        return scene.parameter.shape[scene.axis]
    return _fact(key, scene.parameter)


def _fact(key: str, parameter: Parameter) -> int | str:
    shape = parameter.shape
    match key:
        case "elements":
            return parameter.elements
        case "ndim":
            return len(shape)
        case "smaller":
            return min(shape, default=1)
        case "larger":
            return max(shape, default=1)
        case "axis0" | "axis1" | "axis2" | "axis-1" | "axis-2":
            return _extent(shape, int(key[4:]))
        case "dtype":
            return parameter.dtype
        case "role":
            return parameter.role
        case "name":
            return parameter.name
    raise ValueError(f"unknown word {key!r}; there are {', '.join(sorted(WORDS | FACTS))}, and the preset's options")


def _extent(shape: tuple[int, ...], axis: int) -> int:
    return shape[axis] if -len(shape) <= axis < len(shape) else 1
