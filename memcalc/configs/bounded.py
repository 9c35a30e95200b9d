"""A file over HTTP, bounded in time and in size: whatever the server says or does, an answer or an error comes soon.

A redirect is followed a few times, never to plain HTTP from HTTPS, and to another host only within the hub's own domains;
what authorises the request is not sent there. A body longer than allowed, or shorter than it was said to be, is refused.
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.request
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from memcalc.dataclass import dataclass
from memcalc.errors import UnreadableInput, shorten
from memcalc.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE: Final = 20.0  # seconds for one file, from asking to its last byte
SILENCE: Final = 8.0  # seconds without a byte
REDIRECTS: Final = 4
OWN_HOSTS: Final = ("huggingface.co", "hf.co")  # and what is below them: the hub keeps large files elsewhere
PIECE: Final = 1 << 16


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: at most `limit` bytes of it; with `part` only its first bytes, whatever there is beyond them."""

    url: str
    limit: int
    headers: Mapping[str, str] = field(default_factory=dict)
    part: bool = False
    patience: float = PATIENCE


def fetch(wanted: Wanted) -> bytes | None:
    """The file's bytes; None where the server has no such file; UnreadableInput says what went wrong otherwise."""
    if urlsplit(wanted.url).scheme not in ("http", "https"):
        raise UnreadableInput(f"{shorten(wanted.url)} is no address of the web")
    outcome: list[bytes | BaseException | None] = []
    worker = threading.Thread(target=_into, args=(outcome, wanted), daemon=True)
    worker.start()
    worker.join(wanted.patience + 1)
    if not outcome:
        raise _too_slow(wanted)
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _into(outcome: list[bytes | BaseException | None], wanted: Wanted) -> None:
    try:
        outcome.append(_told(wanted))
    except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is waited for
        outcome.append(error)


def _told(wanted: Wanted) -> bytes | None:
    """The bytes, with everything that urllib raises put into words."""
    host = urlsplit(wanted.url).netloc
    try:
        return _body(wanted)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            return None
        raise UnreadableInput(f"{shorten(wanted.url)}: {_refusal(error.code)}") from None
    except TimeoutError:
        raise _too_slow(wanted) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _too_slow(wanted) from None
        raise UnreadableInput(f"{host} can't be reached: {error.reason}; check the network and HF_ENDPOINT") from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise UnreadableInput(
            f"{shorten(wanted.url)}: the answer breaks off or makes no sense ({type(error).__name__})"
        ) from None


def _body(wanted: Wanted) -> bytes:
    ends = time.monotonic() + wanted.patience
    headers = {**wanted.headers, **({"Range": f"bytes=0-{wanted.limit - 1}"} if wanted.part else {})}
    request = urllib.request.Request(wanted.url, headers=headers)  # noqa: S310 - the scheme is checked above
    with urllib.request.build_opener(_Redirects()).open(request, timeout=min(SILENCE, wanted.patience)) as answer:
        promised = answer.headers.get("Content-Length", "")
        length = int(promised) if promised.isdecimal() else None
        if not wanted.part and length is not None and length > wanted.limit:
            raise _too_large(wanted)
        raw = _read(answer, wanted, ends)
        if length is not None and len(raw) < min(length, wanted.limit):
            raise UnreadableInput(f"{shorten(wanted.url)} breaks off after {len(raw)} of {length} bytes")
        return raw


def _read(answer: Any, wanted: Wanted, ends: float) -> bytes:  # noqa: ANN401 - urllib's answer
    """Bytes as they come, until there are no more, too many, or the time is up."""
    pieces, total = [], 0
    while total <= wanted.limit:
        if time.monotonic() > ends:
            raise _too_slow(wanted)
        piece = answer.read1(min(PIECE, wanted.limit + 1 - total))
        if not piece:
            break
        pieces.append(piece)
        total += len(piece)
        if wanted.part and total >= wanted.limit:
            break
    if total > wanted.limit and not wanted.part:
        raise _too_large(wanted)
    return b"".join(pieces)[: wanted.limit]


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:  # noqa: ANN401
        """The next request, without what authorises it where the host is another; UnreadableInput where it goes astray."""
        here, there = urlsplit(req.full_url), urlsplit(newurl)
        fp.close()
        if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme == "http"):
            raise UnreadableInput(f"{shorten(req.full_url)} redirects to {shorten(newurl)}, which is not followed")
        if here.netloc != there.netloc and not _own(there.hostname or ""):
            raise UnreadableInput(
                f"{shorten(req.full_url)} redirects elsewhere, to {there.netloc}, which is not followed"
            )
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None:
            for name, value in req.header_items():
                if name.lower() not in ("authorization", "cookie", "host") or here.netloc == there.netloc:
                    made.add_header(name, value)
            if here.netloc != there.netloc:
                made.remove_header("Authorization")
        return made


def _own(host: str) -> bool:
    return any(host == own or host.endswith(f".{own}") for own in OWN_HOSTS)


def _refusal(code: int) -> str:
    if code in (401, 403):
        return f"the hub refuses it ({code}): the repository is gated, private or does not exist; set HF_TOKEN if you may see it"
    return f"the server answers {code}"


def _too_slow(wanted: Wanted) -> UnreadableInput:
    return UnreadableInput(f"{shorten(wanted.url)}: no whole answer within {wanted.patience:g} seconds")


def _too_large(wanted: Wanted) -> UnreadableInput:
    return UnreadableInput(
        f"{shorten(wanted.url)} is larger than {format_bytes(wanted.limit, 'auto')}; no such file is"
    )
