"""What each GPU holds of what persists, under the data-parallel strategies.

Only the even split of parameters, gradients and states over the ranks is here (Rajbhandari et al. 2020, ZeRO, fig. 1);
communication and gather buffers are not, and `Placement.leaves_out` says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.ledger import Ledger
    from memcalc.precision import Recipe
    from memcalc.run import Sharding

# which components each strategy shares out (ZeRO stages 1 to 3; FSDP shards like stage 3)
SHARED: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "ddp": frozenset(),
    "zero1": frozenset({"master_weights", "optimizer_states"}),
    "zero2": frozenset({"master_weights", "optimizer_states", "gradients"}),
    "zero3": frozenset({"master_weights", "optimizer_states", "gradients", "weights"}),
    "fsdp": frozenset({"master_weights", "optimizer_states", "gradients", "weights"}),
}
PERSISTENT = ("weights", "master_weights", "gradients", "optimizer_states")


@dataclass(frozen=True)
class Placement:
    """How many ranks share what, and which components live in host memory."""

    strategy: str
    ranks: int
    offloaded: frozenset[str] = frozenset()

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """What the framework makes of a recipe: FSDP keeps sharded fp32 parameters in place of a master copy.

        Source: torch.distributed.fsdp.MixedPrecisionPolicy: param_dtype holds only while gathered, gradients are
        sharded in the dtype of the sharded parameters.
        """
        if self.strategy != "fsdp" or not recipe.master:
            return recipe
        return replace(recipe, weights=recipe.master, gradients=recipe.master, master="")

    def share(self, component: str, whole: int) -> int:
        """Bytes of a component on the fullest rank's GPU."""
        return 0 if component in self.offloaded else self._part(component, whole)

    def hosted(self, book: Ledger) -> int:
        """Bytes of offloaded components in one rank's pinned host memory."""
        return sum(
            self._part(component, book.total(component)) for component in PERSISTENT if component in self.offloaded
        )

    def _part(self, component: str, whole: int) -> int:
        return -(-whole // self.ranks) if component in SHARED[self.strategy] else whole

    @property
    def leaves_out(self) -> str:
        """What of this placement the numbers do not include, in a sentence; '' where nothing."""
        if self.strategy == "none" and not self.offloaded:
            return ""
        what = {"none": "", "ddp": "gradient buckets"}.get(
            self.strategy, "gather and reduce buffers, and padding of shards"
        )
        staging = "staging buffers of the offload" if self.offloaded else ""
        return " and ".join(part for part in (what, staging) if part) + " are not included"


def placement(sharding: Sharding | None, gpus: int, offload: str) -> Placement:
    """The placement of a run's `sharding`, `gpus` and `offload`; ddp where several GPUs and no strategy are named."""
    strategy = sharding.strategy if sharding else "ddp" if gpus > 1 else "none"
    offloaded = {"optimizer": {"master_weights", "optimizer_states"},
                 "optimizer+params": {"master_weights", "optimizer_states", "weights"}}.get(offload, set())  # fmt: skip
    return Placement(strategy, gpus, frozenset(offloaded))
