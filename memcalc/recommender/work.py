"""Work: what one micro step has to compute and to move, read from the same recording as its memory.

The tape notes the operations of every matrix product where it runs, forward, backward and recomputed alike, so that
attention, the experts a token meets, frozen weights and checkpoints are counted as they are.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.timeline.slices import schedule

if TYPE_CHECKING:
    from memcalc.explanation.kinds import Kinds
    from memcalc.tape.step import Recording


@dataclass(frozen=True, slots=True)
class Work:
    """One micro step of one GPU.

    `forward` and `backward` are FLOPs of matrix products (two for each multiplication and its sum; what a checkpoint
    runs again is in `backward`), `attention` those of them inside fused attention kernels, all pairs of tokens counted
    as the MFU of PaLM (Chowdhery et al. 2022, appendix B) and torchtitan counts them. `made` are the bytes of every
    tensor that is made.
    """

    forward: int
    backward: int
    attention: int
    made: int

    @property
    def flops(self) -> int:
        """FLOPs of the micro step."""
        return self.forward + self.backward


def work(recording: Recording) -> Work:
    """The work of a recorded step, a layer that stands for several counted as often."""
    flops = {"forward": 0, "backward": 0}
    attention = made = 0
    for piece, times in Counter(schedule(recording)).items():
        inside = [product for product in recording.products if piece.start <= product[0] < piece.stop]
        flops[piece.phase] += times * sum(product[1] for product in inside)
        attention += times * sum(product[1] for product in inside if product[2])
        born = recording.events[piece.start : piece.stop]
        made += times * sum(recording.sizes[event] for event in born if event >= 0)
    return Work(flops["forward"], flops["backward"], attention, made)


def by_kind(recording: Recording, kinds: Kinds) -> dict[str, int]:
    """FLOPs of a recorded step by the kind of block whose product it is, the most first."""
    found: Counter[str] = Counter()
    events, owners = recording.events, recording.owners
    for piece, times in Counter(schedule(recording)).items():
        for at, flops, _ in recording.products:
            if piece.start <= at < piece.stop:
                made = next((event for event in events[at:] if event >= 0), -1)
                found[kinds.of(str(owners[made])).kind if made >= 0 else "other"] += times * flops
    return dict(found.most_common())
