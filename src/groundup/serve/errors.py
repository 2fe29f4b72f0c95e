"""Errors of the API: a status and OpenAI's form, ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from typing import Any

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_LONGEST_SEEN = 80


class ApiError(Exception):
    """What a client is told in place of an answer.

    Args:
        status: of HTTP.
        message: the value seen, what was expected, and what to do.
        param: the field of the request that is meant.
        code: a word for programs, such as "model_not_found".
        headers: of the answer, such as Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class ClientGoneError(Exception):
    """The client has closed the connection."""


def seen(value: object) -> str:
    """A value of a request for a message: as it is written in JSON, and shortened."""
    import json

    if isinstance(value, list | dict) and len(value) > 20:
        return f"{'an array' if isinstance(value, list) else 'an object'} of {len(value):,} values"
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else f'"{value[: 2 * _LONGEST_SEEN]}"'
    return text if len(text) <= _LONGEST_SEEN else f"{text[:_LONGEST_SEEN]}…"
