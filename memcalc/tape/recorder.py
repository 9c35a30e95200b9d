"""The tape: the log of every storage's birth and death, and the switches that decide what runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from memcalc.tape.autograd import Leaf
from memcalc.tape.spending import Spending
from memcalc.tape.values import Shape, Storage, Value, nbytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from memcalc.tape.checkpoint import Holder
    from memcalc.tape.keeping import Keeping
    from memcalc.tape.offload import Away
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder
    from memcalc.tape.weights import Weights


class Resident:
    """The storage of what was there before the step and stays: weights, inputs. The log knows nothing of it."""

    id = -1


PACKED = frozenset({"uint8", "int8", "fp8"})
RESIDENT: Storage = Resident()  # type: ignore[assignment]  # a storage without a log


class Added(NamedTuple):
    """A gradient that is added to one that is there, when the log has `at` events and `returned` boundaries are behind.

    `copy` are the bytes of a copy, where the gradient could not have been kept itself; `own` those of its elements.
    """

    at: int
    returned: int
    storage: int
    copy: int
    owner: str
    own: int = 0


class Tape:
    """One training step as a log of storages: id for a birth, ~id for a death, in the order they happen.

    * `sizes` and `owners` say of each storage how many bytes it takes and which block made it; `gradients` are the storages
      that became a parameter's gradient, `recomputed` the ranges of those that a checkpoint made anew.
    * Of a sharding strategy: `sharder` has its hooks, where there is one; `buffers` are what it gathers or communicates in,
      `relays` those of them that go when the next layer's come, `left` the gradients of earlier micro batches that it takes
      along, `streams` the number of the stream that a storage is made on where it is not the modules' own.
    * While the step runs: `path` is the block that runs, `instance` which of several like layers it belongs to, `like` how
      many layers it stands for. `autocast` is the lower dtype, or '' where autocast is off.
    * `context` is the longest sequence of the model; `masks` are the windows of masks that it makes in any case.
    """

    def __init__(self, setting: Setting, weights: Weights, context: int = 0) -> None:
        self.setting, self.weights = setting, weights
        self.events: list[int] = []
        self.sizes: list[int] = []
        self.owners: list[str] = []
        self.owner = self.path = self.instance = ""
        self.gradients: list[int] = []
        self.recomputed: list[tuple[int, int]] = []
        self.unmodelled: dict[str, None] = {}
        self.stacks: list[Layers] = []
        self.passed = self.returned = 0  # boundaries of layers, forward and back
        self.held: list[Value] = []
        self.routed: list[tuple[Value, int, int]] = []  # what routers put out, how many are chosen, for how many layers
        self.fanned: dict[int, int] = {}  # gradients that stand for one of each of several layers
        self.outputs: list[Value] = []  # of the model, beside what its loss is made of
        self.buffers: list[int] = []
        self.left: list[int] = []
        self.added: dict[Leaf, Added] = {}
        self.relays: list[int] = []
        self.streams: dict[int, int] = {}
        self.pieces: set[int] = set()
        self.sharder: Sharder | None = None
        self.target: Value | None = None
        self.spending = Spending(self, late=setting.spends == "late")
        self.prefix: list[Value] = []  # keys and values of virtual tokens, a pair of each layer
        self.waiting: list[Value] = []  # the same, of a decoder, while the encoder runs
        self.leaves: dict[str, Value] = {}
        self.grad_enabled = True
        self.beside: tuple[Value, ...] = ()  # what a layer in a checkpoint has just returned beside its output
        self.turned: Value | None = None  # what OFT has turned, while the base layer reads it
        self.saving: Callable[[Value], Value | Holder | Away] | None = None
        self.keeping: Keeping | None = None
        self.within = False  # a checkpoint
        self.products: list[tuple[int, int, bool]] = []  # (length of the log, FLOPs, by a fused attention kernel)
        self.pinned = 0  # bytes of host memory that checkpoints keep their inputs in
        self.autocast = ""
        self.adds_in_place = setting.ways is not None
        self.aside = 0  # length of the log where a reference or a teacher runs
        self.once = 0  # bytes of what is there at the end of the forward pass once, not for each micro batch in flight
        self.casts: dict[Leaf, Value] = {}
        self.sequence, self.like, self.context, self.layers = 0, 1, context, 0
        self.counted = 0  # layers of the stacks that have run, where checkpoints may reach them
        self.masks: tuple[int, ...] = ()
        self.residents: dict[str, int] = {}
        self.given_sizes: list[tuple[int, int]] = []  # of each of them: bytes of one, how many like it

    def turn_aside(self) -> None:
        """Models that run over what the forward pass has left run here."""
        self.aside = len(self.events)

    def multiplied(self, flops: int, *, kernel: bool = False) -> None:
        """A matrix product runs here, alone or in an attention `kernel`: two operations for each multiplication."""
        self.products.append((len(self.events), flops, kernel))

    def new(self, shape: Shape, dtype: str, strides: Shape | None = None) -> Value:
        """A fresh tensor outside the graph."""
        return Value(self, Storage(self, nbytes(shape, dtype)), shape, dtype, strides)

    def buffer(self, elements: int, dtype: str, *, relay: bool = False, stream: int = 0) -> Value:
        """A fresh flat tensor that a sharding strategy gathers or communicates in.

        A `relay` goes when the next layer's comes, so that of like layers' but the last one's outlives them.
        """
        value = self.on(stream, self.new((elements,), dtype))
        self.buffers.append(value.storage.id)
        if relay:
            self.relays.append(value.storage.id)
        return value

    def on(self, stream: int, value: Value) -> Value:
        """The same fresh tensor, made while another than the modules' stream is the current one."""
        if stream and self.setting.streams:
            self.streams[value.storage.id] = stream
        return value

    def adds(self, leaf: Leaf, gradient: Value, *, copies: bool) -> None:
        """A gradient is added to one that an earlier micro batch left: the first of these kept it, or a copy of it."""
        own = nbytes(gradient.shape, gradient.dtype)
        there = Added(len(self.events), self.returned, gradient.storage.id, own if copies else 0, self.owner, own)
        self.added.setdefault(leaf, there)

    def accumulated(self, shape: Shape, dtype: str) -> Value:
        """A gradient that earlier micro batches left, where a sharding strategy keeps it from autograd."""
        value = self.new(shape, dtype)
        self.gradients.append(value.storage.id)
        self.left.append(value.storage.id)
        return value

    def given(self, shape: Shape, dtype: str, name: str = "") -> Value:
        """A tensor that was there before the step: an input, or the buffer `name` of the block that runs.

        A name that begins with a dot is a buffer of the whole model.
        """
        whole = name.startswith(".")
        key = name if whole else f"{self.path}.{name}@{self.instance}" if name else str(len(self.residents))
        if key not in self.residents:
            size, times = nbytes(shape, dtype), 1 if whole else self.like
            self.residents[key] = size * times
            self.given_sizes.append((size, times))
        return Value(self, RESIDENT, shape, dtype)

    @property
    def resident(self) -> int:
        """Bytes of inputs and buffers."""
        return sum(self.residents.values())

    def weight(self, name: str, shape: Shape, tied_to: str = "") -> Value:
        """A parameter of the block that runs; a tied one is the parameter it shares. A dot before a name: the whole model's.

        Where a module is trained as a copy, it is the copy's.
        """
        full = name[1:] if name[:1] == "." else f"{self.path}.{name}" if name and self.path else name or self.path
        if full in self.weights.copies:
            full, tied_to = self.weights.copies[full], ""
        key = tied_to or f"{full}@{self.instance}"
        value = self.leaves.get(key) or self.leaves.get(f"{tied_to}@" if tied_to else full)
        if value is None:
            dtype, trainable = self.weights.of(tied_to or full)
            if dtype in PACKED and (
                self.setting.packing.product or not self.setting.autocast
            ):  # else it is cast like any other
                dtype = self.setting.compute  # kernels unpack it as they read
            value = self.leaves[key] = Value(self, RESIDENT, shape, dtype)
            if trainable:
                spends = self.weights.spent(tied_to or full) if self.setting.spends else None
                value.node = Leaf(self, value, held=self.setting.accumulating, spends=spends)
                value.node.unit = self.sharder.unit if self.sharder else None
                value.node.name = full
        return value

    @contextmanager
    def no_grad(self) -> Iterator[None]:
        """torch.no_grad."""
        before, self.grad_enabled = self.grad_enabled, False
        yield
        self.grad_enabled = before

    @contextmanager
    def autocast_again(self) -> Iterator[None]:
        """torch.autocast, with a weight cache of its own, which goes when it ends."""
        before = self.autocast, self.casts
        self.autocast, self.casts = self.setting.autocast, {}
        try:
            yield
        finally:
            self.autocast, self.casts = before


class Layers:
    """Where the log passes from one layer of a stack to the next, forward and backward.

    `order` says for each real layer which of the recorded ones stands for it; `events` and `sequences` are the log's
    length and the sequence number at each boundary, `returns` the log's length at the same boundary going back.
    `shared` are the storages that the first layer made for all.
    """

    def __init__(self, path: str, order: list[int]) -> None:
        self.path, self.order = path, order
        self.events: list[int] = []
        self.sequences: list[int] = []
        self.returns: list[int] = []
        self.shared: set[int] = set()

    def mark(self, tape: Tape) -> None:
        """A boundary."""
        self.events.append(len(tape.events))
        self.sequences.append(tape.sequence)
        tape.passed += 1

    def turn(self, tape: Tape) -> None:
        """The same boundary, going back."""
        self.returns.append(len(tape.events))
        tape.returned += 1
