"""Host memory of one rank under DeepSpeed's offload to CPU or NVMe: what is pinned, and what is not.

Source: DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py and stage3.py (what is made on the host), runtime/swap_tensor
(buffers of the optimizer and parameter swappers). A pinned tensor takes the next power of two
(ATen/core/CachingHostAllocator.h, allocate); optimizer states are made pageable by the CPU optimizers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.sharding.strategy import Hosted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.sharding.strategy import Books
    from memcalc.sharding.zero3 import ZeroThree
    from memcalc.sharding.zero12 import ZeroOneTwo

WIDE = 4  # bytes of an element of a master copy and its gradient
ADAM = 8  # of the states of DeepSpeedCPUAdam, the only optimizer that Twin-Flow takes


def hosted12(zero: ZeroOneTwo, books: Books) -> Hosted:
    """Stages 1 and 2: a partition's master copy, gradient and 16-bit staging; a buffer for the largest gradient.

    Where several micro batches add up, every gradient of which the partition has any is kept whole.
    """
    if not zero.offloads:
        return Hosted()
    flat, item = zero.flat(books.whole), zero.item
    largest = max((piece.elements for piece in flat.pieces), default=0)
    pinned = [WIDE * flat.partition, WIDE * flat.partition, item * flat.partition, item * largest]
    if zero.accumulating and not zero.compact:
        pinned += [item * piece.elements for piece in flat.overlapping(flat.fullest)]
    return hosted(pinned, [books.total("optimizer_states")], pins=zero.settings.offload_optimizer.pin_memory)


def hosted3(zero: ZeroThree, books: Books) -> Hosted:
    """Stage 3: shards of parameters; partitions of gradients, and their sub-groups' masters, gradients and states."""
    settings = zero.settings
    parts = zero.shards(books.whole)
    made = Hosted()
    if settings.offload_param.device != "none":
        made = _sum(made, _parameters(zero, parts.trained, parts.frozen))
    away = settings.offload_optimizer
    if away.device == "none":
        return made
    groups = zero.subgroups(parts.trained)
    made = _sum(made, hosted([zero.accumulated_item * sum(groups)], [], pins=away.pin_memory))
    if away.device == "nvme":
        return _sum(made, hosted([WIDE * max(groups, default=0)] * away.buffer_count, [], pins=True))
    there = groups[zero.staying(len(groups)) :] if zero.partly else groups
    made = _sum(made, hosted([WIDE * group for group in there], [], pins=away.pin_memory))  # their gradients
    states = ADAM * sum(there) if zero.partly else books.total("optimizer_states")
    return _sum(made, Hosted(0, sum(WIDE * group for group in there) + states))


def _parameters(zero: ZeroThree, trained: Iterable[int], frozen: Iterable[int]) -> Hosted:
    """Shards of all parameters: flat where they are trained; under NVMe a pool of buffers, and what may stay."""
    away, item, flat = zero.settings.offload_param, zero.item, sum(trained)
    rest = [item * elements for elements in frozen]
    if away.device == "nvme":
        kept = min(flat, away.max_in_cpu)
        pool = [item * away.buffer_size * away.buffer_count]
        return hosted([*pool, *([item * kept] if kept else []), *rest], [], pins=True)
    return _sum(hosted([item * flat], [], pins=True), hosted(rest, [], pins=away.pin_memory))


def hosted(pinned: Iterable[int], pageable: Iterable[int], *, pins: bool) -> Hosted:
    """Bytes of these tensors; those that would be pinned are pageable where nothing `pins`."""
    if pins:
        return Hosted(sum(power(nbytes) for nbytes in pinned if nbytes), sum(pageable))
    return Hosted(0, sum(pinned) + sum(pageable))


def power(nbytes: int) -> int:
    """The power of two that a pinned tensor takes."""
    return 1 << (nbytes - 1).bit_length()


def _sum(a: Hosted, b: Hosted) -> Hosted:
    return Hosted(a.pinned + b.pinned, a.pageable + b.pageable)
