"""Rows of conversations: the shapes that data sets have, as messages with roles."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundup.text.options import utf8
from groundup.text.rows import BadRow, RepeatedKeys, type_name

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_ROLE_OF = {
    **{role: role for role in ROLES},
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "observation": "tool",
}  # fmt: skip
FIELDS = ("messages", "conversations", "prompt", "completion", "instruction", "input", "output", "system", "tools")
"""Fields of a row that mean something here."""
EXPECTED = "messages, conversations, prompt with completion, or instruction with output"
_REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and the tools that a template may describe."""

    messages: list[dict[str, Any]]
    """Each with ``role``, one of ROLES, and ``content``; further keys are left to the template."""
    tools: list[Any] | None = None


def conversation_of(row: object) -> Conversation:
    """The conversation in a row.

    By its fields, the first of these that a row has:

    - ``messages`` or ``conversations``: a list of objects with ``role`` and ``content``, or with ``from`` and ``value``
      (ShareGPT), whose roles ``human`` and ``gpt`` are user and assistant;
    - ``prompt`` and ``completion``: one message of the user, one of the assistant;
    - ``instruction``, perhaps ``input``, and ``output`` (Alpaca): the same, with a blank line before the input.

    A string ``system`` is the first message of a row that has none.

    Raises:
        BadRow: it is none of these, or a message has no known role or no text.
    """
    if not isinstance(row, dict):
        raise BadRow(f" holds {_seen(row)}; expected an object with {EXPECTED}")
    if isinstance(row, RepeatedKeys) and (twice := sorted(row.repeated.intersection(FIELDS))):
        raise BadRow(f" has the field {twice[0]!r} more than once; expected it once")
    fields = {name: row[name] for name in FIELDS if row.get(name) is not None}
    tools = fields.get("tools")
    if not isinstance(tools, list | None):
        raise BadRow(f": tools is {_seen(tools)}; expected an array of descriptions")
    for name in ("messages", "conversations"):
        if name in fields:
            messages = _listed(name, fields[name])
            break
    else:
        messages = _pair(fields, row)
    system = fields.get("system", "")
    if not isinstance(system, str):
        raise BadRow(f": system is {_seen(system)}; expected a string")
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Conversation([_with_reasoning(clean(message)) for message in messages], clean(tools) if tools else None)


def _seen(value: object) -> str:
    """A value of the wrong type for an error: what it is, and how it begins."""
    text = json.dumps(value, ensure_ascii=False, default=str)  # parquet has dates
    return f"{type_name(value)} ({text if len(text) <= 40 else text[:40] + '…'})"


def clean(value: Any) -> Any:
    """A JSON value without lone surrogates, which UTF-8 lacks: they become U+FFFD as in any text."""
    if isinstance(value, str):
        return value if value.isascii() else utf8(value).decode()
    if isinstance(value, Mapping):
        return {clean(key): clean(inner) for key, inner in value.items()}
    return [clean(inner) for inner in value] if isinstance(value, list) else value


def _listed(name: str, messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, list):
        raise BadRow(f": {name} is {_seen(messages)}; expected an array of messages")
    if not messages:
        raise BadRow(f": {name} is empty; expected at least one message")
    return [_message(message, f"{name}[{number}]") for number, message in enumerate(messages)]


def _message(message: object, place: str) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise BadRow(f": {place} is {_seen(message)}; expected an object with role and content")
    if isinstance(message, RepeatedKeys):
        raise BadRow(f": {place} has the key {min(message.repeated)!r} more than once; expected it once")
    # As transformers does: data sets write null for what a message does not have.
    found = {key: value for key, value in message.items() if value is not None}
    given = found.pop("from", None) if "role" not in found else found["role"]
    role = _ROLE_OF.get(given) if isinstance(given, str) else None
    if role is None:
        seen = repr(given) if isinstance(given, str) else "no role" if given is None else _seen(given)
        raise BadRow(f": {place} has {seen} as its role; expected one of {', '.join(ROLES)}, human or gpt")
    content = found.pop("value", None) if "content" not in found else found["content"]
    if isinstance(content, list):
        content = _joined(content, place)
    if not isinstance(found.get("tool_calls", []), list):
        raise BadRow(f": tool_calls of {place} is {_seen(found['tool_calls'])}; expected an array of calls")
    if content is None and "tool_calls" in found:
        return {**found, "role": role}
    if not isinstance(content, str):
        seen = "no content" if content is None else f"{_seen(content)} as its content"
        raise BadRow(f": {place} has {seen}; expected text")
    return {**found, "role": role, "content": content}


def _joined(parts: list[Any], place: str) -> str:
    """The text of a content in parts, ``[{"type": "text", "text": …}]``."""
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise BadRow(f": {place} has a part that is not text; only text is read, so leave such rows out")
    return "".join(map(str, texts))


def _pair(fields: Mapping[str, Any], row: Mapping[str, Any]) -> list[dict[str, Any]]:
    if {"prompt", "completion"} <= fields.keys():
        question, answer, names = fields["prompt"], fields["completion"], ("prompt", "completion")
    elif {"instruction", "output"} <= fields.keys():
        question, answer, names = fields["instruction"], fields["output"], ("instruction", "output")
        extra = fields.get("input", "")
        if not isinstance(extra, str):
            raise BadRow(f": input is {_seen(extra)}; expected a string")
        if extra and isinstance(question, str):
            question = f"{question}\n\n{extra}"
    else:
        listed = ", ".join(repr(name[:60]) for name in list(row)[:20]) or "no field at all"
        raise BadRow(f" has no conversation; it has {listed}; expected {EXPECTED}")
    for name, value in zip(names, (question, answer), strict=True):
        if not isinstance(value, str):
            raise BadRow(f": {name} is {_seen(value)}; expected a string")
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose reasoning has all names that templates read, as transformers gives it to them."""
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}
