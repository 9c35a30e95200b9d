"""A model described where it is used: as blocks, as raw tensors, or as a bare size.

    model:
      kind: causal-lm            # what its loss is; causal-lm unless said otherwise
      context: 4096              # the longest sequence it takes, if it has one
      blocks:
        - embed: {rows: 32000, width: 4096}
        - repeat: 32
          blocks:
            - residual: [{norm: {width: 4096}}, {attention: {width: 4096, heads: 32, kv_heads: 8}}]
            - residual: [{norm: {width: 4096}}, {mlp: {width: 4096, inner: 14336}}]
        - norm: {width: 4096}
        - linear: {inputs: 4096, outputs: 32000, name: head, tied_to: embed}
      tensors:                   # what belongs to no block; patterns name many at once
        "scales.{0..31}": [4096]
        "positions": {shape: [4096, 64], trainable: false}

The kinds and their keys are in inline_kinds.py. Around them stand `residual: [...]` (x + the blocks in a row),
`parallel: [...]` (x + the sum of its blocks, each reading x), `sequence: [...]`, and `repeat: n` with `blocks`. A block
is named by its kind (`norm`, or `norm_1`, `norm_2` where several stand side by side) unless it has a `name`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

from memcalc.architectures.inline_kinds import KINDS, Table
from memcalc.architectures.inline_reader import Reader
from memcalc.blocks.base import Block, Parallel, Residual, Sequence, Stack
from memcalc.dimensions import LARGEST
from memcalc.errors import Fault, RunInvalid
from memcalc.model import Kind, Model
from memcalc.tensors import Tensor, count_of, expand, tensors

KEYS = ("name", "kind", "context", "blocks", "tensors")
AROUND: dict[str, type[Residual | Parallel | Sequence]] = {
    "residual": Residual,
    "parallel": Parallel,
    "sequence": Sequence,
}
DEEPEST = 16  # lists within lists; beyond it is an accident
MOST = 10**6  # names that one pattern may stand for
SIDE = 4096  # of the made-up matrices of a bare size


def inline(given: Mapping[Any, Any]) -> Model:
    """The model of `blocks` and `tensors`; RunInvalid lists every fault with its place."""
    reader = Reader()
    reader.unknown("model", given, KEYS)
    body = Sequence("", _blocks(reader, "model.blocks", given.get("blocks", []), 0))
    tables = _tables(reader, given.get("tensors", {}))
    kind = given.get("kind", "causal-lm" if body.blocks else "tensors")
    reader.choice("model.kind", kind, get_args(Kind), "kind of model")
    context = reader.number("model.context", given.get("context", 0), least=0)
    if not reader.faults:
        reader.faults.extend(_inconsistent((*tensors(body), *tables)))
    if not reader.faults and not (body.blocks or tables):
        reader.fault("model", "it has neither blocks nor tensors")
    if reader.faults:
        raise RunInvalid(reader.faults, "the model")
    return Model(body, kind, context, str(given.get("name", "inline")), tables=tables)


def nominal(size: int) -> Model:
    """A model of exactly `size` parameters in made-up matrices: [4096, 4096] as long as they fit, then what is left.

    ValueError for a size that no model has.
    """
    if not 1 <= size <= LARGEST * 1000:
        raise ValueError(f"{size} is not a number of parameters between 1 and {LARGEST * 1000:.0e}")
    square = SIDE * SIDE
    whole_ones, rest = divmod(size, square)
    rows, last = divmod(rest, SIDE)
    made = (
        Tensor(f"layers.{{0..{whole_ones - 1}}}.weight", (SIDE, SIDE), whole_ones, "linear"),
        Tensor("rows.weight", (rows, SIDE), 1, "linear"),
        Tensor("rest.weight", (last,), 1),
    )
    return Model(Sequence(""), "tensors", tables=tuple(t for t in made if t.parameters), nominal=True)


def _blocks(reader: Reader, where: str, given: Any, depth: int) -> tuple[Block, ...]:  # noqa: ANN401
    """The blocks of a list, named."""
    if not isinstance(given, list) or depth > DEEPEST:
        reader.fault(where, f"a list of blocks belongs here{', less deeply nested' if depth > DEEPEST else ''}")
        return ()
    names = _names([_kind(item) for item in given])
    made = [_block(reader, f"{where}[{i}]", item, names[i], depth) for i, item in enumerate(given)]
    return tuple(block for block in made if block)


def _kind(item: Any) -> str:  # noqa: ANN401
    if not isinstance(item, Mapping):
        return ""
    return "layers" if "repeat" in item else str(next(iter(item), ""))


def _names(kinds: list[str]) -> list[str]:
    """A name for each block: its kind, numbered where the kind comes more than once."""
    total = Counter(kinds)
    return [kind if total[kind] == 1 else f"{kind}_{kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)]


def _block(reader: Reader, where: str, item: Any, name: str, depth: int) -> Block | None:  # noqa: ANN401
    """One entry of a list: `{kind: {…}}`, `{residual: […]}` or `{repeat: n, blocks: […]}`."""
    if not isinstance(item, Mapping) or not item:
        reader.fault(where, "a block belongs here, such as {norm: {width: 4096}}")
        return None
    if "repeat" in item:
        return _repeat(reader, where, item, name, depth)
    if len(item) > 1:
        reader.fault(where, f"one block at a time, not {', '.join(str(key) for key in item)}")
        return None
    kind, inside = next(iter(item.items()))
    if not reader.choice(where, kind, (*KINDS, *AROUND, "repeat"), "kind of block"):
        return None
    if kind in AROUND:
        return AROUND[kind](name, _blocks(reader, f"{where}.{kind}", inside, depth + 1))
    return _made(reader, f"{where}.{kind}", kind, inside, name)


def _repeat(reader: Reader, where: str, item: Mapping[str, Any], name: str, depth: int) -> Block | None:
    reader.unknown(where, item, ("repeat", "blocks", "name"))
    times = reader.number(f"{where}.repeat", item["repeat"], most=10_000)
    inside = Sequence("", _blocks(reader, f"{where}.blocks", item.get("blocks"), depth + 1))
    return Stack(str(item.get("name", name)), (inside,) * times)


def _made(reader: Reader, where: str, kind: str, given: Any, name: str) -> Block | None:  # noqa: ANN401
    """A block of one of KINDS from its keys."""
    if not isinstance(given, Mapping):
        reader.fault(where, "the keys of the block belong here, such as {width: 4096}")
        return None
    fields = reader.fields(where, {k: v for k, v in given.items() if k != "name"}, KINDS[kind])
    if fields is None:
        return None
    if fields.get("tied_to"):
        fields["tied_to"] = _tensor_name(str(fields["tied_to"]))
    try:
        return KINDS[kind](**fields).block(str(given.get("name", name)))
    except ValueError as error:
        key, _, what = str(error).partition(": ")
        reader.fault(f"{where}.{key}", what)
        return None


def _tensor_name(name: str) -> str:
    return name if name.endswith(".weight") else f"{name}.weight"


def _tables(reader: Reader, given: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
    """Raw tensors: {pattern: shape} or {pattern: {shape, role, trainable, buffer, tied_to, dtype}}."""
    if not isinstance(given, Mapping):
        reader.fault("model.tensors", "names and their shapes belong here, such as {head.weight: [32000, 4096]}")
        return ()
    made = [_table(reader, f"model.tensors[{name}]", str(name), what) for name, what in given.items()]
    return tuple(tensor for tensor in made if tensor)


def _table(reader: Reader, where: str, name: str, given: Any) -> Tensor | None:  # noqa: ANN401
    fields = reader.fields(where, given if isinstance(given, Mapping) else {"shape": given}, Table)
    count = _count(reader, where, name)
    if fields is None or not count:
        return None
    try:
        return Table(**fields).tensor(name, count)
    except ValueError as error:
        reader.fault(f"{where}.dtype", str(error))
        return None


def _count(reader: Reader, where: str, name: str) -> int:
    try:
        count = count_of(name)
    except ValueError:
        reader.fault(where, "its braces hold whole numbers: {0..31}, {1..61..2} or {0..2,4..6}")
        return 0
    if not 1 <= count <= MOST:
        reader.fault(where, f"the pattern stands for {count} tensors; from 1 to {MOST:,} are possible")
    return count


def _inconsistent(every: tuple[Tensor, ...]) -> list[Fault]:
    """Names given twice, and tensors tied to one that does not exist or has another shape."""
    twice = [name for name, times in Counter(t.name for t in every).items() if times > 1]
    tied = [t for t in every if t.tied_to]
    shapes = {name: t.shape for t in every for name in expand(t.name)} if tied else {}
    return [Fault("model", f"two tensors have the name {name}") for name in twice] + [
        Fault("model", f"{t.name} {list(t.shape)} is tied to {t.tied_to}, which {_mismatch(shapes.get(t.tied_to))}")
        for t in tied if shapes.get(t.tied_to) != t.shape
    ]  # fmt: skip


def _mismatch(shape: tuple[int, ...] | None) -> str:
    return "does not exist" if shape is None else f"has the shape {list(shape)}"


__all__ = ["inline", "nominal"]
