"""The registry of tape rules: for a kind of block, what an implementation's code does, line by line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from memcalc.tape.bound import bounded
from memcalc.tape.units import called

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

Rule: TypeAlias = "Callable[[Tape, Any, Value, Around], Value]"

_RULES: dict[tuple[type[Block], str], Rule] = {}
_MISSING: set[tuple[type[Block], str]] = set()  # looked for in vain


class Around:
    """What a model computes once for all its layers: rotary tables, masks, position biases, the encoder's states."""

    __slots__ = (
        "adds",
        "after",
        "after_first",
        "again",
        "asks",
        "bias",
        "choice",
        "chooses",
        "chosen",
        "cross_bias",
        "deep",
        "distances",
        "each",
        "encoder",
        "features",
        "follows",
        "grid",
        "handed",
        "hands",
        "holds",
        "images",
        "keeps",
        "kept",
        "masks",
        "named",
        "normed",
        "original",
        "outputs",
        "padding",
        "per_layer",
        "placed",
        "positions",
        "read",
        "ready",
        "residual",
        "returned",
        "ropes",
        "rotary",
        "scene",
        "seen",
        "shared",
        "sight",
        "sighted",
        "slopes",
        "states",
        "summed",
        "table",
        "tokens",
        "weights",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ready = False
        self.again = False  # while a checkpoint runs a layer once more
        self.weights: Value | None = None  # of an eager attention: the layer holds on to them to its end
        self.summed: list[Value] = []  # what goes into sums, while the module that adds them up, or the layer, runs
        self.returned: Value | None = None  # by a layer beside its output: held until the next has returned
        self.choice: Value | None = None  # of keys, by the layer before
        self.states: Value | None = None  # of the router of the layer before
        self.chooses = False  # whether layers hand such a choice on
        self.chosen: tuple[Value, Value] | None = None
        self.rotary: tuple[Value, Value] | None = None
        self.ropes: dict[str, tuple[Value, Value]] = {}
        self.masks: dict[int, Value | None] = {}
        self.encoder: Value | None = None
        self.follows = False  # that encoder: its layers are called with the states, and leave them as they are
        self.tokens: Value | None = None  # the ids that the model was given
        self.original: Value | None = None  # a copy of the embeddings (Zamba)
        self.per_layer: Value | None = None  # every layer's own embeddings (Gemma 3n and 4)
        self.shared: dict[bool, tuple[Value, Value]] = {}  # keys and values that later layers take (of a window or not)
        self.normed: Value | None = None  # what the layer's last norm put out, until the next one's takes the name
        self.residual: Value | None = None  # what the layer's last sum began with, until the next one's takes the name
        self.handed: list[Value] = []  # to a module under way, by a function that holds on to it until that returns
        self.outputs: list[Value] = []  # what the base model's output holds beside its last hidden state
        self.images: Value | None = None  # as tokens of the text
        self.seen: tuple[Value, Value, Value] | None = None  # states of images that layers attend to, and two masks
        self.sight: Callable[[Around], Value] | None = None  # looks at the images, once tokens are embedded
        self.sighted: bool | str = False  # a mask tells images' tokens apart ("windows": in layers with a window alone)
        self.scene: Any = None  # of a denoiser
        self.kept: Value | None = None  # what a stage yields beside its output, until the next stage has run
        self.bias: Value | None = None
        self.slopes = False  # whether that is ALiBi's, which asks for no gradient
        self.cross_bias: Value | None = None
        self.hands = False  # whether the first layer makes them, and each returns them for the next
        self.table: Value | None = None  # of relative positions
        self.distances: Value | None = None
        self.padding: Value | None = None
        self.holds = False  # what is embedded, in a function that also runs the layers
        self.features: tuple[int, ...] | None = None  # hidden states to read: 0 what layers are given, -1 the last's
        self.read: dict[int, Value] = {}  # those, by how many layers they are behind
        self.asks = False  # a tower within a model of tokens
        self.keeps = False  # every layer's output until the model returns
        self.deep: list[Value] = []  # states of some of a tower's layers, merged, for the text's first layers
        self.named: list[Value] = []  # local variables of the function that runs the layers
        self.grid: tuple[int, int, int, int] | None = None  # images of any size: how many; frames, rows, columns
        self.after: dict[int, Callable[[Value], Value]] = {}  # what the model does with the output of some layers
        self.each: Callable[[int, Value], Value] | None = None  # and alike with that of every layer
        self.adds = False  # every layer something to its input that asks for a gradient
        self.after_first: Callable[[Value, Value], Value] | None = None
        self.positions: Value | None = None
        self.placed: str | None = None  # the module that has added positions to the embeddings

    def copy(self) -> Around:
        """The same, to be changed apart."""
        other = Around()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.summed, other.handed = [], []
        return other

    def storages(self) -> set[int]:
        """The storages of the position biases, which the first layer makes for all."""
        return {value.storage.id for value in (self.bias, self.cross_bias) if value is not None}

    def tables(self, rope: str) -> tuple[Value, Value] | None:
        """The rotary tables of that kind, or the only ones."""
        return self.ropes.get(rope, self.rotary)

    def mask(self, window: int) -> Value | None:
        """The mask of layers that see `window` tokens (0: all)."""
        return self.masks.get(window)


def rule(kind: type[Block], *formulas: str) -> Callable[[Rule], Rule]:
    """Register a rule for a kind of block, for each of its formulas ('' alone where none is named)."""

    def register(function: Rule) -> Rule:
        for formula in formulas or ("",):
            _RULES[kind, formula] = function
        return function

    return register


def gone(names: list[Value]) -> None:
    """The names of a function that returns: CPython lets go of them in the order they came."""
    names.reverse()
    names.clear()


@contextmanager
def inside(t: Tape, block: Block) -> Iterator[None]:
    """Where a block's own code runs that no rule of its kind is called for (it reads more than one value)."""
    before = t.path
    if block.name:
        t.path = f"{before}.{block.name}" if before else block.name
    t.owner = t.path
    yield
    t.path = t.owner = before


def run(t: Tape, block: Block | None, x: Value, around: Around) -> Value:
    """The output of a block for its input, by the rule of its kind and formula; the input where there is no block."""
    if block is None:
        return x
    before = t.path
    if block.name:
        t.path = f"{before}.{block.name}" if before else block.name
    t.owner = t.path
    visit = t.sharder.module(t.path) if t.sharder is not None and block.name else None
    if visit is None:
        out = _find(t, block)(t, block, x, around)
    else:
        out = called(t, visit, lambda given: _find(t, block)(t, block, given, around), x)
    t.path = t.owner = before
    return out


def _find(t: Tape, block: Block) -> Rule:
    kind, formula = block.__class__, getattr(block, "formula", "")
    found = _RULES.get((kind, formula)) or _loaded(kind, formula)
    if found is None:
        t.unmodelled[f"{kind.__name__} {formula}".strip()] = None
        found = _RULES.get((kind, ""))
    if found is None:
        found = next((_RULES[base, ""] for base in kind.__mro__ if (base, "") in _RULES), bounded)
    return found


def _loaded(kind: type[Block], formula: str) -> Rule | None:
    """The rule, once the files that may hold it are imported; None, and not looked for again, where there is none."""
    if (kind, formula) in _MISSING:
        return None
    from memcalc.tape.hf import load  # noqa: PLC0415 - the rules import this file

    for _ in load(formula, kind.__module__.rpartition(".")[2]):
        if (kind, formula) in _RULES:
            return _RULES[kind, formula]
    _MISSING.add((kind, formula))
    return None
