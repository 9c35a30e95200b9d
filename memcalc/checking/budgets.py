"""Budget files: limits for many configs, in memcalc.yaml or in [tool.memcalc] of pyproject.toml.

    configs: [train/*.yaml]          # what `memcalc check` looks at where no config is named
    budget: {max_total: 76GiB}       # holds for all of them
    set: {gpu: h100-80gb, gpus: 8}   # what the configs themselves do not say
    budgets:                         # and for some of them more
      - configs: [train/qlora-*.yaml]
        budget: {components: {activations: 8GiB}}

A limit in a config's own `budget` takes the place of the same limit here, and a later group's that of an earlier one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field, fields
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.checking.limits import NOTHING, Limits, limits
from memcalc.configs.documents import Document, open_document
from memcalc.dataclass import dataclass
from memcalc.errors import Fault, RunInvalid
from memcalc.paths import exists, is_file
from memcalc.run import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("memcalc.yaml", "memcalc.yml", "pyproject.toml")
PYPROJECT = "pyproject.toml"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Limits and settings of the configs that its patterns match; of all where it has none."""

    configs: tuple[str, ...] = ()
    budget: Budget | None = None
    set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Budgets(Group):
    """A whole budget file: a group for everything, and groups for some."""

    budgets: tuple[Group, ...] = ()


@dataclass(frozen=True)
class BudgetFile:
    """Budgets, the folder that their patterns start from, and the document that says where each limit is written."""

    budgets: Budgets
    folder: Path
    document: Document

    @property
    def source(self) -> str:
        """How messages call the file."""
        return self.document.source

    def configs(self) -> list[str]:
        """Every pattern of configs, the file's own first."""
        own = [*self.budgets.configs, *(pattern for group in self.budgets.budgets for pattern in group.configs)]
        return list(dict.fromkeys(own))

    def limits_of(self, config: Path) -> Limits:
        """The limits that hold for one config."""
        found = NOTHING
        for group, path in self._matching(config):
            found = found.over(limits(group.budget, lambda key, path=path: self._place(f"{path}budget.{key}")))  # type: ignore[misc]
        return found

    def settings_of(self, config: Path) -> dict[str, Any]:
        """What is set for one config, by key of a run."""
        return {key: value for group, _ in self._matching(config) for key, value in group.set.items()}

    def _matching(self, config: Path) -> Iterator[tuple[Group, str]]:
        yield self.budgets, ""
        for number, group in enumerate(self.budgets.budgets):
            if not group.configs or any(matches(config, pattern, self.folder) for pattern in group.configs):
                yield group, f"budgets.{number}."

    def _place(self, path: str) -> str:
        file, line = self.document.where(path)
        return f"{file}:{line}" if line else file


def matches(config: Path, pattern: str, folder: Path) -> bool:
    """Whether a config is one of those that a pattern of a budget file in `folder` means."""
    try:
        name = config.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        return False
    return fnmatch(name, pattern) or fnmatch(name, pattern.replace("**/", ""))


def find(start: Path) -> BudgetFile | None:
    """The nearest budget file at `start` or above it, no higher than the repository it is in; None where there is none."""
    for folder in (start.resolve(), *start.resolve().parents):
        for name in NAMES:
            path = _near(folder / name)
            if is_file(path) and (found := _read(path, needed=False)):
                return found
        if exists(folder / ".git"):
            return None
    return None


def _near(path: Path) -> Path:
    """A path as it is short to read from here."""
    return Path(os.path.relpath(path))


def load(path: Path) -> BudgetFile:
    """The budgets of a file; RunInvalid with all faults, each at its place, or UnreadableInput."""
    found = _read(path, needed=True)
    assert found  # noqa: S101 - needed
    return found


def _read(path: Path, *, needed: bool) -> BudgetFile | None:
    document = open_document(path)
    if path.name == PYPROJECT:
        tool = (document.data.get("tool") or {}).get("memcalc")
        if tool is None and not needed:
            return None
        document = document.part("tool.memcalc", tool or {})
    elif document.unreadable or document.repeated:
        raise document.unreadable or document.repeated  # type: ignore[misc]
    if not document.data and needed:
        raise RunInvalid([Fault("", "no budget in it; write `budget: {max_total: 76GiB}`")], document.source)
    budgets = _validated(document)
    file = BudgetFile(budgets, path.parent, document)
    for group, path_of in [(budgets, ""), *((g, f"budgets.{i}.") for i, g in enumerate(budgets.budgets))]:
        limits(group.budget, lambda key, path_of=path_of: file._place(f"{path_of}budget.{key}"))  # type: ignore[misc]  # noqa: SLF001 - faults come now
    return file


def _validated(document: Document) -> Budgets:
    from memcalc.run.faults import judged  # noqa: PLC0415 - pydantic is slow to load

    def place(path: str) -> str:
        file, line = document.where(path)
        return f"{file}:{line} {path}" if line else f"{file} {path}".rstrip()

    misplaced = [key for key in document.data if key in {limit.name for limit in fields(Budget)}]
    if misplaced:
        raise RunInvalid([Fault(place(key), f"a limit stands under `budget`: budget: {{{key}: …}}") for key in misplaced],
                         document.source)  # fmt: skip
    return judged(Budgets, _listed(document.data), document.source, place)


def _listed(data: Mapping[str, Any]) -> dict[str, Any]:
    """One pattern may stand for a list of one."""
    made = dict(data)
    if isinstance(made.get("configs"), str):
        made["configs"] = [made["configs"]]
    if isinstance(made.get("budgets"), list):
        made["budgets"] = [_listed(item) if isinstance(item, Mapping) else item for item in made["budgets"]]
    return made


def schema() -> dict[str, Any]:
    """The JSON Schema of a budget file, for editors."""
    from pydantic import TypeAdapter  # noqa: PLC0415

    made = TypeAdapter(Budgets).json_schema()
    made.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "memcalc budget file"})
    for part in (made, *made.get("$defs", {}).values()):
        part["additionalProperties"] = False
    return made
