"""Models over HTTP with OpenAI's API, and two pages: the lab, which shows runs, and a playground of the models."""

import importlib.util

from groundup.errors import MissingExtraError

_PACKAGES = ("starlette", "uvicorn")


def check_packages(purpose: str) -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        MissingExtraError: one of them is missing; names both.
    """
    if any(importlib.util.find_spec(package) is None for package in _PACKAGES):
        raise MissingExtraError.for_packages(_PACKAGES, "serve", purpose)
