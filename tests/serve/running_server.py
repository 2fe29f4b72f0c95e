"""A server on a free port with models made in memory, and what asks it."""

import asyncio
import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import torch

from groundup.config import ModelConfig
from groundup.language_model import LanguageModel
from groundup.nn import TransformerLM
from groundup.serve.app import Api, ServeOptions, make_app
from groundup.serve.models import ServedModel
from groundup.serve.server import Server, listen, url_of
from groundup.text.chat.templates import ChatTemplate, load_template
from groundup.tokenizer import Tokenizer

END = "<|endoftext|>"
NAMES = [END, "<|im_start|>", "<|im_end|>"]
CONTEXT = 96
CYCLE = "é🦊日"
"""Characters of 2, 4 and 3 bytes, no byte of which occurs twice."""


def byte_tokenizer() -> Tokenizer:
    return Tokenizer({i: bytes([i]) for i in range(256)}, [], NAMES)


def random_model() -> LanguageModel:
    """A model whose text depends on all of its prompt."""
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=259, context_length=CONTEXT, d_model=32, num_layers=2, num_heads=2))
    with torch.no_grad():
        model.lm_head.weight *= 8  # away from uniform, so that a wrong context shows in what is chosen
        model.lm_head.weight[:, 0] -= 4
        model.lm_head.weight[32:127] *= 1.5  # mostly letters
    return LanguageModel(model, byte_tokenizer())


def speaking_model(following: dict[int, int], *, chat: ChatTemplate | None = None) -> LanguageModel:
    """A model that says after each token the one that follows it here; after any other, the one of the next number."""
    torch.manual_seed(0)
    size = 259
    model = TransformerLM(ModelConfig(vocab_size=size, context_length=CONTEXT, d_model=264, num_layers=1, num_heads=2))
    with torch.no_grad():
        model.layers[0].attn.output_proj.weight.zero_()
        model.layers[0].ffn.w2.weight.zero_()
        table = torch.zeros(size, 264)
        table[:, :size] = torch.eye(size)
        model.token_embeddings.weight.copy_(table)
        model.lm_head.weight.zero_()
        for token in range(size):
            model.lm_head.weight[following.get(token, (token + 1) % size), token] = 1.0
    return LanguageModel(model, byte_tokenizer(), chat_template=chat)


def cycle_model() -> LanguageModel:
    """It goes on saying CYCLE."""
    data = CYCLE.encode()
    return speaking_model(dict(zip(data, data[1:] + data[:1], strict=True)))


def chat_model(template: ChatTemplate | None = None) -> LanguageModel:
    """It answers "ok" to everything."""
    said = [*b"\nok", byte_tokenizer().token_id("<|im_end|>")]
    return speaking_model(dict(itertools.pairwise(said)), chat=template or load_template("chatml", END))


RUN = Path(__file__).parents[1] / "fixtures" / "version-0.1" / "runs" / "gathered"


class Running:
    """A server that runs in a thread of this process."""

    def __init__(self, models: dict[str, ServedModel], options: ServeOptions):
        listening = listen(options)
        self.url, self.port, self.models = url_of(listening), listening.getsockname()[1], models
        app, self.api = make_app(models, options)
        started = threading.Event()
        self.server = Server(app, self.api, options, started.set)
        for served in models.values():
            served.worker.start()
        self._thread = threading.Thread(target=self._run, args=(listening,))
        self._thread.start()
        assert started.wait(30)

    api: Api

    def _run(self, listening: socket.socket) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self.server.serve([listening]))
        self.loop.close()

    def stop(self) -> None:
        with_loop = self.loop if not self.loop.is_closed() else None
        if with_loop is not None and self._thread.is_alive() and self.server._ending is None:
            with_loop.call_soon_threadsafe(self.server.begin_end)
        self._thread.join(60)
        assert not self._thread.is_alive()
        for served in self.models.values():
            assert served.close()

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120, **options)

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, content and headers of an answer; ``body`` is sent as it is if it is bytes, as JSON otherwise."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(text) if is_json else text, {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()

    def metric(self, name: str, label: str = "") -> float:
        _, text, _ = self.ask("/metrics")
        (line,) = [row for row in text.splitlines() if row.startswith(f"groundup_{name}{label} ")]
        return float(line.rpartition(" ")[2])

    def until(self, holds: Callable[[], bool], seconds: float = 60) -> None:
        """Wait for something that must come."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def served(name: str, model: LanguageModel, *, rows: int = 8, queue: int = 64, beyond: str = "slide") -> ServedModel:
    return ServedModel(name, model, rows=rows, queue=queue, beyond=beyond)


def slowly(model: ServedModel, seconds: float = 0.02) -> ServedModel:
    """The model, with a pause before each step."""
    step = model.worker.engine.step

    def paused():
        time.sleep(seconds)
        return step()

    model.worker.engine.step = paused  # type: ignore[method-assign]
    return model


@contextmanager
def running(*models: ServedModel, **options: Any) -> Iterator[Running]:
    options = {"port": 0, "grace": 0.0, **options}
    found = Running({model.name: model for model in models}, ServeOptions(**options))
    try:
        yield found
    finally:
        found.stop()
