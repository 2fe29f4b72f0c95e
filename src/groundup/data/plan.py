"""Plan of a data set (everything but the text that its bytes depend on), and fingerprints of its inputs."""

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.data.index import INDEX_FILE, STATUS_FILE
from groundup.errors import DataError
from groundup.system.files import file_sha256, read_json, write_json
from groundup.tokenizer.special_tokens import SpecialTokenMode

_FINGERPRINT_BYTES = 1 << 16
_STATUS_FORMAT = "groundup-token-shards-inputs"


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Everything but the text that the bytes of a data set depend on. Calls with equal plans may share a folder."""

    vocab_size: int
    tokenizer_sha256: str
    separator: str
    separator_id: int
    shard_tokens: int
    inputs: list[dict[str, Any]]
    """Name, size and fingerprint of each input file."""
    field: str = "text"
    """JSON field or parquet column with the text."""
    special_tokens: SpecialTokenMode = "text"
    reading: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Other options for reading that differ from their defaults."""
    chat: dict[str, Any] | None = None
    """Template and loss of conversations; None for text."""

    @property
    def has_mask(self) -> bool:
        """Whether some tokens may not count for the loss."""
        return self.chat is not None and self.chat["loss"] != "all"

    def record(self) -> dict[str, Any]:
        """The plan as part of an index or progress record."""
        record = {
            "vocab_size": self.vocab_size,
            "tokenizer_sha256": self.tokenizer_sha256,
            "separator": {"token": self.separator, "id": self.separator_id},
            "shard_tokens": self.shard_tokens,
            "inputs": self.inputs,
            "field": self.field,
            "special_tokens": self.special_tokens,
            "reading": self.reading,
        }
        return record if self.chat is None else record | {"chat": self.chat}


_NAMES = {
    "tokenizer_sha256": "the tokenizer",
    "vocab_size": "the vocabulary size",
    "separator": "the separator",
    "shard_tokens": "the shard size",
    "inputs": "the inputs",
    "field": "the field",
    "special_tokens": "the handling of special tokens",
    "reading": "the options for reading",
    "chat": "the chat template or what counts for the loss",
}


def differences(record: dict[str, Any], plan: ShardPlan) -> list[str]:
    """Names of the fields of an index or progress record that differ from ``plan``, for errors; empty if none does."""
    # Version 0.1 did not record these fields and always used these values.
    seen = {"special_tokens": "encode", "reading": {}, "field": "text"} | record
    seen["inputs"] = [_identity(source) for source in record.get("inputs") or []]
    wanted = plan.record()
    wanted["inputs"] = [_identity(source) for source in plan.inputs]
    return [words for key, words in _NAMES.items() if seen.get(key) != wanted.get(key)]


def _identity(source: dict[str, Any]) -> dict[str, Any]:
    return {key: source[key] for key in ("name", "bytes", "ends_sha256") if key in source}


def fingerprint(path: Path) -> dict[str, Any]:
    """Name, size, and SHA-256 of the first and last 64 KiB of an input; only the name if it is not a regular file.

    They distinguish most files without reading them whole, and do not depend on the folder or machine.
    """
    if not path.is_file():
        return {"name": path.name}
    with path.open("rb") as file:
        ends = hashlib.sha256(file.read(_FINGERPRINT_BYTES))
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _FINGERPRINT_BYTES, 0))
        ends.update(file.read(_FINGERPRINT_BYTES))
    return {"name": path.name, "bytes": size, "ends_sha256": ends.hexdigest()}


def is_repeatable(source: dict[str, Any]) -> bool:
    """Whether an input can be read again, as a file can and a pipe cannot."""
    return "bytes" in source


class InputStatus:
    """Size, modification time and inode of each input, which detect changes without reading.

    ``inputs.json`` records them. It is not part of the data set, which depends only on the text. Without this file the
    inputs are read and their text is compared.
    """

    def __init__(self, files: list[Path]):
        self.files = files
        self._seen = [_status(path) for path in files]

    def check_unchanged(self, path: Path) -> None:
        """Raise DataError if a file has changed since this object was made."""
        for other, before in zip(self.files, self._seen, strict=True):
            if other == path and _status(path) != before:
                raise DataError(
                    f"{path} was changed while it was read, so the text may be partly old and partly new; "
                    "run the same command again when the file is complete"
                )

    def is_recorded(self, folder: Path) -> bool:
        """Whether the data set in ``folder`` was made from these files, unchanged since."""
        try:
            record = read_json(folder / STATUS_FILE)
            return bool(record == self._record(folder))
        except (OSError, ValueError):
            return False

    def write(self, folder: Path) -> None:
        """Write ``inputs.json`` into the folder of the finished data set."""
        if os.access(folder, os.W_OK):
            write_json(folder / STATUS_FILE, self._record(folder))

    def _record(self, folder: Path) -> dict[str, Any]:
        return {
            "format": _STATUS_FORMAT,
            "index_sha256": file_sha256(folder / INDEX_FILE),
            "inputs": self._seen,
        }


def _status(path: Path) -> dict[str, int] | None:
    if not path.is_file():
        return None
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
