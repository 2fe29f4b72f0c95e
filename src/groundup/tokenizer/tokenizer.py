"""Text to token ids and back."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from groundup.config import END_OF_TEXT
from groundup.errors import TokenizerError
from groundup.tokenizer import files
from groundup.tokenizer.core import load_core
from groundup.tokenizer.patterns import pattern_named
from groundup.tokenizer.special_tokens import checked_special_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from groundup.tokenizer import _native

LARGEST_ID = (1 << 24) - 1  # arrays are as long as the largest id: a stray huge one must not take all memory
_PIECE_CHARACTERS = 1 << 16  # encode_iterable takes longer strings apart, to give their first ids early


class Tokenizer:
    """A vocabulary and its merges, ready to encode text and decode ids.

    Encoding splits the text on special tokens (leftmost, of those the longest), splits what lies between with the
    pattern into pretokens, and within a pretoken merges, while there is a pair that merges, the one whose merge was
    learned first, leftmost first. That is what GPT-2 does (Radford et al. 2019), and with its files the ids are its.

    Tokens are bytes, so nothing is lost: `decode_bytes(encode_bytes(data)) == data` for any bytes, UTF-8 or not.

    A tokenizer never changes. Threads may share it; it can be pickled. Encoding needs the C++ core, the rest does not.

    Args:
        vocab: token bytes by id. Ids may have gaps. All 256 single bytes should be there; text that needs one that
            is not cannot be encoded.
        merges: pairs of tokens, the first learned first; both and their product must be in `vocab`.
        special_tokens: text that always is one token. Those that are not in `vocab` get ids from its largest + 1 on.
        pattern: name of the pattern that makes pretokens (`groundup.tokenizer.patterns`).

    Raises:
        TokenizerError: any of that does not hold; or two ids have the same bytes, or a merge is listed twice.
    """

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Sequence[str] | None = None,
        *,
        pattern: str = "gpt2",
    ) -> None:
        pattern_named(pattern)
        self._pattern = pattern
        self._vocab, self._id_of = _checked_vocab(vocab)
        names = checked_special_tokens(special_tokens)
        for name in names:
            if name not in self._id_of:
                new_id = self.vocab_size
                self._vocab[new_id] = name
                self._id_of[name] = new_id
        self._special_ids = {name: self._id_of[name] for name in names}
        self._merges = [(bytes(left), bytes(right)) for left, right in merges]
        self._rules = _checked_rules(self._merges, self._id_of)

    @classmethod
    def from_files(
        cls,
        vocab_filepath: str | os.PathLike[str],
        merges_filepath: str | os.PathLike[str],
        special_tokens: Sequence[str] | None = None,
    ) -> "Tokenizer":
        """A tokenizer from a vocabulary and a merges file in GPT-2's format, which is also what `save` writes.

        Raises:
            FileMissingError: one of the files does not exist.
            TokenizerError: one of them is damaged, or they do not fit together.
        """
        vocab, merges = files.read_vocab(Path(vocab_filepath)), files.read_merges(Path(merges_filepath))
        return cls(vocab, merges, special_tokens)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """The tokenizer that `save` wrote into a folder; `path` is the folder or a file in it.

        Folders with no more than GPT-2's two files (vocab.json and merges.txt, or encoder.json and vocab.bpe) load as
        well, with <|endoftext|> as special token if it is in the vocabulary.

        Raises:
            FileMissingError: the folder or one of its files does not exist.
            TokenizerError: a file is damaged, or is not the one that was saved.
        """
        found = files.find_files(Path(path))
        vocab, merges = files.read_vocab(found.vocab), files.read_merges(found.merges)
        if found.meta is None:
            return cls(vocab, merges, [END_OF_TEXT] if END_OF_TEXT.encode() in vocab.values() else [])
        meta = files.read_meta(found.meta)
        tokenizer = cls(vocab, merges, meta["special_tokens"], pattern=meta["pattern"])
        if tokenizer.sha256 != meta["sha256"]:
            raise TokenizerError(
                f"{found.vocab.parent}: the tokenizer has SHA-256 {tokenizer.sha256[:12]}…, and {found.meta.name} says "
                f"{meta['sha256'][:12]}…; a file was changed or is of another save, so save the tokenizer again"
            )
        return tokenizer

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes vocab.json, merges.txt and meta.json into the folder, which is made if need be.

        The first two are GPT-2's format, which other libraries read. Every file is replaced in one step, and a save
        that was cut short is noticed by `load`.
        """
        meta = {"pattern": self._pattern, "special_tokens": self.special_tokens, "sha256": self.sha256}
        files.write_files(Path(directory), self._vocab, self._merges, meta)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special tokens in it become their ids.

        A lone surrogate, which is no character, is encoded as U+FFFD, as tiktoken does; a pair of them as the
        character they stand for.
        """
        ids: list[int] = self.encode_bytes(_utf8(text)).tolist()
        return ids

    def encode_bytes(self, data: "Buffer") -> "NDArray[np.uint32]":
        """The ids, uint32 (N,), of text given as bytes; what is not UTF-8 in it is kept byte by byte."""
        return self._encoder.encode(data)

    def encode_iterable(self, iterable: Iterable[str]) -> Iterator[int]:
        """The ids of the joined strings, one after the other, however the text is cut into strings.

        Lazy, and in constant memory: no more is held back than the pretoken or special token that the next string may
        continue.
        """
        stream = self.stream()
        surrogate = ""  # the first half of a pair, whose second half the next string may begin with
        for text in iterable:
            for start in range(0, len(text), _PIECE_CHARACTERS):
                piece = surrogate + text[start : start + _PIECE_CHARACTERS]
                surrogate = piece[-1] if "\ud800" <= piece[-1] <= "\udbff" else ""
                yield from stream.feed(_utf8(piece.removesuffix(surrogate))).tolist()
        yield from stream.feed(_utf8(surrogate)).tolist()
        yield from stream.finish().tolist()

    def stream(self) -> "EncodeStream":
        """Encoding of a text that arrives in pieces."""
        return EncodeStream(self)

    def decode(self, ids: "Iterable[int] | NDArray[Any]") -> str:
        """The text of ids; bytes that are not UTF-8, as in half a character, become U+FFFD.

        Args:
            ids: integers, a list or a one-dimensional NumPy array or torch tensor.

        Raises:
            TokenizerError: an id is not in the vocabulary, or not an integer.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decode_bytes(self, ids: "Iterable[int] | NDArray[Any]") -> bytes:
        """The bytes of ids, which need not be valid UTF-8. Raises as `decode` does."""
        plain = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        try:
            return b"".join([self._vocab[token_id] for token_id in plain])
        except (KeyError, TypeError):
            raise self._unknown_id(plain) from None

    def token_id(self, token: str | bytes) -> int:
        """The id of a token given as text or bytes.

        Raises:
            TokenizerError: no token has exactly these bytes.
        """
        token_bytes = token.encode("utf-8", "replace") if isinstance(token, str) else token
        try:
            return self._id_of[token_bytes]
        except KeyError:
            raise TokenizerError(f"{token!r} is not a token; encode it to see the tokens it is made of") from None

    def token_lengths(self) -> "NDArray[np.int64]":
        """Bytes of text per id, int64 (vocab_size,); 0 for special tokens, which are not text, and for unused ids."""
        import numpy as np

        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for token_id, token in self._vocab.items():
            if token not in self._special_ids:
                lengths[token_id] = len(token)
        return lengths

    @property
    def vocab(self) -> Mapping[int, bytes]:
        """Token bytes by id, special tokens included; read-only."""
        return MappingProxyType(self._vocab)

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merges in the order they were learned (a copy)."""
        return list(self._merges)

    @property
    def special_tokens(self) -> list[str]:
        """The special tokens in the order they were given."""
        return [name.decode() for name in self._special_ids]

    @property
    def vocab_size(self) -> int:
        """Largest id + 1: the rows a model's embedding needs. 0 for an empty vocabulary."""
        return max(self._vocab, default=-1) + 1

    @property
    def pattern(self) -> str:
        """Name of the pattern that makes pretokens."""
        return self._pattern

    @functools.cached_property
    def sha256(self) -> str:
        """Hex digest of all that decides ids: pattern, special tokens, vocabulary, merges.

        It is taken over their JSON (sorted by id, bytes as hex), so it does not depend on how a file was written, nor
        on the order in which special tokens were named.
        """
        content = {
            "pattern": pattern_named(self._pattern),
            "special_tokens": sorted(self._special_ids.values()),
            "vocab": [[token_id, token.hex()] for token_id, token in sorted(self._vocab.items())],
            "merges": [[left.hex(), right.hex()] for left, right in self._merges],
        }
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def __repr__(self) -> str:
        return (
            f"Tokenizer({len(self._vocab)} tokens, {len(self._merges)} merges, "
            f"special_tokens={self.special_tokens}, pattern={self._pattern!r})"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_encoder"}

    @functools.cached_property
    def _encoder(self) -> "_native.Encoder":
        core = load_core()
        import numpy as np

        byte_ids = [self._id_of.get(bytes([byte]), -1) for byte in range(256)]
        rules = np.array(self._rules, dtype=np.uint32).reshape(-1, 3)
        encoder: _native.Encoder = core.Encoder(byte_ids, rules, list(self._special_ids.items()))
        return encoder

    def _unknown_id(self, ids: list[Any]) -> TokenizerError:
        for token_id in ids:
            if isinstance(token_id, list):
                return TokenizerError("ids have more than one dimension; decode one sequence at a time")
            if token_id not in self._vocab:
                break
        return TokenizerError(
            f"id {token_id!r} is not in the vocabulary, which has {len(self._vocab)} tokens and largest id "
            f"{self.vocab_size - 1}; decode with the tokenizer that made the ids"
        )


class EncodeStream:
    """A text that arrives in pieces, as bytes; made by `Tokenizer.stream`.

    The ids that `feed` and `finish` return are together those of the whole text, wherever it was cut: inside a
    character, a special token, or a run of white space. An error ends the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._stream = load_core().EncodeStream(tokenizer._encoder)

    def feed(self, data: "Buffer") -> "NDArray[np.uint32]":
        """The ids, uint32 (N,), that no further text can change."""
        ids: NDArray[np.uint32] = self._stream.feed(data)
        return ids

    def finish(self) -> "NDArray[np.uint32]":
        """The ids of what was held back, uint32 (N,). The stream is then ready for another text."""
        ids: NDArray[np.uint32] = self._stream.finish()
        return ids


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _checked_vocab(vocab: Mapping[int, bytes]) -> tuple[dict[int, bytes], dict[bytes, int]]:
    tokens: dict[int, bytes] = {}
    ids: dict[bytes, int] = {}
    for token_id, token in vocab.items():
        if not isinstance(token, bytes):
            raise TokenizerError(f"token {token_id!r} is {token!r} of type {type(token).__name__}; tokens are bytes")
        if not isinstance(token_id, int) or not 0 <= token_id <= LARGEST_ID:
            raise TokenizerError(f"token {token!r} has the id {token_id!r}; ids are integers from 0 to {LARGEST_ID}")
        if not token:
            raise TokenizerError(f"token {token_id} is empty; every token has at least one byte")
        if token in ids:
            raise TokenizerError(f"ids {ids[token]} and {token_id} are the same bytes {token!r}; keep one of them")
        tokens[token_id] = token
        ids[token] = token_id
    return tokens, ids


def _checked_rules(merges: list[tuple[bytes, bytes]], id_of: dict[bytes, int]) -> list[tuple[int, int, int]]:
    rules = []
    for number, (left, right) in enumerate(merges):
        try:
            rules.append((id_of[left], id_of[right], id_of[left + right]))
        except KeyError as error:
            raise TokenizerError(
                f"merge {number} of {left!r} and {right!r}: {error.args[0]!r} is not in the vocabulary; "
                "vocabulary and merges must come from the same training"
            ) from None
    if len(set(merges)) < len(merges):
        number, pair = next((number, pair) for number, pair in enumerate(merges) if merges.index(pair) < number)
        raise TokenizerError(f"merge {number} of {pair[0]!r} and {pair[1]!r} is listed before; a pair merges once")
    return rules
