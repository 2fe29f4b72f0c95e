"""Encoders from text to ids: the C++ core for the built-in patterns, with `regex` before it for any other."""

import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from groundup.errors import TokenizerError
from groundup.tokenizer.arguments import as_bytes, checked_text
from groundup.tokenizer.patterns import PATTERNS, Pattern, pretoken_ends
from groundup.tokenizer.streams import EncodeStream
from groundup.tokenizer.vocabulary import Rules, rule_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from groundup.tokenizer import _native


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


class TextEncoder(Protocol):
    """Texts, str or UTF-8, to ids; the special tokens that are found in them come with each call."""

    def encode_to_list(self, text: "str | Buffer", specials: "_native.SpecialTokens", /) -> list[int]: ...
    def encode_to_array(
        self, text: "str | Buffer", specials: "_native.SpecialTokens", threads: int, /
    ) -> "NDArray[np.uint32]": ...
    def encode_batch_to_lists(
        self, texts: "list[str | Buffer]", specials: "_native.SpecialTokens", threads: int, /
    ) -> list[list[int]]: ...
    def encode_batch_to_arrays(
        self, texts: "list[str | Buffer]", specials: "_native.SpecialTokens", threads: int, last: int | None, /
    ) -> "tuple[NDArray[np.uint32], NDArray[np.uint64]]": ...
    def count(self, text: "str | Buffer", specials: "_native.SpecialTokens", /) -> int: ...
    def stream(self, specials: "_native.SpecialTokens", /) -> EncodeStream: ...


def make_encoder(
    pattern: Pattern,
    id_of: Mapping[bytes, int],
    rules: Rules,
    whole: list[tuple[bytes, int]],
    *,
    unicode_version: str,
) -> TextEncoder:
    """The encoder of a tokenizer.

    Args:
        pattern: name of a built-in pattern, or a regular expression, or several.
        id_of: ids of tokens.
        rules: merges as ids.
        whole: pretokens that are one id, whatever the merges make of them.
        unicode_version: whose character classes the pattern means.
    """
    core = load_core()
    byte_ids = [id_of.get(bytes([byte]), -1) for byte in range(256)]
    if pattern in PATTERNS:
        encoder: TextEncoder = core.Encoder(byte_ids, rule_array(rules), whole, pattern, unicode_version)
        return encoder
    warnings.warn(
        f"the pattern {pattern!r} is not built in, so the regex package splits the text, on one thread and tens of "
        f"times more slowly; built in are: {', '.join(PATTERNS)}",
        stacklevel=5,  # the caller of the tokenizer's method
    )
    return RegexEncoder(core.Encoder(byte_ids, rule_array(rules), whole, "gpt2"), pattern, unicode_version)


class RegexEncoder:
    """An encoder whose pretokens are the matches of regular expressions, and what lies between them.

    It runs on one thread, which the `regex` package holds.
    """

    def __init__(self, encoder: "_native.Encoder", pattern: Pattern, unicode_version: str) -> None:
        self._encoder = encoder
        self._pattern = pattern
        self._unicode_version = unicode_version

    def encode_to_array(
        self, text: "str | Buffer", specials: "_native.SpecialTokens", threads: int = 1
    ) -> "NDArray[np.uint32]":
        import numpy as np

        return np.concatenate([np.empty(0, dtype=np.uint32), *self._pieces(text, specials)])

    def encode_to_list(self, text: "str | Buffer", specials: "_native.SpecialTokens") -> list[int]:
        ids: list[int] = self.encode_to_array(text, specials).tolist()
        return ids

    def encode_batch_to_lists(
        self, texts: "list[str | Buffer]", specials: "_native.SpecialTokens", threads: int = 1
    ) -> list[list[int]]:
        return [self.encode_to_list(text, specials) for text in texts]

    def encode_batch_to_arrays(
        self, texts: "list[str | Buffer]", specials: "_native.SpecialTokens", threads: int = 1, last: int | None = None
    ) -> "tuple[NDArray[np.uint32], NDArray[np.uint64]]":
        import numpy as np

        ending = np.array([] if last is None else [last], dtype=np.uint32)
        encoded = [np.concatenate([self.encode_to_array(text, specials), ending]) for text in texts]
        ends = np.cumsum([len(ids) for ids in encoded], dtype=np.uint64)
        return np.concatenate([np.empty(0, dtype=np.uint32), *encoded]), ends

    def count(self, text: "str | Buffer", specials: "_native.SpecialTokens") -> int:
        return sum(map(len, self._pieces(text, specials)))

    def stream(self, specials: "_native.SpecialTokens") -> EncodeStream:
        return HeldStream(self, specials)

    def _pieces(self, text: "str | Buffer", specials: "_native.SpecialTokens") -> "Iterator[NDArray[np.uint32]]":
        import numpy as np

        data = as_bytes(text)
        begin = 0
        while begin < len(data):
            found = specials.find(data, begin)
            piece = data[begin : found[0] if found else len(data)]
            if piece:
                ends = pretoken_ends(piece, self._pattern, self._unicode_version)
                yield self._encoder.encode_pretokens(piece, ends)
            if found is None:
                return
            yield np.array([found[2]], dtype=np.uint32)
            begin = found[1]


class HeldStream:
    """A stream that holds the text until it is complete: how much of it more text could change, only `regex` knows."""

    def __init__(self, encoder: RegexEncoder, specials: "_native.SpecialTokens") -> None:
        self._encoder = encoder
        self._specials = specials
        self._held = bytearray()

    def feed(self, data: "str | Buffer", /) -> "NDArray[np.uint32]":
        import numpy as np

        self._held += as_bytes(checked_text(data))
        return np.empty(0, dtype=np.uint32)

    def finish(self) -> "NDArray[np.uint32]":
        held, self._held = bytes(self._held), bytearray()
        return self._encoder.encode_to_array(held, self._specials)


def offsets_of(text: "str | Buffer", byte_lengths: "NDArray[Any]") -> "NDArray[np.int64]":
    """Begin and end of each token, int64 (N, 2), from the bytes of each, (N,), which are together those of the text.

    In a str they count characters, and a token with a part of a character covers all of it. Lone surrogates are U+FFFD
    and pairs of them one character, as in encoding. In bytes they count bytes.
    """
    import numpy as np

    ends = np.cumsum(byte_lengths, dtype=np.int64)
    offsets = np.stack([ends - byte_lengths, ends], axis=1).astype(np.int64)
    if not isinstance(text, str) or text.isascii():
        return offsets
    data = np.frombuffer(as_bytes(text), dtype=np.uint8)
    # The number of the character that each byte belongs to.
    character = np.cumsum((data & 0xC0) != 0x80) - 1
    return np.stack([character[offsets[:, 0]], character[offsets[:, 1] - 1] + 1], axis=1)
