"""Walk a model's blocks in the order they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.model import Model

BlockT = TypeVar("BlockT", bound="Block")


def every(block: Block) -> Iterator[Block]:
    """The block and all below it, parents first."""
    yield block
    for part in block.parts():
        yield from every(part)


def kinds(model: Model, kind: type[BlockT]) -> list[BlockT]:
    """Every block of one kind."""
    return [block for block in every(model.body) if isinstance(block, kind)]


def order(model: Model, *kinds_of: type[Block]) -> list[str]:
    """The kinds of the blocks that do something, in the order they run, as far as they are among these."""
    return [type(block).__name__ for block in every(model.body) if isinstance(block, kinds_of)]
