"""What the layers of a stack take from without that not all of them take: it goes with the last of its readers.

Rotary tables of one kind and masks of one window are let go of, going back, in the first layer that has saved them; the
gradients that several layers have of one thing are first summed in the last but one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.tape.hf.surroundings import attentions, rotary, sees

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.tape.rules import Around

OTHERS = -2  # states of an encoder or of images; beside the numbers of storages


def readers(layers: list[Block], kinds: list[int], around: Around, lowest: int, *, held: bool) -> set[int]:
    """The layers that are the first from `lowest` on to read what not all of them do, or the last to give it gradients.

    Where all of them are `held` to what they are called with, as checkpoints do, the first of a stack lets go of it.
    """
    if len(set(kinds)) in (1, len(kinds)):
        return set()
    one_of = dict(zip(kinds, layers, strict=True))
    of_kind = {kind: frozenset(_read(layer, around)) for kind, layer in one_of.items()}
    others = (around.encoder, around.seen and around.seen[0])
    learns = any(states is not None and states.node is not None for states in others)
    found: set[int] = set()
    for item in frozenset[int]().union(*of_kind.values()):
        having = [index for index, kind in enumerate(kinds) if index >= lowest and item in of_kind[kind]]
        found.update(having[: 0 if held else 1], having[-1:] if item == OTHERS and learns else ())
    return found - {0, len(kinds) - 1}


def singled(kinds: list[int], layers: set[int]) -> list[int]:
    """The same kinds, but for those layers, each of which is one of its own."""
    own = {index: number for number, index in enumerate(sorted(layers), max(kinds, default=0) + 1)}
    return [own.get(index, kind) for index, kind in enumerate(kinds)] if layers else kinds


def _read(layer: Block, around: Around) -> Iterator[int]:
    """The storages that a layer reads of `around`."""
    if layer.__class__.__name__ == "ReadsImages":
        yield OTHERS
    for mixer in attentions(layer):
        if isinstance(mixer, Attention) and mixer.cross:
            yield OTHERS
        kind, dim, _ = rotary(mixer)
        if dim and (tables := around.tables(kind)):
            yield from (table.storage.id for table in tables)
        if (mask := around.mask(sees(mixer))) is not None:
            yield mask.storage.id
