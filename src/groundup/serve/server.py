"""The server process: its socket, its connections, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from groundup.errors import ConfigError
from groundup.serve.app import Api, ServeOptions, make_app
from groundup.serve.errors import ApiError
from groundup.serve.gate import LOCAL
from groundup.serve.models import ServedModel

_HEADER_SECONDS = 30.0
"""In which a new client must have sent the head of a request."""
_IDLE_SECONDS = 75
"""In which a client that has its answer must have sent the next; longer than proxies and clients keep a connection."""
_UNREAD_SECONDS = 30.0
"""In which a client must have taken some of what waits to be sent to it."""
_CLOSE_SECONDS = 2
"""That clients get at the end to take the rest of their answers."""
_MOST_FILES, _RESERVED_FILES = 10_000, 100


def serve(
    models: dict[str, ServedModel],
    options: ServeOptions,
    listening: socket.socket | None = None,
    *,
    runs: Path | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until SIGINT or SIGTERM. Running requests get ``options.grace`` seconds; a second signal ends at once.

    Args:
        models: by name; their threads are started, and ended.
        listening: from :func:`listen`, which fails before models are loaded; by default called here.
        runs: folder of runs whose pages are shown too.
        told: is given each line about the start and the end.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    _allow_files()
    listening = listening or listen(options)
    app, api = make_app(models, options, runs)

    def started() -> None:
        for line in start_lines(url_of(listening), list(models), options):
            told(line)

    server = Server(app, api, options, started, told)
    for served in models.values():
        served.worker.start()
    try:
        server.run([listening])
    finally:
        ended = [served.close() for served in models.values()]
    if not all(ended):  # a step that takes this long; at a regular exit torch's threads would be taken apart under it
        os._exit(0)


def listen(options: ServeOptions) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: no such host, or the port is taken or not allowed.
    """
    where = f"--host {options.host} --port {options.port}"
    try:
        found = socket.getaddrinfo(options.host or None, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{where}: {error}; expected an address of this machine, such as 127.0.0.1") from None
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"cannot listen on {where}: {error.strerror}; choose another --port (0 takes a free one) or --host"
        ) from None
    return listening


def url_of(listening: socket.socket) -> str:
    """Where clients on this machine reach the server."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def start_lines(url: str, names: Sequence[str], options: ServeOptions) -> list[str]:
    """What to tell when connections are accepted: a warning if others can reach the server, an example, the URL."""
    lines = []
    if options.host not in LOCAL and options.api_key is None:
        lines.append(f"warning: other machines may reach this server at {options.host}, and no --api-key is set")
    body = json.dumps({"model": names[0], "prompt": "Once upon a time", "max_tokens": 40}, ensure_ascii=False)
    if options.api_key is not None:
        lines.append("for the example, in its shell: export GROUNDUP_API_KEY=…  # the key of this server")
    key = '-H "Authorization: Bearer $GROUNDUP_API_KEY" ' if options.api_key is not None else ""
    lines.append(f"try: curl {url}/v1/completions {key}-H 'Content-Type: application/json' -d {shlex.quote(body)}")
    lines.append(f"serving {', '.join(names)} at {url} (Ctrl-C stops)")
    return lines


class Server(uvicorn.Server):
    """uvicorn's server with the end that `serve` promises.

    Args:
        started: called when connections are accepted.
        told: is given a line when the end begins and requests are running.
    """

    def __init__(
        self,
        app: Starlette,
        api: Api,
        options: ServeOptions,
        started: Callable[[], None],
        told: Callable[[str], None] = lambda line: None,
    ):
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level=logging.INFO if options.log else logging.CRITICAL,
            access_log=options.log,
            server_header=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
        super().__init__(config)
        if options.log:
            logging.basicConfig(format="%(asctime)s %(message)s")
            logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._api, self._grace, self._tell_started, self._told = api, options.grace, started, told
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, and say so."""
        await super().startup(sockets)
        self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close all connections, in the end also those of clients that neither send nor read."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Begin the end at the first signal; leave at once at the second."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _signalled(self, number: signal.Signals) -> None:
        if self._ending is not None:
            os._exit(128 + number)
        self.begin_end()

    def begin_end(self) -> None:
        """Refuse new requests, and end when the running ones have, or their grace is over."""
        self._ending = asyncio.get_running_loop().create_task(self._end())
        if (count := self._api.in_flight) and self._grace:
            requests = "1 request has" if count == 1 else f"{count} requests have"
            self._told(f"stopping; {requests} {self._grace:g} s; Ctrl-C again ends now")

    async def _end(self) -> None:
        self._api.stopping = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace
        while self._api.in_flight and loop.time() < deadline:
            await asyncio.sleep(0.05)
        for served in self._api.models.values():
            served.worker.fail_all(ApiError(503, "the server is stopping; send the request again later"))
        self.should_exit = True


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with time-outs of head and reading, a limit of connections, and errors in OpenAI's form."""

    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Watch a new connection; refuse it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            error = ApiError(503, "too many connections; try again later")
            body = json.dumps(error.body()).encode()
            head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
            transport.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            transport.close()
            return
        self._watch(_HEADER_SECONDS)

    def on_response_complete(self) -> None:
        """Watch for the next request."""
        super().on_response_complete()
        self._watch(_IDLE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        super().connection_lost(exc)
        for timer in (self._timer, self._reading):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Watch whether the client reads: more waits for it than is kept."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """Stop watching whether the client reads."""
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()

    def _watch_reading(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(_UNREAD_SECONDS, self._close_unless_read, waiting)

    def _close_unless_read(self, before: int) -> None:
        if self.transport.get_write_buffer_size() < before:
            self._watch_reading()
        else:
            self.transport.abort()  # as if the client had left: its texts end, and nothing is kept for it

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        error = ApiError(400, f"{msg.rstrip('.')}; send a request of HTTP/1.1 with a head of at most 64 kB")
        body = json.dumps(error.body()).encode()
        head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: a request for a WebSocket is answered like any other."""

    def _watch(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._close_unless_asked, self.cycle)

    def _close_unless_asked(self, before: Any) -> None:
        if self.cycle is before and not self.transport.is_closing():
            self.transport.close()


def most_connections() -> int:
    """Connections at one time, with room for other files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, (_MOST_FILES if soft == resource.RLIM_INFINITY else min(soft, _MOST_FILES)) - _RESERVED_FILES)


def _allow_files() -> None:
    """Let the process have as many open files as it may, up to what the server needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
