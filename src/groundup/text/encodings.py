"""Text as UTF-8, whatever its encoding was."""

import codecs
import io
from pathlib import Path
from typing import Any, BinaryIO

from groundup.errors import DataError

BYTE_ORDER_MARK = "\ufeff"
_BLOCK_BYTES = 1 << 16


def utf8(text: str) -> bytes:
    """The text as it is encoded: a lone surrogate becomes U+FFFD, a pair of them the character they stand for."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def separator_bytes(separator: str) -> bytes:
    """What stands between documents, as it is looked for in a file.

    Raises:
        DataError: it is empty, or no text has it.
    """
    if not separator:
        raise DataError("the separator is empty; name a token such as <|endoftext|>, or None for one document a file")
    try:
        return separator.encode()
    except UnicodeEncodeError:
        raise DataError(f"the separator {separator!r} has a lone surrogate, which no text has; use another") from None


class Transcoded(io.RawIOBase):
    """A stream of another encoding as UTF-8, without the byte order mark at its beginning.

    Raises:
        DataError: while reading, at bytes that are not of this encoding; names the first one.
    """

    def __init__(self, path: Path, stream: BinaryIO, encoding: str):
        self._path, self._stream, self._encoding = path, stream, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._fed = 0
        self._at_start = True

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            data = self._stream.read(_BLOCK_BYTES)
            self._ready = self._decode(data)
            if not data:
                break
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decode(self, data: bytes) -> bytes:
        held_back = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeError as error:
            place = ""
            if isinstance(error, UnicodeDecodeError):
                byte = self._fed - held_back + error.start
                place = f" at byte {byte} ({error.object[error.start : error.end].hex(' ')}: {error.reason})"
            raise DataError(
                f"{self._path} is not {self._encoding}{place}; check --encoding, or mend the text"
            ) from None
        self._fed += len(data)
        if self._at_start and text:
            text, self._at_start = text.removeprefix(BYTE_ORDER_MARK), False
        return utf8(text)
