"""Token ids as callers have them: lists, NumPy arrays, torch tensors, single integers of any of these."""

import operator
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from groundup.errors import TokenizerError
from groundup.tokenizer.formats.strict_reading import shown

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plain_ids(ids: "Iterable[int] | NDArray[Any]") -> list[int]:
    """The ids as Python integers.

    Raises:
        TokenizerError: one of them is no integer, or they are not one sequence.
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
        TokenizerError: it is no integer.
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
