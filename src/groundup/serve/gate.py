"""What every request passes: the Host and Origin headers, the API key, and the size of its body."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import shlex
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groundup.display.units import size_text
from groundup.serve.errors import ApiError, ClientGoneError
from groundup.serve.replies import send_error

LOCAL = ("localhost", "127.0.0.1", "::1")
_BODY_SECONDS = 60.0
_MOST_HELD = 1 << 28
"""Bytes of all bodies together."""
_DRAINED_BYTES, _DRAINED_SECONDS = 64 << 20, 2.0
"""What is read of a refused body, so that its sender sees the answer and not a closed connection."""


class HostCheck:
    """Refuse requests of other sites that a browser sends here: by their name (DNS rebinding), or their origin.

    Args:
        hosts: names that may stand in the Host header; "*" allows all.
        any_address: allow every IP address, which no other site can have as its name.
        origins: origins of other sites that may call, such as "https://example.org"; "*" allows all.
        option: the option of the command line that allows another name.
        origin_option: likewise another site; empty for none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        any_address: bool,
        origins: Collection[str],
        option: str = "--allowed-host",
        origin_option: str = "--cors-origin",
    ):
        self._app, self._any_address, self._option, self._origin_option = app, any_address, option, origin_option
        self._hosts = {host.strip("[]").lower() for host in hosts}
        self._origins = set(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host"), headers.get("origin", "")
        if host is not None and not self._is_allowed(host):
            error = ApiError(
                403, f"the Host header is {host[:100]!r}, which this server does not go by; start it with "
                f"{self._option} {_name(host)[:100]} if it should", code="host_not_allowed",
            )  # fmt: skip
            await send_error(send, error)
        elif origin and not self._may_call(origin.lower(), (host or "").lower()):
            mend = "open the page at this server's own address"
            if self._origin_option:  # "null" is what files and sandboxed frames have, of any site
                allowed = shlex.quote(origin[:100] if is_origin(origin) else "*")
                mend = f"start the server with {self._origin_option} {allowed} to allow it"
                mend += "" if is_origin(origin) else ", and every other page"
            error = ApiError(
                403, f"the request comes from a page of {origin[:100]!r}; {mend}", code="origin_not_allowed"
            )
            await send_error(send, error)
        else:
            await self._app(scope, receive, send)

    def _is_allowed(self, host: str) -> bool:
        name = _name(host)
        return "*" in self._hosts or name in self._hosts or (self._any_address and _is_address(name))

    def _may_call(self, origin: str, host: str) -> bool:
        same = origin.partition("://")[2] == host
        return same or "*" in self._origins or origin in self._origins


def is_origin(text: str) -> bool:
    """Whether a page can be of this origin alone: a scheme and a host, such as "https://example.org"."""
    return re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s\"'\\]+", text.lower()) is not None


def _name(host: str) -> str:
    """The name in a Host header, without port and brackets; empty if it is not one."""
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]@/]+)(:\d+)?", host)
    return "" if found is None else found[1].strip("[]").lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class KeyCheck:
    """Ask for the API key, as ``Authorization: Bearer KEY``."""

    def __init__(self, app: ASGIApp, key: str):
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._key):
            await self._app(scope, receive, send)
            return
        message = "the API key is wrong" if given else "the API key is missing; send Authorization: Bearer KEY"
        headers = {"WWW-Authenticate": "Bearer"}
        await send_error(send, ApiError(401, message, code="invalid_api_key", headers=headers))


class Bodies:
    """Bodies of requests, with a limit for each and for all that are in memory.

    Args:
        most: bytes of one.
    """

    def __init__(self, most: int):
        self._most, self._held = most, 0

    @asynccontextmanager
    async def read(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes]:
        """Read a body; it counts as held until the context manager ends.

        Raises:
            ApiError: 413 if it is too large, before more of it is read; 408 if it does not come; 503 if all are too
                large together.
            ClientGoneError: the client has gone.
        """
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and (len(declared) > 15 or int(declared) > self._most):
            raise _too_large(self._most)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "the body is compressed; send plain JSON")
        body = bytearray()
        try:
            await self._receive(receive, body)
            yield bytes(body)
        finally:
            self._held -= len(body)

    async def _receive(self, receive: Receive, body: bytearray) -> None:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for chunk in _chunks(receive):
                    body += chunk
                    self._held += len(chunk)
                    if len(body) > self._most:
                        raise _too_large(self._most)
                    if self._held > max(_MOST_HELD, self._most):
                        raise ApiError(
                            503, "too many requests are being received at once; try again later",
                            headers={"Retry-After": "1", "Connection": "close"},
                        )  # fmt: skip
        except TimeoutError:
            raise ApiError(
                408, f"the body did not come within {_BODY_SECONDS:g} s; send it at once",
                headers={"Connection": "close"},
            ) from None  # fmt: skip


class Answers:
    """Memory of the answers of a model that are being generated or sent.

    Args:
        most: bytes of all together.
    """

    def __init__(self, most: float):
        self._most, self._held = most, 0

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Count an answer that may take this many bytes, as long as the context manager lasts.

        Raises:
            ApiError: 400 if it can never be admitted, 429 if the others leave too little.
        """
        if size > self._most:
            raise ApiError(
                400, f"the answer may take {size_text(size)}, but the server has {size_text(self._most)} for answers; "
                "ask for fewer tokens (max_tokens), texts (n) or log-probabilities", param="max_tokens",
                code="answer_too_large",
            )  # fmt: skip
        if self._held + size > self._most:
            raise ApiError(
                429, f"the answer may take {size_text(size)}, and those that are being generated leave too little of "
                f"the {size_text(self._most)} for answers; try again later, or ask for fewer tokens",
                code="answers_full", headers={"Retry-After": "1"},
            )  # fmt: skip
        self._held += size
        try:
            yield
        finally:
            self._held -= size


def _too_large(most: int) -> ApiError:
    return ApiError(
        413, f"the body is larger than {most:,} bytes; send less, or start the server with a larger --max-body",
        code="request_too_large", headers={"Connection": "close"},
    )  # fmt: skip


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def drain(receive: Receive) -> None:
    """Read and discard the rest of a refused body, within limits."""
    left = _DRAINED_BYTES
    with suppress(ClientGoneError):
        while left > 0:
            try:
                async with asyncio.timeout(_DRAINED_SECONDS):
                    message = await receive()
            except TimeoutError:
                return
            left -= len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return
