"""Find and read one preset: `presets/<kind>/…/<id>.yaml`, by id or alias, one file read per lookup.

`presets/index.json` maps every id and alias to its file; `python -m memcalc.presets` writes it anew, and a test holds
it to be current. A file the index does not know yet is still found by its name.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from memcalc.errors import UnknownName

Kind = Literal["models", "gpus", "optimizers", "precisions", "architectures", "quantizations", "overheads", "adapters",
               "implementations", "frameworks", "tasks"]  # fmt: skip
SINGULAR: dict[str, str] = {"models": "model", "gpus": "GPU", "optimizers": "optimizer", "precisions": "precision recipe",
                            "architectures": "architecture", "quantizations": "quantisation",
                            "overheads": "table of overheads", "adapters": "adapter method",
                            "implementations": "implementation", "frameworks": "framework", "tasks": "task"}  # fmt: skip
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@lru_cache(maxsize=1)
def folder() -> Path:
    """Where the presets are: beside the package in an installed wheel, at the top of the repository otherwise."""
    package = Path(__file__).parent
    return package / "presets" if (package / "presets").is_dir() else package.parent / "presets"


@lru_cache(maxsize=1)
def index() -> dict[str, dict[str, str]]:
    """{kind: {id or alias, lower case: path below presets/}}."""
    return json.loads((folder() / "index.json").read_text("utf-8"))  # type: ignore[no-any-return]


def names(kind: Kind) -> list[str]:
    """The ids of a kind, in order."""
    return sorted({Path(path).stem for path in index().get(kind, {}).values()})


def path_of(kind: Kind, name: str) -> Path | None:
    """The file of a preset, by id or alias in any case; None where there is none."""
    key = name.strip().lower()
    entry = index().get(kind, {}).get(key)
    if entry:
        return folder() / entry
    if len(key) > 200 or not key.replace("-", "").replace(".", "").replace("_", "").isalnum():
        return None
    return next((folder() / kind).rglob(f"{key}.yaml"), None)


def has(kind: Kind, name: str) -> bool:
    """Whether a preset of that id or alias exists."""
    return path_of(kind, name) is not None


@lru_cache(maxsize=256)
def find(kind: Kind, name: str) -> dict[str, Any]:
    """The preset of that id or alias, as written, with its id under 'id'; UnknownName names the nearest."""
    path = path_of(kind, name)
    if path is None:
        raise UnknownName(SINGULAR[kind], name, index().get(kind, {}), f"memcalc {_listing(kind)}")
    with path.open("rb") as file:
        return {"id": path.stem, **yaml.load(file, Loader=LOADER)}  # noqa: S506 - a safe loader


def _listing(kind: Kind) -> str:
    return {"architectures": "models --architectures", "precisions": "schema run", "quantizations": "schema run"}.get(
        kind, kind
    )


def make_index() -> dict[str, dict[str, str]]:
    """The index as it should be, read from every file; ValueError where two presets claim one name."""
    made: dict[str, dict[str, str]] = {}
    for path in sorted(folder().rglob("*.yaml")):
        kind = path.relative_to(folder()).parts[0]
        entries = made.setdefault(kind, {})
        card = yaml.load(path.read_bytes(), Loader=LOADER)  # noqa: S506
        where = path.relative_to(folder()).as_posix()
        for name in (path.stem, *card.get("aliases", []), *card.get("instances", ())):
            if entries.setdefault(str(name).lower(), where) != where:
                raise ValueError(f"{kind}: {name!r} names both {entries[str(name).lower()]} and {where}")
        if "class" in card:  # several model types may share a class (DeepSeek-V3, Kimi K2): it finds the first
            entries.setdefault(card["class"].lower(), where)
    return {kind: dict(sorted(entries.items())) for kind, entries in sorted(made.items())}


def index_text() -> str:
    """What presets/index.json should hold."""
    return json.dumps(make_index(), indent=0, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (folder() / "index.json").write_text(index_text(), "utf-8")
    sys.stderr.write(f"wrote {folder() / 'index.json'}\n")
