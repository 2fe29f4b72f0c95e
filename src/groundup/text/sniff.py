"""What the first bytes of an input tell: compression, format, and whether it is text at all."""

import json
import re
from pathlib import Path

from groundup.errors import DataError
from groundup.text.files import Kind

HEAD_BYTES = 1 << 16
"""How much of the beginning of an input is looked at."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_LEAST_FOR_SHARE = 1024
_MOST_CONTROL_IN_TEXT = 0.5
_MOST_CONTROL_IN_BYTES = 0.05
_CONTROL = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f\b\x1b") + b"\x7f"

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_PARQUET = b"PAR1"
_BINARY = [
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"\x04\x22\x4d\x18", "lz4 data"),
    (b"PK\x03\x04", "a zip archive or office document"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a rar archive"),
    (b"%PDF-", "a PDF document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an office document"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "an ELF program"),
    (b"\x89HDF\r\n", "HDF5 data"),
    (b"ARROW1\x00\x00", "Arrow data"),
    (b"Obj\x01", "Avro data"),
    (b"\x00asm", "a WebAssembly module"),
]
_BYTE_ORDER_MARKS = [
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
]
_OBJECT_BEGINS = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*+"\s*:')
_ARRAY_OF_OBJECTS_BEGINS = re.compile(rb'\[\s*\{\s*["}]')


def compression_of(head: bytes) -> str:
    """``.gz`` or ``.zst`` where the bytes are compressed so, or an empty string."""
    if head.startswith(_GZIP):
        return ".gz"
    return ".zst" if head.startswith(_ZSTD) or _ZSTD_SKIPPABLE.match(head) else ""


def is_parquet(head: bytes) -> bool:
    """Whether a parquet file begins so."""
    return head.startswith(_PARQUET)


def kind_of(head: bytes) -> Kind:
    """The format of a stream that has no suffix.

    JSON lines: the first line that is not blank is a JSON object (or, where it is longer than the head, begins like
    one). A JSON array: it begins with ``[`` and an object. Anything else is plain text.
    """
    if is_parquet(head):
        return "parquet"
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if _ARRAY_OF_OBJECTS_BEGINS.match(text):
        return "json"
    line, line_break, _ = text.partition(b"\n")
    if not line_break and len(head) >= HEAD_BYTES:
        return "jsonl" if _OBJECT_BEGINS.match(line) else "txt"
    try:
        return "jsonl" if line.startswith(b"{") and isinstance(json.loads(line, parse_int=len), dict) else "txt"
    except (ValueError, RecursionError):
        return "txt"


def is_array(head: bytes, kind: Kind) -> bool:
    """Whether text of this kind is one array of rows. In JSON lines it has to begin with an object, as no row does."""
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    return text.startswith(b"[") if kind == "json" else kind == "jsonl" and bool(_ARRAY_OF_OBJECTS_BEGINS.match(text))


def check_encoding(path: Path, head: bytes) -> None:
    """Refuse text of another encoding than UTF-8, which would be encoded as the bytes it is.

    Raises:
        DataError: a byte order mark of UTF-16 or UTF-32, or NULs where these have them in European text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            raise DataError(
                f"{path} begins with the byte order mark of {encoding.upper()} ({mark.hex(' ')}); expected UTF-8; "
                f"read it with --encoding {encoding}, or convert it with iconv -f {encoding} -t utf-8"
            )
    if encoding := _wide_encoding(head):
        raise DataError(
            f"{path} looks like {encoding.upper()} (NUL bytes at the same place of every character); expected UTF-8; "
            f"read it with --encoding {encoding}, or convert it with iconv -f {encoding} -t utf-8"
        )


def check_wide(path: Path, head: bytes, encoding: str) -> None:
    """Refuse plain ASCII under the name of UTF-16 or UTF-32, which would become other characters.

    Raises:
        DataError: no byte order mark, no NUL and nothing but ASCII.
    """
    is_wide = encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32", "utf16", "utf32"))
    if is_wide and len(head) >= 16 and head.isascii() and b"\0" not in head:
        raise DataError(f"{path} is not {encoding}: it begins with ASCII text; leave out --encoding")


def check_text(path: Path, head: bytes) -> None:
    """Refuse what is not text.

    Raises:
        DataError: the bytes begin as those of a known binary format, or too many of them are control characters.
    """
    for magic, name in _BINARY:
        if head.startswith(magic):
            raise DataError(f"{path} is {name}, not text; extract the text first (--format txt takes the bytes as is)")
    control = len(head) - len(head.translate(None, _CONTROL))
    share = control / len(head) if head else 0.0
    if share > _MOST_CONTROL_IN_TEXT or (
        share > _MOST_CONTROL_IN_BYTES and len(head) >= _LEAST_FOR_SHARE and not _is_utf8(head)
    ):
        raise DataError(
            f"{path} is not text: {share:.0%} of its first {len(head)} bytes are control characters; give text "
            "(--format txt takes the bytes as is)"
        )


def _wide_encoding(head: bytes) -> str:
    if len(head) < 8:
        return ""
    for width, name in ((4, "utf-32"), (2, "utf-16")):
        columns = [head[i::width] for i in range(width)]
        zeros = [column.count(0) / len(column) for column in columns]
        for order, suffix in ((zeros, "le"), (zeros[::-1], "be")):
            # The low byte is hardly ever 0, and the others nearly always are.
            if order[0] < 0.02 and min(order[1:]) > 0.7:
                return f"{name}-{suffix}"
    return ""


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3  # the end of the head may be inside a character
    return True
