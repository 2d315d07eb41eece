"""The door before the page's server: which addresses there are, how much may come in, what answers may do in a browser.

Gradio serves more than this page needs (proxies, fetched addresses, editors); what is not on the list does not exist.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from phosphene.web.pictures import MAX_BYTES

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_READ = re.compile(
    r"/(healthz|results/[\w-]+/[^/]+|phosphene/[\w./-]+"
    r"|config/?|theme\.css|favicon\.ico|manifest\.json|robots\.txt|pwa_icon(/\d+)?|(assets|static|svelte)/[\w@./-]+"
    r"|gradio_api/(info/?|openapi\.json|app_id/?|startup-events|queue/data|upload_progress|heartbeat/[\w-]+"
    r"|call/(v2/)?\w+/\w+|file=.+))?"
)
# run/predict: what answers at once, such as a picked example; what computes has to queue.
_WRITE = re.compile(r"/gradio_api/(queue/join/?|run/predict/?|upload|cancel|reset/?|call/(v2/)?\w+/?)")
_FILE = "/gradio_api/file="
_UPLOAD = "/gradio_api/upload"
# With these a proxy says under which name it was asked, and Gradio believes whoever sends them.
_FORWARDED = (b"x-forwarded-", b"forwarded", b"x-gradio-", b"x-real-ip", b"x-direct-url")
_MAX_QUESTION = 256_000
# One request may bring several pictures; each has its own limit.
_MAX_UPLOAD = 4 * MAX_BYTES
_MAX_UPLOADS = 2_000_000_000

# Gradio's page needs inline styles and compiles its templates; nothing may come from elsewhere or go there.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob: mediastream:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' data: blob:; object-src 'none'; form-action 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class _TooMuchError(Exception):
    """More came than may."""


class Gate:
    """An ASGI application before another one.

    Args:
        app: the page.
        uploads: the folder of what users sent; of all files only these are given out.
        hosts: names under which the page answers; None for any. A page on the loopback that answers to any name can
            be reached by other web sites through a name of theirs.
    """

    def __init__(self, app: App, uploads: Path, hosts: Collection[str] | None = None) -> None:
        self.app, self.uploads = app, Path(os.path.realpath(uploads))
        self.hosts = hosts

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if self.hosts is not None:  # nothing stands between a browser and the loopback
            scope["headers"] = [pair for pair in scope["headers"] if not pair[0].lower().startswith(_FORWARDED)]
        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(send, *refusal)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = {name.lower() for name, _ in message.get("headers", ())}
                message["headers"] = [
                    *message.get("headers", ()),
                    *(pair for pair in _HEADERS if pair[0] not in present),
                ]
            await send(message)

        try:
            if scope["method"] == "POST" and scope["path"] != _UPLOAD:
                body = await _whole(receive, _MAX_QUESTION)
                refusal = self._refused_question(body)
                if refusal is not None:
                    await _answer(send, *refusal)
                    return
                receive = _again(body, receive)
            elif scope["method"] == "POST":
                receive = _counted(receive, _MAX_UPLOAD)
            await self.app(scope, receive, watched)
        except _TooMuchError:
            if not started:
                await _answer(send, 413, "more than this page takes at once")

    def _refusal(self, scope: MutableMapping[str, Any]) -> tuple[int, str] | None:
        """Why a request is refused by its first lines; None if it is not."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self.hosts is not None and _host(headers.get(b"host", b"")) not in self.hosts:
            return 421, "this page does not answer under that name"
        method, path = scope["method"], scope["path"]
        known = _READ if method in ("GET", "HEAD") else _WRITE if method == "POST" else None
        if known is None:
            return 405, "not here"
        if not known.fullmatch(path) or ".." in path.split("/"):
            return 404, "not here"
        if path.startswith(_FILE) and not self.may_give(unquote(path.removeprefix(_FILE))):
            return 404, "not here"
        length = headers.get(b"content-length", b"0")
        limit = _MAX_UPLOAD if path == _UPLOAD else _MAX_QUESTION
        if not length.isdigit() or int(length) > limit:
            return 413, "more than this page takes at once"
        if path == _UPLOAD and _bytes_in(self.uploads) > _MAX_UPLOADS:
            return 503, "too many pictures are being looked at; send yours again in a few minutes"
        return None

    def _refused_question(self, body: bytes) -> tuple[int, str] | None:
        """A question may name files that were uploaded, and no others; nothing is fetched for it."""
        try:
            question = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            return 400, "not JSON"
        return None if all(map(self.may_give, _paths_in(question))) else (403, "names a file that was not uploaded")

    def may_give(self, path: str) -> bool:
        """Whether a file lies among the uploads, whatever links and dots its path has."""
        if "\0" in path or not os.path.isabs(path):
            return False
        real = Path(os.path.realpath(path))
        return real.is_relative_to(self.uploads) and real != self.uploads


def _host(header: bytes) -> str:
    """The name in a Host header, without the port."""
    text = header.decode("latin-1").lower()
    return text.partition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]


def _paths_in(value: Any) -> list[str]:
    """The paths of all files in a question."""
    found: list[str] = []
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if isinstance(item.get("path"), str):
                found.append(item["path"])
            left += item.values()
        elif isinstance(item, list):
            left += item
    return found


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


async def _whole(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise _TooMuchError
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, then what comes after it."""
    given = False

    async def read() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return read


def _counted(receive: Receive, limit: int) -> Receive:
    """The same, up to so many bytes."""
    got = 0

    async def read() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > limit:
            raise _TooMuchError
        return message

    return read


async def _answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
