"""Streams of decompressed content, and of text in other encodings as UTF-8."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from groundup.errors import DataError, MissingExtraError
from groundup.text.options import utf8

_BYTE_ORDER_MARK = "\ufeff"
_BLOCK_BYTES = 1 << 16

# A zstd block of four bytes can decompress to 128 KiB. Small inputs bound the output of one call.
_ZSTD_FEED_BYTES = 2048
_ZSTD_MAX_WINDOW = 1 << 31


@contextmanager
def open_stream(path: Path, file: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of ``file``, as a buffered stream.

    Args:
        compression: ``".gz"``, ``".zst"``, or ``""`` for none.

    Raises:
        DataError: while reading, if the compressed data is damaged or truncated.
        MissingExtraError: zstandard is not installed.
    """
    if not compression:
        yield file
    elif compression == ".gz":
        yield from _gzip(path, file)
    else:
        yield io.BufferedReader(_ZstdStream(path, file), 1 << 20)


def _gzip(path: Path, file: BinaryIO) -> Iterator[BinaryIO]:
    import gzip
    import zlib

    try:
        with gzip.GzipFile(fileobj=file) as stream:
            yield stream  # type: ignore[misc]  # GzipFile has the reading methods of BinaryIO
    except EOFError:
        raise DataError(_truncated(path, "gzip")) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a valid gzip file: {error}; copy or compress it again") from None


class _ZstdStream(io.RawIOBase):
    """Stream of consecutive zstd frames, decompressed. Unlike zstandard's reader it detects a truncated last frame."""

    def __init__(self, path: Path, file: BinaryIO):
        try:
            import zstandard
        except ImportError:
            raise MissingExtraError.for_package("zstandard", "zstd", f"reading {path.name}") from None
        self._path, self._file, self._zstandard = path, file, zstandard
        self._frame: Any = None
        self._fed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            self._fed = self._fed or self._file.read(_ZSTD_FEED_BYTES)
            if not self._fed:
                if self._frame is not None:
                    raise DataError(_truncated(self._path, "zstd"))
                return 0
            self._decompress()
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompress(self) -> None:
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).decompressobj()
        try:
            self._ready = self._frame.decompress(self._fed)
        except self._zstandard.ZstdError as error:
            reason = str(error).removeprefix("zstd decompressor error: ")
            raise DataError(f"{self._path} is not a valid zstd file: {reason}; copy or compress it again") from None
        self._fed = b""
        if self._frame.eof:
            self._fed, self._frame = self._frame.unused_data, None


def _truncated(path: Path, format_name: str) -> str:
    return f"{path} is truncated: it ends in the middle of its {format_name} data; copy it again"


class Transcoded(io.RawIOBase):
    """Stream that decodes text from another encoding and returns it as UTF-8, without the byte order mark.

    Raises:
        DataError: while reading, at bytes that are invalid in this encoding; names the first one.
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
            text, self._at_start = text.removeprefix(_BYTE_ORDER_MARK), False
        return utf8(text)
