"""Counts of pretokens in a file.

A NumPy .npz (a zip, whose CRC-32 of each member is checked in reading) without pickled objects:

* header: JSON in UTF-8: format, version, pattern, special_tokens, bytes_counted;
* data (uint8): all distinct pretokens one after the other, in the order of their bytes;
* ends (uint64): where each of them ends in data;
* counts (uint64): how often each occurs.
"""

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.errors import DataError, FileMissingError, TokenizerError
from groundup.system.files import atomic_writer, open_regular
from groundup.tokenizer.patterns import Pattern, checked_pattern
from groundup.tokenizer.special_tokens import checked_special_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "groundup pretoken counts"
VERSION = 1


@dataclass(frozen=True)
class CountedPretokens:
    """Content of a file of counts."""

    pattern: Pattern
    special_tokens: list[str]
    bytes_counted: int
    weighted_bytes: int
    """At least the sum of pretoken sizes times counts; not in the file."""
    data: "NDArray[np.uint8]"
    ends: "NDArray[np.uint64]"
    counts: "NDArray[np.uint64]"


def write_counts(path: Path, counted: CountedPretokens) -> None:
    """Write the file atomically.

    Raises:
        DataError: the path is a folder, or lies in none.
    """
    import numpy as np

    header = {
        "format": FORMAT,
        "version": VERSION,
        "pattern": counted.pattern,
        "special_tokens": counted.special_tokens,
        "bytes_counted": counted.bytes_counted,
    }
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the name of the file to write")
    if not path.parent.is_dir():
        raise DataError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    with atomic_writer(path) as file:
        np.savez_compressed(
            file,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            data=counted.data,
            ends=counted.ends,
            counts=counted.counts,
        )


def read_counts(path: Path) -> CountedPretokens:
    """The counts in a file, checked.

    Raises:
        FileMissingError: the file does not exist.
        DataError: it is another kind of file, of a newer version, truncated, or damaged.
        MissingExtraError: its pattern is a regular expression, and `regex` is not installed.
    """
    members = _members(path)
    header = _header(path, members["header"])
    data, ends, counts = members["data"], members["ends"], members["counts"]
    lengths = _lengths(path, data, ends, counts)
    weighted_bytes = float(lengths.astype(float) @ counts.astype(float))
    if weighted_bytes >= 1 << 62:
        raise _damaged(path, "its counts are too large")
    return CountedPretokens(
        header["pattern"], header["special_tokens"], header["bytes_counted"], int(lengths @ counts), data, ends, counts
    )


def _members(path: Path) -> "dict[str, NDArray[Any]]":
    import numpy as np

    expected = {"header": np.uint8, "data": np.uint8, "ends": np.uint64, "counts": np.uint64}
    try:
        with open_regular(path) as file:
            if file.read(2) != b"PK":
                raise _foreign(path)
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                missing = [name for name in expected if name not in archive.files]
                if missing:
                    raise _foreign(path, f"it has no {missing[0]}")
                members = {name: archive[name] for name in expected}
    except FileNotFoundError:
        raise FileMissingError(f"{path} does not exist; give a file that `groundup tokenizer count` wrote") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give a file that `groundup tokenizer count` wrote") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(path, str(error)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check its permissions") from None
    for name, kind in expected.items():
        if members[name].dtype != kind or members[name].ndim != 1:
            raise _damaged(path, f"{name} is {members[name].dtype} {members[name].shape}, not a row of {kind.__name__}")
    return members


def _header(path: Path, header_bytes: "NDArray[np.uint8]") -> dict[str, Any]:
    try:
        header = json.loads(header_bytes.tobytes())
    except ValueError:
        raise _damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise _foreign(path)
    if header.get("version") != VERSION:
        raise DataError(
            f"{path} has version {header.get('version')!r}, and this groundup reads version {VERSION}; "
            "use the groundup that wrote it, or count again"
        )
    pattern, special_tokens, count = (header.get(key) for key in ("pattern", "special_tokens", "bytes_counted"))
    if (
        not isinstance(pattern, str | list)
        or not isinstance(special_tokens, list)
        or not isinstance(count, int)
        or count < 0
    ):
        raise _damaged(path, "its header lacks pattern, special_tokens or bytes_counted")
    try:
        checked_special_tokens(special_tokens)
        header["pattern"] = checked_pattern(pattern)
    except TokenizerError as error:
        raise DataError(f"{path}: {error}") from None
    return header


def _lengths(
    path: Path, data: "NDArray[np.uint8]", ends: "NDArray[np.uint64]", counts: "NDArray[np.uint64]"
) -> "NDArray[np.uint64]":
    import numpy as np

    if len(ends) != len(counts):
        raise _damaged(path, f"it has {len(ends)} pretokens and {len(counts)} counts")
    begins = np.concatenate([np.zeros(1, np.uint64), ends])[:-1]
    if (ends[-1] if len(ends) else 0) != len(data) or not (begins < ends).all():
        raise _damaged(path, "the ends of its pretokens do not ascend to the end of the data")
    if not counts.all():
        raise _damaged(path, "a pretoken occurs 0 times")
    return ends - begins


def _foreign(path: Path, why: str = "") -> DataError:
    return DataError(
        f"{path} is not a file of pretoken counts{f' ({why})' if why else ''}; "
        "give one that `groundup tokenizer count` or PretokenCounts.save wrote"
    )


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is truncated or damaged ({why}); copy it again, or count again")
