"""The application: OpenAI's endpoints over the models, health and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from groundup.config.recipe import suggestion
from groundup.errors import ConfigError, GroundupError
from groundup.generation import Sampling
from groundup.serve import lab
from groundup.serve.answers import Answer
from groundup.serve.errors import ApiError, ClientGoneError, seen
from groundup.serve.fields import TextRequest, chat_request, completion_request, parse_json, tokenize_request
from groundup.serve.gate import LOCAL, Bodies, HostCheck, KeyCheck, drain, is_origin
from groundup.serve.metrics import Metrics
from groundup.serve.models import ServedModel
from groundup.serve.replies import Reply, encoded, finish, send_error, unless_gone
from groundup.serve.worker import Call

_log = logging.getLogger("groundup.serve")
_WILDCARDS = ("", "0.0.0.0", "::")
_COMMENT_SECONDS = 15.0
_MOST_LOG_PROBABILITIES = 500_000
_LARGE_ANSWER = 10_000
"""Log-probabilities of an answer that is written in a thread."""
_BYTES_OF_TOKEN, _BYTES_OF_LOG_PROBABILITY = 400, (220, 450)
"""Of a completion, and of a conversation, whose JSON is longer."""
_TOKENS_AT_ONCE = 1000
_OUTCOME_OF = {429: "overloaded", 500: "failed", 503: "unavailable", 504: "timeout"}


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the server listens, and what it takes.

    Raises:
        ConfigError: a value outside its range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes a free one."""
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    """Names beside the usual ones that may stand in the Host header."""
    cors_origins: tuple[str, ...] = ()
    """Sites whose pages may call."""
    max_body: int = 1_000_000
    """Bytes of a request."""
    max_tokens: int = 16_384
    """Most new tokens of a text."""
    timeout: float = 600.0
    """Seconds of a request, from its arrival to the end of its answer."""
    grace: float = 30.0
    """Seconds that running requests get when the server is stopped."""
    log: bool = False
    """Write a line for each request to standard error."""

    def __post_init__(self) -> None:
        for name, value, holds, expected in (
            ("port", self.port, 0 <= self.port <= 65_535, "0 (a free one) to 65535"),
            ("max-body", self.max_body, self.max_body >= 1, "at least 1 byte"),
            ("max-tokens", self.max_tokens, self.max_tokens >= 1, "at least 1"),
            ("timeout", self.timeout, 0 < self.timeout < 1e9, "more than 0 seconds"),
            ("grace", self.grace, 0 <= self.grace < 1e9, "0 seconds or more"),
        ):
            if not holds:
                raise ConfigError(f"--{name} {value}; expected {expected}")
        if self.api_key is not None and (not self.api_key.strip() or not self.api_key.isprintable()):
            raise ConfigError("--api-key is empty or cannot be printed; is a variable of the shell not set?")
        origins = tuple(origin.rstrip("/").lower() for origin in self.cors_origins)
        object.__setattr__(self, "cors_origins", origins)
        for origin in origins:
            if origin != "*" and not is_origin(origin):
                raise ConfigError(f"--cors-origin {origin}; expected an origin such as https://example.org, or *")


class Api:
    """The models, and what is going on with them. Used on the event loop only.

    Attributes:
        stopping: whether new requests are refused.
        in_flight: requests for text that have arrived and are not answered yet.
    """

    def __init__(self, models: dict[str, ServedModel], options: ServeOptions):
        self.models, self.options = models, options
        self.metrics = Metrics()
        self.bodies = Bodies(options.max_body)
        self.stopping = False
        self.in_flight = 0

    def find(self, name: str | None, *, param: str | None = "model") -> ServedModel:
        """The model of a name; the only one if none is given.

        Raises:
            ApiError: 404, no such model; 400, none is named and there are several.
        """
        if name is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if name is None:
            raise ApiError(400, f"model is missing; expected one of {', '.join(self.models)}", param=param)
        if name not in self.models:
            hint = suggestion(name[:200], self.models)
            raise ApiError(404, f"no model {seen(name)}{hint}", param=param, code="model_not_found")
        return self.models[name]

    def refuse_if_stopping(self) -> None:
        if self.stopping:
            raise ApiError(503, "the server is stopping; send the request again later", headers={"Retry-After": "5"})

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def listed(self, request: Request) -> Response:
        """/v1/models."""
        return JSONResponse({"object": "list", "data": [_described(served) for served in self.models.values()]})

    async def one(self, request: Request) -> Response:
        """/v1/models/{id}."""
        return JSONResponse(_described(self.find(request.path_params["name"])))

    async def health(self, request: Request) -> Response:
        """/health: 503 if a model cannot generate, or the server is stopping."""
        failures = {name: served.worker.failure for name, served in self.models.items() if served.worker.failure}
        if failures or self.stopping:
            return JSONResponse({"status": "failed" if failures else "stopping", "models": failures}, 503)
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, request: Request) -> Response:
        """/metrics."""
        return PlainTextResponse(self.metrics.text(self.models), media_type="text/plain; version=0.0.4")

    async def tokenize(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        """/tokenize: the tokens of a text, without the one that begins a document."""
        async with self.bodies.read(scope, receive) as body:
            await unless_gone(receive, self._tokenize(body, reply))

    async def _tokenize(self, body: bytes, reply: Reply) -> None:
        name, prompt = tokenize_request(await asyncio.to_thread(parse_json, body))
        tokenizer = self.find(name).model.tokenizer

        def tokens() -> bytes:
            ids = tokenizer.encode(prompt)
            vocab = tokenizer.vocab
            found = []
            for begin in range(0, len(ids), _TOKENS_AT_ONCE):  # json holds the interpreter's lock until it is done
                some = ids[begin : begin + _TOKENS_AT_ONCE]
                texts = [
                    {"id": token, "text": vocab[token].decode("utf-8", "replace"), "bytes": list(vocab[token])}
                    for token in some
                ]
                found.append(encoded(texts)[1:-1])
            return b'{"tokens":[' + b",".join(found) + b'],"count":%d}' % len(ids)

        try:
            await reply.body(await asyncio.to_thread(tokens))
        except GroundupError as error:
            raise ApiError(400, str(error), param="prompt") from None

    def texts(self, parse: Callable[[dict[str, Any], int], TextRequest]) -> Handler:
        """/v1/completions and /v1/chat/completions: the endpoint of requests that ``parse`` reads."""

        async def handle(scope: Scope, receive: Receive, reply: Reply) -> None:
            began, outcome = time.monotonic(), "failed"
            try:
                self.refuse_if_stopping()
                async with self.bodies.read(scope, receive) as body:
                    self.refuse_if_stopping()
                    with self._counted():
                        await unless_gone(receive, self._answer(parse, body, reply, began))
                outcome = "ok"
            except ApiError as error:
                outcome = _OUTCOME_OF.get(error.status, "invalid")
                raise
            except (ClientGoneError, asyncio.CancelledError):
                outcome = "cancelled"
                raise
            finally:
                self.metrics.requests[outcome] += 1
                self.metrics.whole.observe(time.monotonic() - began)

        return handle

    async def _answer(
        self, parse: Callable[[dict[str, Any], int], TextRequest], body: bytes, reply: Reply, began: float
    ) -> None:
        try:
            async with asyncio.timeout(self.options.timeout):
                asked = await asyncio.to_thread(lambda: parse(parse_json(body), self.options.max_tokens))
                served = self.find(asked.model)
                with served.worker.place(asked.texts) as free:
                    await self._generate(served, asked, reply, began, free)
        except TimeoutError:
            raise ApiError(
                504, f"the request took longer than {self.options.timeout:g} s; ask for fewer tokens, or start the "
                "server with a larger --timeout", code="timeout", headers={"x-should-retry": "false"},
            ) from None  # fmt: skip

    async def _generate(
        self, served: ServedModel, asked: TextRequest, reply: Reply, began: float, free: Callable[[int], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        prompts = await loop.run_in_executor(served.thread(asked), served.prompts, asked)
        texts = served.texts(asked, prompts)
        log_probabilities = _check_log_probabilities(texts)
        is_large = log_probabilities > _LARGE_ANSWER
        answer = Answer(served.name, served.model.tokenizer, asked, prompts, served.begin)
        self.metrics.prompt_tokens[served.name] += sum(map(len, prompts))
        call = Call(texts, free)
        with served.answers.held(_answer_bytes(asked, texts, log_probabilities)), served.worker.submitted(call):
            if asked.stream:
                await reply.begin_stream()
                await reply.events(answer.beginnings())
            is_first = True
            async for events in call.events(reply.comment if asked.stream else None, _COMMENT_SECONDS):
                if is_first:
                    self.metrics.first_token.observe(time.monotonic() - began)
                    is_first = False
                self.metrics.generated_tokens[served.name] += sum(event.token is not None for event in events)
                pieces = [answer.choices[event.index].push(event) for event in events]
                if asked.stream:
                    await reply.events([answer.chunk(piece) for piece in pieces if piece.says_something])
                else:
                    for piece in pieces:
                        answer.choices[piece.index].keep(piece)
            if asked.stream:
                await reply.events(answer.last())
                await reply.end_stream()
            else:
                await reply.json(answer.whole if is_large else answer.whole())


def _check_log_probabilities(texts: Sequence[tuple[list[int], Sampling]]) -> int:
    """Log-probabilities that a request may have; each takes memory here and in the answer.

    Raises:
        ApiError: too many.
    """
    total = 0
    for ids, settings in texts:
        if settings.log_probabilities is not None:
            tokens = settings.max_tokens + (len(ids) if settings.scores_prompt else 0)
            total += tokens * (1 + settings.log_probabilities)
    if total > _MOST_LOG_PROBABILITIES:
        raise ApiError(
            400, f"the request asks for up to {total:,} log-probabilities; expected at most "
            f"{_MOST_LOG_PROBABILITIES:,}: ask for fewer tokens, texts or alternatives", param="logprobs",
        )  # fmt: skip
    return total


def _answer_bytes(asked: TextRequest, texts: Sequence[tuple[list[int], Sampling]], log_probabilities: int) -> int:
    """Memory that an answer may take until it is sent, as measured: texts, log-probabilities, and their JSON."""
    tokens = sum(settings.max_tokens for _, settings in texts)
    return tokens * _BYTES_OF_TOKEN + log_probabilities * _BYTES_OF_LOG_PROBABILITY[asked.conversation is not None]


Handler = Callable[[Scope, Receive, Reply], Awaitable[None]]


class Endpoint:
    """An ASGI application around a handler, which turns errors into OpenAI's form."""

    def __init__(self, handler: Handler):
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(send)
        try:
            try:
                await self._handler(scope, receive, reply)
            except (ApiError, ClientGoneError):
                raise
            except Exception:
                _log.exception("%s %s failed", scope["method"], scope["path"])
                raise ApiError(500, "the server has failed at this request; its log says more") from None
        except ClientGoneError:
            return
        except ApiError as error:
            if error.status == 413:  # read on a little, so that the answer arrives before the connection is closed
                await send_error(send, error, is_over=False)
                await drain(receive)
                await finish(send)
            else:
                with suppress(TimeoutError):  # the client does not read; the connection is closed
                    await reply.error(error)


def make_app(models: dict[str, ServedModel], options: ServeOptions, runs: Path | None = None) -> tuple[Starlette, Api]:
    """The application, and the state behind it.

    Args:
        runs: folder of runs that the pages of the lab show; None for no such pages.
    """
    api = Api(models, options)
    open_routes = [Route("/health", api.health)]
    routes = [
        Route("/v1/models", api.listed),
        Route("/v1/models/{name:path}", api.one),
        Route("/v1/completions", Endpoint(api.texts(completion_request)), methods=["POST"]),
        Route("/v1/chat/completions", Endpoint(api.texts(chat_request)), methods=["POST"]),
        Route("/tokenize", Endpoint(api.tokenize), methods=["POST"]),
        Route("/metrics", api.show_metrics),
    ]
    of_runs = [] if runs is None else lab.routes(runs)
    pages = [route for route in of_runs if not route.path.startswith(lab.API)]  # without content: they ask for the key
    data = [route for route in of_runs if route not in pages]
    if options.api_key is not None:
        for route in (*routes, *data):
            route.app = KeyCheck(route.app, options.api_key)
    hosts = (*LOCAL, options.host, *options.allowed_hosts)
    any_address = options.host in _WILDCARDS
    middleware = [Middleware(HostCheck, hosts=hosts, any_address=any_address, origins=options.cors_origins)]
    if origins := list(options.cors_origins):
        middleware.append(
            Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
        )
    app = Starlette(
        routes=[*open_routes, *routes, *lab.playground_routes(), *of_runs],
        middleware=middleware,
        exception_handlers={ApiError: _told, HTTPException: _told, Exception: _told},
    )
    return app, api


async def _told(request: Request, error: Exception) -> Response:
    """What Starlette or a page raises, in OpenAI's form."""
    if isinstance(error, HTTPException):
        place = f"{request.method} {request.url.path[:200]}"
        message = f"{place}: {error.detail}; see /v1/models for what is served, and the guide for the endpoints"
        error = ApiError(error.status_code, message, headers=dict(error.headers or {}))
    elif not isinstance(error, ApiError):
        error = ApiError(500, "the server has failed at this request; its log says more")
    return Response(encoded(error.body()), error.status, error.headers, media_type="application/json")


def _described(served: ServedModel) -> dict[str, Any]:
    found = {"id": served.name, "object": "model", "created": served.created, "owned_by": "groundup"}
    config = served.model.config
    return found | {
        "context_length": config.context_length,
        "vocab_size": config.vocab_size,
        "chat": served.chat is not None,
        "step": served.model.step,
    }
