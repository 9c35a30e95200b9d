"""The reduction of gradients in ZeRO-1 and ZeRO-2: buckets that fill over the whole model, copies when they are sent.

Source: DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py: setup_buckets, reduce_independent_p_g_buckets_and_remove_grads,
reduce_ipg_grads, average_tensor, allreduce_and_scatter, copy_grads_in_partition, independent_gradient_partition_epilogue.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from memcalc.dtypes import BITS
from memcalc.sharding.flat import Piece
from memcalc.sharding.repeating import Repeats
from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.sharding.flat import Flat
    from memcalc.sharding.zero12 import ZeroOneTwo
    from memcalc.tape.laid import Part

DOUBLE = 8  # bytes of an element of a norm
WIDE = 4  # of what is added up in fp32


class Reducer:
    """What one rank allocates (+) and frees (-) while gradients come, as (part, bytes) in `made`."""

    def __init__(self, strategy: ZeroOneTwo, flat: Flat) -> None:
        self.zero, self.flat, self.rank = strategy, flat, flat.fullest
        self.partition = self.rank * flat.partition, (self.rank + 1) * flat.partition  # where it begins and ends
        self.made: list[tuple[Part, int]] = []
        self.item, self.given = BITS[strategy.kept_dtype] // 8, BITS[strategy.dtype] // 8
        self.widens = self.item > self.given
        self.size = strategy.settings.reduce_bucket_size
        self.contiguous = strategy.settings.contiguous_gradients or strategy.offloads
        self.delays = strategy.stage == 2 and strategy.overlaps and not self.contiguous
        self.bucket: list[Piece] = []
        self.elements = self.own = 0  # of what waits in the bucket; bytes of gradients with storage of their own there
        self.compact, self.sent = strategy.compact, BITS[strategy.sent_dtype] // 8
        self.started = self.placed = 0  # whether a gradient has come, whether the partition's buffer is there
        self.kept = 0  # bytes of gradients that stay to the end of the backward pass
        self.before = 0  # of those that were reduced, and stay until the next are
        self.lasting = 0  # of those that parameters have until all are reduced, and that are nobody's afterwards
        self.holds = (
            strategy.stage == 1 and strategy.accumulating
        )  # parameters have gradients from before, and a bucket
        self.viewed = strategy.lingers and strategy.viewed(flat)  # whether gradients keep the bucket to the step
        # whether the partition's buffer is there from before
        self.standing: int = self.compact and strategy.accumulating and strategy.stage == 2

    @property
    def flags(self) -> tuple[int, ...]:
        """What it decides by beside what waits in the bucket."""
        return self.elements, self.own, self.started, self.placed, self.standing, self.before

    @property
    def totals(self) -> tuple[int, int]:
        """Bytes that have been added up."""
        return self.kept, self.lasting

    def waiting(self, base: int) -> tuple[tuple[int, int], ...]:
        """What waits in the bucket, where it begins as seen from there."""
        return tuple([(start - base, elements) for start, elements in self.bucket])

    def resume(
        self, base: int, waiting: Iterable[tuple[int, int]], flags: Iterable[int], added: tuple[int, int]
    ) -> None:
        """As it was with that bucket and those flags; so much is added to its totals."""
        self.bucket = [Piece(base + start, elements) for start, elements in waiting]
        self.elements, self.own, self.started, self.placed, self.standing, self.before = flags
        self.kept, self.lasting = self.kept + added[0], self.lasting + added[1]

    def lay(self, part: Part, nbytes: int) -> None:
        """Note bytes that come or go."""
        if nbytes:
            self.made.append((part, nbytes))

    def passing(self, nbytes: int) -> None:
        """Note bytes that come and go at once."""
        self.lay("temporary", nbytes)
        self.lay("temporary", -nbytes)

    def gradient(self, pieces: list[Piece]) -> None:
        """Gradients of these parameters are there."""
        if not self.started:
            self.started = 1
            self.lay("buffers", 0 if self.holds else rounded(self.zero.bucket_bytes))
        for piece in pieces if self.widens else ():
            self.widen(piece.elements)
        if self.zero.reduces_at_once:
            for piece in pieces:
                if self.holds:
                    self.lay("gradients", -rounded(self.item * piece.elements))
                self.fill(piece)

    def widen(self, elements: int) -> None:
        """A copy takes the gradient's place, or both go when it is added to the one before (_fill_param_grad_accum_attribute)."""
        if self.holds or self.zero.reduces_at_once:
            self.passing(rounded(self.item * elements))
        else:
            self.lay("gradients", rounded(self.item * elements))
        if not self.zero.reduces_at_once:
            self.lay("gradients", -rounded(self.given * elements))

    def fill(self, piece: Piece) -> None:
        """Put a gradient into the bucket, which is sent first where it would be too full."""
        if self.elements + piece.elements > self.size:
            self.send()
        self.bucket.append(piece)
        self.elements += piece.elements
        own = self.alone(piece)
        self.own += own
        self.lay("gradients", own)

    def send(self) -> None:
        """Reduce what the bucket holds: this rank's part of it is kept, the rest let go."""
        if not self.bucket:
            return
        self.forget()
        self.place_compactly()
        self.passing(self.copied())
        if self.zero.offloads:
            self.moved_to_the_host()
        elif self.contiguous and not self.compact:
            self.keep()
        if self.own:
            self.leave()
        self.bucket, self.elements, self.own = [], 0, 0

    def forget(self) -> None:
        """Let go of what the message before has reduced (_clear_previous_reduced_grads)."""
        self.lay("gradients", -self.before)
        self.before = 0

    def leave(self) -> None:
        """What becomes of reduced gradients with storage of their own: this rank's are copied, or stay as they are.

        Those of other ranks go, with overlap when the next message does; parameters of stage 1 have them to the end.
        """
        inside = 0 if self.contiguous and self.zero.stage == 2 else sum(map(self.alone, self.mine()))
        outside = self.own - inside
        if self.contiguous:
            self.lay("gradients", -inside)
        elif self.compact:
            self.lasting += inside
        else:
            self.kept += inside
        if self.zero.stage == 1:
            self.lasting += outside
        elif self.delays:
            self.before = outside
        else:
            self.lay("gradients", -outside)

    def alone(self, piece: Piece) -> int:
        """Bytes of a gradient's own storage in the bucket; none where it was copied to the contiguous one."""
        return 0 if self.contiguous and piece.elements <= self.size else rounded(self.item * piece.elements)

    def mine(self) -> list[Piece]:
        """The gradients in the bucket of which this rank's partition has any."""
        first, stop = self.partition
        return [piece for piece in self.bucket if piece.start < stop and piece.start + piece.elements > first]

    def keep(self) -> None:
        """Copy this rank's gradients to a buffer for all of them, made when the first comes."""
        if not self.placed and self.mine():
            self.placed = 1
            self.kept += rounded(self.item * self.flat.whole(self.rank))
            self.lay("gradients", rounded(self.item * self.flat.whole(self.rank)))

    def place_compactly(self) -> None:
        """The fp32 buffer of the partition's gradients, made when the first comes."""
        if self.compact and not self.standing and self.mine():
            self.standing = True
            self.lay("gradients", rounded(4 * self.flat.partition))

    def moved_to_the_host(self) -> None:
        """This rank's gradients one by one: the norm in fp64, then a copy in fp32 on its way."""
        self.passing(rounded(DOUBLE * max(self.clipped(), default=0)))

    def clipped(self) -> list[int]:
        """Elements of the gradients in the bucket that this rank's partition has."""
        first, stop = self.partition
        return [min(piece.start + piece.elements, stop) - max(piece.start, first) for piece in self.mine()]

    def copied(self) -> int:
        """Bytes of the flat copies of what is sent: none where it goes to one rank, in the dtype it is in.

        What is added up in fp32 is cast back slice by slice, beside what was sent.
        """
        cast = self.sent if self.sent != self.item else 0
        wide = WIDE if self.compact and self.sent != WIDE else 0
        if not self.contiguous or not self.zero.settings.reduce_scatter:
            several = not self.contiguous and len(self.bucket) > 1
            return _passed(self.elements, self.item * several, cast, wide * max(self.clipped(), default=0))
        if self.within():
            return rounded(cast * self.elements) if cast else 0
        most = 0
        for slices in self.messages():
            elements, own = sum(size for size, _ in slices), max(size * mine for size, mine in slices)
            most = max(most, _passed(elements, self.item * (len(slices) > 1), cast, wide * own))
        return most

    def within(self) -> bool:
        """Whether all of the bucket goes to one other rank, as one slice."""
        rank = min(self.bucket).start // self.flat.partition
        end = max([piece.start + piece.elements for piece in self.bucket])
        return end <= (rank + 1) * self.flat.partition and not (self.compact and rank == self.rank)

    def messages(self) -> list[list[tuple[int, bool]]]:
        """The slices of each message, and if they are added up here: neighbours for one rank are one slice, others apart.

        A message ends when it is as large as a bucket.
        """
        slices: list[tuple[int, bool]] = []
        before, apart = -1, self.rank if self.compact else -1
        for piece in self.bucket:
            for rank, elements in self.flat.owners(piece):
                if rank == before != apart:
                    slices[-1] = slices[-1][0] + elements, False
                else:
                    slices.append((elements, rank == apart))
                before = rank
        messages: list[list[tuple[int, bool]]] = [[]]
        total = 0
        for elements, mine in slices:
            messages[-1].append((elements, mine))
            total += elements
            if total > self.size:
                messages.append([])
                total = 0
        return [message for message in messages if message]

    def given_away(self, pieces: Iterable[Piece]) -> list[tuple[Part, int]]:
        """Gradients that parameters have kept come into the bucket; what is made of that."""
        before = len(self.made)
        for piece in pieces:
            self.fill(piece)
            self.lay("gradients", -rounded(self.item * piece.elements))
        return self.made[before:]

    def end(self) -> None:
        """The end of the backward pass: stage 1 reduces what the parameters have kept; buckets go."""
        if not self.zero.reduces_at_once:
            repeats: Repeats[list[tuple[Part, int]]] = Repeats(self)
            for pieces in self.flat.layers:
                before = len(self.made)
                self.made[before:] = repeats.of("end", pieces, partial(self.given_away, pieces))
        self.send()
        self.forget()
        self.lay("gradients", 0 if self.zero.lingers else -self.lasting)
        if self.zero.accumulating and self.zero.stage == 2 and not self.compact:
            self.lay("gradients", -self.kept)  # added to those of the micro batches before
        if (self.started or self.holds) and not self.viewed:
            self.lay("buffers", -rounded(self.zero.bucket_bytes))


def _passed(elements: int, flat: int, cast: int, own: int) -> int:
    """The most of a message: a flat copy (bytes an element) and a cast, or then what was sent and `own` bytes cast back."""
    whole, sent, back = (rounded(nbytes) if nbytes else 0 for nbytes in (flat * elements, cast * elements, own))
    return max(whole + sent, (sent or whole) + back)
