"""Byte-pair encoding on characters with byte fallback, as in SentencePiece (Llama 2, Mistral v1, Gemma).

The text is not split into words. A space becomes "▁" (U+2581), merges run over whole stretches of text between special
tokens, and a character that is not in the vocabulary becomes its UTF-8 bytes, each a token such as "<0x0A>".

So two tokens may decode to the same bytes ("a" and "<0x61>"), and "▁" in a text is decoded as a space. Tokens have two
forms: the *written* form, which files and merges use and which is unique, and the bytes of text that it decodes to.
Both are UTF-8 here.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from groundup.errors import TokenizerError
from groundup.tokenizer.arguments import as_bytes, plain_ids
from groundup.tokenizer.encoders import load_core
from groundup.tokenizer.streams import DecodeStream
from groundup.tokenizer.vocabulary import Rules, rule_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from groundup.tokenizer import _native

SPACE_MARK = "▁"
_SPACE_MARK = SPACE_MARK.encode()
LARGEST_CHARACTER_ID = (1 << 21) - 1
_BYTE_TOKEN = re.compile(rb"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")  # what `tokenizers` decodes as a byte

Prefix = Literal["never", "always", "unless_there", "first_unless_there"]


@dataclass(frozen=True, kw_only=True)
class Characters:
    """Options of encoding whole texts on characters. The defaults are Gemma's.

    Raises:
        TokenizerError: an option has an unknown value.
    """

    prefix: Prefix = "never"
    """Where a space is put before text: "never"; "always", before each stretch between special tokens (Llama 2);
    "unless_there", before stretches that do not begin with one; "first_unless_there", only at the beginning of the text
    and if it does not begin with one."""
    split: bool = False
    """Whether no token crosses the beginning of a word, regardless of the merges."""
    strip: bool = False
    """Whether decoding removes one space from the beginning."""

    def __post_init__(self) -> None:
        kinds = {"prefix": get_args(Prefix), "split": (False, True), "strip": (False, True)}
        for name, value in asdict(self).items():
            if not any(value is known or (name == "prefix" and value == known) for known in kinds[name]):
                raise TokenizerError(f"characters.{name} is {value!r}; expected one of {kinds[name]}")


def byte_of(written: bytes) -> int | None:
    """The byte of a byte token such as "<0x0A>"; None for other tokens."""
    found = _BYTE_TOKEN.fullmatch(written)
    return int(found[1], 16) if found else None


def text_of(written: bytes) -> bytes:
    """The bytes of text of a written token."""
    byte = byte_of(written)
    return written.replace(_SPACE_MARK, b" ") if byte is None else bytes([byte])


def written_forms(token: bytes) -> Iterator[bytes]:
    """Written tokens that decode to these bytes, in the order in which encoding prefers them."""
    yield token.replace(b" ", _SPACE_MARK)
    yield token
    if len(token) == 1:
        yield byte_token(token[0])


def byte_token(byte: int) -> bytes:
    """The written token of a byte."""
    return b"<0x%02X>" % byte


def check_characters(written: Mapping[int, bytes], merges: Iterable[tuple[bytes, bytes]]) -> None:
    """Check that every text can be encoded, and that byte tokens do not merge.

    Raises:
        TokenizerError: an id is too large; a byte of UTF-8 has no token; or a merge has a byte token.
    """
    tokens = set(written.values())
    if max(written, default=0) > LARGEST_CHARACTER_ID:
        raise TokenizerError(
            f"a vocabulary of characters has the id {max(written)}; expected at most {LARGEST_CHARACTER_ID}"
        )
    for byte in (*range(0x80), *range(0x80, 0xC0), *range(0xC2, 0xF5)):
        if byte_token(byte) not in tokens and not (byte < 0x80 and text_key(byte) in tokens):
            raise TokenizerError(
                f"a vocabulary of characters lacks the token {byte_token(byte).decode()}; expected a token for every "
                f"byte, for byte fallback"
            )
    for left, right in merges:
        for token in (left, right, left + right):
            if token.startswith(b"<0x") and byte_of(token) is not None:
                raise TokenizerError(
                    f"the merge of {left!r} and {right!r} has the byte token {token!r}; byte tokens must not merge"
                )


def text_key(byte: int) -> bytes:
    """The written token of an ASCII character."""
    return _SPACE_MARK if byte == 0x20 else bytes([byte])


def make_character_encoder(characters: Characters, written: Mapping[int, bytes], rules: Rules) -> "_native.Encoder":
    """The encoder of a tokenizer on characters."""
    import numpy as np

    id_of = {token: token_id for token_id, token in written.items()}
    codes = [
        (ord(text), token_id)
        for token_id, token in written.items()
        if len(token) <= 4 and len(text := token.decode("utf-8", "replace")) == 1 and text.encode() == token
    ]
    return load_core().Encoder.of_characters(
        np.array(codes, np.uint32).reshape(-1, 2),
        [id_of.get(byte_token(byte), -1) for byte in range(256)],
        rule_array(rules),
        get_args(Prefix).index(characters.prefix),
        characters.split,
    )


def replaced(written: Iterable[bytes]) -> str:
    """Decode written tokens. As in `tokenizers`, a run of byte tokens is either valid UTF-8 or all U+FFFD."""
    text: list[str] = []
    run = bytearray()
    for token in written:
        byte = byte_of(token)
        if byte is not None:
            run.append(byte)
            continue
        text.append(_text_of_run(run))
        run.clear()
        text.append(text_of(token).decode("utf-8", "replace"))
    text.append(_text_of_run(run))
    return "".join(text)


def _text_of_run(run: bytearray) -> str:
    try:
        return run.decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(run)


class CharacterDecodeStream(DecodeStream):
    """`DecodeStream` of a tokenizer on characters.

    A run of byte tokens is held back until another token comes, because a later byte decides whether the run is valid
    UTF-8.
    """

    def __init__(self, characters: Characters, written: "Callable[[list[int]], list[bytes]]") -> None:
        self._strip = characters.strip
        self._written = written
        self._run: list[bytes] = []
        self._at_start = True

    def feed(self, ids: "int | Iterable[int] | NDArray[Any]") -> str:
        """Return the characters that these ids complete. Arguments and errors as for `DecodeStream.feed`."""
        if not isinstance(ids, int | list) and hasattr(ids, "tolist"):
            ids = ids.tolist()
        tokens = [*self._run, *self._written(plain_ids(ids if isinstance(ids, Iterable) else [ids]))]
        held = len(tokens)
        while held > 0 and byte_of(tokens[held - 1]) is not None:
            held -= 1
        self._run = tokens[held:]
        return self._stripped(replaced(tokens[:held]))

    def finish(self) -> str:
        """Return the text held back. The stream is then ready for another text."""
        rest, self._run = self._stripped(replaced(self._run)), []
        self._at_start = True
        return rest

    def _stripped(self, text: str) -> str:
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ") if self._strip else text
        return text


def character_offsets(
    text: "str | Buffer", lengths: "NDArray[np.int64]", specials: "_native.SpecialTokens", prefix: Prefix
) -> "NDArray[np.int64]":
    """Begin and end of each token in the text, int64 (N, 2), as from `encoders.offsets_of`.

    A space that was put before the text belongs to the first character.

    Args:
        lengths: ``(N,)``, bytes of each written token; 1 for byte tokens.
        specials: the special tokens that were recognized.
    """
    import numpy as np

    data = as_bytes(text)
    array = np.frombuffer(data, np.uint8)
    copies = np.ones(len(data), np.int64)  # number of bytes in the written text from each byte
    begin = 0
    while begin < len(data):
        found = specials.find(data, begin)
        end = found[0] if found else len(data)
        if end > begin:
            copies[begin:end][array[begin:end] == 0x20] = len(_SPACE_MARK)
            is_there = data.startswith((b" ", _SPACE_MARK), begin)
            wanted = {"never": False, "always": True, "unless_there": not is_there}
            if wanted.get(prefix, begin == 0 and not is_there):
                copies[begin] += len(_SPACE_MARK)
        begin = found[1] if found else len(data)
    origin = np.repeat(np.arange(len(data)), copies)
    ends = np.cumsum(lengths, dtype=np.int64)
    offsets = np.stack([origin[ends - lengths], origin[ends - 1] + 1], axis=1).reshape(-1, 2)
    if not isinstance(text, str) or text.isascii():
        return offsets
    character = np.cumsum((array & 0xC0) != 0x80) - 1
    return np.stack([character[offsets[:, 0]], character[offsets[:, 1] - 1] + 1], axis=1)
