"""The hub's cache on this machine: a repository's files by its name, without the network.

The layout is huggingface_hub's (file_download.py, repo_folder_name and hf_hub_download; constants.py): one folder per
repository, `models--owner--name`, in which refs/main holds a commit and snapshots/<commit> the files of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_.-]{1,96}(/[A-Za-z0-9_.-]{1,96})?")
_REVISION: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def cache_folder() -> Path:
    """Where the cache is: HF_HUB_CACHE, else `hub` below HF_HOME, else below XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME")
    if home:
        return Path(home).expanduser() / "hub"
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(general).expanduser() / "huggingface" / "hub"


def is_repository(name: str) -> bool:
    """Whether a word can name a repository of the hub (`owner/name`): no way up, no absolute path."""
    return bool(_REPOSITORY.fullmatch(name)) and ".." not in name and "--" not in name


def snapshot(name: str, revision: str = "main") -> Path | None:
    """The folder of a cached repository's files, where it holds a config; None where it is not cached."""
    if not is_repository(name):
        return None
    try:
        repository = cache_folder() / f"models--{name.replace('/', '--')}"
        found = next((f for f in _folders(repository, revision) if any((f / n).is_file() for n in _CONFIGS)), None)
    except (OSError, RuntimeError, ValueError):
        return None
    return found


_CONFIGS: Final = ("config.json", "adapter_config.json")


def _folders(repository: Path, revision: str) -> list[Path]:
    """The snapshot that a reference names, else every snapshot there is, in the order of their names."""
    reference = repository / "refs" / revision
    if reference.is_file():
        commit = reference.read_bytes()[:200].decode("utf-8", "replace").strip()
        return [repository / "snapshots" / commit] if _REVISION.fullmatch(commit) else []
    snapshots = repository / "snapshots"
    return sorted(folder for folder in snapshots.iterdir() if folder.is_dir()) if snapshots.is_dir() else []
