"""Special tokens as a user gives them."""

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from groundup.errors import TokenizerError
from groundup.tokenizer.core import load_core

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from groundup.tokenizer import _native

AllowedSpecial = Literal["all", "none"] | Collection[str]
"""All special tokens, none of them, or some by name."""


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


class SpecialTokenSets:
    """The special tokens of a tokenizer, and those of them that a call may want, ready to be found in text."""

    def __init__(self, ids: Mapping[bytes, int]) -> None:
        self._ids = ids
        self._sets: dict[frozenset[bytes], _native.SpecialTokens] = {}
        self.all = self._set(frozenset(ids))
        self.none = self._set(frozenset())

    def chosen(
        self, texts: "Iterable[str | Buffer]", allowed: AllowedSpecial, disallowed: AllowedSpecial
    ) -> "_native.SpecialTokens":
        """The allowed ones.

        Raises:
            TokenizerError: one of the texts has a disallowed one, or what is named is no special token.
        """
        may = self._named(allowed)
        must_not = frozenset(self._ids) - may if disallowed == "all" else self._named(disallowed)
        if must_not:
            found = self._set(must_not)
            for text in texts:
                if (place := found.find(text)) is not None:
                    name = next(name for name in must_not if self._ids[name] == place[2])
                    raise TokenizerError(
                        f"the text has the special token {name.decode()!r} at byte {place[0]}, which is disallowed; "
                        "remove it, or allow it in allowed_special, or leave it out of disallowed_special to encode it "
                        "as text"
                    )
        return self._set(may)

    def _named(self, names: AllowedSpecial) -> frozenset[bytes]:
        if isinstance(names, str):
            if names == "all":
                return frozenset(self._ids)
            if names == "none":
                return frozenset()
            raise TokenizerError(f'special tokens {names!r}; expected "all", "none" or a collection: [{names!r}]')
        encoded = frozenset(name.encode("utf-8", "replace") for name in names)
        if unknown := encoded - self._ids.keys():
            known = ", ".join(repr(name.decode()) for name in self._ids) or "none"
            raise TokenizerError(f"{min(unknown).decode()!r} is not a special token; this tokenizer has: {known}")
        return encoded

    def _set(self, names: frozenset[bytes]) -> "_native.SpecialTokens":
        if names not in self._sets:
            self._sets[names] = load_core().SpecialTokens([(name, self._ids[name]) for name in names])
        return self._sets[names]
