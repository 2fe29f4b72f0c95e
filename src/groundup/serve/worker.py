"""The thread that generates with one model, and the requests that wait for it.

Handlers run on the event loop, the engine in its thread. What crosses over: actions go into a list under a lock, and
events come back through ``loop.call_soon_threadsafe``. The engine itself is touched by its thread only.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from groundup.errors import GroundupError
from groundup.generation import Engine, Generation, Sampling, Token
from groundup.serve.errors import ApiError
from groundup.serve.fields import refused_setting

_RETRY_SECONDS = 1
_JOIN_SECONDS = 30.0
_EVENTS_AT_ONCE = 256
"""Most events that a handler works on before others have their turn."""
_log = logging.getLogger("groundup.serve")


@dataclass(frozen=True, slots=True)
class Event:
    """News of one text: a token, its end, or both."""

    index: int
    token: Token | None
    text: Generation
    """Only its ``prompt_scores`` are read, which are complete before the first event."""
    finish_reason: str | None = None


class Call:
    """The texts of one request.

    Args:
        texts: prompt ids and settings of each.
        free: is told how many of them have ended, whether the client has read them or not.
    """

    def __init__(self, texts: Sequence[tuple[list[int], Sampling]], free: Callable[[int], None] = lambda ended: None):
        self.texts, self._free = texts, free
        self._loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[Event | ApiError] = asyncio.Queue()
        # Touched by the engine's thread only:
        self.generations: list[Generation] = []
        self.told: set[int] = set()
        """Texts without a token whose end was told."""

    async def events(
        self, waiting: Callable[[], Awaitable[None]] | None = None, seconds: float = 15.0
    ) -> AsyncIterator[list[Event]]:
        """All that is new, whenever there is something, until every text has ended.

        Args:
            waiting: called whenever nothing has come for some seconds.

        Raises:
            ApiError: the request has failed.
        """
        left = len(self.texts)
        while left:
            events: list[Event | ApiError] = []
            while not events:
                try:
                    async with asyncio.timeout(None if waiting is None else seconds):
                        events.append(await self._news.get())
                except TimeoutError:
                    assert waiting is not None
                    await waiting()
            while not self._news.empty() and len(events) < _EVENTS_AT_ONCE:
                events.append(self._news.get_nowait())
            found = []
            for event in events:
                if isinstance(event, ApiError):
                    raise event
                found.append(event)
            left -= sum(event.finish_reason is not None for event in found)
            yield found

    def tell(self, events: Sequence[Event | ApiError]) -> None:
        """Hand over news, from any thread."""
        with suppress(RuntimeError):  # the loop is closed: no one waits any more
            self._loop.call_soon_threadsafe(self._put, events)

    def _put(self, events: Sequence[Event | ApiError]) -> None:
        for event in events:
            self._news.put_nowait(event)
        is_over = any(isinstance(event, ApiError) for event in events)
        ended = sum(isinstance(event, Event) and event.finish_reason is not None for event in events)
        self._free(len(self.texts) if is_over else ended)


class Worker:
    """An engine in its thread, which sleeps while there is nothing to do.

    Args:
        queue: texts that may wait for a row.

    Attributes:
        failure: what has ended the thread; None while all is well.
    """

    def __init__(self, engine: Engine, *, queue: int, name: str = "engine"):
        self.engine, self.queue, self.name = engine, queue, name
        self.failure: str | None = None
        self._admitted = 0  # touched by the event loop only
        self._condition = threading.Condition()
        self._actions: list[Callable[[], None]] = []
        self._calls: set[Call] = set()
        """Submitted and not over."""
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> bool:
        """End the thread after the step that it is in; returns whether it has ended."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(_JOIN_SECONDS)
        return not self._thread.is_alive()

    @property
    def running(self) -> int:
        """Texts that have a row."""
        return self.engine.running

    @property
    def waiting(self) -> int:
        """Texts that were admitted and have no row yet."""
        return max(0, self._admitted - self.engine.running)

    @contextmanager
    def place(self, count: int) -> Iterator[Callable[[int], None]]:
        """Admit a request for this many texts; each has its place until it is freed, or the context manager ends.

        Yields:
            What frees the places of this many texts.

        Raises:
            ApiError: 400 if that many can never be admitted; 429 if too many wait; 503 if the thread has ended.
        """
        most = self.engine.rows + self.queue
        if count > most:
            raise ApiError(
                400, f"the request asks for {count:,} texts (n times the number of prompts), but the server takes at "
                f"most {most} at once; send fewer", param="n", code="too_many_texts",
            )  # fmt: skip
        if self.failure is not None:
            raise self._unavailable()
        if self._admitted + count > most:
            raise ApiError(
                429, f"{self._admitted} texts run or wait, and the server takes at most {most}; try again later",
                code="queue_full", headers={"Retry-After": str(_RETRY_SECONDS)},
            )  # fmt: skip
        left = count
        self._admitted += count

        def free(ended: int) -> None:
            nonlocal left
            ended = min(ended, left)
            left -= ended
            self._admitted -= ended

        try:
            yield free
        finally:
            free(left)

    @contextmanager
    def submitted(self, call: Call) -> Iterator[None]:
        """Begin the texts of a request. Those that have not ended when the context manager does are ended before the
        next step."""
        with self._condition:
            is_taken = self.failure is None and not self._stopping
            if is_taken:
                self._calls.add(call)
                self._act(lambda: self._begin(call))
        if not is_taken:
            call.tell([self._unavailable()])
        try:
            yield
        finally:
            with self._condition:
                if call in self._calls:
                    self._act(lambda: self._end(call))

    def fail_all(self, error: ApiError) -> None:
        """End all requests with this error."""
        with self._condition:
            for call in self._calls:
                call.tell([error])
                self._act(lambda call=call: self._end(call))  # type: ignore[misc]

    def _act(self, action: Callable[[], None]) -> None:
        self._actions.append(action)
        self._condition.notify()

    def _unavailable(self) -> ApiError:
        return ApiError(503, f"the model has stopped: {self.failure or 'the server is stopping'}; restart the server")

    def _work(self) -> None:
        try:
            while True:
                with self._condition:
                    while not (self._actions or self._stopping or not self.engine.is_idle):
                        self._condition.wait()
                    if self._stopping:
                        break
                    actions, self._actions = self._actions, []
                for action in actions:
                    action()
                if not self.engine.is_idle:
                    self._tell(self.engine.step())
        except BaseException as error:
            _log.exception("the thread of the model %s has ended", self.name)
            self._fail(f"{type(error).__name__}: {str(error)[:200]}")
        else:
            self._fail("the server is stopping")

    def _begin(self, call: Call) -> None:
        try:
            for ids, sampling in call.texts:
                call.generations.append(self.engine.submit(ids, sampling))
        except GroundupError as error:
            call.tell([refused_setting(error)])
            self._end(call)
            return
        self._tell_of(call, {})  # a text of no tokens is over already

    def _end(self, call: Call) -> None:
        for text in call.generations:
            text.cancel()
        with self._condition:
            self._calls.discard(call)

    def _tell(self, new: list[tuple[Generation, Token]]) -> None:
        """Hand each request its new tokens and ends."""
        tokens: dict[int, list[Token]] = {}
        for text, token in new:
            tokens.setdefault(id(text), []).append(token)
        with self._condition:
            calls = list(self._calls)
        for call in calls:
            self._tell_of(call, tokens)

    def _tell_of(self, call: Call, tokens: dict[int, list[Token]]) -> None:
        news: list[Event | ApiError] = []
        for i, text in enumerate(call.generations):
            if text.error is not None:
                call.tell([*news, _failure(text.error)])
                self._end(call)
                return
            for token in tokens.get(id(text), ()):
                is_last = text.is_over and token is text.tokens[-1]
                news.append(Event(i, token, text, text.finish_reason if is_last else None))
            if text.is_over and not text.tokens and i not in call.told:
                call.told.add(i)
                news.append(Event(i, None, text, text.finish_reason))
        if news:
            call.tell(news)
            if all(text.is_over for text in call.generations):
                self._end(call)

    def _fail(self, why: str) -> None:
        with self._condition:
            self.failure = why
            calls, self._calls, self._actions = self._calls, set(), []
        for call in calls:
            call.tell([self._unavailable()])


def _failure(error: Exception) -> ApiError:
    """A text's own error: the request's fault if it is about a setting, the model's otherwise."""
    if isinstance(error, ValueError):  # ConfigError, TokenizerError
        return refused_setting(error)
    return ApiError(500, f"the text could not be generated: {error}")
