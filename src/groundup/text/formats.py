"""What stands around the text in a file: compression, JSON lines, parquet. ``readers`` decides which applies."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from groundup.errors import DataError, MissingExtraError

# A zstd block of four bytes can stand for 128 KiB, so what one call may return is bounded by what it is fed.
_ZSTD_FEED_BYTES = 2048
_ZSTD_MAX_WINDOW = 1 << 31
_PARQUET_ROWS = 256


@contextmanager
def open_stream(path: Path, file: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of ``file``, as a buffered stream.

    Args:
        compression: ``".gz"``, ``".zst"``, or ``""`` for none.

    Raises:
        DataError: while reading, where the compressed data is broken or stops early.
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
            yield stream  # type: ignore[misc]  # GzipFile reads as a BinaryIO does
    except EOFError:
        raise DataError(_truncated(path, "gzip")) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a sound gzip file: {error}; copy or compress it again") from None


class _ZstdStream(io.RawIOBase):
    """Decompresses frame after frame. Unlike the library's own reader it notices when the last one is cut off."""

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
            raise DataError(f"{self._path} is not a sound zstd file: {reason}; copy or compress it again") from None
        self._fed = b""
        if self._frame.eof:
            self._fed, self._frame = self._frame.unused_data, None


def _truncated(path: Path, format_name: str) -> str:
    return f"{path} stops in the middle of its {format_name} data, so it is cut off; copy it again"


def json_documents(path: Path, lines: BinaryIO, field: str) -> Iterator[bytes]:
    """The text in ``field`` of the object on each line, as UTF-8. Blank lines are passed over.

    A lone surrogate, which JSON can write and UTF-8 cannot, is kept as its three bytes (WTF-8).

    Raises:
        DataError: naming file and line: not JSON, not an object, no such field, or not a string in it.
    """
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.isspace() or not line:
            continue
        try:
            row = json.loads(line.decode().rstrip())
        except json.JSONDecodeError as error:
            place = f"{error.msg}, column {error.colno}"
            raise DataError(f"{path}, line {number} is not JSON ({place}); mend or remove the line") from None
        except UnicodeDecodeError as error:
            place = f"byte {error.object[error.start]:#04x}, column {error.start + 1}"
            raise DataError(f"{path}, line {number} is not UTF-8 ({place}); mend or remove the line") from None
        except RecursionError:
            raise DataError(f"{path}, line {number} is nested too deeply to be read; remove the line") from None
        yield _field_text(f"{path}, line {number}", row, field).encode("utf-8", "surrogatepass")


def _field_text(place: str, row: object, field: str) -> str:
    if not isinstance(row, dict):
        raise DataError(f"{place} holds {_json_type(row)}; expected an object with the field {field!r}")
    if field not in row:
        names = ", ".join(map(repr, row)) or "no field at all"
        raise DataError(f"{place} has no field {field!r}; it has {names}; name the field that holds the text")
    text = row[field]
    if not isinstance(text, str):
        raise DataError(f"{place}: the field {field!r} holds {_json_type(text)}; expected a string")
    return text


def _json_type(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def parquet_documents(path: Path, column: str) -> Iterator[tuple[float, bytes]]:
    """The text of each row, with the fraction of rows that are read by then.

    Raises:
        DataError: not a parquet file, no such column, or no text in it.
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError.for_package("pyarrow", "parquet", f"reading {path.name}") from None
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_column(path, file.schema_arrow, column)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[column]):
                # As binary the text is taken as it lies in the file, without decoding and encoding it again.
                for data in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                    row += 1
                    if data is None:
                        raise DataError(f"{path}, row {row}: the column {column!r} is null; expected text")
                    yield row / file.metadata.num_rows, data
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{path} is not a sound parquet file: {reason}; copy or write it again") from None


def _check_column(path: Path, schema: Any, column: str) -> None:
    import pyarrow.types as types

    if column not in schema.names:
        names = ", ".join(map(repr, schema.names))
        raise DataError(f"{path} has no column {column!r}; it has {names}; name the column that holds the text")
    kind = schema.field(column).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    ):
        raise DataError(f"{path}: the column {column!r} holds {kind}; expected text (string or binary)")
