"""Original parameters as the optimizer of one rank sees them beside flat ones: what of each lies in the rank's shard.

Source: torch 2.13.0, torch/distributed/fsdp/_flat_param.py, FlatParamHandle._use_sharded_views (use_orig_params=True).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from memcalc.tensors import Tensor


class Stretch(NamedTuple):
    """Where in its flat parameter an original one lies."""

    tensor: Tensor
    start: int
    stop: int

    def inside(self, rank: int, shard: int) -> int:
        """Elements of it that learn in a rank's shard of so many."""
        part = min(self.stop, (rank + 1) * shard) - max(self.start, rank * shard)
        return max(0, part) * self.tensor.trainable


class Views(NamedTuple):
    """The original parameters of the flat parameter of each of so many like units, which is cut into shards."""

    name: str
    times: int
    shard: int
    stretches: tuple[Stretch, ...]

    def of(self, rank: int) -> Iterator[Tensor]:
        """What the rank's optimizer is given."""
        for place, stretch in enumerate(self.stretches):
            if part := stretch.inside(rank, self.shard):
                name = f"{self.name}.{place}"
                yield replace(stretch.tensor, name=name, shape=(part,), count=self.times, role="parameter")

    @property
    def mixed(self) -> bool:
        """Whether some of them learn and others do not."""
        return len({stretch.tensor.trainable for stretch in self.stretches}) > 1


def fullest(flats: Sequence[Views]) -> int:
    """The first of the ranks with the most that learns: the first one of all, where nothing else is among it."""
    mixed = [view for view in flats if view.mixed]
    ends = {end // view.shard for view in mixed for _, start, stop in view.stretches for end in (start, stop - 1)}
    found = [(sum(s.inside(rank, v.shard) * v.times for v in flats for s in v.stretches), -rank) for rank in (0, *ends)]
    return -max(found)[1]
