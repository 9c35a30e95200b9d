"""Groups of parameters that are gathered and reduced together: a layer's, the embedding's, the head's, the root's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from memcalc.adapters.patterns import parents
from memcalc.tape.units import ROOT, Sharder, Unit, Visit, Wrapped, stacks
from memcalc.tape.weights import copied

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.tape.autograd import Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value
    from memcalc.tensors import Tensor


Kind: TypeAlias = Literal["root", "layer", "experts", "embed", "head", "adapter"]


class Group(Unit):
    """What a unit holds of its parameters at the moment, beside its shards.

    `unsharded` are the gathered parameters, `gathering` the output of a gather under way, `parted` what is kept where it was
    given back to fewer ranks, `gradients` what its parameters have got of this backward pass, `accumulated` what they have
    of earlier ones, `reduced` the gradient of its shards. `table` is what it is called with beside its input, cast.
    """

    def __init__(self, path: str, tensors: tuple[Tensor, ...], kind: Kind) -> None:
        super().__init__(path, tensors)
        self.kind, self.state = kind, "idle"
        self.unsharded: list[Value] = []
        self.gathering: Value | None = None
        self.parted: list[Value] = []
        self.gradients: dict[Leaf, Value] = {}
        self.accumulated: dict[str, Value] = {}
        self.reduced: Value | None = None
        self.table: Value | None = None
        self.turns: list[int] = []  # places in the order of forwards
        self.last = False  # of its stack
        self.shards = 0  # ranks that share it, where they are others than those of the layers
        self.experts: Group | None = None  # of a layer, where they are a unit of their own


class Groups:
    """Which group is where."""

    def __init__(self, layers: Wrapped) -> None:
        self.layers = layers
        self.made: dict[tuple[str, int], Group] = {}
        self.modules: dict[str, Visit] = {}
        self.root = Group(ROOT, (), "root")
        self.expert_shards = 0  # ranks that share experts, where these are units of their own

    def layer(self, stack: str, index: int) -> Group | None:
        """The group of a layer; None where its stack is not wrapped layer by layer."""
        found = self.made.get((stack, index))
        if found is None and stack in self.layers.layers:
            tensors = self.layers.of(stack, index)
            own = tuple(tensor for tensor in tensors if tensor.role == "expert") if self.expert_shards else ()
            tensors = tuple(tensor for tensor in tensors if tensor not in own) if own else tensors
            found = self.made[stack, index] = Group(f"{stack}.{index}", tensors, "layer")
            if own:
                found.experts = Group(f"{stack}.{index}.experts", own, "experts")
                found.experts.shards = self.expert_shards
            found.last = not self.layers.of(stack, index + 1)
        return found

    def there(self, stack: str, index: int) -> bool:
        """Whether a stack has a layer of that number."""
        return index >= 0 and bool(self.layers.of(stack, index))

    def beside(self, group: Group, direction: int) -> list[Group]:
        """The unit that comes after this one (1) or before it (-1), where it is a layer of a single stack or beside one."""
        stack, _, number = group.path.rpartition(".")
        if group.kind == "layer" and (other := self.layer(stack, int(number) + direction)) and other.tensors:
            return [other]
        kind = {("layer", 1): "head", ("layer", -1): "embed"}.get((group.kind, direction), "")
        units = [visit.unit for visit in self.modules.values() if isinstance(visit.unit, Group)]
        if kind:
            return [unit for unit in units if unit.kind == kind][:1]
        at = {("embed", 1): 0, ("head", -1): -1}.get((group.kind, direction))
        if at is None:
            return []
        stack = next(iter(self.layers.layers))
        return [layer] if (layer := self.layer(stack, self.last_of(stack) if at else 0)) else []

    def last_of(self, stack: str) -> int:
        """The number of a stack's last layer."""
        return max(max(numbers) for _, numbers in self.layers.alike(stack))

    def all(self) -> list[Group]:
        """Every group met, the root first."""
        modules = dict.fromkeys(visit.unit for visit in self.modules.values() if isinstance(visit.unit, Group))
        experts = [layer.experts for layer in self.made.values() if layer.experts]
        return [self.root, *self.made.values(), *modules, *experts]


def grouped(model: Model, tensors: tuple[Tensor, ...], wrap: str) -> Groups:
    """The groups of a model: the layers of its outermost stacks, and the rest in the root.

    `layers+embed+head` (torchtitan, apply_fsdp) and `accelerate` (accelerate 1.15, fsdp2_prepare_model) make units of the
    embedding, and of the last norm with the head; an embedding that is tied to the head goes with it, for a parameter can't
    be in two. `none` leaves all in the root.
    """
    groups = Groups(Wrapped(paths(model, wrap), tensors))
    rest = list(groups.layers.rest)
    if wrap in ("layers+embed+head", "accelerate"):
        rest = _apart(groups, rest, model, tensors)
    groups.root.tensors = tuple(rest)
    return groups


def paths(model: Model, wrap: str) -> tuple[str, ...]:
    """The stacks whose layers are units of their own: the model's outermost, or those of its stages (Model.units)."""
    return () if wrap == "none" else tuple(dict.fromkeys(stacks(model.body, model.units)))


def _apart(groups: Groups, rest: list[Tensor], model: Model, tensors: tuple[Tensor, ...]) -> list[Tensor]:
    """The embedding of tokens before the first layer, and what comes behind the last, as units; what is left over.

    What an adapter adds is listed behind everything, and lies in the module that it adds it to.
    """
    places = {id(tensor): at for at, tensor in enumerate(tensors) if not _laid_on(tensor)}
    layers = [tensor for found in groups.layers.layers.values() for _, tensor in found]
    inside = [places[id(tensor)] for tensor in layers if id(tensor) in places]
    first, last = (min(inside), max(inside)) if inside else (len(tensors), len(tensors))
    before = [t for t in rest if places.get(id(t), last) < first and t.role == "embedding"][:1]
    behind = [t for t in rest if places.get(id(t), first) > last]
    ties = [t for t in model.tensors if t.tied_to and t.tied_to in {tensor.name for tensor in before}]
    units = [("head", [*before, *behind, *ties])] if ties else [("embed", before), ("head", behind)]
    taken: list[Tensor] = []
    for kind, members in units:
        taken += (whole := _with_added(members, rest))
        _visit(groups, whole, kind)  # type: ignore[arg-type]  # one of the two
    return [tensor for tensor in rest if tensor not in taken]


def _laid_on(tensor: Tensor) -> bool:
    """Whether a method of fine-tuning has added it, on a module of the model."""
    return tensor.role == "adapter" or bool(copied(tensor.name))


def _with_added(members: list[Tensor], rest: list[Tensor]) -> list[Tensor]:
    """These tensors, and those that are laid on their modules."""
    modules = {tensor.module for tensor in members}
    return [*members, *(t for t in rest if _laid_on(t) and not modules.isdisjoint(parents(t.name)))]


def _visit(groups: Groups, members: list[Tensor], kind: Kind) -> None:
    """A unit that begins at the first of these modules and ends at the last; what an adapter has put into one is part of it."""
    modules = dict.fromkeys(tensor.module for tensor in members)
    paths = [path for path in modules if modules.keys().isdisjoint(parents(path))]
    unit = Group(paths[0] if paths else kind, tuple(tensor for tensor in members if not tensor.tied_to), kind)
    for path in paths:
        groups.modules[path] = Visit(unit, path == paths[0], path == paths[-1])


class Grouping(Sharder):
    """Hooks that look units up in groups."""

    def __init__(self, tape: Tape, groups: Groups) -> None:
        super().__init__(tape)
        self.groups = groups

    def root(self) -> Group:  # noqa: D102
        return self.groups.root

    def layer(self, stack: str, index: int, name: str) -> Group | None:  # noqa: ARG002, D102 - the index says it
        return self.groups.layer(stack, index)

    def module(self, path: str) -> Visit | None:  # noqa: D102
        return self.groups.modules.get(path)
