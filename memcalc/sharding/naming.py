"""The modules of a model by the names they have on the tape: which are told apart by a number, and which have no block.

DeepSpeed's hooks are on every module, those without parameters too: it gathers ahead at each of their calls. What has
no block of its own follows from the names around it (BertSelfOutput from `attention.output.dense`), or from the MLP whose
activation it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Stack, Unused
from memcalc.blocks.basic import Cast, Embedding, Linear
from memcalc.blocks.mla import Mla
from memcalc.blocks.mlp import Experts, Mlp, Moe
from memcalc.blocks.seq2seq import Shared
from memcalc.blocks.ssm import Mamba, Mamba2

if TYPE_CHECKING:
    from collections.abc import Collection

    from memcalc.blocks.base import Block

NUMBER = "#"
_PATTERN = re.compile(r"\{[^{}]*\}")


class Naming:
    """Names with # for the number of a layer; `stacks` are the paths of the stacks whose layers are recorded one by one.

    `acting` are the linear layers whose output goes through an activation, `leaves` the modules that are gathered with all
    that is in them (DeepSpeed's leaf modules).
    """

    def __init__(self, body: Block, stacks: Collection[str]) -> None:
        self.stacks = frozenset(stacks)
        self.lists: set[str] = set()
        self.acting: set[str] = set()
        self.experts: set[str] = set()  # stacked ones, whose module has that of their activation
        self.leaves: list[str] = []
        self.uncalled: set[str] = set()  # modules whose forward does not run
        self.tables: set[str] = set()  # embeddings, whose inputs ask for no gradient: their backward pass has no end
        self.called: frozenset[str] = frozenset()  # modules that are marked
        self.turning: dict[str, set[str]] = {}  # by list: the kinds of rotary tables that a module makes for its layers
        self._casts = False  # whether the values so far were cast to the dtype of what follows
        self._looked: dict[str, int] = {}  # modules whose weight one so far out looks at before they run
        self._known: dict[str, str] = {}
        self._named: dict[str, tuple[str, str]] = {"": ("", "")}
        self._walk(body, "", "")

    def _walk(self, block: Block, path: str, outer: str) -> None:
        """Note what is in a block; `outer` is the path of the outermost list it is in."""
        path = f"{path}.{block.name}" if path and block.name else path or block.name
        self._look(block, path)
        if isinstance(block, Mlp) and (first := block.gate or block.up) and first.name:
            self.acting.add(f"{path}.{first.name}" if path else first.name)
        elif isinstance(block, Moe) and block.whole:
            self.leaves.append(path)
        elif isinstance(block, (Unused, Shared)) or any(
            not param.name for param in block.own()
        ):  # a parameter of that name
            self.uncalled.add(path)
        elif isinstance(block, Embedding):
            self.tables.add(path)
        elif isinstance(block, Experts):
            self.experts.add(path)
        elif isinstance(block, Stack):
            self.lists.add(path)
            outer = outer or path
            path = f"{path}.{NUMBER}" if path else NUMBER
        elif isinstance(block, Mla) or (isinstance(block, Attention) and block.rotary_dim and block.rotation != "own"):
            self.turning.setdefault(outer, set()).add(block.rotary_kind)
        for _, part in block.groups():
            self._walk(part, path, outer)

    def _look(self, block: Block, path: str) -> None:
        """Note if another module looks at the dtype of this one's weight, or this one at that of a linear layer in it."""
        if outwards := getattr(block, "looked", 0):
            self._looked[path] = outwards
        elif isinstance(block, Mlp) and block.widens and block.down:
            self._looked[f"{path}.{block.down.name}"] = 1
        elif isinstance(block, (Mamba, Mamba2)):  # what a fused kernel would take, whether there is one or not
            others = (block.x_proj, block.dt_proj) if isinstance(block, Mamba) else (block.norm,)
            taken = (part for part in (block.conv, block.out_proj, *others) if part)
            self._looked |= {f"{path}.{part.name}": 1 for part in taken}
        elif isinstance(block, Cast):
            self._casts = block.to == "weights"
        elif self._casts and isinstance(block, Linear):  # whose weight says to what the values ahead of it are cast
            self._looked[path], self._casts = 1, False

    def of(self, path: str) -> str:
        """The name of a module: numbers of recorded layers and of other lists are #, those of stages and names stay."""
        if path not in self._known:
            self._known[path], _ = self._name(_PATTERN.sub(NUMBER, path))
        return self._known[path]

    def _name(self, path: str) -> tuple[str, str]:
        """(the name, the same with # for every list's number) of a path, whose last part is looked at by what is before it."""
        found = self._named.get(path)
        if found is None:
            before, _, part = path.rpartition(".")
            name, general = self._name(before)
            numbered = part == NUMBER or (part.isdigit() and general in self.lists)
            shown = NUMBER if numbered and not self._stage(before) else part
            known = f"{general}.{NUMBER if numbered else part}" if general else NUMBER if numbered else part
            found = self._named[path] = f"{name}.{shown}" if name else shown, known
        return found

    def _stage(self, path: str) -> bool:
        """Whether what is numbered there are stages, with stacks within them."""
        return path not in self.stacks and any(stack.startswith(f"{path}.") for stack in self.stacks)

    def looker(self, path: str) -> str | None:
        """The name of the module that looks at the weight of this one's before it runs, if one does."""
        name, general = self._name(_PATTERN.sub(NUMBER, path))
        outwards = self._looked.get(general)
        return None if outwards is None else ".".join(name.split(".")[:-outwards])

    def hookless(self, name: str) -> bool:
        """Whether no hook of the module ever runs: it is inside of a leaf, or nobody calls it."""
        return name in self.uncalled or any(name.startswith(f"{leaf}.") for leaf in self.leaves)


@lru_cache(maxsize=4096)
def around(name: str) -> tuple[str, ...]:
    """The modules around one, within its layer, outermost first; a list of modules is none."""
    parts = name.split(".")
    first = max((at for at, part in enumerate(parts) if part == NUMBER), default=-1) + 1
    places = [at for at in range(first + 1, len(parts)) if not parts[at].isdigit() and parts[at] != NUMBER]
    return tuple([".".join(parts[:at]) for at in places])
