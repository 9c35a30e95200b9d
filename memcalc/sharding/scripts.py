"""Scripts: what the modules of one slice of the step do under ZeRO-3, told once for all layers that are alike.

Source: DeepSpeed 0.19.8, runtime/zero/parameter_offload.py (setup_zero_stage3_hooks: every module, forward and backward).
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Literal, NamedTuple

from memcalc.sharding.naming import NUMBER, around
from memcalc.tape.units import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from memcalc.sharding.marks import Mark, Param, Place, Roster
    from memcalc.sharding.naming import Naming

FETCHES = frozenset({"enter", "back"})
AGAIN = frozenset({"enter", "leave"})  # what a recomputation notes


class Call(NamedTuple):
    """A module that is called: the parameters it needs, by their places in the script, and elements of all its own.

    `ends` where it ends before anything else begins. `below` are the elements of all that is in it, where the model has
    leaf modules; `holds` says if it is one of them, or those in its layer are in it, or all of the model's. `seen` are those
    it needs because it looks at what is another's.
    """

    needed: tuple[int, ...]
    elements: int = 0
    ends: bool = False
    below: int = 0
    holds: Literal["", "leaf", "layer", "model"] = ""
    seen: tuple[int, ...] = ()


class Act(NamedTuple):
    """What happens when the log has `at` events: modules are called, one lets go of what it needed, a gradient is there.

    `saves` where autograd has saved what is let go of, `packs` where a checkpoint keeps that; `ends` where the step is over.
    `owner` is the module whose backward pass has a checkpoint run again what is called, `freed` the one that ends and had it
    do so. `unseen` are those of what is let go of that were gathered because the module looks at them.
    """

    at: int
    calls: tuple[Call, ...] = ()
    released: tuple[int, ...] = ()
    gradient: int = 0
    saves: bool = False
    ends: bool = False
    owner: str = ""
    freed: str = ""
    unseen: tuple[int, ...] = ()
    packs: bool = False


class Script(NamedTuple):
    """The acts of a slice, and the parameters that are gathered in it, as they are in one of its layers."""

    acts: tuple[Act, ...]
    params: tuple[Param, ...]
    leaves: bool = False  # whether the model has leaf modules

    def keys(self, layer: int) -> list[tuple[str, int]]:
        """The keys of the parameters in another layer."""
        return [(name, layer if own >= 0 else -1) for (name, own), *_ in self.params]


class Owned(NamedTuple):
    """A module's parameters, their places in the script, and the calls of modules that begin with it, if always the same.

    These are its own, and that of what peft puts around the model. `seen` are those among them that it only looks at.
    """

    params: tuple[Param, ...]
    placed: tuple[int, ...]
    calls: tuple[Call, ...]
    seen: tuple[int, ...] = ()


SILENT = Call(())


class Beside:
    """The modules without a block that are called where others are: those around them, and activations behind them."""

    def __init__(self, naming: Naming) -> None:
        self.naming = naming
        self._open: dict[bool, list[str]] = {False: [], True: []}  # by whether it goes back

    def calls(self, mark: Mark) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
        """(calls before that of the mark, behind it)."""
        name, kind = mark.name, mark.kind
        acts = (SILENT,) if name in self.naming.acting else ()
        if kind in FETCHES:
            before = (SILENT,) * self._entered(name, back=kind == "back")
            if kind == "enter":
                before += (SILENT,) * len(self.naming.turning.get(name, ()))
            return (acts + before, ()) if kind == "back" else (before, ())
        return ((), acts) if kind == "leave" else ((), ())

    def _entered(self, name: str, *, back: bool) -> int:
        """How many modules around that one begin with it; one without a name of its own may be in any."""
        if name.endswith(")"):
            return 0
        outer = [path for path in around(name) if path not in self.naming.called]
        new = [path for path in outer if path not in self._open[back]]
        self._open[back] = outer
        return len(new)


class Writer:
    """Writes scripts; parameters up to `small` stay gathered."""

    def __init__(self, roster: Roster, stacks: tuple[str, ...], small: int) -> None:
        self.roster, self.naming, self.stacks, self.small = roster, roster.naming, stacks, small
        self.adapted = any(tensor.role == "adapter" for tensor in roster.named.values())
        self._outside = Beside(self.naming)  # of stacks: what is around several of them begins once
        self._known: dict[object, Script] = {}
        self._layers: dict[Place, tuple[list[frozenset[int]], frozenset[int]]] = {}  # sets that differ; in all of them
        self._places: dict[Param, int] = {}
        self._owned: dict[str, Owned] = {}
        self._going: dict[str, None] = {}  # modules whose backward pass has begun
        self._owners: set[str] = set()

    def script(self, place: Place, marks: Sequence[Mark], layer: int, returning: frozenset[str]) -> Script:
        """What happens in a slice; `returning` are the modules whose backward pass ends in this layer."""
        if place not in self._layers:
            sets = self.roster.ranges(marks, self.stacks)
            self._layers[place] = sets, frozenset.intersection(*sets) if sets else frozenset()
        sets, whole = self._layers[place]
        kind = place, returning, True if layer in whole else (layer < 0, *[layer in layers for layers in sets])
        if kind not in self._known:
            self._known[kind] = self._written(marks, layer, returning)
        return self._known[kind]

    def _written(self, marks: Iterable[Mark], layer: int, returning: frozenset[str]) -> Script:
        self._places, self._owned = {}, {}
        acts = tuple(self._acts(list(marks), layer, returning))
        return Script(acts, tuple(self._places), bool(self.naming.leaves))

    def _acts(self, marks: Sequence[Mark], layer: int, returning: frozenset[str]) -> Iterator[Act]:
        """What the marks stand for; a module that has a checkpoint run again waits for that with the rest of its calls."""
        rest: Act | None = None
        beside = self._outside if layer < 0 else Beside(self.naming)
        for mark, following in zip_longest(marks, marks[1:]):
            if rest and mark.kind not in AGAIN:
                yield Act(mark.at, (), rest.released)
                yield rest._replace(at=mark.at, freed=rest.freed if rest.calls else "")
                rest = None
            before, behind = beside.calls(mark)
            act = self._act(mark, layer, returning)
            if act and mark.kind == "back" and following and following.kind == "enter":
                act, rest = self._parted(act, mark.name)
            if before:
                act = act._replace(calls=before + act.calls) if act and act.calls else Act(mark.at, before)
            if act:
                yield act
            if behind:
                yield Act(mark.at, behind)

    def _parted(self, act: Act, name: str) -> tuple[Act, Act]:
        """The calls of a module up to what asks for what it has saved (the last adapter's second layer), and the others."""
        if name not in self.naming.leaves and any(param.role == "adapter" for param in self._owned[name].params):
            outer, last, *others = act.calls
            first = act._replace(calls=(outer, last._replace(ends=False)))
            return first, Act(act.at, tuple(others), last.needed, freed=name)
        return act, Act(act.at, freed=name)

    def _act(self, mark: Mark, layer: int, returning: frozenset[str]) -> Act | None:
        at, kind, name = mark.at, mark.kind, mark.name
        if kind == "end":
            return Act(at, ends=True)
        if kind == "gradient":
            tensor = self.roster.find(name)
            param = self.roster.param(tensor, layer, self.stacks) if tensor else None
            return Act(at, gradient=param.elements) if param else None
        if name in self.naming.lists:  # no module that is called
            return None
        own = self._owned.get(name) or self._met(name, layer)
        if name.endswith("#") and kind in FETCHES and self._going:  # a layer's hooks are around its checkpoint
            if name in self._going:
                return None
            self._going[name] = None
            return Act(at, own.calls)
        owner = self._owner(mark)
        if kind in FETCHES:
            return Act(at, own.calls or tuple(self._calls(mark, own.params, name in returning)), owner=owner)
        freed = name if kind == "after" and name in self._owners else ""
        if not own.placed and not freed:
            return None
        saves, packs = (kind == "leave" and told for told in (mark.saves, mark.packs))
        return Act(at, (), own.placed, 0, saves, freed=freed, unseen=own.seen, packs=packs)

    def _owner(self, mark: Mark) -> str:
        """The module whose backward pass has the one run again that begins (the last of __active_backward_submodules)."""
        going, kind = self._going, mark.kind
        if kind == "back":
            going[mark.name] = None
        elif kind == "after":
            going.pop(mark.name, None)
        elif kind == "enter" and going:
            self._owners.add(owner := next(reversed(going)))
            return owner
        return ""

    def _met(self, name: str, layer: int) -> Owned:
        """What a module owns, looked up once in a script."""
        params, others = (found(name, layer, self.stacks) for found in (self.roster.of, self.roster.seen))
        others = tuple([param for param in others if param not in params])  # as those of a module that nobody calls are
        seen = self._placed(others)
        call = self._call((*params, *others))._replace(seen=seen)
        several = (call,) + (SILENT,) * (name in self.naming.experts or (self.adapted and name == ROOT))
        single = name == ROOT or name in self.naming.leaves
        adapted = self.adapted and not single and any(param.role == "adapter" for param in params)
        several = tuple([self._around(name, one, layer) for one in several]) if self.naming.leaves else several
        own = self._owned[name] = Owned(params, call.needed, () if adapted else several, seen)
        return own

    def _around(self, name: str, call: Call, layer: int) -> Call:
        """The call with what is in the module: a leaf looks for its parameters in there."""
        below = self.roster.below(name, layer, self.stacks)
        if name in self.naming.leaves:
            return call._replace(elements=0, below=below, holds="leaf")
        if not self.naming.leaves[0].startswith(f"{name}." if name else ""):
            return call._replace(below=below)
        return call._replace(below=below, holds="layer" if NUMBER in name else "model")

    def _placed(self, params: Sequence[Param]) -> tuple[int, ...]:
        """The places of those that do not stay gathered."""
        places, small = self._places, self.small
        return tuple([places.setdefault(param, len(places)) for param in params if param.elements > small])

    def _call(self, params: Sequence[Param], *, ends: bool = False) -> Call:
        return Call(self._placed(params), sum([param.elements for param in params]), ends)

    def _calls(self, mark: Mark, params: tuple[Param, ...], returns: bool) -> list[Call]:
        """The calls of modules that begin here where peft has put adapters into the one that is noted.

        These are what it puts around a layer: a layer around the base layer, which runs and ends first, a dropout, and the
        adapter's own layers; going back, in reverse, without a base layer whose input asks for no gradient. The layer around
        looks at the dtype of the first adapter's weight before that runs, so it is gathered for it, too (ZeROOrderedDict).
        """
        own = [param for param in params if param.role == "adapter"]
        outer = self._call(own[:1]) if own[0].elements > self.small else SILENT
        base = self._call([param for param in params if param.role != "adapter"], ends=mark.kind == "enter")
        if mark.kind == "enter":
            return [outer, base, SILENT, *(self._call([param]) for param in own)]
        layers = [self._call([param], ends=param is not own[0]) for param in reversed(own)]
        return [outer, *layers, SILENT, *([base] if returns else [])]
