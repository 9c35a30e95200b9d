"""What every block is: a name, the parameters it owns, and its parts in the order they run."""

from __future__ import annotations

from dataclasses import field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter or buffer that a block owns itself: its name within the block, and its shape.

    `tied_to` is the full name of the tensor it shares memory with. `dtype` is '' where the recipe decides.
    """

    name: str
    shape: tuple[int, ...]
    trainable: bool = True
    tied_to: str = ""
    buffer: bool = False
    dtype: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A module of the model. An empty name adds nothing to the names of the tensors below it (a residual, a choice).

    A kind of block is a subclass: a frozen value that holds the dimensions its tensors and its tape need, and no more.
    """

    name: str
    role: ClassVar[str] = "parameter"
    idle: ClassVar[bool] = False  # whether a step gives its parameters no gradient
    still: ClassVar[bool] = False  # whether its parameters do not learn
    unrun: ClassVar[bool] = False  # whether another function reads its parameters: adapters on it stand idle
    registered: ClassVar[tuple[str, ...] | None] = None  # as in Model, for the modules below it
    duty: ClassVar[str] = (
        ""  # what others look for without knowing every kind: attention, recurrence, encoder, decoder, fork, tower, skip
    )

    def own(self) -> tuple[Param, ...]:
        """The parameters and buffers this block holds itself."""
        return ()

    def parts(self) -> tuple[Block, ...]:
        """The blocks inside, in the order they run."""
        return ()

    def groups(self) -> Iterator[tuple[list[int] | None, Block]]:
        """The parts, like ones together: (indices of a numbered part, or None, and the part)."""
        return ((None, part) for part in self.parts())


@dataclass(frozen=True, slots=True)
class Sequence(Block):
    """Blocks that run one after the other: y = f_n(… f_1(x)); `registered` are Model.registered, of a model within one."""

    blocks: tuple[Block, ...] = ()
    registered: tuple[str, ...] | None = field(default=None, kw_only=True)  # type: ignore[misc]

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.blocks


@dataclass(frozen=True, slots=True)
class Unused(Sequence):
    """Modules that are there but do not run in training as such: their tensors exist, and never get a gradient."""

    idle: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Stray(Sequence):
    """Modules that run for nothing: what they make leads nowhere, and their tensors never get a gradient."""

    idle: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Recomputed(Sequence):
    """Blocks that checkpointing recomputes together, by themselves, where no stack of layers does."""


@dataclass(frozen=True, slots=True)
class Stage(Sequence):
    """What begins a stage of a model of images, a stack of layers that read it, and what comes behind them."""


@dataclass(frozen=True, slots=True)
class Residual(Sequence):
    """x + f(x); nameless as a rule. `fp32` where x is cast to fp32 for the sum, which then stays fp32 (Mamba).

    The library's code gives some values names, which last longer than what reads them:

    * `kept` where f(x) has a name that lasts as long as its layer runs (GPT-2's attn_output), and what f reads keeps its
      name until the sum is there.
    * `named` are the blocks whose outputs keep a name until the sum is there (None: not looked at that closely), `lasting`
      those whose outputs do so as long as the layer runs.
    * `within` where the module that f ends with adds up.
    * `renamed` where the output of f's first block has a name that only the layer's next sum gives to something else.
    """

    fp32: bool = False
    kept: bool = False
    named: tuple[int, ...] | None = None
    lasting: tuple[int, ...] = ()
    within: bool = False
    renamed: bool = False


@dataclass(frozen=True, slots=True)
class PostNorm(Sequence):
    """norm(x + f(x)), the order of the first transformer; `rebound` where the sum takes the name of f(x)."""

    norm: Block | None = None
    rebound: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (*self.blocks, self.norm) if self.norm else self.blocks


@dataclass(frozen=True, slots=True)
class Parallel(Block):
    """x + f(x) + g(x): branches that read the same input and are summed into it (NeoX, Falcon-40B).

    With a shared `norm` the branches read norm(x): x + f(n(x)) + g(n(x)) (GPT-J, Falcon-7B, Cohere, Phi). `input_first`
    where the sum begins with x, and not with the branches (Cohere).
    """

    branches: tuple[Block, ...] = ()
    norm: Block | None = None
    input_first: bool = False

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return (self.norm, *self.branches) if self.norm else self.branches


@dataclass(frozen=True, slots=True)
class Sum(Block):
    """f(x) + g(x) + …: branches that all read x, without x itself (a ResNet block with a projected shortcut).

    `in_place` where the later ones take the earlier in (Falcon); `grows` where the first two's sum takes the others in.
    `named` are those whose names last until the module returns, None for all of them.
    """

    branches: tuple[Block, ...] = ()
    in_place: bool = False
    grows: bool = False
    named: tuple[int, ...] | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.branches


Recompute = Literal["outermost", "never", "always"]


@dataclass(frozen=True, slots=True)
class Stack(Block):
    """Numbered layers `name.0`, `name.1`, …: a ModuleList or Sequential. Like layers are the same (or an equal) value.

    * `shared` runs every layer that many times over with one set of parameters (ALBERT), `passes` is how many there are of
      all of them, where it doesn't divide (0: no fewer than that makes).
    * `recompute` is where checkpointing reaches its layers: where they are in no checkpoint already, never (ResNet), or
      always (Swin, whose stages are checkpointed too).
    * `resizing` where a layer passes on fewer or more than it is given, so that even equal layers work on different sizes
      (strided convolutions).
    * `captured` where the head has every layer's input, and the last's output, kept as the model's hidden states.
    """

    layers: tuple[Block, ...] = ()
    shared: int = 1
    passes: int = 0
    recompute: Recompute = "outermost"
    resizing: bool = False
    captured: bool = False
    _groups: list[tuple[list[int], Block]] = field(default_factory=list, init=False, repr=False, compare=False)

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return self.layers

    def groups(self) -> Iterator[tuple[list[int] | None, Block]]:
        """Equal layers together, in the order of their first appearance; looked for once."""
        if not self._groups:
            self._groups.extend(_alike(self.layers))
        return iter(self._groups)


def _alike(layers: tuple[Block, ...]) -> Iterator[tuple[list[int], Block]]:
    """Equal layers together: (their numbers, one of them)."""
    found: dict[int, tuple[list[int], Block]] = {}
    for index, layer in enumerate(layers):
        found.setdefault(id(layer), ([], layer))[0].append(index)
    if len(found) == 1:
        return iter(found.values())
    merged: dict[Block, list[int]] = {}  # layers built one by one may still be equal
    for indices, layer in found.values():
        merged.setdefault(layer, []).extend(indices)
    return ((sorted(indices), layer) for layer, indices in merged.items())


def given(*blocks: Block | None) -> tuple[Block, ...]:
    """Those that are there."""
    return tuple(block for block in blocks if block)


def sequence(*blocks: Block | None, name: str = "") -> Sequence:
    """Blocks in a row; None is left out."""
    return Sequence(name, given(*blocks))


def residual(
    *blocks: Block | None,
    kept: bool = False,
    named: tuple[int, ...] | None = None,
    lasting: tuple[int, ...] = (),
    within: bool = False,
    renamed: bool = False,
) -> Residual:
    """x + the blocks in a row."""
    named = () if named is None and (lasting or within) else named
    return Residual("", given(*blocks), kept=kept, named=named, lasting=lasting, within=within, renamed=renamed)


def parallel(*branches: Block | None, norm: Block | None = None, input_first: bool = False) -> Parallel:
    """x + the sum of the branches, each reading x, or norm(x) where they share a norm."""
    return Parallel("", given(*branches), norm, input_first)


def repeat(name: str, count: int, *layer: Block | None) -> Stack:
    """`count` like layers `name.0` to `name.<count-1>`, each the given blocks in a row."""
    return Stack(name, (sequence(*layer),) * count)


def stack(name: str, layers: list[Block], recompute: Recompute = "outermost") -> Stack:
    """Layers that may differ, `name.0`, `name.1`, and so on."""
    return Stack(name, tuple(layers), recompute=recompute)


def mapped(block: Block | None, change: Any) -> Any:  # noqa: ANN401 - Callable[[Block], Block], and a block of its own kind
    """The block with every block inside it changed; the same value where nothing changes."""
    if block is None:
        return None
    found: dict[str, Any] = {}
    for name in [each.name for each in fields(block)]:
        value = getattr(block, name)
        if isinstance(value, Block):
            made: Any = change(value)
        elif isinstance(value, tuple) and value and isinstance(value[0], Block):
            made = tuple(change(part) for part in value)
            made = value if all(a is b for a, b in zip(made, value, strict=True)) else made
        else:
            continue
        if made is not value:
            found[name] = made
    return replace(block, **found) if found else block
