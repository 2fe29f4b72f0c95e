"""What is made when it is first needed and not before: above all the C++ core, which tokenizing text loads."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, Generic, TypeVar

from groundup.errors import TokenizerError

Value = TypeVar("Value")


def load_core() -> ModuleType:
    """The extension module `groundup.tokenizer._native`.

    Raises:
        TokenizerError: it is not built, or was built for another Python.
    """
    try:
        from groundup.tokenizer import _native
    except ImportError as error:
        raise TokenizerError(
            f"tokenizing text needs the C++ core, which cannot be loaded ({error}); "
            "build it with: pip install .   (loading a tokenizer and decoding work without)"
        ) from error
    return _native


class MadeWhenNeeded(Generic[Value]):
    """An attribute that is made when it is first read.

    `functools.cached_property` without the lock that it has before Python 3.12: a process that is forked while a thread
    holds that would wait for ever. Two threads may both make the value; one of the two is kept.
    """

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        if instance is None:
            return self  # type: ignore[return-value]
        value: Value = instance.__dict__.setdefault(self._name, self._make(instance))
        return value
