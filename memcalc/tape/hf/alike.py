"""Which layers of a stack are alike, so that one record stands for several of them."""

from __future__ import annotations

from bisect import bisect
from typing import TYPE_CHECKING, NamedTuple

from memcalc.tape.hf.readers import readers, singled
from memcalc.tensors import numbers

if TYPE_CHECKING:
    from memcalc.blocks.base import Block, Stack
    from memcalc.tape.recorder import Tape
    from memcalc.tape.rules import Around
    from memcalc.tape.units import Sharder

# kinds of layers that are told apart by their place; the others' are numbers from 0 on, or far from these
FAR = 2  # how many layers on from its own a thing may go that outlasts the next
NOBODY, FIRST, SECOND, LAST_BUT_ONE, LAST, SUMMED = range(-1, -7, -1)


class Plan(NamedTuple):
    """What is recorded of a stack.

    `passes` are the layers in the order in which they run, each with the pattern of its like, `samples` the numbers of
    those that are recorded, `order` which of the samples stands for each pass. `reads` is how many layers have run when
    each of the hidden states that a tower's reader takes is there (none: it takes the output).
    """

    passes: list[tuple[Block, str]]
    samples: list[int]
    order: list[int]
    reads: tuple[int, ...]


def planned(t: Tape, block: Stack, passes: list[tuple[Block, str]], around: Around) -> Plan:
    """What is recorded of a stack: like layers between the first and the last once, as one that stands for all of them."""
    passes, kinds = _passes(block, passes)
    alike, (passes, kinds, lowest) = passes, _apart(t, passes, kinds)
    held = t.setting.checkpoint and max(len(around.masks), len(around.ropes)) < 2
    alone = readers([layer for layer, _ in passes], kinds, around, lowest, held=held)
    kinds = _awake(block, kinds) if around.seen else kinds
    if t.setting.checkpoint:
        kinds = _kept(kinds, [(t.counted + index // block.shared) % t.setting.every for index in range(len(kinds))])
    outlast = t.sharder is not None and (t.sharder.reach > 1 or t.sharder.outlasts)
    kinds = _outlasting(kinds, t.sharder) if t.sharder is not None and outlast else kinds
    beside = (-1, 1) if around.after and around.grid else _hands_on(t)  # others read some of a tower's layers, too
    beside = beside or ((-1,) if around.chooses else ())  # the last to read a choice lets it go
    if passes is not alike:  # what a layer puts out is kept where the next learns of it
        beside = -1, 1
    if around.scene is not None and len(set(kinds)) > 1:
        beside, kinds = (-1, 1), [*kinds[:-1], LAST]  # a denoiser's layer hands on more than the stream to the next
    if beside and t.setting.offload_activations:
        kinds = _ends_apart(kinds)
    reads = tuple(at % (len(kinds) + 1) for at in around.features or ())
    kinds = _followed(_alone_of_its_kind(kinds, reads), around)
    kinds = _second_sum_apart(kinds) if around.adds else kinds
    plain = kinds if t.sharder is not None and beside == t.sharder.neighbours else None
    kinds = singled(_neighbours(kinds, beside), alone)
    return Plan(passes, *sampled(kinds, chained=bool(beside) or outlast, alone=plain), reads)


def named(block: Stack) -> list[tuple[Block, str]]:
    """Each layer with the pattern of its like: the name its tensors are listed under."""
    found: list[tuple[Block, str] | None] = [None] * len(block.layers)
    for indices, layer in block.groups():
        pattern = numbers(indices or [])
        for index in indices or []:
            found[index] = (layer, pattern)
    return [entry for entry in found if entry]


def _passes(block: Stack, layers: list[tuple[Block, str]]) -> tuple[list[tuple[Block, str]], list[int]]:
    """Every pass through a layer, in order, and what kind each is; passes with the same parameters stand side by side."""
    if block.resizing:
        return layers, list(range(len(layers)))
    if block.shared == 1:
        return layers, [id(layer) for layer, _ in layers]
    passes = [entry for entry in layers for _ in range(block.shared)][: block.passes or None]
    return passes, list(range(len(passes))) if len(layers) > 1 else [0] * len(passes)


def _apart(
    t: Tape, layers: list[tuple[Block, str]], kinds: list[int]
) -> tuple[list[tuple[Block, str]], list[int], int]:
    """Layers told apart by the adapters they carry, and by whether one below them does, where they are not all alike.

    And which is the lowest that learns.
    """
    sets = t.weights.adapted_layers(t.path)
    lowest = min((min(members) for members in sets.values()), default=0)
    named = told_apart(t, layers)
    if named is layers and not lowest:
        return layers, kinds, lowest
    carried = [(index > lowest, *(index in members for members in sets.values())) for index in range(len(layers))]
    seen = {key: number for number, key in enumerate(dict.fromkeys(zip(kinds, carried, strict=True)))}
    return named, [seen[key] for key in zip(kinds, carried, strict=True)], lowest


def told_apart(t: Tape, layers: list[tuple[Block, str]]) -> list[tuple[Block, str]]:
    """The layers by their numbers, where not all of those with one pattern learn alike."""
    names = {name for _, name in layers}
    if all(pattern in names for pattern in t.weights.adapted_layers(t.path)):
        return layers
    return [(layer, str(index)) for index, (layer, _) in enumerate(layers)]


def _awake(block: Stack, kinds: list[int]) -> list[int]:
    """Layers up to the first that attends to images told apart: the stream may ask for a gradient only from there on."""
    first = next((i for i, layer in enumerate(block.layers) if layer.__class__.__name__ == "ReadsImages"), -1)
    return [-1000 - kind if i <= first else kind for i, kind in enumerate(kinds)]


def _hands_on(t: Tape) -> tuple[int, ...]:
    """The neighbours of a layer that its record depends on: something of theirs goes, or comes, while it runs.

    What a sharding strategy gathered for it, what is on its way to the host, what only a checkpoint would have let go.
    """
    if t.setting.every > 1 if t.setting.checkpoint else t.setting.offload_activations:
        return -1, 1
    return t.sharder.neighbours if t.sharder is not None else ()


def _kept(kinds: list[int], turns: list[int]) -> list[int]:
    """Layers told apart by whether they are in a checkpoint, too: where it is their turn (0)."""
    return [2 * kind + (turn == 0) for kind, turn in zip(kinds, turns, strict=True)]


def _alone_of_its_kind(kinds: list[int], reads: tuple[int, ...]) -> list[int]:
    """The layers whose outputs are read told apart: no other's live as long."""
    return [SUMMED - 1 - index if index + 1 in reads else kind for index, kind in enumerate(kinds)] if reads else kinds


def _followed(kinds: list[int], around: Around) -> list[int]:
    """The layers that the model does something after told apart."""
    if not around.after:
        return kinds
    return [SUMMED - 1 - index if index in around.after else kind for index, kind in enumerate(kinds)]


def _second_sum_apart(kinds: list[int]) -> list[int]:
    """The last layer but one told apart: the gradient of what all add has a tensor of its own from there on (accumulate)."""
    return [*kinds[:-2], SUMMED, kinds[-1]] if len(kinds) > 3 else kinds


def _ends_apart(kinds: list[int]) -> list[int]:
    """The first two layers and the last two told apart: a value may outlive two layers.

    One on its way to the host does, or one that is whole until the unit before is gathered.
    """
    return [FIRST, SECOND, *kinds[2:-2], LAST_BUT_ONE, LAST] if len(kinds) > 4 else kinds


def _outlasting(kinds: list[int], sharder: Sharder) -> list[int]:
    """Layers told apart where what a strategy makes for one may outlive the next.

    Else by what is around them; all are recorded where it lives longer than to the second, or the layer behind has a part.
    """
    if sharder.reach == 1 and len(set(kinds[FAR:-FAR])) == 1:
        return _ends_apart(kinds)
    if sharder.reach > 1 or 1 in sharder.neighbours:
        return list(range(len(kinds)))
    wide = [*[NOBODY] * FAR, *kinds, *[NOBODY] * FAR]
    around = [tuple(wide[index : index + 2 * FAR + 1]) for index in range(len(kinds))]
    seen = {key: number for number, key in enumerate(dict.fromkeys(around))}
    return [seen[key] for key in around]


def _neighbours(kinds: list[int], beside: tuple[int, ...]) -> list[int]:
    """Layers told apart by those beside them, too."""
    if len(set(kinds)) == 1 or not beside:
        return kinds
    sides = {-1: [NOBODY, *kinds[:-1]], 1: [*kinds[1:], NOBODY]}
    around = list(zip(kinds, *(sides[side] for side in beside), strict=True))
    seen = {key: number for number, key in enumerate(dict.fromkeys(around))}
    return [seen[key] for key in around]


def sampled(kinds: list[int], *, chained: bool, alone: list[int] | None = None) -> tuple[list[int], list[int]]:
    """(layers to record, for each layer which record stands for it): the first, one of each kind between, the last.

    In a chain each record follows one of the kind that its layer follows; what lies between is recorded once more. Where
    kinds are told apart by no more than those beside them, it is enough that these are what they are `alone`.
    """
    last = len(kinds) - 1
    if last < 3:
        return list(range(len(kinds))), list(range(len(kinds)))
    samples, order, known = [0], [0], dict[int, int]()
    for index, kind in enumerate(kinds[1:], 1):
        if index < last and kind in known:
            order.append(known[kind])
            continue
        since = index - 1
        while chained and kinds[since] != kinds[samples[-1]] and not (alone and _beside(alone, samples[-1], since + 1)):
            since -= 1
        for between in _between(since, index, alone):
            order[between] = len(samples)
            samples.append(between)
        known.setdefault(kind, len(samples))
        order.append(len(samples))
        samples.append(index)
    return samples, order


def single_out(samples: list[int], order: list[int], index: int) -> None:
    """Let a layer that is recorded stand for itself alone, and another like it for the rest."""
    others = [layer for layer in range(index + 1, len(order)) if order[layer] == order[index]]
    if not others:
        return
    place = bisect(samples, others[0])
    samples.insert(place, others[0])
    order[:] = [record + (record >= place) for record in order]
    for layer in others:
        order[layer] = place


def _between(since: int, index: int, alone: list[int] | None) -> list[int]:
    """The layers behind `since` that are recorded ahead of another: all, or as few as have beside them what they should."""
    found = [index]
    while found[-1] > since + 1:
        behind = found[-1]
        near = (layer for layer in range(since + 1, behind - 1) if alone and _beside(alone, layer, behind))
        found.append(next(near, behind - 1))
    return found[:0:-1]


def _beside(alone: list[int], one: int, other: int) -> bool:
    """Whether two layers, one behind the other, have each what their own neighbours are beside them."""
    return alone[one] == alone[other - 1] and alone[one + 1] == alone[other]
