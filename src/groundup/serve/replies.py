"""Sending answers: one JSON object, or a stream of server-sent events; and noticing that the client is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Receive, Send

from groundup.serve.errors import ApiError, ClientGoneError

_LAST_WORD_SECONDS = 5.0
_SENT_AT_ONCE = 1 << 16


class Reply:
    """The answer to one request.

    Attributes:
        is_stream: whether a stream has begun, so that an error can only be an event of it.
    """

    def __init__(self, send: Send):
        self._send = send
        self.is_stream = False

    async def json(self, value: Any) -> None:
        """Answer with one object; a function that returns it, and its writing, run in a thread."""
        await self.body(await asyncio.to_thread(_written, value) if callable(value) else encoded(value))

    async def body(self, body: bytes) -> None:
        """Answer with JSON that is written already."""
        await send_whole(self._send, 200, body, "application/json")

    async def begin_stream(self) -> None:
        """Answer with events that follow."""
        self.is_stream = True
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def events(self, values: list[Any]) -> None:
        """Send events."""
        await self._more(b"".join(b"data: " + encoded(value) + b"\n\n" for value in values))

    async def comment(self) -> None:
        """Send a line that clients skip, so that proxies do not take the connection for dead."""
        await self._more(b": waiting\n\n")

    async def end_stream(self) -> None:
        """End the stream as OpenAI does."""
        await self._send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def error(self, error: ApiError) -> None:
        """Tell an error, as an answer, or as the last event of a stream.

        Raises:
            TimeoutError: the client does not read what it is sent.
        """
        async with asyncio.timeout(_LAST_WORD_SECONDS):
            if self.is_stream:
                await self.events([error.body()])
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send_error(self._send, error)

    async def _more(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


async def send_error(send: Send, error: ApiError, *, is_over: bool = True) -> None:
    """Answer with an error; ``is_over`` leaves the answer open until :func:`finish`."""
    await send_whole(send, error.status, encoded(error.body()), "application/json", error.headers, is_over=is_over)


async def send_whole(
    send: Send, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None, *, is_over: bool = True
) -> None:
    """Answer with a body."""
    all_headers = {"content-type": kind, "content-length": str(len(body)), **(headers or {})}
    pairs = [(name.lower().encode(), value.encode("latin-1")) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    for begin in range(0, len(body) or 1, _SENT_AT_ONCE):  # no faster than the client reads
        more = begin + _SENT_AT_ONCE < len(body)
        piece = body[begin : begin + _SENT_AT_ONCE]
        await send({"type": "http.response.body", "body": piece, "more_body": more or not is_over})


async def finish(send: Send) -> None:
    """End an answer that was left open."""
    await send({"type": "http.response.body", "body": b"", "more_body": False})


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encoded(value: Any) -> bytes:
    """JSON on one line, in UTF-8."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


def _written(make: Callable[[], Any]) -> bytes:
    # In steps, unlike encode(), which holds the interpreter's lock until it is done.
    body = bytearray()
    for piece in _ENCODER.iterencode(make()):
        body += piece.encode("utf-8", "replace")
    return bytes(body)


async def unless_gone(receive: Receive, work: Awaitable[None]) -> None:
    """Wait for work, but no longer than the client does. The request's body must have been read.

    Raises:
        ClientGoneError: the connection was closed; the work is cancelled.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_closed(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _closed(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
