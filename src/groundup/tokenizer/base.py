"""Vocabulary, merges and special tokens of a tokenizer, checked; decoding, look-ups, and the hash over all of it."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from groundup.errors import TokenizerError
from groundup.tokenizer.arguments import plain_ids
from groundup.tokenizer.content import TokenizerContent
from groundup.tokenizer.encoders import TextEncoder, make_encoder
from groundup.tokenizer.normalization.characters import (
    CharacterDecodeStream,
    Characters,
    byte_of,
    check_characters,
    make_character_encoder,
    replaced,
    text_of,
    written_forms,
)
from groundup.tokenizer.normalization.encoder import NormalizingEncoder
from groundup.tokenizer.normalization.normalizers import Normalizer, normalizer_json
from groundup.tokenizer.patterns import (
    DIGITS,
    NEWEST,
    PATTERNS,
    Pattern,
    checked_pattern,
    checked_unicode_version,
    expression_of,
    newer_character_named,
)
from groundup.tokenizer.special_tokens import SpecialTokenSets, checked_special_tokens
from groundup.tokenizer.streams import DecodeStream
from groundup.tokenizer.vocabulary import LARGEST_ID, checked_merges, checked_rules, checked_special_ids, checked_vocab

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value = TypeVar("Value")


class LocklessCachedProperty(Generic[Value]):
    """Cached property without a lock: two threads may both compute the value, and both get the one that is stored.

    `functools.cached_property` holds a lock before Python 3.12, and 3.11 is supported: a process that is forked while
    another thread computes the value would wait for that lock forever.
    """

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        if instance is None:
            return self  # type: ignore[return-value]  # on the class, for help()
        value: Value = instance.__dict__.setdefault(self._name, self._compute(instance))
        return value


class TokenizerBase:
    """The immutable state of a `Tokenizer`, which documents the arguments."""

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str | Sequence[str] = "gpt2",
        ignore_merges: bool = False,
        characters: Characters | None = None,
        added_tokens: Sequence[str] = (),
        normalizer: Normalizer = (),
        normalized_tokens: Sequence[str] = (),
        unicode_version: str = NEWEST,
        special_ids: Mapping[str, int] | None = None,
    ) -> None:
        self._pattern: Pattern = checked_pattern(pattern) if characters is None else ""
        self._unicode_version = checked_unicode_version(unicode_version)
        self._check_named_characters()
        self._ignore_merges = bool(ignore_merges) and characters is None
        self._characters = characters
        self._normalizer = tuple(normalizer)
        if isinstance(special_tokens, Mapping):
            raise TokenizerError("special_tokens is a mapping; give a list of names, and put their ids into vocab")
        names, added = checked_special_tokens(special_tokens), checked_special_tokens(added_tokens)
        own_ids = checked_special_ids(special_ids or {}, {*names, *added})
        self._written, self._id_of = checked_vocab(vocab, own_ids)
        appended = [name for name in names if name not in self._id_of]
        first = max(self._written, default=-1) + 1
        new_ids = range(first, first + len(appended))
        if appended and new_ids[-1] > LARGEST_ID:
            raise TokenizerError(f"special tokens would get ids up to {new_ids[-1]}; the largest is {LARGEST_ID}")
        self._written.update(zip(new_ids, appended, strict=True))
        self._id_of.update(zip(appended, new_ids, strict=True))
        self._special_ids = {name: own_ids.get(name, self._id_of[name]) for name in names}
        # Without a normalizer there is only one text to look in.
        self._normalized_tokens = tuple(
            name for name in (*names, *added) if self._normalizer and name.decode() in set(normalized_tokens)
        )
        self._merges = checked_merges(merges)
        self._rules = checked_rules(self._merges, self._id_of)
        self._added_ids = self._checked_added_tokens(added, own_ids)
        self._vocab = self._written
        if characters is not None:
            check_characters(self._written, self._merges)
            self._vocab = {token_id: text_of(token) for token_id, token in self._written.items()}

    def decode(self, ids: "Iterable[int] | NDArray[Any]", errors: str = "replace") -> str:
        """The text of ids; bytes that are not UTF-8, as in half a character, become U+FFFD.

        Args:
            ids: integers, a list or a one-dimensional NumPy array or torch tensor.
            errors: what becomes of such bytes, as in `bytes.decode`: "replace", "ignore", "strict" and so on.

        Raises:
            TokenizerError: an id is not in the vocabulary, or not an integer; or errors is not known.
            UnicodeDecodeError: there are such bytes, and errors is "strict".
        """
        plain = plain_ids(ids)
        data = self.decode_bytes(plain)
        try:
            if self._characters is None or errors != "replace":
                return data.decode("utf-8", errors)
            return data.decode()
        except UnicodeDecodeError:
            if errors != "replace":
                raise
            text = replaced(self._written[token_id] for token_id in plain)
            return text.removeprefix(" ") if self._characters is not None and self._characters.strip else text
        except LookupError:
            raise TokenizerError(f'errors is {errors!r}; expected "replace", "ignore", "strict" or another') from None

    def decode_bytes(self, ids: "Iterable[int] | NDArray[Any]") -> bytes:
        """The bytes of ids, which need not be valid UTF-8. Raises as `decode` does."""
        plain = plain_ids(ids)
        try:
            data = b"".join(map(self._vocab.__getitem__, plain))
        except KeyError:
            data = b"".join(map(self._token, plain))
        return data.removeprefix(b" ") if self._characters is not None and self._characters.strip else data

    def decode_batch(self, batch: "Iterable[Iterable[int] | NDArray[Any]]", errors: str = "replace") -> list[str]:
        """The text of each sequence of ids. Raises as `decode` does."""
        return [self.decode(ids, errors) for ids in batch]

    def decode_stream(self) -> "DecodeStream":
        """Decoding of ids that arrive one by one, as a model makes them; never shows half a character."""
        if self._characters is not None:
            return CharacterDecodeStream(self._characters, lambda ids: [self._token(i, self._written) for i in ids])
        return DecodeStream(self.decode_bytes)

    def token_id(self, token: str | bytes) -> int:
        """The id of a token given as text or bytes.

        Raises:
            TokenizerError: no token has exactly these bytes.
        """
        token_bytes = token.encode("utf-8", "replace") if isinstance(token, str) else token
        if token_bytes in (apart := self._special_ids | self._added_ids):
            return apart[token_bytes]
        for written in [token_bytes] if self._characters is None else written_forms(token_bytes):
            if written in self._id_of:
                return self._id_of[written]
        raise TokenizerError(f"{token!r} is not a token; encode it to see the tokens it is made of")

    def token_lengths(self) -> "NDArray[np.int64]":
        """Bytes of text per id, int64 (vocab_size,); 0 for special tokens, which are not text, and for unused ids.

        With `characters`, "▁" is the one byte of a space, also where the text has none and it is put before it.
        """
        import numpy as np

        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        special = set(self._special_ids.values())
        for token_id, token in self._vocab.items():
            if token_id not in special:
                lengths[token_id] = len(token)
        return lengths

    @property
    def prefix_length(self) -> int:
        """Bytes by which the tokens of a text are longer than it: 1 if a space is put before it, else 0."""
        return 0 if self._characters is None or self._characters.prefix == "never" else 1

    @property
    def vocab(self) -> Mapping[int, bytes]:
        """Token bytes by id, special tokens included; read-only. With `characters`, two ids may have the same bytes."""
        return MappingProxyType(self._vocab)

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merges in the order they were learned (a copy); in written form with `characters`."""
        return list(self._merges)

    @property
    def special_tokens(self) -> list[str]:
        """The special tokens in the order they were given."""
        return [name.decode() for name in self._special_ids]

    @property
    def added_tokens(self) -> list[str]:
        """Tokens that are text, and found whole before anything else, also where special tokens are not."""
        return [name.decode() for name in self._added_ids]

    @property
    def characters(self) -> Characters | None:
        """Options of encoding whole texts on characters; None if texts are split into pretokens of bytes."""
        return self._characters

    @property
    def vocab_size(self) -> int:
        """Largest id + 1: the rows a model's embedding needs. 0 for an empty vocabulary."""
        return max(self._vocab, default=-1) + 1

    @property
    def pattern(self) -> Pattern:
        """Pattern that splits text: a built-in name, a regular expression, or several. Empty with `characters`."""
        return self._pattern

    @property
    def normalizer(self) -> Normalizer:
        """Changes to the text before it is split; empty for none."""
        return self._normalizer

    @property
    def unicode_version(self) -> str:
        """Version of Unicode whose letters, numbers and white space the pattern means."""
        return self._unicode_version

    @property
    def ignore_merges(self) -> bool:
        """Whether a pretoken that is a token is that token, whatever the merges make of it."""
        return self._ignore_merges

    @LocklessCachedProperty
    def sha256(self) -> str:
        """Hex digest of all that decides ids: pattern, special tokens, vocabulary, merges.

        Where they are not the default, also `ignore_merges`, the normalizer and the version of Unicode. It is taken
        over their JSON (sorted by id, bytes as hex), so it does not depend on how a file was written, nor on the order
        in which special tokens were named.
        """
        # Put together by hand, which takes half the time of json.dumps; bytes as hex need no escapes.
        vocab = ",".join([f'[{token_id},"{token.hex()}"]' for token_id, token in sorted(self._written.items())])
        merges = ",".join([f'["{left.hex()}","{right.hex()}"]' for left, right in self._merges])
        others = ',"ignore_merges":true' if self._ignore_merges else ""
        if self._characters is not None:
            others += f',"characters":{json.dumps(asdict(self._characters))}'
        if self._added_ids:
            others += f',"added_tokens":{json.dumps(sorted(self._added_ids.values()))}'
        if self._normalizer:
            id_of = self._special_ids | self._added_ids
            looked_for_after = sorted(id_of[name] for name in self._normalized_tokens)
            others += f',"normalizer":{json.dumps([normalizer_json(self._normalizer), looked_for_after])}'
        if self._unicode_version != NEWEST:
            others += f',"unicode_version":"{self._unicode_version}"'
        content = (
            f'{{"pattern":{json.dumps(expression_of(self._pattern))},'
            f'"special_tokens":[{",".join(map(str, sorted(self._special_ids.values())))}],'
            f'"vocab":[{vocab}],"merges":[{merges}]{others}}}'
        )
        return hashlib.sha256(content.encode()).hexdigest()

    def first_difference(self, other: "TokenizerBase") -> str:
        """Name the first id that means another token in ``other``; empty if all ids of this tokenizer mean the same.

        ``other`` may have more ids. Tokenizers whose ids mean the same can still split text differently, by another
        pattern, normalizer or version of Unicode; their hashes then differ.
        """
        for token_id, token in sorted(self.vocab.items()):
            if (now := other.vocab.get(token_id)) != token:
                return f"id {token_id} is {token!r} there and {'missing' if now is None else repr(now)} here"
        return ""

    def __repr__(self) -> str:
        return (
            f"Tokenizer({len(self._vocab)} tokens, {len(self._merges)} merges, "
            f"special_tokens={self.special_tokens}, "
            f"{f'pattern={self._pattern!r}' if self._characters is None else self._characters}"
            f"{', ignore_merges=True' if self._ignore_merges else ''}"
            f"{f', normalizer={self._normalizer}' if self._normalizer else ''}"
            f"{f', unicode_version={self._unicode_version!r}' if self._unicode_version != NEWEST else ''})"
        )

    def __getstate__(self) -> dict[str, Any]:
        cached = ("_encoder", "_special_tokens", "_byte_lengths")
        return {name: value for name, value in self.__dict__.items() if name not in cached}

    @LocklessCachedProperty
    def _encoder(self) -> "TextEncoder":
        if self._characters is not None:
            return make_character_encoder(self._characters, self._written, self._rules)
        encoder = make_encoder(
            self._pattern, self._id_of, self._rules, self._whole_tokens(), unicode_version=self._unicode_version
        )
        if not self._normalizer:
            return encoder
        return NormalizingEncoder(
            encoder, self._normalizer, self._special_ids | self._added_ids, self._normalized_tokens
        )

    @LocklessCachedProperty
    def _special_tokens(self) -> "SpecialTokenSets":
        return SpecialTokenSets(self._special_ids, self._added_ids)

    @LocklessCachedProperty
    def _byte_lengths(self) -> "NDArray[np.int64]":
        """Bytes per id as a text is searched for it, special tokens as well; of written tokens with `characters`."""
        lengths = self.token_lengths()
        if self._characters is not None:
            for token_id, token in self._written.items():
                lengths[token_id] = len(token) if byte_of(token) is None else 1
        for name, token_id in self._special_ids.items():
            lengths[token_id] = len(name)
        return lengths

    def _whole_tokens(self) -> list[tuple[bytes, int]]:
        if not self._ignore_merges:
            return []
        apart = {*self._special_ids.values(), *self._added_ids.values()}
        return [(token, token_id) for token, token_id in self._id_of.items() if token_id not in apart]

    def _checked_added_tokens(self, added: Sequence[bytes], own_ids: Mapping[bytes, int]) -> dict[bytes, int]:
        for name in added:
            if name in self._special_ids or name not in self._id_of:
                where = "special token, too" if name in self._special_ids else "missing in the vocabulary"
                raise TokenizerError(f"added token {name.decode()!r} is {where}")
        return {name: own_ids.get(name, self._id_of[name]) for name in added}

    def _check_named_characters(self) -> None:
        for step in (self._pattern,) if isinstance(self._pattern, str) else self._pattern:
            newer = None if step in PATTERNS or step in DIGITS else newer_character_named(step, self._unicode_version)
            if newer is not None:
                raise TokenizerError(
                    f"pattern {step!r} names U+{ord(newer):04X}, which is of another class in Unicode "
                    f"{self._unicode_version} than in {NEWEST}, so that text with it may be split otherwise; leave it "
                    f"out of the pattern"
                )

    def _token(self, token_id: int, tokens: Mapping[int, bytes] | None = None) -> bytes:
        try:
            return (self._vocab if tokens is None else tokens)[token_id]
        except KeyError:
            raise TokenizerError(
                f"id {token_id} is not in the vocabulary, which has {len(self._vocab)} tokens and largest id "
                f"{self.vocab_size - 1}; use the tokenizer that made the ids"
            ) from None

    def _content(self) -> TokenizerContent:
        return TokenizerContent(
            source="this tokenizer",
            vocab=self._written,
            merges=self._merges,
            special_tokens=self.special_tokens,
            pattern=self._pattern,
            ignore_merges=self._ignore_merges,
            characters=self._characters,
            added_tokens=tuple(self.added_tokens),
            normalizer=self._normalizer,
            normalized_tokens=tuple(name.decode() for name in self._normalized_tokens),
            unicode_version=self._unicode_version,
            special_ids={
                name.decode(): token_id
                for name, token_id in (self._special_ids | self._added_ids).items()
                if self._id_of[name] != token_id
            },
        )
