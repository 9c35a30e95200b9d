"""Repositories by name: the cache on disk, and a server in the hub's place (HF_ENDPOINT) through huggingface_hub."""

from __future__ import annotations

import json
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.__main__ import main
from memcalc.configs import Asked, hub, read
from memcalc.configs.hub import Repository, fetched, read_repository
from memcalc.errors import UnreadableInput, UsageError
from memcalc.models import load_model
from memcalc.models.hub_cache import cache_folder, is_repository, snapshot
from tests.configs.reader import document
from tests.configs.test_checkpoint import LLAMA, PARAMETERS, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARD = json.dumps(
    {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in tensors()}
).encode()
INDEX = {"weight_map": {name: "model-00001-of-00001.safetensors" for name, _ in tensors()}}
FILES: dict[str, bytes] = {
    "/meta/tiny/resolve/main/config.json": json.dumps(LLAMA).encode(),
    "/meta/tiny/resolve/main/model.safetensors.index.json": json.dumps(INDEX).encode(),
    "/meta/tiny/resolve/main/model-00001-of-00001.safetensors": struct.pack("<Q", len(SHARD)) + SHARD + b"\0" * 10**6,
    "/meta/adapter/resolve/main/adapter_config.json": json.dumps(
        {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "meta/tiny"}
    ).encode(),
    "/meta/odd/resolve/main/config.json": b"[1, 2",
}
asked: list[tuple[str, str | None, str | None]] = []


class Hub(BaseHTTPRequestHandler):
    """The hub's addresses of files, with ranges."""

    def do_GET(self) -> None:
        asked.append((self.path, self.headers.get("Range"), self.headers.get("Authorization")))
        body = FILES.get(self.path)
        part = self.headers.get("Range")
        if body is not None and part:
            body = body[: int(part.partition("-")[2]) + 1]
        self.send_response(404 if body is None else 206 if part else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("huggingface_hub")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked.clear()
    yield address
    server.shutdown()
    server.server_close()


def test_a_repository_is_read_by_its_small_files(endpoint: str) -> None:
    found = read_repository("meta/tiny", Asked(hub=True))
    assert found.run["model"] == {**LLAMA, "_name_or_path": "meta/tiny"}
    assert found.warnings == ()
    assert "21 tensors" in found.assumptions[0].message
    assert f"bytes=0-{hub.FIRST - 1}" in {part for _, part, _ in asked}
    assert {token for _, _, token in asked} == {"Bearer hf_secret"}
    assert endpoint


def test_the_command_line_reads_it_where_it_is_told_to(endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "meta/tiny", "--format", "json"]) == 2
    assert "unknown model 'meta/tiny'" in capsys.readouterr().err
    assert not asked
    assert main(["estimate", "meta/tiny", "--hub", "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["model"] == {
        "name": "meta/tiny", "architecture": "llama", "parameters": PARAMETERS, "trainable": PARAMETERS, "active": PARAMETERS,
    }  # fmt: skip
    assert main(["estimate", "--model", "meta/tiny", "--hub", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["parameters"] == PARAMETERS
    assert endpoint


def test_an_adapter_on_the_hub_names_its_base(endpoint: str) -> None:
    found = read_repository("meta/adapter", Asked(hub=True))
    assert found.run["lora"]["rank"] == 4
    assert found.run["model"]["_name_or_path"] == "meta/tiny"
    assert endpoint


def test_a_config_that_names_a_repository_has_it_fetched(endpoint: str) -> None:
    made = document("model_name_or_path: meta/tiny\nmax_length: 64\nuse_peft: true\n")
    found = read(made, "trl", Asked(hub=True))
    assert found is not None
    assert found.run["model"]["_name_or_path"] == "meta/tiny"
    assert endpoint


def test_what_is_not_there_or_makes_no_sense_is_told(endpoint: str) -> None:
    with pytest.raises(UnreadableInput, match=r"no config\.json"):
        fetched("meta/nothing")
    with pytest.raises(UnreadableInput, match=r"meta/odd/config\.json"):
        fetched("meta/odd")
    with pytest.raises(UsageError, match="owner/name"):
        fetched("tiny")
    assert endpoint


def test_a_repository_s_files_have_one_deadline(endpoint: str) -> None:
    with pytest.raises(UnreadableInput, match="longer than"):
        Repository("meta/tiny", ends=0.0).text("config.json")
    assert not asked
    assert endpoint


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'memcalc\[hub\]'"):
        fetched("meta/tiny")


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "models--meta--tiny"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc123\n")
    (folder / "snapshots" / "abc123").mkdir(parents=True)
    (folder / "snapshots" / "abc123" / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return folder


def test_a_cached_repository_is_found_by_its_name(cached: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert snapshot("meta/tiny") == cached / "snapshots" / "abc123"
    made = load_model("meta/tiny")
    assert made.parameters == PARAMETERS
    assert "local cache" in made.notes[-1]
    assert main(["estimate", "meta/tiny", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["parameters"] == PARAMETERS


def test_a_cache_without_a_reference_has_its_snapshots(cached: Path) -> None:
    (cached / "refs" / "main").unlink()
    assert snapshot("meta/tiny") == cached / "snapshots" / "abc123"


@pytest.mark.parametrize("commit", ["../../secret", "/etc", "a/b", ""])
def test_a_reference_leads_nowhere_else(cached: Path, commit: str) -> None:
    (cached / "refs" / "main").write_text(commit)
    assert snapshot("meta/tiny") is None


@pytest.mark.parametrize(
    "name", ["../meta/tiny", "meta/../tiny", "/meta/tiny", "a/b/c", "meta--tiny", "", "a\0b", "x" * 300]
)
def test_names_that_are_no_repository_s(name: str) -> None:
    assert not is_repository(name)
    assert snapshot(name) is None


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
