"""Marks: when the modules of a step begin and end, and when gradients are there, in the order of the real step.

DeepSpeed decides by counting elements over the whole model: which parameters to gather next, when a bucket is full. So its
hooks here only note where in the log they run; afterwards the notes are read in the order of the real step, each layer
with its own number, and what DeepSpeed would do is laid over the log.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from memcalc.sharding.naming import NUMBER
from memcalc.tape.units import ROOT, Sharder, Unit, Visit
from memcalc.tensors import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcalc.sharding.naming import Naming
    from memcalc.tape.autograd import Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording
    from memcalc.tape.values import Value
    from memcalc.tensors import Tensor

Kind: TypeAlias = Literal["enter", "leave", "back", "after", "gradient", "end"]
Place: TypeAlias = "tuple[bool, int]"
_LAYER = re.compile(r"(\d+|\{[^{}]*\})(?:\.|$)")


class Mark(NamedTuple):
    """`place` is the stretch of the record it is in: (whether going back, boundaries between layers passed so far).

    `saves` where autograd is on, `packs` where a checkpoint that runs again keeps what it saves, detached.
    """

    place: Place
    at: int
    kind: Kind
    name: str
    saves: bool
    packs: bool = False


class Event(NamedTuple):
    """A mark as the real step comes to it: in slice `number` of the schedule, `layer` of its stack (-1: in none)."""

    number: int
    at: int
    kind: Kind
    name: str
    layer: int
    saves: bool


class Param(NamedTuple):
    """One parameter of the real model, or the like ones of one module: `key` tells it from all others.

    `role` is its tensor's.
    """

    key: tuple[str, int]
    elements: int
    trainable: bool
    role: str = ""


class Marking(Sharder):
    """Notes where its hooks run, those around `modules` only where asked for.

    What becomes of gradients follows from the notes, so it takes them where `takes` says.
    """

    neighbours = ()

    def __init__(self, tape: Tape, *, takes: bool, modules: bool = False) -> None:
        super().__init__(tape)
        self.marks: list[Mark] = []
        self.back, self.takes, self._modules = False, takes, modules
        self._visits: dict[str, Visit] = {}

    def root(self) -> Unit:  # noqa: D102
        return Unit(ROOT, ())

    def layer(self, stack: str, index: int, name: str) -> Unit | None:  # noqa: ARG002, D102
        return Unit(f"{stack}.{NUMBER}" if stack else NUMBER, ()) if self._modules else None

    def module(self, path: str) -> Visit | None:  # noqa: D102
        if not self._modules:
            return None
        if path not in self._visits:
            self._visits[path] = Visit(Unit(path, ()))
        return self._visits[path]

    def before_forward(self, unit: Unit) -> None:  # noqa: D102
        self._note("enter", unit.path)

    def after_forward(self, unit: Unit) -> None:  # noqa: D102
        self._note("leave", unit.path)

    def before_backward(self, unit: Unit) -> None:  # noqa: D102
        self.back = True
        self._note("back", unit.path)

    def after_backward(self, unit: Unit) -> None:  # noqa: D102
        self._note("after", unit.path)

    def gradient(self, leaf: Leaf, gradient: Value) -> bool:  # noqa: ARG002, D102
        if leaf.spends is not None:
            return False
        self._note("gradient", leaf.name)
        return self.takes

    def finish(self) -> None:  # noqa: D102
        self._note("end", ROOT)

    def _note(self, kind: Kind, name: str) -> None:
        tape = self.tape
        place = (True, tape.returned) if self.back else (False, tape.passed)
        packs = tape.grad_enabled and self.back and tape.saving is not None
        saves = tape.grad_enabled and (self.back or tape.saving is None)
        self.marks.append(Mark(place, len(tape.events), kind, name, saves, packs))


def events(recording: Recording, marks: Iterable[Mark]) -> Iterator[Event]:
    """The marks in the order of the real step, a layer's as often as there are layers like it."""
    there = by_place(marks)
    for number, (place, layer) in enumerate(places(recording)):
        for mark in there.get(place, ()):
            yield Event(number, mark.at, mark.kind, mark.name, layer, mark.saves)


def by_place(marks: Iterable[Mark]) -> dict[Place, list[Mark]]:
    """The marks of each stretch of the record."""
    there: dict[Place, list[Mark]] = {}
    for mark in marks:
        there.setdefault(mark.place, []).append(mark)
    return there


def places(recording: Recording) -> Iterator[tuple[Place, int]]:
    """For each slice of the schedule: the stretch of the record that stands for it, and the number of its layer."""
    passed = 0
    for stack in recording.stacks:
        yield (False, passed), -1
        yield from (((False, passed + 1 + sample), layer) for layer, sample in enumerate(stack.order))
        passed += len(stack.events)
    yield (False, passed), -1
    passed = 0
    for stack in reversed(recording.stacks):
        yield (True, passed), -1
        last, numbered = len(stack.events) - 1, list(enumerate(stack.order))
        yield from (((True, passed + last - sample), layer) for layer, sample in reversed(numbered))
        passed += len(stack.returns)
    yield (True, passed), -1


class Roster:
    """The parameters of a model by the modules that own them, layer by layer. `stacks` are the paths of its stacks."""

    def __init__(self, tensors: Sequence[Tensor], naming: Naming) -> None:
        self.naming = naming
        self.named = {tensor.name: tensor for tensor in tensors}
        self.modules: dict[str, list[Tensor]] = {}
        plain = {naming.of(tensor.module) for tensor in tensors if tensor.role != "adapter" and not tensor.buffer}
        for tensor in tensors:
            if not tensor.buffer:
                own = self.modules.setdefault(self._owner(tensor, plain), [])
                if tensor.tied_to in self.named:  # they come by their numbers (ds_id): the owner's is lower
                    own.insert(0, self.named[tensor.tied_to])
                else:
                    own.append(tensor)
        self.looked = self._looked(tensors)
        self._known: dict[tuple[str, int, tuple[str, ...]], tuple[Param, ...]] = {}
        self._layers: dict[str, tuple[frozenset[int], int]] = {}
        self._numbers: dict[str, frozenset[int]] = {}  # that a pattern stands for
        self._sets: dict[frozenset[tuple[str, bool]], list[frozenset[int]]] = {}  # of layers, by what is marked

    @cached_property
    def _listed(self) -> dict[str, Tensor]:
        return {name: tensor for tensor in self.named.values() for name in expand(tensor.name)}

    @cached_property
    def _tied(self) -> frozenset[str]:
        """The names of what others share."""
        return frozenset(tensor.tied_to for tensor in self.named.values() if tensor.tied_to)

    def _owner(self, tensor: Tensor, plain: set[str]) -> str:
        """The module that a tensor belongs to; an adapter's is the one it was put into."""
        name = self.naming.of(tensor.module)
        if tensor.role != "adapter":
            return name
        around = name
        while around and around not in plain:
            around = around.rpartition(".")[0]
        return around or name

    def _looked(self, tensors: Iterable[Tensor]) -> dict[str, list[Tensor]]:
        """The weights that modules look at before those run that own them: they are gathered for both (ZeROOrderedDict)."""
        found: dict[str, list[Tensor]] = {}
        for tensor in tensors:
            if tensor.name.endswith(".weight") and tensor.role != "adapter":
                looker = self.naming.looker(tensor.module)
                if looker is not None:
                    found.setdefault(looker, []).append(self.named.get(tensor.tied_to, tensor))
        return found

    def find(self, name: str) -> Tensor | None:
        """The tensor of that name, or the one it shares; a single one's name stands for those listed with it."""
        tensor = self.named.get(name) or (None if "{" in name else self._listed.get(name))
        return tensor and self.named.get(tensor.tied_to, tensor)

    def visited(self, names: Iterable[str]) -> None:
        """Only these modules are run as such: what others own belongs to the nearest one around them, if not to one of them."""
        seen = set(names)
        shared = {id(tensor) for name in seen for tensor in self.modules.get(name, ()) if tensor.name in self._tied}
        for name in [name for name in self.modules if name not in seen]:
            around = name
            while around and around not in seen:
                around = around.rpartition(".")[0]
            own = [tensor for tensor in self.modules.pop(name) if id(tensor) not in shared]
            if own:
                self.modules.setdefault(around, []).extend(own)

    def of(self, module: str, layer: int, stacks: tuple[str, ...]) -> tuple[Param, ...]:
        """The parameters that a module owns, in that layer."""
        key = module, layer, stacks
        if key not in self._known:
            self._known[key] = self._params(self.modules.get(module, ()), layer, stacks)
        return self._known[key]

    def seen(self, module: str, layer: int, stacks: tuple[str, ...]) -> tuple[Param, ...]:
        """Those of other modules that it looks at."""
        return self._params(self.looked[module], layer, stacks) if module in self.looked else ()

    def _params(self, tensors: Iterable[Tensor], layer: int, stacks: tuple[str, ...]) -> tuple[Param, ...]:
        found = [self.param(tensor, layer, stacks) for tensor in tensors]
        return tuple([param for param in found if param])

    def below(self, module: str, layer: int, stacks: tuple[str, ...]) -> int:
        """Elements of all parameters in a module: in that layer, where it is in one."""
        inner = f"{module}." if module else ""
        found = [tensor for name, own in self.modules.items() if f"{name}.".startswith(inner) for tensor in own]
        if NUMBER not in module:
            return sum([tensor.count * tensor.elements for tensor in found])
        return sum([param.elements for tensor in found if (param := self.param(tensor, layer, stacks))])

    def param(self, tensor: Tensor, layer: int, stacks: tuple[str, ...]) -> Param | None:
        """A tensor in a layer; None where that layer has none of it."""
        layers, elements = self._range(tensor, stacks)
        if layers and layer not in layers:
            return None
        return Param((tensor.name, layer if layers else -1), elements, tensor.trainable, tensor.role)

    def ranges(self, marks: Iterable[Mark], stacks: tuple[str, ...]) -> list[frozenset[int]]:
        """Each set of layers that has a parameter that is marked, or of the modules that are."""
        told = frozenset([(mark.name, mark.kind == "gradient") for mark in marks])
        if told not in self._sets:
            named = [
                tensor for name, single in told if not single
                for tensor in (*self.modules.get(name, ()), *self.looked.get(name, ()))
            ]  # fmt: skip
            named += [tensor for name, single in told if single and (tensor := self.find(name))]
            self._sets[told] = list({self._range(tensor, stacks)[0] for tensor in named} - {frozenset()})
        return self._sets[told]

    def _range(self, tensor: Tensor, stacks: tuple[str, ...]) -> tuple[frozenset[int], int]:
        """(the layers of a stack that have such a tensor, if it is in one; elements in each)."""
        if tensor.name not in self._layers:
            pattern = next((p for path in stacks if (p := _pattern(tensor.name, path))), "")
            if pattern not in self._numbers:
                self._numbers[pattern] = frozenset(map(int, expand(pattern))) if pattern else frozenset()
            layers = self._numbers[pattern]
            self._layers[tensor.name] = layers, tensor.count // max(len(layers), 1) * tensor.elements
        return self._layers[tensor.name]


def _pattern(name: str, stack: str) -> str:
    """Which layers of the stack at that path a name stands for; '' where it is in none."""
    if not name.startswith(f"{stack}." if stack else ""):
        return ""
    match = _LAYER.match(name, len(stack) + 1 if stack else 0)
    return match[1] if match else ""
