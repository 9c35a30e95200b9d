"""A repository of the hub over HTTP: its config, index, adapter, and the headers of its weights; never the weights.

huggingface_hub (the extra `hub`) knows the addresses and who asks (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE); the bytes are
fetched within bounds, and nothing is written to disk.
"""

from __future__ import annotations

import os
import time
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

from memcalc import __version__
from memcalc.configs.bounded import PATIENCE, Wanted, fetch
from memcalc.configs.checkpoint import described, mapping_of
from memcalc.configs.safetensors import Entry, header_length, parse_header
from memcalc.dataclass import dataclass
from memcalc.errors import UnreadableInput, UsageError, shorten
from memcalc.models.hub_cache import is_repository

if TYPE_CHECKING:
    from pathlib import Path

    from memcalc.configs.reading import Asked, Reading

LARGEST: Final = 32 * 2**20  # of a config or an index
FIRST: Final = 1 << 17  # bytes of a shard that hold most headers
MOST_SHARDS: Final = 32  # whose headers are asked for
WHOLE: Final = 60.0  # seconds for a repository


@dataclass
class Repository:
    """The files of a repository, each asked for once; UnreadableInput when the time for all of them is up."""

    name: str
    ends: float = field(default_factory=lambda: time.monotonic() + WHOLE)
    shards: int = 0
    _known: dict[str, str | None] = field(default_factory=dict)

    def text(self, file: str) -> str | None:
        """A small file's text."""
        if file not in self._known:
            raw = self._fetch(file, LARGEST)
            self._known[file] = None if raw is None else raw.decode("utf-8", "replace")
        return self._known[file]

    def path(self, file: str) -> Path | None:  # noqa: ARG002 - it is not on this machine
        """Nowhere."""
        return None

    def header(self, file: str) -> dict[str, Entry] | None:
        """The tensors of a safetensors file, from its first bytes."""
        self.shards += 1
        if self.shards > MOST_SHARDS:
            raise UnreadableInput(
                f"{self.name} has more than {MOST_SHARDS} files of weights: their headers are not fetched"
            )
        raw = self._fetch(file, FIRST, part=True)
        if raw is None:
            return None
        length = header_length(raw[:8], f"{self.name}/{file}")
        if len(raw) < 8 + length:
            raw = self._fetch(file, 8 + length, part=True) or b""
        if len(raw) < 8 + length:
            raise UnreadableInput(f"{self.name}/{file} breaks off within its header")
        return parse_header(raw[8 : 8 + length], f"{self.name}/{file}")

    def spec(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config itself, inline: the report can be run again without the network."""
        return {**config, "_name_or_path": self.name}

    def _fetch(self, file: str, limit: int, *, part: bool = False) -> bytes | None:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise UnreadableInput(f"{self.name}: its files take longer than {WHOLE:g} seconds to fetch")
        url, headers = _address(self.name, file)
        return fetch(Wanted(url, limit, headers, part, min(PATIENCE, left)))


def read_repository(name: str, asked: Asked) -> Reading:
    """The reading of a repository: its model, its adapter, what its weights are stored as."""
    return described(_repository(name), asked)


def fetched(name: str) -> dict[str, Any]:
    """The config of a repository's model, as a run's `model`; UnreadableInput where it can't be had."""
    repository = _repository(name)
    text = repository.text("config.json")
    if text is None:
        raise UnreadableInput(f"{name} has no config.json on the hub")
    return repository.spec(mapping_of(text, f"{name}/config.json").data)


def _repository(name: str) -> Repository:
    if not is_repository(name) or "/" not in name:
        raise UsageError(f"--hub: {shorten(name)!r} is no name of a repository; write owner/name")
    return Repository(name)


def _address(name: str, file: str) -> tuple[str, dict[str, str]]:
    """The address of a file and the headers to ask for it with."""
    try:
        from huggingface_hub import constants, get_token, hf_hub_url  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise UsageError(
            "--hub needs the package huggingface_hub; install it with: pip install 'memcalc[hub]'"
        ) from None
    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            "--hub: HF_HUB_OFFLINE is set, so nothing is fetched; unset it, or name a local file with --model"
        )
    url = hf_hub_url(name, file, endpoint=os.environ.get("HF_ENDPOINT") or None)
    token = get_token()
    return url, {"User-Agent": f"memcalc/{__version__}", **({"Authorization": f"Bearer {token}"} if token else {})}
