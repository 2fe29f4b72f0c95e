"""Requests for text: every field of OpenAI's API is read, refused with what to do, or known to be harmless."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from groundup.config.recipe import suggestion
from groundup.errors import ConfigError
from groundup.generation import Sampling
from groundup.serve.errors import ApiError, seen
from groundup.text.chat.conversations import Conversation, conversation_of
from groundup.text.rows import BadRow

_MOST_STOPS, _LONGEST_STOP = 16, 1000
_MOST_LOG_PROBABILITIES = 20
_MOST_BIASES = 1024
_MOST_TEXTS = 1_000_000
"""Beyond what any queue takes, which is looked at later."""
_DEFAULT_TOKENS = 16
"""As OpenAI has it for completions."""
_COMMON = (
    "model", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty",
    "logit_bias", "logprobs", "stream", "stream_options", "top_k", "min_p", "repetition_penalty",
)  # fmt: skip
_OF_COMPLETIONS = (*_COMMON, "prompt", "echo")
_OF_CHAT = (*_COMMON, "messages", "max_completion_tokens", "top_logprobs")
_HARMLESS = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls",
)  # fmt: skip
"""Fields that change nothing about the text."""
_TEXT_ONLY = "groundup's models read and write text only; leave it out"
_NO_TOOLS = "groundup does not call tools; leave it out"
# Field -> values that ask for nothing, and what to do about others. Null asks for nothing anywhere.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "tools": (([],), _NO_TOOLS),
    "tool_choice": (("none", "auto"), _NO_TOOLS),
    "functions": (([],), _NO_TOOLS),
    "function_call": (("none", "auto"), _NO_TOOLS),
    "response_format": (
        ({"type": "text"},),
        "groundup does not constrain text to a format; ask for it in the prompt, and check what comes",
    ),
    "modalities": ((["text"],), _TEXT_ONLY),
    "audio": ((), _TEXT_ONLY),
    "prediction": ((), "groundup takes no predicted text; leave it out"),
    "reasoning_effort": ((), "groundup's models have no effort to set; leave it out"),
    "verbosity": ((), "groundup's models have no verbosity to set; use max_tokens"),
    "web_search_options": ((), "groundup does not search; leave it out"),
    "moderation": ((), "groundup does not moderate; leave it out"),
    "suffix": (("",), "groundup's models continue a text and do not fill a gap; leave it out"),
}


@dataclass(frozen=True)
class TextRequest:
    """A request for texts, checked as far as it can be without the model."""

    model: str | None
    sampling: Sampling
    """Without the tokens that end a conversation's turn."""
    prompts: tuple[str | list[int], ...] = ()
    conversation: Conversation | None = None
    """In place of prompts, in a request to chat."""
    n: int = 1
    fills_context: bool = False
    """Whether no limit of tokens was asked for."""
    echo: bool = False
    stream: bool = False
    include_usage: bool = False

    @property
    def texts(self) -> int:
        """Number of texts that it asks for."""
        return self.n * max(1, len(self.prompts))


def parse_json(body: bytes) -> dict[str, Any]:
    """The object in the body of a request.

    Raises:
        ApiError: it is not UTF-8, not JSON, or no object.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        if _SURROGATE.search(body):
            _refuse_surrogates(value)
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise ApiError(400, f"the body is not UTF-8: {where}; send JSON in UTF-8") from None
    except RecursionError:
        raise ApiError(400, "the body is nested too deeply; send an object of plain fields") from None
    except ValueError as error:
        raise ApiError(400, f"the body is not JSON: {error}; send an object such as {_EXAMPLE}") from None
    if not isinstance(value, dict):
        raise ApiError(400, f"the body is {seen(value)}; expected a JSON object such as {_EXAMPLE}")
    return value


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How half a pair of UTF-16 is escaped in JSON; two of them can be one character."""


def _refuse_surrogates(value: Any, field: str | None = None) -> None:
    if isinstance(value, str):
        lone = next((character for character in value if "\ud800" <= character <= "\udfff"), None)
        if lone is not None:
            raise ApiError(
                400, f"{field or 'a field'} has the escape \\u{ord(lone):04x} alone, which is half a character; send "
                "whole characters, such as in UTF-8", param=field,
            )  # fmt: skip
    elif isinstance(value, dict):
        for name, inner in value.items():
            _refuse_surrogates(name, field)
            _refuse_surrogates(inner, field or name)
    elif isinstance(value, list):
        for inner in value:
            _refuse_surrogates(inner, field)


_EXAMPLE = '{"model": "NAME", "prompt": "Once upon a time"}'


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def completion_request(body: dict[str, Any], most_tokens: int) -> TextRequest:
    """Check a request to /v1/completions.

    Args:
        most_tokens: that a text may have.

    Raises:
        ApiError: naming the field, the value seen and what was expected.
    """
    fields = _Fields(body, _OF_COMPLETIONS, "best_of")
    prompts = _prompts(fields.value("prompt", ""))
    n = fields.whole("n", 1, 1, _MOST_TEXTS)
    best_of = fields.value("best_of", n)
    if best_of != n or isinstance(best_of, bool):
        raise ApiError(
            400, f"best_of is {seen(best_of)}; groundup does not choose among texts: leave it out, and use n",
            param="best_of",
        )  # fmt: skip
    count = fields.whole("logprobs", None, 0, _MOST_LOG_PROBABILITIES)
    echo = fields.switch("echo")
    sampling = fields.sampling(
        max_tokens=fields.whole("max_tokens", _DEFAULT_TOKENS, 0, most_tokens),
        log_probabilities=count,
        scores_prompt=echo and count is not None,
    )
    stream, include_usage = fields.streaming()
    return TextRequest(
        fields.model(), sampling, prompts, n=n, echo=echo, stream=stream, include_usage=include_usage
    )  # fmt: skip


def chat_request(body: dict[str, Any], most_tokens: int) -> TextRequest:
    """Check a request to /v1/chat/completions; arguments and errors as for :func:`completion_request`."""
    fields = _Fields(body, _OF_CHAT)
    messages = fields.value("messages", None)
    if messages is None:
        raise ApiError(
            400, "messages is missing; expected an array of messages with role and content", param="messages"
        )
    conversation = _conversation(messages)
    tokens = fields.whole("max_tokens", None, 1, most_tokens)
    newer = fields.whole("max_completion_tokens", None, 1, most_tokens)
    if tokens is not None and newer is not None and tokens != newer:
        raise ApiError(
            400, f"max_tokens is {tokens} and max_completion_tokens is {newer}; give one of them",
            param="max_completion_tokens",
        )  # fmt: skip
    wanted = newer if newer is not None else tokens
    logprobs = fields.switch("logprobs")
    count = fields.whole("top_logprobs", None, 0, _MOST_LOG_PROBABILITIES)
    if count is not None and not logprobs:
        raise ApiError(400, f"top_logprobs is {count} without logprobs; set logprobs to true", param="top_logprobs")
    sampling = fields.sampling(
        max_tokens=most_tokens if wanted is None else wanted, log_probabilities=(count or 0) if logprobs else None
    )
    n = fields.whole("n", 1, 1, _MOST_TEXTS)
    stream, include_usage = fields.streaming()
    return TextRequest(
        fields.model(), sampling, conversation=conversation, n=n, fills_context=wanted is None, stream=stream,
        include_usage=include_usage,
    )  # fmt: skip


def tokenize_request(body: dict[str, Any]) -> tuple[str | None, str]:
    """Model and text of a request to /tokenize. Raises as :func:`completion_request`."""
    fields = _Fields(body, ("model", "prompt"))
    prompt = fields.value("prompt", None)
    if not isinstance(prompt, str):
        raise ApiError(400, f"prompt is {seen(prompt)}; expected a string", param="prompt")
    return fields.model(), prompt


class _Fields:
    """The fields of a request. Each reader raises an `ApiError` that names the field.

    Args:
        known: fields that are read.
        more: fields that are read, but not suggested.
    """

    def __init__(self, body: dict[str, Any], known: Iterable[str], *more: str):
        self._body = {name: value for name, value in body.items() if value is not None}
        known = [*known]
        for name, value in self._body.items():
            if name in known or name in more or name in _HARMLESS:
                continue
            if name not in _REFUSED:
                hint = suggestion(name[:100], [*known, *_HARMLESS])
                raise ApiError(400, f"unknown field {seen(name)}{hint}", param=name[:100], code="unknown_field")
            nothing, advice = _REFUSED[name]
            if value not in nothing:
                raise ApiError(400, f"{name} is {seen(value)}; {advice}", param=name, code="unsupported_field")

    def value(self, name: str, default: Any) -> Any:
        return self._body.get(name, default)

    def model(self) -> str | None:
        found = self.value("model", None)
        if not isinstance(found, str | None):
            raise ApiError(400, f"model is {seen(found)}; expected a name as /v1/models lists them", param="model")
        return found

    def whole(self, name: str, default: Any, least: int, most: int | None) -> Any:
        found = given = self.value(name, default)
        if found is default:
            return found
        if isinstance(found, float) and found.is_integer():  # 16.0, as JavaScript's libraries may write it
            found = int(found)
        is_whole = isinstance(found, int) and not isinstance(found, bool)
        if not is_whole or found < least or (most is not None and found > most):
            upper = "on" if most is None else f"to {most}"
            raise ApiError(400, f"{name} is {seen(given)}; expected a whole number from {least} {upper}", param=name)
        return found

    def number(self, name: str, default: float, least: float, most: float) -> float:
        found = self.value(name, default)
        if not isinstance(found, int | float) or isinstance(found, bool) or not least <= found <= most:
            upper = f" to {most:g}" if most < math.inf else " on"
            raise ApiError(400, f"{name} is {seen(found)}; expected a number from {least:g}{upper}", param=name)
        return float(found)

    def switch(self, name: str) -> bool:
        found = self.value(name, False)
        if not isinstance(found, bool):
            raise ApiError(400, f"{name} is {seen(found)}; expected true or false", param=name)
        return found

    def streaming(self) -> tuple[bool, bool]:
        """Whether to stream, and whether to end the stream with the usage."""
        stream, options = self.switch("stream"), self.value("stream_options", {})
        if not isinstance(options, dict) or not set(options) <= {"include_usage", "include_obfuscation"}:
            raise ApiError(
                400, f'stream_options is {seen(options)}; expected {{"include_usage": true}}', param="stream_options"
            )
        if options and not stream:
            raise ApiError(400, "stream_options is given without stream; set stream to true", param="stream_options")
        usage = options.get("include_usage") or False
        if not isinstance(usage, bool):
            raise ApiError(400, f"include_usage is {seen(usage)}; expected true or false", param="stream_options")
        return stream, usage

    def sampling(self, **given: Any) -> Sampling:
        """The settings of sampling, with OpenAI's ranges and defaults."""
        top_p = self.number("top_p", 1.0, 0, 1)
        seed = self.whole("seed", None, -(2**63), 2**63 - 1)
        try:
            return Sampling(
                temperature=self.number("temperature", 1.0, 0, 2),
                top_p=top_p,
                top_k=max(0, self.whole("top_k", 0, -1, 2**31)),  # -1 is what vLLM calls all
                min_p=self.number("min_p", 0.0, 0, 1),
                repetition_penalty=self.number("repetition_penalty", 1.0, 0.01, 100),
                presence_penalty=self.number("presence_penalty", 0.0, -2, 2),
                frequency_penalty=self.number("frequency_penalty", 0.0, -2, 2),
                logit_bias=self._logit_bias(),
                seed=None if seed is None else seed % 2**63,
                stop=self._stop(),
                **given,
            )
        except ConfigError as error:
            raise refused_setting(error) from None

    def _stop(self) -> tuple[str, ...]:
        found = self.value("stop", [])
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, list) or not all(isinstance(stop, str) and stop for stop in found):
            raise ApiError(
                400, f"stop is {seen(found)}; expected a string of at least one character, or an array of them",
                param="stop",
            )  # fmt: skip
        if len(found) > _MOST_STOPS or any(len(stop) > _LONGEST_STOP for stop in found):
            longest = max(map(len, found))
            raise ApiError(
                400, f"stop has {len(found)} strings, the longest of {longest:,} characters; expected at most "
                f"{_MOST_STOPS} strings of at most {_LONGEST_STOP:,} characters", param="stop",
            )  # fmt: skip
        return tuple(dict.fromkeys(found))

    def _logit_bias(self) -> dict[int, float]:
        found = self.value("logit_bias", {})
        if not isinstance(found, dict) or len(found) > _MOST_BIASES:
            raise ApiError(
                400, f"logit_bias is {seen(found)}; expected an object of at most {_MOST_BIASES} token ids, each with "
                "a number from -100 to 100", param="logit_bias",
            )  # fmt: skip
        biases = {}
        for name, bias in found.items():
            number = isinstance(bias, int | float) and not isinstance(bias, bool) and -100 <= bias <= 100
            if not (name.isascii() and name.isdecimal() and len(name) < 10 and number):
                raise ApiError(
                    400, f"logit_bias has {seen(name)}: {seen(bias)}; expected a token id with a number from -100 to "
                    "100", param="logit_bias",
                )  # fmt: skip
            biases[int(name)] = float(bias)
        return biases


def refused_setting(error: Exception) -> ApiError:
    """The error of a setting that generation refuses; its message begins with the name of the setting."""
    name = str(error).partition(" ")[0]
    return ApiError(400, str(error), param=name if name in _COMMON else None)


def _prompts(found: Any) -> tuple[str | list[int], ...]:
    """The prompts of a request: a text, texts, ids, or lists of ids."""
    if isinstance(found, str):
        return (found,)
    if isinstance(found, list):
        if found and all(isinstance(prompt, str) for prompt in found):
            return tuple(found)
        if found and _are_ids(found):
            return (found,)
        if found and all(isinstance(prompt, list) and prompt and _are_ids(prompt) for prompt in found):
            return tuple(found)
    raise ApiError(
        400, f"prompt is {seen(found)}; expected a string, an array of strings, an array of token ids, or an array of "
        "such arrays, none of them empty", param="prompt",
    )  # fmt: skip


def _are_ids(found: list[Any]) -> bool:
    return all(type(token) is int and 0 <= token < 2**32 for token in found)


def _conversation(messages: Any) -> Conversation:
    for i, message in enumerate(messages if isinstance(messages, list) else ()):
        parts = message.get("content") if isinstance(message, dict) else None
        for part in parts if isinstance(parts, list) else ():
            kind = part.get("type") if isinstance(part, dict) else part
            if kind != "text":
                raise ApiError(
                    400, f"messages[{i}].content has a part of type {seen(kind)}; groundup's models read text only, so "
                    "send parts of type text, or a string", param="messages", code="unsupported_field",
                )  # fmt: skip
    try:
        return conversation_of({"messages": messages})
    except BadRow as error:
        raise ApiError(400, str(error).removeprefix(": ").strip(), param="messages") from None
    except RecursionError:
        raise ApiError(400, "messages is nested too deeply; expected role and content", param="messages") from None
