"""Special tokens as a user gives them."""

from collections.abc import Iterable

from groundup.errors import TokenizerError


def checked_special_tokens(special_tokens: Iterable[str] | None) -> list[bytes]:
    """The UTF-8 bytes of each special token, in the order given; none for None.

    Raises:
        TokenizerError: one of them is empty, given twice, not a str, or has no UTF-8 form; or a lone str was given.
    """
    if isinstance(special_tokens, str):
        raise TokenizerError(f"special_tokens is the string {special_tokens!r}; give a list: [{special_tokens!r}]")
    encoded: dict[bytes, None] = {}
    for token in special_tokens or ():
        if not isinstance(token, str):
            raise TokenizerError(f"special token {token!r} is of type {type(token).__name__}; special tokens are str")
        if not token:
            raise TokenizerError("a special token is the empty string '', which would match everywhere; remove it")
        try:
            name = token.encode()
        except UnicodeEncodeError:
            raise TokenizerError(
                f"special token {token!r} has a lone surrogate, which is not text; remove it"
            ) from None
        if name in encoded:
            raise TokenizerError(f"special token {token!r} is given twice; give it once")
        encoded[name] = None
    return list(encoded)
