"""Encoder that normalizes text first.

As in `tokenizers`, some special tokens are searched in the original text. Each stretch between them is normalized
separately, and the other special tokens are searched in the result.
"""

import codecs
import functools
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from groundup.text.options import utf8
from groundup.tokenizer.arguments import as_bytes, checked_text
from groundup.tokenizer.encoders import TextEncoder, load_core, offsets_of
from groundup.tokenizer.normalization.normalizers import Normalizer, apply_steps, begins_anew, is_normal, normal_spans
from groundup.tokenizer.streams import EncodeStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from groundup.tokenizer import _native


class _Specials(NamedTuple):
    """Special tokens of a call, searched in the original text (``as_is``) or in the normalized text."""

    as_is: "_native.SpecialTokens"
    normalized: "_native.SpecialTokens"
    beginnings: frozenset[bytes]
    """Proper prefixes of the tokens in ``as_is``."""


class NormalizingEncoder:
    """Normalize texts, then encode them with another encoder. Text that is already normal is passed on unchanged.

    Args:
        encoder: encodes normal text.
        normalizer: the steps.
        special_ids: ids of all special tokens.
        normalized: the special tokens that are searched in the normalized text.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        normalizer: Normalizer,
        special_ids: dict[bytes, int],
        normalized: Collection[bytes],
    ) -> None:
        self._encoder = encoder
        self._normalizer = normalizer
        self._name_of = {token_id: name for name, token_id in special_ids.items()}
        self._normalized = frozenset(normalized)
        self._parts_of = functools.lru_cache(maxsize=64)(self._divided)

    def encode_to_list(self, text: "str | Buffer", specials: "_native.SpecialTokens") -> list[int]:
        if self._is_normal(text):
            return self._encoder.encode_to_list(text, specials)
        ids: list[int] = self._encode(text, specials).tolist()
        return ids

    def encode_to_array(
        self, text: "str | Buffer", specials: "_native.SpecialTokens", threads: int = 1
    ) -> "NDArray[np.uint32]":
        if self._is_normal(text):
            return self._encoder.encode_to_array(text, specials, threads)
        return self._encode(text, specials)

    def encode_batch_to_lists(
        self, texts: "list[str | Buffer]", specials: "_native.SpecialTokens", threads: int = 1
    ) -> list[list[int]]:
        if all(map(self._is_normal, texts)):
            return self._encoder.encode_batch_to_lists(texts, specials, threads)
        ids, ends = self.encode_batch_to_arrays(texts, specials, threads)
        begins = [0, *ends.tolist()]
        return [ids[begin:end].tolist() for begin, end in pairwise(begins)]

    def encode_batch_to_arrays(
        self, texts: "list[str | Buffer]", specials: "_native.SpecialTokens", threads: int = 1, last: int | None = None
    ) -> "tuple[NDArray[np.uint32], NDArray[np.uint64]]":
        import numpy as np

        changed = [number for number, text in enumerate(texts) if not self._is_normal(text)]
        if not changed:
            return self._encoder.encode_batch_to_arrays(texts, specials, threads, last)
        # Texts that are not normal are encoded separately and inserted between the others.
        unchanged = list(texts)
        for number in changed:
            unchanged[number] = b""
        ids, ends = self._encoder.encode_batch_to_arrays(unchanged, specials, threads, last)
        added = {number: self._encode(texts[number], specials) for number in changed}
        pieces: list[NDArray[np.uint32]] = []
        begin = 0
        for number in changed:
            end = int(ends[number]) - (last is not None)
            pieces += [ids[begin:end], added[number]]
            begin = end
        counts = np.zeros(len(texts), np.uint64)
        counts[changed] = [len(added[number]) for number in changed]
        return np.concatenate([*pieces, ids[begin:]]), ends + np.cumsum(counts, dtype=np.uint64)

    def count(self, text: "str | Buffer", specials: "_native.SpecialTokens") -> int:
        return self._encoder.count(text, specials) if self._is_normal(text) else len(self._encode(text, specials))

    def stream(self, specials: "_native.SpecialTokens") -> EncodeStream:
        parts = self._parts_of(specials)
        return NormalizingStream(self._normalizer, self._encoder.stream(parts.normalized), parts)

    def offsets(
        self, text: "str | Buffer", specials: "_native.SpecialTokens", byte_lengths: "NDArray[np.int64]"
    ) -> "NDArray[np.int64]":
        """Begin and end of each token in the original text, int64 (N, 2), from the byte length of each, (N,).

        Offsets count characters of a str and bytes of bytes. In text that was not normal, a token with a part of a
        character covers the whole character.
        """
        import numpy as np

        if self._is_normal(text):
            return offsets_of(text, byte_lengths)
        sizes_in_bytes: list[int] = []  # of the characters of the normalized text
        origins: list[NDArray[np.int64]] = []  # begin and end of each of them in the original text
        begin = 0
        for piece, special in self._pieces(as_bytes(text), self._parts_of(specials)):
            original = str(piece, "utf-8", "surrogateescape")
            normal, origin = (original, None) if special is not None else normal_spans(self._normalizer, original)
            # Start of each character of the piece, and end of the last.
            sizes = [1] * len(original) if isinstance(text, str) else [len(_bytes_of(c)) for c in original]
            places = begin + np.cumsum([0, *sizes])
            own = [(i, i + 1) for i in range(len(original))] if origin is None else origin
            origins.append(places[np.array(own, np.int64).reshape(-1, 2)])
            sizes_in_bytes += [len(_bytes_of(character)) for character in normal]
            begin = int(places[-1])
        character_of_byte = np.repeat(np.arange(len(sizes_in_bytes)), sizes_in_bytes)
        ends = np.cumsum(byte_lengths, dtype=np.int64)
        spans = np.concatenate(origins)
        first, last = character_of_byte[ends - byte_lengths], character_of_byte[ends - 1]
        return np.stack([spans[first, 0], spans[last, 1]], axis=1)

    def _is_normal(self, text: "str | Buffer") -> bool:
        if isinstance(text, str):
            if text.isascii():
                return is_normal(self._normalizer, text)
            try:
                text.encode()
            except UnicodeEncodeError:  # a surrogate pair is a character
                text = utf8(text).decode()
            return is_normal(self._normalizer, text)
        data = text if isinstance(text, bytes | bytearray) else bytes(text)
        return is_normal(self._normalizer, str(data, "utf-8", "surrogateescape"))

    def _encode(self, text: "str | Buffer", specials: "_native.SpecialTokens") -> "NDArray[np.uint32]":
        """The ids of a text that is not normal."""
        import numpy as np

        normalized = self._parts_of(specials).normalized
        ids = [np.empty(0, np.uint32)]
        for piece, special in self._pieces(as_bytes(text), self._parts_of(specials)):
            if special is not None:
                ids.append(np.array([special], np.uint32))
            else:
                ids.append(self._encoder.encode_to_array(_normal(self._normalizer, piece), normalized, 1))
        return np.concatenate(ids)

    def _pieces(self, data: bytes, parts: _Specials) -> Iterator[tuple[bytes, int | None]]:
        """The stretches of a text, and the special tokens between them with their ids."""
        begin = 0
        while found := parts.as_is.find(data, begin):
            yield data[begin : found[0]], None
            yield data[found[0] : found[1]], found[2]
            begin = found[1]
        yield data[begin:], None

    def _divided(self, specials: "_native.SpecialTokens") -> _Specials:
        named = [(self._name_of[token_id], token_id) for token_id in specials.ids]
        as_is = [(name, token_id) for name, token_id in named if name not in self._normalized]
        make = load_core().SpecialTokens
        return _Specials(
            make(as_is),
            make([(name, token_id) for name, token_id in named if name in self._normalized]),
            frozenset(name[:size] for name, _ in as_is for size in range(1, len(name))),
        )


class NormalizingStream:
    """Stream that normalizes and encodes a text that arrives in pieces.

    It holds back the possible beginning of a special token, and the last character with its combining characters, which
    later combining characters may change.
    """

    def __init__(self, normalizer: Normalizer, stream: EncodeStream, specials: _Specials) -> None:
        self._normalizer = normalizer
        self._stream = stream
        self._specials = specials
        self._longest = max(map(len, specials.beginnings), default=0)
        self._reset()

    def feed(self, data: "str | Buffer", /) -> "NDArray[np.uint32]":
        text = self._characters.decode(as_bytes(checked_text(data)))
        return self._advance(text, complete=False)

    def finish(self) -> "NDArray[np.uint32]":
        ids = self._advance(self._characters.decode(b"", final=True), complete=True)
        self._reset()
        return ids

    def _reset(self) -> None:
        self._characters = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._held = bytearray()
        self._searched = 0  # no special token and no possible cut is in (0, searched)

    def _advance(self, text: str, *, complete: bool) -> "NDArray[np.uint32]":
        import numpy as np

        ids = [np.empty(0, np.uint32)]
        self._held += _bytes_of(text)
        while found := self._specials.as_is.find(self._held, max(0, self._searched - self._longest)):
            begin, end, token_id = found
            undecided = len(self._held) if complete else self._undecided()
            if undecided <= begin:
                break
            ids.append(self._stream.feed(_normal(self._normalizer, bytes(self._held[:begin]))))
            ids += [self._stream.finish(), np.array([token_id], np.uint32)]
            del self._held[:end]
            self._searched = 0
        cut = len(self._held) if complete else self._last_cut(self._undecided())
        if cut:
            ids.append(self._stream.feed(_normal(self._normalizer, bytes(self._held[:cut]))))
            del self._held[:cut]
        self._searched = len(self._held)
        if complete:
            ids.append(self._stream.finish())
        return np.concatenate(ids)

    def _undecided(self) -> int:
        """Position of the first special token that may be incomplete; the end of the text without one."""
        size = len(self._held)
        for begin in range(max(0, size - self._longest), size):
            if bytes(self._held[begin:]) in self._specials.beginnings:
                return begin
        return size

    def _last_cut(self, limit: int) -> int:
        """The last position, at most `limit`, before which later text changes nothing; 0 without one."""
        from_here = max(0, min(self._searched, limit) - self._longest)
        while 0 < from_here < limit and (self._held[from_here] & 0xC0) == 0x80:
            from_here -= 1
        text = str(self._held[from_here:limit], "utf-8", "surrogateescape")
        for place in range(len(text) - 1, -1, -1):
            if begins_anew(self._normalizer, text[place]):
                return from_here + len(_bytes_of(text[:place]))
        return 0


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _normal(normalizer: Normalizer, piece: bytes) -> bytes:
    return _bytes_of(apply_steps(normalizer, str(piece, "utf-8", "surrogateescape")))
