"""A server that lies about lengths, sends elsewhere, hangs or drips: an answer, or an error within the bounds."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.configs import bounded
from memcalc.configs.bounded import Wanted, fetch
from memcalc.errors import UnreadableInput

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b'{"model_type": "llama"}'
seen: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    """Each path is one way to behave."""

    def do_GET(self) -> None:
        seen.append((self.path, self.headers.get("Authorization")))
        getattr(self, self.path.strip("/").partition("/")[0], self.missing)()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def answer(self, body: bytes, length: int | None = None, code: int = 200) -> None:
        self.send_response(code)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def missing(self) -> None:
        self.answer(b"", 0, 404)

    def fine(self) -> None:
        self.answer(BODY, len(BODY))

    def unsized(self) -> None:
        self.answer(BODY)

    def refused(self) -> None:
        self.answer(b"", 0, 401)

    def broken(self) -> None:
        self.answer(b"", 0, 500)

    def promises_more(self) -> None:
        self.answer(BODY, 1000)

    def promises_a_lot(self) -> None:
        self.answer(BODY, 10**12)

    def sends_a_lot(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(1000):
            self.wfile.write(b"x" * 65536)

    def hangs(self) -> None:
        time.sleep(5)

    def drips(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def drips_its_head(self) -> None:
        for _ in range(100):
            self.wfile.write(b"H")
            self.wfile.flush()
            time.sleep(0.05)

    def noise(self) -> None:
        self.wfile.write(b"\0\1\2 no http at all\r\n\r\n")

    def redirect(self, where: str) -> None:
        self.send_response(302)
        self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def moved(self) -> None:
        self.redirect("/fine")

    def elsewhere(self) -> None:
        self.redirect("http://example.invalid/config.json")

    def to_a_file(self) -> None:
        self.redirect("file:///etc/passwd")

    def round(self) -> None:
        self.redirect("/round")


class Quiet(ThreadingHTTPServer):
    """A client that goes away is no news."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["fine", "unsized", "moved"])
def test_a_file_comes_whole(address: str, path: str) -> None:
    assert fetch(Wanted(f"{address}/{path}", 1000)) == BODY


def test_a_part_is_no_more_than_was_asked_for(address: str) -> None:
    assert fetch(Wanted(f"{address}/fine", 8, part=True)) == BODY[:8]
    assert fetch(Wanted(f"{address}/sends_a_lot", 100, part=True)) == b"x" * 100


def test_what_is_not_there_is_none(address: str) -> None:
    assert fetch(Wanted(f"{address}/nothing/config.json", 1000)) is None


LIES = [
    ("promises_more", "breaks off after 23 of 1000 bytes"), ("promises_a_lot", "larger than"), ("sends_a_lot", "larger than"),
    ("noise", "makes no sense"), ("refused", "HF_TOKEN"), ("broken", "answers 500"), ("elsewhere", "redirects elsewhere"),
    ("to_a_file", "answers 302"), ("round", "answers 302"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "told"), LIES)
def test_lies_are_told_as_such(address: str, path: str, told: str) -> None:
    with pytest.raises(UnreadableInput, match=told):
        fetch(Wanted(f"{address}/{path}", 1000))


@pytest.mark.parametrize("path", ["hangs", "drips", "drips_its_head"])
def test_patience_ends(address: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "SILENCE", 0.3)
    before = time.monotonic()
    with pytest.raises(UnreadableInput, match=r"within 0\.4 seconds"):
        fetch(Wanted(f"{address}/{path}", 1000, patience=0.4))
    assert time.monotonic() - before < 3


def test_a_server_that_is_not_there_is_told() -> None:
    with pytest.raises(UnreadableInput, match="can't be reached"):
        fetch(Wanted("http://127.0.0.1:9/config.json", 1000))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/x", "gopher:x"])
def test_only_the_web_is_asked(url: str) -> None:
    with pytest.raises(UnreadableInput, match="no address of the web"):
        fetch(Wanted(url, 1000))


def test_what_authorises_stays_with_its_host(address: str) -> None:
    seen.clear()
    fetch(Wanted(f"{address}/moved", 1000, {"Authorization": "Bearer secret"}))
    assert seen == [("/moved", "Bearer secret"), ("/fine", "Bearer secret")]
