"""Versions of configs in a git repository: the files of a revision, laid out in a folder as they were."""

from __future__ import annotations

import subprocess
import tarfile
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from memcalc.errors import UnreadableInput, UsageError, shorten
from memcalc.paths import is_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("*.yaml", "*.yml", "*.json", "*.toml", "*.sh", "*.args", "*.txt")  # what a config may name
LARGEST = 256 * 2**20  # bytes of all such files of a revision
PATIENCE = 60  # seconds


@contextmanager
def checked_out(revision: str, near: Path) -> Iterator[tuple[Path, Path]]:
    """(folder with the configs of a revision, root of the repository that `near` is in); the folder goes when it is left.

    UsageError where there is no repository or no such revision.
    """
    folder = near if is_dir(near) else near.parent
    root = Path(_git(folder, "rev-parse", "--show-toplevel").decode().strip())
    if revision.startswith("-"):
        raise UsageError(f"--base {shorten(revision)}: not a revision")
    tree = _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{tree}}", fault=f"--base {shorten(revision)}: "
                "no such revision; fetch it first (in GitHub's checkout action: fetch-depth: 0)").decode().strip()  # fmt: skip
    kept = _git(root, "ls-tree", "-r", "--name-only", "-z", tree).decode("utf-8", "replace").split("\0")
    names = [name for name in kept if name and any(Path(name).match(kind) for kind in KINDS)]
    with TemporaryDirectory(prefix="memcalc-") as place:
        if names:
            _unpacked(_git(root, "archive", "--format=tar", tree, "--", *names), Path(place))
        yield Path(place), root


def _unpacked(archive: bytes, place: Path) -> None:
    if len(archive) > LARGEST:
        raise UnreadableInput(f"the revision's configs take {len(archive)} bytes; at most {LARGEST} are compared")
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and not Path(member.name).is_absolute() and ".." not in Path(member.name).parts:
                target = place / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                target.write_bytes(content.read() if content else b"")


def _git(folder: Path, *words: str, fault: str = "") -> bytes:
    """What git says; UsageError in its words, or in `fault`, where it says no."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, timeout=PATIENCE, check=False)  # noqa: S603, S607 - fixed words, no shell
    except FileNotFoundError:
        raise UsageError("--base needs git, which is not installed") from None
    except subprocess.TimeoutExpired:
        raise UnreadableInput(f"git took longer than {PATIENCE} s") from None
    if done.returncode:
        raise UsageError(fault or f"--base: git says: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
