"""A server that speaks the API which the playground needs, without a model: it writes the same story every time."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from groundup.serve.lab import listen

STORY = (
    ", there was a little fox who lived by a pond.\n\nOne day the fox saw the moon in the water. <b>It was "
    "round</b> 🦊 and it shone. “I will catch it,” said the fox. He jumped, and the moon broke into a hundred pieces."
)
TOKEN = re.compile(r" ?\w+|\n+|[^\w\n]")


def tokens_of(text: str) -> list[str]:
    return TOKEN.findall(text)


def probability(place: int) -> float:
    """Of the token at a place: from sure to unlikely, over and over."""
    return (0.97, 0.71, 0.93, 0.33, 0.55, 0.11, 0.82, 0.02)[place % 8]


class StandIn:
    """The API; ``seen`` has the requests for text, and ``stopped`` is set once a reader has left before the end."""

    def __init__(self, *, pause: float = 0.002, models: tuple[str, ...] = ("first", "second"), key: str = ""):
        self.key = key
        self.pause, self.models, self.seen, self.stopped = pause, models, list[dict[str, Any]](), threading.Event()

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/models", self._list),
            Route("/v1/completions", self._complete, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
        ]

    def _list(self, request: Request) -> JSONResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "a key is missing"}}, status_code=401)
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _complete(self, request: Request) -> StreamingResponse | JSONResponse:
        body = await request.json()
        self.seen.append(body)
        if body.get("temperature", 1) > 2:
            return JSONResponse(
                {"error": {"message": "temperature = 3; expected at most 2 <img src=x>"}}, status_code=400
            )
        return StreamingResponse(self._stream(body), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[str]:
        offset, most = len(body["prompt"]), body.get("max_tokens", 16)
        story = tokens_of(STORY) * (1 + most // len(tokens_of(STORY)))
        try:
            for place, text in enumerate(story[:most]):
                halves = [("bytes:\\xf0\\x9f", ""), ("bytes:\\xa6\\x8a", text)]
                pieces = halves if text == "🦊" else [(text, text)]  # two tokens inside one character
                for name, shown in pieces:
                    p = probability(place)
                    top = {name: p} if p > 0.05 else {}
                    top |= {other: (1 - p) / (2 + i) for i, other in enumerate((" the", " <i>moon</i>", "\n", " a"))}
                    yield self._event(shown, name, math.log(p), {k: math.log(v) for k, v in top.items()}, offset, None)
                    offset += len(shown)
                await asyncio.sleep(self.pause)
            end = {"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}
            yield f"data: {json.dumps({'choices': [end]})}\n\ndata: [DONE]\n\n"
        except asyncio.CancelledError:
            self.stopped.set()
            raise

    @staticmethod
    def _event(text: str, name: str, logprob: float, top: dict[str, float], offset: int, reason: str | None) -> str:
        logprobs = {"tokens": [name], "token_logprobs": [logprob], "top_logprobs": [top], "text_offset": [offset]}
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}
        return f"data: {json.dumps({'choices': [choice]})}\n\n"

    async def _tokenize(self, request: Request) -> JSONResponse:
        body = await request.json()
        found = []
        for text in tokens_of(body["prompt"]):
            data = text.encode()
            parts = [data] if text.isascii() or text.isalpha() else [data[:2], data[2:]]
            found += [
                {"id": sum(map(ord, text)) % 5000 + i, "text": part.decode("utf-8", "replace"), "bytes": list(part)}
                for i, part in enumerate(parts)
            ]
        return JSONResponse({"tokens": found, "count": len(found)})


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port in a thread; yields its address."""
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def application(*routes: BaseRoute) -> Starlette:
    return Starlette(routes=list(routes))
