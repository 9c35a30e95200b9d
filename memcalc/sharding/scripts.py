"""Scripts: what the modules of one slice of the step do under ZeRO-3, told once for all layers that are alike.

Source: DeepSpeed 0.19.8, runtime/zero/parameter_offload.py (setup_zero_stage3_hooks: every module, forward and backward).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcalc.tape.units import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from memcalc.sharding.marks import Mark, Param, Place, Roster

FETCHES = frozenset({"enter", "back"})


class Call(NamedTuple):
    """A module that is called: the parameters it needs, by their places in the script, and elements of all its own.

    `ends` where it ends before anything else begins.
    """

    needed: tuple[int, ...]
    elements: int = 0
    ends: bool = False


class Act(NamedTuple):
    """What happens when the log has `at` events: modules are called, one lets go of what it needed, a gradient is there.

    `saves` where autograd has saved what is let go of; `ends` where the step is over.
    """

    at: int
    calls: tuple[Call, ...] = ()
    released: tuple[int, ...] = ()
    gradient: int = 0
    saves: bool = False
    ends: bool = False


class Script(NamedTuple):
    """The acts of a slice, and the parameters that are gathered in it, as they are in one of its layers."""

    acts: tuple[Act, ...]
    params: tuple[Param, ...]

    def keys(self, layer: int) -> list[tuple[str, int]]:
        """The keys of the parameters in another layer."""
        return [(name, layer if own >= 0 else -1) for (name, own), *_ in self.params]


class Owned(NamedTuple):
    """A module's parameters, their places in the script, and the calls of modules that begin with it, if always the same.

    These are its own, and that of an activation, which has no block of its own, or of what peft puts around the model.
    """

    params: tuple[Param, ...]
    placed: tuple[int, ...]
    calls: tuple[Call, ...]


SILENT = Call(())


class Writer:
    """Writes scripts. `acting` are modules that call another for their activation; parameters up to `small` stay gathered."""

    def __init__(self, roster: Roster, stacks: tuple[str, ...], acting: Collection[str], small: int) -> None:
        self.roster, self.stacks, self.acting, self.small = roster, stacks, acting, small
        self.adapted = any(tensor.role == "adapter" for tensor in roster.named.values())
        self._known: dict[object, Script] = {}
        self._layers: dict[Place, tuple[list[frozenset[int]], frozenset[int]]] = {}  # sets that differ; in all of them
        self._places: dict[Param, int] = {}
        self._owned: dict[str, Owned] = {}

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
        acts = tuple([act for mark in marks if (act := self._act(mark, layer, returning))])
        return Script(acts, tuple(self._places))

    def _act(self, mark: Mark, layer: int, returning: frozenset[str]) -> Act | None:
        at, kind, name = mark.at, mark.kind, mark.name
        if kind == "end":
            return Act(at, ends=True)
        if kind == "gradient":
            tensor = self.roster.find(name)
            param = self.roster.param(tensor, layer, self.stacks) if tensor else None
            return Act(at, gradient=param.elements) if param else None
        own = self._owned.get(name) or self._met(name, layer)
        if kind in FETCHES:
            return Act(at, own.calls or tuple(self._calls(mark, own.params, name in returning)))
        return Act(at, (), own.placed, 0, kind == "leave" and mark.saves) if own.placed else None

    def _met(self, name: str, layer: int) -> Owned:
        """What a module owns, looked up once in a script."""
        params = self.roster.of(name, layer, self.stacks)
        call = self._call(params)
        several = (call,) + (SILENT,) * (self.adapted if name == ROOT else name in self.acting)
        adapted = self.adapted and name != ROOT and any(param.role == "adapter" for param in params)
        own = self._owned[name] = Owned(params, call.needed, () if adapted else several)
        return own

    def _placed(self, params: Sequence[Param]) -> tuple[int, ...]:
        """The places of those that do not stay gathered."""
        places, small = self._places, self.small
        return tuple([places.setdefault(param, len(places)) for param in params if param.elements > small])

    def _call(self, params: Sequence[Param], *, ends: bool = False) -> Call:
        return Call(self._placed(params), sum([param.elements for param in params]), ends)

    def _calls(self, mark: Mark, params: tuple[Param, ...], returns: bool) -> list[Call]:
        """The calls of modules that begin here where peft has put adapters into the one that is noted.

        These are what it puts around a layer: a layer around the base layer, which runs and ends first, a dropout, and the
        adapter's own layers; going back, in reverse, without a base layer whose input asks for no gradient.
        """
        own = [param for param in params if param.role == "adapter"]
        base = self._call([param for param in params if param.role != "adapter"], ends=mark.kind == "enter")
        if mark.kind == "enter":
            return [SILENT, base, SILENT, *(self._call([param]) for param in own)]
        return [SILENT, *(self._call([param]) for param in reversed(own)), SILENT, *([base] if returns else [])]
