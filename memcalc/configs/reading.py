"""The values that pass between a foreign config and the pipeline: what was asked, what was read, where it came from."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from memcalc.dataclass import dataclass
from memcalc.notes import Remark

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Asked", "Origin", "Reading", "Remark"]


@dataclass(frozen=True)
class Origin:
    """Where a value of the run comes from: a key of a file, or the framework's default for a key that is absent.

    `file` is '' where no file holds it; `default` says where the framework's code (or facts about it) sets it.
    """

    file: str
    line: int | None = None
    key: str = ""
    default: str = ""

    def __str__(self) -> str:
        """`train.yaml:12 sequence_len`, or `default of sequence_len (where the framework sets it)`."""
        if self.default:
            return f"default of {self.key} ({self.default})" if self.key else self.default
        return f"{self.file}{f':{self.line}' if self.line else ''} {self.key}".strip()


@dataclass(frozen=True)
class Asked:
    """What was said besides the config: `flags` are keys of a run file, which win over what the config says.

    A reader looks at them where other values follow from them (accumulation from a global batch and the GPUs). `hub`
    allows files to be fetched.
    """

    flags: Mapping[str, Any] = field(default_factory=dict)
    hub: bool = False

    @property
    def model(self) -> Any:  # noqa: ANN401 - a name or dimensions
        """The model that was asked for beside the config; None where none was."""
        return self.flags.get("model")

    @property
    def gpus(self) -> int | None:
        """How many GPUs were asked for; None where that was left to the config."""
        count = self.flags.get("gpus")
        return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None


@dataclass(frozen=True)
class Reading:
    """A config read: `run` is in the vocabulary of a run file; `origins` holds the origin of each of its paths."""

    format: str
    title: str
    source: str
    run: Mapping[str, Any]
    origins: Mapping[str, Origin] = field(default_factory=dict)
    warnings: tuple[Remark, ...] = ()
    assumptions: tuple[Remark, ...] = ()

    def overridden(self, said: Mapping[str, str], where: str) -> Reading:
        """The reading where paths of the run are `said` elsewhere instead: {path: how it was said}."""
        kept = {path: origin for path, origin in self.origins.items()
                if not any(path == over or path.startswith(f"{over}.") for over in said)}  # fmt: skip
        left = tuple(note for note in self.assumptions if note.path not in said)
        flags = {path: Origin(where, None, key) for path, key in said.items()}
        return replace(self, origins={**kept, **flags}, assumptions=left)

    def place(self, path: str) -> str:
        """`train.yaml:12 sequence_len (seq_len)`: where the value of a path of the run is written, or came from."""
        around = path
        while around and around not in self.origins:
            around = around.rpartition(".")[0]
        if not around:
            within = [origin for key, origin in self.origins.items() if key.startswith(f"{path}.")] if path else []
            return f"{within[0]} ({path})" if within else f"{self.source} {path}".rstrip()
        return f"{self.origins[around]} ({path})"
