"""Which requests reach the page: from its own names, for its own routes and files, of bounded size.

Gradio has routes that the page does not need, among them some that fetch a URL or a file for whoever names it.
"""

import asyncio
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradio_client.utils import strip_invalid_filename_characters
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vidtwin.demo.folder import Keeper
from vidtwin.files import in_line

API, FILE = "/gradio_api/", "/gradio_api/file="
ROUTES = {"/", "/config", "/login", "/logout", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"} | {
    API + name
    for name in (
        "info", "upload", "queue/join", "queue/data", "queue/status", "cancel", "reset", "login_check", "app_id", "startup-events",
        "theme.css", "user",
    )
}  # fmt: skip
FOLDERS = ("/assets/", "/static/", "/svelte/", f"{API}heartbeat/")
BODY = 2**16  # bytes of a request that is no upload
FRAME = 2**16  # bytes of an upload beside its file
UPLOADS, LOGINS = 8, 8  # at once; more are told to come again
PATIENCE = 60.0  # seconds that a request may go without a byte, and that all of it may take beside SLOWEST
SLOWEST = 2**13  # bytes of an upload a second: its place is one of few
DELAY = 1.0  # seconds that a wrong login takes; others wait meanwhile
AGAIN = "too many at once; try again in a minute"


class RefusedError(Exception):
    """An answer instead of the page: its status, and a line that says why."""


class Gate:
    """ASGI middleware.

    Args:
        names: hosts that requests may be for; None for any. They may come from pages of these, or of the one that they are for.
        served: the folder that Gradio keeps files in: no other file is read for a request.
        most: bytes of an upload. keeper: makes room for it.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str] | None, served: Path, most: float, keeper: Keeper):
        self._app, self._names, self._served, self._most, self._keeper = app, names, served.resolve(), most + FRAME, keeper
        self._uploads, self._logins, self._login = 0, 0, asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # the page has no web sockets
            return await send({"type": "websocket.close"})
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            self._check(scope)
            await self._serve(scope, receive, note)
        except RefusedError as refused:
            if not begun:
                status, reason = refused.args
                await PlainTextResponse(reason, status)(scope, receive, send)
        except Exception as error:  # of Gradio, on what its own page never sends
            if os.environ.get("VIDTWIN_TRACEBACK"):
                raise
            reason = in_line(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
            print(f"vidtwin: warning: a request for {in_line(scope['path'], 100)} failed ({reason})", file=sys.stderr)
            if not begun:
                await PlainTextResponse("the request is none of this page's", 400)(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        host, origin = _name("//" + headers.get("host", "")), headers.get("origin")
        if self._names is not None and host not in self._names:
            raise RefusedError(403, "this page is served under another name; its operator can allow this one with --public-name")
        if origin is not None and (_name(origin) is None or _name(origin) not in (self._names or frozenset()) | {host}):
            raise RefusedError(
                403, "requests must come from this page itself; its operator can allow another name with --public-name"
            )
        if path.startswith(FILE):
            self._check_file(path.removeprefix(FILE))
        elif (path.rstrip("/") or "/") not in ROUTES and (not path.startswith(FOLDERS) or ".." in path):
            raise RefusedError(404, "there is no such page")

    def _check_file(self, path: Any) -> None:
        try:
            served = isinstance(path, str) and Path(os.path.realpath(path)).is_relative_to(self._served)
        except ValueError:  # what no file can be called
            served = False
        if not served:
            raise RefusedError(403, "not a file of this page")

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = scope["path"].rstrip("/")
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif route == f"{API}upload":
            await self._upload(scope, receive, send)
        elif route == "/login":
            await self._log_in(scope, await _read(receive), send)
        else:
            body = await _read(receive)
            for path in _paths(body):
                self._check_file(path)
            await self._app(scope, _replay(body, receive), send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one file of a visitor who is logged in; in place of Gradio's way, which keeps parts of any number and size."""
        if self._uploads >= UPLOADS:
            raise RefusedError(503, AGAIN)
        if not Headers(scope=scope).get("content-type", "").startswith("multipart/form-data"):
            raise RefusedError(400, "the request holds no file")
        await self._check_login(scope)
        self._uploads, got, begun = self._uploads + 1, 0, time.monotonic()

        async def counted() -> Message:
            nonlocal got
            message = await _next(receive, begun + got / SLOWEST)
            got += len(message.get("body", b""))
            if got > self._most:
                raise RefusedError(413, f"the limit here is {self._most / 1e6:.0f} MB; make the file smaller")
            return message

        try:
            await asyncio.to_thread(self._keeper.clear, UPLOADS * self._most)
            async with Request({**scope, "app": None}, counted).form(max_files=1, max_fields=0) as form:
                file = form.get("files")
                if not isinstance(file, UploadFile):
                    raise RefusedError(400, "the request holds no file")
                path = await asyncio.to_thread(self._keep, file)
            await JSONResponse([str(path)])(scope, receive, send)
        except HTTPException as error:
            raise RefusedError(400, error.detail) from None
        except ClientDisconnect:
            return
        finally:
            self._uploads -= 1

    def _keep(self, file: UploadFile) -> Path:
        """Where a file lies that was uploaded: under its name, in a folder whose name cannot be guessed."""
        name = strip_invalid_filename_characters(Path("".join(filter(str.isprintable, file.filename or ""))).name)
        if name in ("", ".", ".."):
            raise RefusedError(400, "the file has no name")
        path = self._served / secrets.token_hex(16) / name
        path.parent.mkdir(parents=True)  # the folder above goes, too, when nobody uses it
        with path.open("xb") as kept:
            shutil.copyfileobj(file.file, kept)
        return path

    async def _check_login(self, scope: Scope) -> None:
        """Ask Gradio whether a visitor may do more than log in."""
        path, status = f"{API}login_check", 0

        async def note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        await self._app(
            {**scope, "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}, _replay(b""), note
        )
        if status != 200:
            raise RefusedError(401, "log in first")

    async def _log_in(self, scope: Scope, body: bytes, send: Send) -> None:
        if self._logins >= LOGINS:
            raise RefusedError(429, AGAIN)
        self._logins += 1

        async def late(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                await asyncio.sleep(DELAY)
            await send(message)

        try:
            async with self._login:
                await self._app(scope, _replay(body), late)
        finally:
            self._logins -= 1


def _name(address: str) -> str | None:
    """The host of an address, without its port, in lower case; None if there is none."""
    try:
        return (urlsplit(address).hostname or "").rstrip(".") or None
    except ValueError:
        return None


async def _next(receive: Receive, begun: float) -> Message:
    """What comes next of a request; `begun`: the time.monotonic() from which it has PATIENCE, however little comes at once."""
    try:
        return await asyncio.wait_for(receive(), max(0.0, begun + PATIENCE - time.monotonic()))
    except asyncio.TimeoutError:
        raise RefusedError(408, "the request was interrupted") from None


async def _read(receive: Receive) -> bytes:
    """All of a request."""
    body, begun = b"", time.monotonic()
    while True:
        message = await _next(receive, begun)
        body += message.get("body", b"")
        if len(body) > BODY:
            raise RefusedError(413, "the request is too large")
        if not message.get("more_body", False):
            return body


def _replay(body: bytes, receive: Receive | None = None) -> Receive:
    """What gives a request that was read, then what comes after it: news that the visitor has gone."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        if messages:
            return messages.pop()
        return await receive() if receive is not None else {"type": "http.disconnect"}

    return again


def _paths(body: bytes) -> Iterator[Any]:
    """Values of "path" anywhere in a request."""
    try:
        left = [json.loads(body or b"null")]
    except (ValueError, RecursionError):
        raise RefusedError(400, "the request is not JSON") from None
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield value["path"]
            left += value.values()
        elif isinstance(value, list):
            left += value
