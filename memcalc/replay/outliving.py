"""What of a step is there before it or outlives it: gradients of earlier micro batches, outputs that the training loop holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.values import SMALL

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from memcalc.replay.moves import Moves


def numbers(step: Moves, storages: Container[int]) -> set[int]:
    """The births of these storages, in every layer."""
    found = {number for storage, number in step.outside.items() if storage in storages}
    for stack, bases, records in zip(step.recording.stacks, step.bases, step.records, strict=True):
        own = [[number for storage, number in record.numbers.items() if storage in storages] for record in records]
        for sample, base in zip(stack.order, bases, strict=True):
            found.update([base + number for number in own[sample]])
    return found


def kept(step: Moves) -> list[int]:
    """The births that the graph of the outputs holds on to, beside them; nothing where nobody holds these."""
    if step.outputs < 0:
        return []
    gradients = numbers(step, step.recording.gradients)
    return [number for number in step.left if number not in gradients and number != step.outputs]


def carried(step: Moves, places: tuple[list[int], list[int]]) -> Iterator[int]:
    """New numbers for what the step before has kept, which goes where its outputs do: small and large moves there."""
    for number in step.kept:
        lane, carried = int(step.sizes[number] > SMALL), len(step.sizes)
        step.sizes.append(step.sizes[number])
        places[lane].insert(0, ~carried)
        yield carried
