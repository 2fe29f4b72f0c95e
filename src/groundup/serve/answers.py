"""Answers in OpenAI's form: texts, their log-probabilities, and the pieces of a stream."""

from __future__ import annotations

import math
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from groundup.generation.engine import Scored
from groundup.generation.text import TextPieces, bytes_of
from groundup.serve.fields import TextRequest
from groundup.serve.worker import Event
from groundup.tokenizer import Tokenizer

_FINISH = {"end": "stop", "stop": "stop", "length": "length"}
_LEAST = -9999.0
"""In place of minus infinity, which JSON lacks."""


class Entry(NamedTuple):
    """A token with its log-probability, and where it begins in the text."""

    token_id: int
    offset: int
    log_probability: float | None
    alternatives: tuple[tuple[int, float], ...]


@dataclass(slots=True)
class Piece:
    """What is new of a text."""

    index: int
    text: str
    entries: list[Entry]
    finish_reason: str | None

    @property
    def says_something(self) -> bool:
        return bool(self.text or self.entries or self.finish_reason)


class Choice:
    """One text as it grows: which of its tokens' log-probabilities belong to the text that was shown.

    Those of a token that is held back, since it may begin a stop string, come with its text. Those of a stop string,
    and of the token that ends a text, do not come.
    """

    def __init__(self, index: int, tokenizer: Tokenizer, echoed: str, *, scores: bool, begins_with_text: bool):
        self.index, self._tokenizer, self._scores = index, tokenizer, scores
        self._echoed, self._begins_with_text = echoed, begins_with_text
        self._own = TextPieces(tokenizer)  # without stop strings: where each token stands
        self._shown = self._length = 0
        self._held: deque[Entry] = deque()
        self._is_first = True
        self._texts: list[str] = []
        self._entries: list[Entry] = []
        self._finish_reason: str | None = None
        self.tokens = 0

    def push(self, event: Event) -> Piece:
        """What a piece of news adds."""
        text, entries = "", list[Entry]()
        if self._is_first:
            self._is_first = False
            text = self._echoed
            self._shown = self._length = len(text)
            if self._scores and text:
                entries = self._of_prompt(event.text.prompt_ids, event.text.prompt_scores)
        if event.token is not None:
            self.tokens += 1
            text += event.token.text
            self._shown += len(event.token.text)
            if self._scores and event.finish_reason != "end":
                begin = self._length
                self._length += len(self._own.push(event.token.token_id))
                token = event.token
                self._held.append(Entry(token.token_id, begin, token.log_probability, token.alternatives))
        while self._held and self._is_shown(event.finish_reason):
            entries.append(self._held.popleft())
        return Piece(self.index, text, entries, event.finish_reason and _FINISH[event.finish_reason])

    def keep(self, piece: Piece) -> None:
        """Keep a piece for :meth:`whole`."""
        self._texts.append(piece.text)
        self._entries += piece.entries
        self._finish_reason = piece.finish_reason

    def whole(self) -> Piece:
        """All pieces that were kept, as one."""
        return Piece(self.index, "".join(self._texts), self._entries, self._finish_reason)

    def _is_shown(self, finish_reason: str | None) -> bool:
        """Whether the text of the first token that is held back was shown, or will never be more than it is."""
        begin, end = self._held[0].offset, self._held[1].offset if len(self._held) > 1 else self._length
        if finish_reason is not None:
            return finish_reason != "stop" or begin < self._shown
        return begin < self._shown and end <= self._shown  # a part of a character ends where it begins

    def _of_prompt(self, ids: Sequence[int], scores: Sequence[Scored]) -> list[Entry]:
        """Of the prompt's tokens; the one that begins a document was not asked for, and the first has no score."""
        found, pieces, length = list[Entry](), TextPieces(self._tokenizer), 0
        for token_id, (score, alternatives) in zip(ids, [(None, ()), *scores], strict=True):
            found.append(Entry(token_id, length, score, alternatives))
            if not (self._begins_with_text and len(found) == 1):
                length += len(pieces.push(token_id))
        return found[1:] if self._begins_with_text else found


class Answer:
    """The answer to a request: its identity, its texts, and its tokens.

    Args:
        prompts: ids of each prompt.
        begin: token that stands before prompts of text.
    """

    def __init__(
        self, model: str, tokenizer: Tokenizer, asked: TextRequest, prompts: list[list[int]], begin: int | None
    ):
        self.asked, self._tokenizer = asked, tokenizer
        self.is_chat = asked.conversation is not None
        self._prompt_tokens = sum(map(len, prompts))
        self._same = {
            "id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        scores = asked.sampling.log_probabilities is not None
        self.choices = []
        for i, ids in enumerate(prompts):
            prompt = "" if self.is_chat else asked.prompts[i]
            is_text = isinstance(prompt, str)
            echoed = "" if not asked.echo else prompt if is_text else tokenizer.decode(ids)
            for j in range(asked.n):
                begins = is_text and begin is not None
                self.choices.append(
                    Choice(asked.n * i + j, tokenizer, str(echoed), scores=scores, begins_with_text=begins)
                )

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the prompts and of the texts; the token that ends a text is one of them."""
        new = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self._prompt_tokens + new,
        }

    def whole(self) -> dict[str, Any]:
        """The answer in one object, of all pieces that were kept."""
        choices = []
        for choice in self.choices:
            piece = choice.whole()
            found: dict[str, Any] = {"index": choice.index}
            if self.is_chat:
                found["message"] = {"role": "assistant", "content": piece.text, "refusal": None}
            else:
                found["text"] = piece.text
            found["logprobs"] = self._log_probabilities(piece.entries)
            found["finish_reason"] = piece.finish_reason
            choices.append(found)
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._same, "object": kind, "choices": choices, "usage": self.usage}

    def beginnings(self) -> list[dict[str, Any]]:
        """What a stream begins with: in a conversation, who speaks."""
        if not self.is_chat:
            return []
        delta = {"role": "assistant", "content": "", "refusal": None}
        choices = [{"index": choice.index, "delta": delta} for choice in self.choices]
        return [self._chunk([{**choice, "logprobs": None, "finish_reason": None}]) for choice in choices]

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A piece of a stream."""
        found: dict[str, Any] = {"index": piece.index}
        if self.is_chat:
            found["delta"] = {"content": piece.text} if piece.text else {}
        else:
            found["text"] = piece.text
        found["logprobs"] = self._log_probabilities(piece.entries) if piece.entries else None
        return self._chunk([{**found, "finish_reason": piece.finish_reason}])

    def last(self) -> list[dict[str, Any]]:
        """What ends a stream: the tokens, if they were asked for."""
        return [self._chunk([]) | {"usage": self.usage}] if self.asked.include_usage else []

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        found = {**self._same, "object": kind, "choices": choices}
        return found | {"usage": None} if self.asked.include_usage else found

    def _log_probabilities(self, entries: list[Entry]) -> dict[str, Any] | None:
        if self.asked.sampling.log_probabilities is None:
            return None
        if self.is_chat:
            return {"content": [self._in_chat(entry) for entry in entries], "refusal": None}
        tops = []
        for entry in entries:
            best = {self._name(token_id): _finite(value) for token_id, value in reversed(entry.alternatives)}
            if entry.log_probability is not None:
                best[self._name(entry.token_id)] = _finite(entry.log_probability)
            tops.append(best if entry.log_probability is not None else None)
        return {
            "tokens": [self._name(entry.token_id) for entry in entries],
            "token_logprobs": [_finite(entry.log_probability) for entry in entries],
            "top_logprobs": tops,
            "text_offset": [entry.offset for entry in entries],
        }

    def _in_chat(self, entry: Entry) -> dict[str, Any]:
        def said(token_id: int, value: float | None) -> dict[str, Any]:
            data = bytes_of(token_id, self._tokenizer)
            return {"token": data.decode("utf-8", "replace"), "bytes": list(data), "logprob": _finite(value)}

        alternatives = [said(token_id, value) for token_id, value in entry.alternatives]
        return {**said(entry.token_id, entry.log_probability), "top_logprobs": alternatives}

    def _name(self, token_id: int) -> str:
        return token_name(token_id, self._tokenizer)


def token_name(token_id: int, tokenizer: Tokenizer) -> str:
    """The text of a token; of a part of a character its bytes, as OpenAI writes them: ``bytes:\\xe2\\x80``."""
    data = bytes_of(token_id, tokenizer)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else _LEAST
