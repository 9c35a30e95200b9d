"""Tables of positions that are stretched to every image's size, and tokens that detect (modeling_yolos.py)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memcalc.blocks.detection import BetweenLayers, LastTokens, StretchedPositions
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(StretchedPositions)
def stretched_positions(t: Tape, block: StretchedPositions, x: Value, around: Around) -> Value:
    """InterpolateInitialPositionEmbeddings.forward, and the sum."""
    front, back, rows, columns = block.around
    table = t.weight("", block.shape)
    first, last = f.unsqueeze(f.select(table, 1), 1), f.narrow(table, 1, back)
    middle = f.transpose(f.narrow(f.narrow(table, 1, table.shape[1] - back), 1, rows * columns), 1, 2)
    middle = f.reshape(middle, 1, table.shape[-1], rows, columns)
    middle = maps.interpolate(middle, (1, x.shape[1] - front - back))
    middle = f.transpose(f.reshape(middle, 1, table.shape[-1], -1), 1, 2)
    places = f.cat((first, middle, last), 1)
    return f.add(x, places)


@rule(BetweenLayers)
def between_layers(t: Tape, block: BetweenLayers, x: Value, around: Around) -> Value:
    """InterpolateMidPositionEmbeddings.forward, ahead of the layers; a table is added behind each but the last."""
    front, back, rows, columns = block.around
    table = t.weight("", block.shape)
    count, width = table.shape[0], table.shape[-1]
    first, last = f.unsqueeze(f.select(table, 2), 1), f.narrow(table, 2, back)
    middle = f.transpose(f.narrow(f.narrow(table, 2, table.shape[2] - back), 2, rows * columns), 2, 3)
    middle = f.reshape(middle, count, width, rows, columns)
    shown = x.shape[1] - front - back
    middle = maps.interpolate(middle, (1, shown))
    middle = f.contiguous(f.transpose(f.reshape(middle, count, width, shown), 1, 2))
    middle = f.view(middle, count, 1, shown, width)
    places = f.cat((first, middle, last), 2)
    for index in range(count):
        around.after[index] = partial(_placed, places)
    return x


def _placed(places: Value, x: Value) -> Value:
    return f.add(x, f.select(places, 0))


@rule(LastTokens)
def last_tokens(t: Tape, block: LastTokens, x: Value, around: Around) -> Value:
    """sequence_output[:, -num_detection_tokens:, :] (YolosForObjectDetection.forward)."""
    t.outputs.append(x)
    return f.narrow(x, 1, block.count)
