"""Noticing that token shards change while a run reads them.

Shards are memory-mapped: a file that is cut off kills the process that reads beyond its new end (SIGBUS), and one that
is overwritten silently becomes other training data. A file that is deleted or replaced costs nothing: the map keeps
the old one alive.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from groundup.data.shards import TokenShards
from groundup.errors import DataError
from groundup.system.files import file_sha256


@dataclass
class _Watched:
    path: Path
    inode: int
    size: int
    modified_ns: int
    sha256: str


class DataGuard:
    """Remembers the files of token stores, and tells when one is no longer what was opened.

    Args:
        stores: what the run reads; None is left out.
    """

    def __init__(self, *stores: TokenShards | None):
        self._files = [file for store in stores if store is not None for file in _watch(store)]

    def check(self) -> None:
        """One system call a file; the content is read and compared only where the file was touched.

        Raises:
            DataError: a file was cut off or overwritten.
        """
        for file in self._files:
            try:
                now = file.path.stat()
            except OSError:
                continue
            if now.st_ino != file.inode:
                continue
            if now.st_size < file.size:
                raise DataError(
                    f"{file.path} was cut off while the run was reading it: {now.st_size} bytes, expected {file.size}; "
                    f"bring it back as it was and resume the run"
                )
            if now.st_mtime_ns != file.modified_ns:
                if file.sha256 != file_sha256(file.path):
                    raise DataError(
                        f"{file.path} was overwritten while the run was reading it; bring it back as it was and "
                        f"resume the run"
                    )
                file.modified_ns = now.st_mtime_ns


def _watch(store: TokenShards) -> list[_Watched]:
    if store.index:
        files = [(store.path / entry["file"], entry["sha256"]) for entry in store.index["shards"]]
    else:
        files = [(store.path, store.sha256)]
    watched = []
    for path, sha256 in files:
        seen = path.stat()
        watched.append(_Watched(path, seen.st_ino, seen.st_size, seen.st_mtime_ns, sha256))
    return watched
