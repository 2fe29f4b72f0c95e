"""Files of a data set: their names, and strict readers of ``index.json`` and ``progress.json``.

Both records contain the SHA-256 of their own content, which detects a changed byte even if the changed value is valid.
Records of version 0.1 have no hash and fewer fields; they are accepted.
"""

import json
import os
import shlex
import shutil
import tokenize
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.errors import DataError, FileMissingError
from groundup.system.files import is_as_sealed, locked, open_regular, read_json, sealed, write_json

FORMAT = "groundup-token-shards"
PROGRESS_FORMAT = "groundup-token-shards-progress"
VERSION = 1
MASKED_VERSION = 2
"""Of a data set in which not all tokens count for the loss: a version that does not know masks must not train on it."""
INDEX_FILE = "index.json"
PROGRESS_FILE = "progress.json"
STATUS_FILE = "inputs.json"
DOCUMENTS_FILE = "documents.bin"
TOKEN_LENGTHS_FILE = "token_lengths.npy"
TOKENIZER_FOLDER = "tokenizer"
SHARD_PATTERN = "shard-*.bin"
LOCK_FILE = ".lock"
ENCODE_AGAIN = "encode the text again into a new folder"
MAKE_AGAIN = "run the same encode command again, which writes it again"

_SINGLE = (INDEX_FILE, PROGRESS_FILE, STATUS_FILE, DOCUMENTS_FILE, TOKEN_LENGTHS_FILE)
_OWN = (*_SINGLE, TOKENIZER_FOLDER, SHARD_PATTERN, SHARD_PATTERN + ".part", *(f".{name}.*.tmp" for name in _SINGLE))
"""Patterns of the files of a data set, without its lock."""
# The header of a .npy file is a Python literal that describes the array. A damaged header can raise any of these.
_DAMAGED_ARRAY = (
    OSError, ValueError, EOFError, SyntaxError, TypeError, ArithmeticError, MemoryError, zipfile.BadZipFile,
    tokenize.TokenError,
)  # fmt: skip


def mask_name(shard: str) -> str:
    """Name of the file that tells which tokens of a shard count for the loss."""
    return f"{shard.removesuffix('.bin')}.mask.bin"


def version_of(*, has_mask: bool) -> int:
    """Format version of a data set."""
    return MASKED_VERSION if has_mask else VERSION


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Little-endian uint16 if it holds every id below ``vocab_size``, otherwise uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def map_array(path: Path, dtype: np.dtype[Any] | str) -> NDArray[Any]:
    """A file of numbers as a read-only memory-mapped array.

    Raises:
        DataError: it cannot be mapped, or its size changed.
    """
    try:
        return np.memmap(path, dtype, mode="r")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        message = f"{path} cannot be mapped, or changed while it was read ({reason}); run the command again"
        raise DataError(message) from None


def load_npy(path: Path, expected: str) -> NDArray[Any]:
    """The array in a ``.npy`` file, memory-mapped.

    Args:
        expected: expected content, for errors.

    Raises:
        DataError: the file is missing, or is not a valid ``.npy`` file.
    """
    try:
        open_regular(path).close()  # refuses a FIFO, which would block
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path} is missing; expected {expected}: restore it, or {ENCODE_AGAIN}") from None
    except _DAMAGED_ARRAY as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not isinstance(error, OSError):
            with path.open("rb") as file:
                head = file.read(1 << 16)
            if head and not head.startswith((b"\x93NUMPY", b"PK")):
                if b"\0" not in head and not head.startswith(b"\x1f\x8b"):
                    command = f"groundup encode {shlex.quote(str(path))} --tokenizer TOKENIZER --out FOLDER"
                    raise DataError(
                        f"{path} is text, not tokens; run `{command}` first, and give that folder"
                    ) from None
                reason = "it has another magic number"
        raise DataError(f"{path} is not a valid .npy file ({reason}); expected {expected}") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path} is an .npz archive; expected a .npy file with {expected}")
    return array


def data_set_lock(folder: Path) -> AbstractContextManager[None]:
    """Lock ``folder`` for this process; a read-only folder is not locked.

    Raises:
        DataError: another process holds the lock.
    """
    if folder.exists() and not os.access(folder, os.W_OK):
        return nullcontext()
    return locked(
        folder / LOCK_FILE,
        lambda holder: DataError(
            f"{folder} is being written by {holder}; wait until it is done, or choose another folder"
        ),
        keep=False,
    )


def read_index(folder: Path) -> dict[str, Any]:
    """``index.json`` of a finished data set.

    Raises:
        DataError: the file is missing, not a groundup index, of another version, or damaged.
    """
    path = folder / INDEX_FILE
    if not path.exists():
        if (folder / PROGRESS_FILE).exists() or any(folder.glob(SHARD_PATTERN + "*")):
            raise DataError(
                f"{folder} has token shards but no {INDEX_FILE}: encoding was interrupted; run the same encode "
                "command again and it continues where it stopped, or wait if it is still running"
            )
        raise DataError(f"{folder} has no {INDEX_FILE}, so it is not a token data set; encode a text into it first")
    index = _read_record(path, ENCODE_AGAIN)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        seen = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise DataError(
            f"{path} has the format {_shown(seen)}; expected {FORMAT!r}: this is not a folder of token shards"
        )
    if index.get("version") not in (VERSION, MASKED_VERSION):
        raise DataError(
            f"{path} has format version {_shown(index.get('version'))}, but this groundup reads {VERSION} and "
            f"{MASKED_VERSION}; install the version that wrote it, or encode the text again"
        )
    _check_fields(path, index, _INDEX_FIELDS)
    _check_sums(path, index)
    _check_seal(path, index)
    return index


def read_progress(folder: Path) -> dict[str, Any]:
    """``progress.json``: the record of the shards that an interrupted writer has finished.

    Raises:
        DataError: the file is not a groundup progress record, of another version, or damaged.
    """
    path = folder / PROGRESS_FILE
    progress = _read_record(path, "delete it and encode again")
    seen = (progress.get("format"), progress.get("version")) if isinstance(progress, dict) else type(progress).__name__
    if seen not in ((PROGRESS_FORMAT, VERSION), (PROGRESS_FORMAT, MASKED_VERSION)):
        raise DataError(f"{path} is of {_shown(seen)}; expected {(PROGRESS_FORMAT, VERSION)}; encode into a new folder")
    _check_fields(path, progress, _PROGRESS_FIELDS)
    _check_seal(path, progress)
    return dict(progress)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write an index or progress record with the SHA-256 of its content."""
    write_json(path, sealed(record))


def own_files(folder: Path) -> list[Path]:
    """Files of a data set in ``folder``, finished or not, without its lock; the index comes first."""
    return [path for pattern in _OWN for path in folder.glob(pattern)]


def refuse_foreign(folder: Path) -> None:
    """Check that ``folder`` may be written: it is absent, empty or a data set.

    Raises:
        DataError: it is a file, or contains other files and no data set.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; expected a folder to write token shards into: choose another name")
    if (folder / INDEX_FILE).exists() or (folder / PROGRESS_FILE).exists():
        return
    # One listing only: between two listings, another process that writes the data set may rename a file.
    if any(not any(fnmatchcase(path.name, pattern) for pattern in (*_OWN, LOCK_FILE)) for path in folder.iterdir()):
        raise DataError(f"{folder} is not empty and contains no token shards; choose a new folder")


def is_data_set(folder: Path) -> bool:
    """Whether ``folder`` has a valid index or progress record, so that it may be cleared.

    Raises:
        DataError: the record is damaged, or groundup did not write it.
    """
    if (folder / INDEX_FILE).exists():
        read_index(folder)
    elif (folder / PROGRESS_FILE).exists():
        read_progress(folder)
    else:
        return False
    return True


def clear(folder: Path) -> None:
    """Delete a data set, finished or not, from ``folder``, and no other files."""
    # The index comes first: without it the rest is not mistaken for a data set.
    for path in own_files(folder):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def check_size(path: Path, expected: int) -> None:
    """Raise DataError if a file of a data set is missing or has another size."""
    if not path.is_file():
        raise DataError(f"{path} is missing, but {INDEX_FILE} names it; restore it, or {MAKE_AGAIN}")
    size = path.stat().st_size
    if size != expected:
        state = "truncated" if size < expected else "too long"
        raise DataError(f"{path} is {state}: {size} bytes, expected {expected}; copy it again, or {MAKE_AGAIN}")


def expected_sizes(index: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Name and size of each file whose size follows from the index."""
    itemsize = token_dtype(index["vocab_size"]).itemsize
    for shard in index["shards"]:
        yield shard["file"], shard["tokens"] * itemsize
        if "mask" in shard:
            yield shard["mask"]["file"], shard["tokens"]
    yield DOCUMENTS_FILE, 8 * (index["documents"] + 1)


def _read_record(path: Path, fix: str) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        raise FileMissingError(f"{path} does not exist; {fix}") from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as JSON ({reason}); {fix}") from None


def _check_seal(path: Path, record: dict[str, Any]) -> None:
    if not is_as_sealed(record):
        raise DataError(f"{path} was changed after it was written: its SHA-256 does not match; {ENCODE_AGAIN}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_size(value: Any) -> bool:
    return _is_count(value) and bool(value > 0)


def _is_file_entry(entry: Any) -> bool:
    # A path instead of a file name could point anywhere on the disk.
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("file"), str)
        and Path(entry["file"]).name == entry["file"]
        and "\0" not in entry["file"]
    )


def _is_shard_entry(entry: Any) -> bool:
    # -1: a shard with only the separator of a document, which subtracts the space that was put before the document.
    return (
        _is_file_entry(entry)
        and _is_size(entry.get("tokens"))
        and (_is_count(entry.get("bytes")) or entry.get("bytes") == -1)
        and ("mask" not in entry or _is_mask_entry(entry["mask"], entry))
    )


def _is_mask_entry(mask: Any, shard: dict[str, Any]) -> bool:
    return (
        _is_file_entry(mask)
        and mask["file"] == mask_name(shard["file"])
        and _is_count(mask.get("counted"))
        and bool(mask["counted"] <= shard["tokens"])
    )


def _is_input(entry: Any) -> bool:
    optional: dict[str, Callable[[Any], bool]] = {
        "bytes": _is_count,
        "ends_sha256": _is_text,
        "documents": _is_count,
        "text_bytes": _is_count,
        "text_sha256": _is_text,
    }
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and all(is_valid(entry[key]) for key, is_valid in optional.items() if key in entry)
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_valid, value))


def _or_absent(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_valid(value)


_PLAN_FIELDS: dict[str, Callable[[Any], bool]] = {
    "vocab_size": _is_size,
    "tokenizer_sha256": _is_text,
    "separator": _or_absent(
        lambda value: isinstance(value, dict) and _is_text(value.get("token")) and _is_count(value.get("id"))
    ),
    "shard_tokens": _or_absent(_is_count),
    "inputs": _or_absent(_list_of(_is_input)),
    "field": _or_absent(_is_text),
    "special_tokens": _or_absent(_is_text),
    "reading": _or_absent(lambda value: isinstance(value, dict)),
    "chat": _or_absent(lambda value: isinstance(value, dict)),
    "groundup": _or_absent(_is_text),
}
_INDEX_FIELDS = {
    "dtype": lambda value: value in ("uint16", "uint32"),
    "tokens": _is_size,
    "bytes": _is_count,
    "documents": _is_size,
    "counted": _or_absent(_is_count),
    "empty_documents": _or_absent(_is_count),
    "skipped_rows": _or_absent(_is_count),
    "left_out": _or_absent(_list_of(_is_text)),
    "special_tokens_met": _or_absent(lambda value: isinstance(value, dict) and all(map(_is_count, value.values()))),
    "shards": lambda value: isinstance(value, list) and all(map(_is_shard_entry, value)),
    "documents_file": _is_file_entry,
    "token_lengths_file": _is_file_entry,
    "tokenizer_files": _or_absent(_list_of(_is_file_entry)),
    **_PLAN_FIELDS,
}
_PROGRESS_FIELDS = {
    "documents": _is_count,
    "shards": lambda value: isinstance(value, list) and all(map(_is_shard_entry, value)),
    "read": _or_absent(_list_of(lambda value: isinstance(value, dict))),
    **_PLAN_FIELDS,
}


def _check_fields(path: Path, record: dict[str, Any], fields: Mapping[str, Callable[[Any], bool]]) -> None:
    for name, is_valid in fields.items():
        if not is_valid(record.get(name)):
            seen = json.dumps(record[name])[:60] if name in record else "missing"
            raise DataError(f"{path}: {name} is {seen}, which is not valid; {ENCODE_AGAIN}")


def _check_sums(path: Path, index: dict[str, Any]) -> None:
    for name in ("tokens", "bytes"):
        total = sum(shard[name] for shard in index["shards"])
        if total != index[name]:
            raise DataError(
                f"{path}: its shards have {total} {name} together, but it says {index[name]}; {ENCODE_AGAIN}"
            )
    masks = [shard["mask"]["counted"] for shard in index["shards"] if "mask" in shard]
    has_mask = index["version"] == MASKED_VERSION
    if len(masks) != len(index["shards"]) * has_mask or (sum(masks) if has_mask else None) != index.get("counted"):
        raise DataError(
            f"{path}: its shards have {len(masks)} masks, which count {sum(masks)} tokens, but it is of version "
            f"{index['version']} and says {index.get('counted')}; {ENCODE_AGAIN}"
        )
    if index["dtype"] != token_dtype(index["vocab_size"]).name:
        raise DataError(
            f"{path}: dtype is {index['dtype']}, but ids below vocab_size = {index['vocab_size']} are stored as "
            f"{token_dtype(index['vocab_size']).name}; {ENCODE_AGAIN}"
        )
    names = [shard["file"] for shard in index["shards"]]
    if len(set(names)) < len(names):
        raise DataError(f"{path} names a shard twice; {ENCODE_AGAIN}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
