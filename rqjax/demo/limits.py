"""The bounds of a page: uploads of a bounded size and number, and calls to this machine by its name."""

import pathlib
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rqjax.demo.upload import BYTES

UPLOAD = "/gradio_api/upload"
FRAME = 2**16
"""Bytes around the files of an upload: names and separators."""
KEPT_FILES, KEPT_BYTES, KEPT_SECONDS = 512, 2**28, 900
"""Files of uploads and pictures that are kept at once, their bytes in all, and for how long after they were written."""
LOCAL = {"localhost", "127.0.0.1", "[::1]"}
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)
"""A browser that shows the page asks no other machine for anything."""


class Limits:
    """An ASGI application before another, which refuses in one line what is too large, too much, or meant for another.

    `folder` holds the files of uploads and of pictures. With `loopback` the page answers to this machine's names alone,
    so that no page of a name that somebody points here can read it.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], folder: pathlib.Path, *, loopback: bool):
        self._app, self._folder, self._loopback = app, folder, loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await _answer(send, *refused)
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", []), policy]}
            await send(message)

        await self._app(scope, receive, guarded)

    def _refusal(self, scope: Any, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and the line for a request that is not passed on."""
        if self._loopback and re.sub(r":\d+$", "", headers.get("host", "")) not in LOCAL:
            return 421, "this page answers to localhost: start it with --host to reach it by other names"
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "a request without its length is not taken"
        if int(length) > BYTES + FRAME:
            return 413, f"files of more than {BYTES // 2**20} MiB in all are not taken"
        if scope["path"] == UPLOAD and not self._room():
            return 413, "too many files have come: wait some minutes"
        return None

    def _room(self) -> bool:
        """Whether the folder takes one more upload, after old files are gone."""
        files, size = 0, 0
        for path in list(self._folder.rglob("*")):
            try:
                found = path.stat()
                if not path.is_file():
                    continue
                if time.time() - found.st_mtime > KEPT_SECONDS:
                    path.unlink()
                    continue
            except OSError:  # another request was quicker
                continue
            files, size = files + 1, size + found.st_size
        return files < KEPT_FILES and size < KEPT_BYTES


async def _answer(send: Any, status: int, line: str) -> None:
    body, plain = line.encode(), (b"content-type", b"text/plain; charset=utf-8")
    headers = [plain, (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
