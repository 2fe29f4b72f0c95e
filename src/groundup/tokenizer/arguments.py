"""Arguments of a tokenizer's methods, checked: texts, ids and numbers of threads, one or many."""

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from groundup.errors import TokenizerError
from groundup.system.threads import available_cores
from groundup.text.options import utf8
from groundup.tokenizer.formats.strict_reading import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

MOST_THREADS = 256


def checked_thread_count(num_threads: int | None) -> int:
    """The number of threads; for None as many as this process may use cores.

    Raises:
        TokenizerError: it is not an integer, or not between 1 and MOST_THREADS.
    """
    if type(num_threads) is int and 1 <= num_threads <= MOST_THREADS:
        return num_threads  # what it nearly always is, before anything that takes as long as a short text
    if num_threads is None:
        return min(available_cores(), MOST_THREADS)
    try:
        count = 0 if isinstance(num_threads, bool) else operator.index(num_threads)
    except TypeError:
        count = 0
    if not 1 <= count <= MOST_THREADS:
        raise TokenizerError(
            f"num_threads = {num_threads!r}; give 1 to {MOST_THREADS}, or None for as many as there are cores"
        )
    return count


def checked_str(text: object, what: str = "text") -> str:
    """The text, which has to be a str.

    Raises:
        TokenizerError: it is not.
    """
    if isinstance(text, str):
        return text
    if isinstance(text, bytes | bytearray | memoryview):
        fix = "decode it, or give it to encode_to_numpy, which takes UTF-8"
    else:
        fix = "give a str"
    raise TokenizerError(f"{what} is of type {type(text).__name__}; {fix}")


def as_bytes(text: "str | Buffer") -> bytes:
    """The bytes of a text; a str as UTF-8."""
    return utf8(text) if isinstance(text, str) else bytes(text)


def checked_text(text: "str | Buffer", what: str = "text") -> "str | Buffer":
    """The text, which has to be a str or bytes of some kind.

    Raises:
        TokenizerError: it is something else, or an array of numbers, or its bytes do not lie one after the other.
    """
    if isinstance(text, str | bytes):
        return text
    try:
        view = memoryview(text)
    except (TypeError, ValueError) as error:  # ValueError: a memory map that is closed
        if isinstance(error, ValueError):
            raise TokenizerError(
                f"{what} of type {type(text).__name__} cannot be read: {error}; open it again"
            ) from None
        raise TokenizerError(
            f"{what} is of type {type(text).__name__}; give a str, or UTF-8 as bytes, a memoryview or the like"
        ) from None
    with view:
        if view.itemsize != 1 or view.ndim != 1:
            raise TokenizerError(
                f"{what} is a {type(text).__name__} of {view.ndim} dimensions and {view.itemsize} bytes an element; "
                "give bytes of text in one dimension"
            )
        if not view.c_contiguous:
            raise TokenizerError(
                f"{what} is a {type(text).__name__} whose bytes do not lie one after the other; copy it: bytes(text)"
            )
    return text


def checked_texts(texts: "Iterable[str | Buffer]", *, only_str: bool = False) -> "list[str | Buffer]":
    """The texts as a list.

    Raises:
        TokenizerError: one of them is not a text; or a single text was given, whose characters would each be a text.
    """
    if isinstance(texts, str | bytes | bytearray | memoryview):
        raise TokenizerError(f"texts is a single {type(texts).__name__}; give a list of texts, or use encode")
    try:
        listed = texts if type(texts) is list else list(texts)
    except TypeError:
        if isinstance(texts, Iterable):
            raise  # it comes from within the iterable
        raise TokenizerError(f"texts is of type {type(texts).__name__}; give a list of texts") from None
    kinds = set(map(type, listed))
    if not kinds <= ({str} if only_str else {str, bytes}):
        for number, text in enumerate(listed):
            (checked_str if only_str else checked_text)(text, f"text {number}")
    return listed


def plain_ids(ids: "Iterable[int] | NDArray[Any]") -> list[int]:
    """The ids as Python integers.

    Raises:
        TokenizerError: one of them is not an integer, or they are not one sequence.
    """
    if isinstance(ids, str | bytes | bytearray):
        raise TokenizerError(f"ids are a {type(ids).__name__}; give a sequence of integers")
    plain: Any = ids
    if type(ids) is not list:
        try:
            plain = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        except TypeError:
            if isinstance(ids, Iterable) and not hasattr(ids, "tolist"):
                raise  # it comes from within the iterable
        if not isinstance(plain, list):
            raise TokenizerError(f"ids are {shown(ids)} of type {type(ids).__name__}; give a sequence of integers")
    if set(map(type, plain)) <= {int}:
        return plain
    return [plain_id(token_id) for token_id in plain]


def plain_id(token_id: Any) -> int:
    """The id as a Python integer.

    Raises:
        TokenizerError: it is not an integer.
    """
    dimensions: int = getattr(token_id, "ndim", 0)
    if isinstance(token_id, list | tuple) or dimensions:
        raise TokenizerError("ids have more than one dimension; decode one sequence at a time")
    # NumPy and torch have truth values and floats of their own, which say so by their kind.
    try:
        if "bool" not in f"{type(token_id).__name__} {getattr(token_id, 'dtype', '')}":
            return operator.index(token_id)
    except TypeError:
        pass
    raise TokenizerError(f"id {token_id!r} is of type {type(token_id).__name__}; ids are integers")
