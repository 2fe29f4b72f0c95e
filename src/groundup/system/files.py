"""Files: strict reading, atomic writes, hashes, locks and deletion.

Every read error is an OSError or a ValueError. This includes FIFOs and devices, which may never end, and TOML that is
nested too deeply, for which tomllib raises RecursionError.

A crash, a kill or a full disk leaves a file's old content or its new content, never half of it.

A network file system keeps a file that another process reads (NFS: as ``.nfs…``), and its folder with it. So a folder
is deleted in two steps: it is renamed, which makes it incomplete to every reader, and then deleted as far as possible.

File names may contain bytes that are not UTF-8. Python represents them as lone surrogates. JSON has them as escapes
(``\\udce9``), which are read back as the same name.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, TextIO

# SMB, FUSE and some network file systems cannot fsync or even open directories.
_NOT_FOR_DIRECTORIES = {
    errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS, errno.EISDIR, errno.EACCES, errno.EPERM,
}  # fmt: skip
_DISCARDED = ".old.tmp"


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file to read bytes.

    Raises:
        OSError: it is missing, unreadable, or a folder, FIFO, socket or device.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:  # a NUL in the name
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return open(path, "rb")


def read_bytes(path: str | Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: as :func:`open_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def read_text(path: str | Path, errors: str = "strict") -> str:
    """Return the text of a regular UTF-8 file, without a byte order mark.

    Args:
        errors: "surrogateescape" if the text may contain file names that are not UTF-8.

    Raises:
        OSError: as :func:`open_regular`.
        ValueError: it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8-sig", errors)


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML document.

    Raises:
        ValueError: it is not TOML, is nested too deeply, or has a number of thousands of digits.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def why(error: Exception) -> str:
    """Return the reason of an OSError or ValueError, without the file name."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` when the block ends, and is deleted if the block raises.

    A link is followed. A device or pipe is written to directly. A FIFO without a reader is replaced like a file: to
    open it would block forever.
    """
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if path.exists() and not path.is_file() and (special := _open_special(path)) is not None:
        with special as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``; a str is encoded by :func:`text_bytes`."""
    with atomic_writer(path) as file:
        file.write(text_bytes(content) if isinstance(content, str) else content)


def text_bytes(text: str) -> bytes:
    """Text as UTF-8. A lone surrogate, which UTF-8 cannot encode, becomes its JSON escape."""
    return text.encode("utf-8", "backslashreplace")


def json_text(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON with a final newline; characters outside ASCII are not escaped."""
    return json.dumps(value, indent=indent, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by a value as JSON. :func:`read_json` returns an equal value, for any file names in it."""
    write_atomically(path, json_text(value, indent=1))


def read_json(path: Path) -> Any:
    """The value in a JSON file that groundup wrote. File names as raw bytes, as in version 0.1, are accepted.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, is nested too deeply, or has a number of thousands of digits.
    """
    text = read_bytes(path).decode("utf-8", "surrogateescape")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file's bytes, in hex.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SEAL = "content_sha256"
"""Key of a sealed record that holds the SHA-256 of all other entries."""


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the SHA-256 of its content, which detects a changed byte even if the changed value is valid."""
    content = {key: value for key, value in record.items() if key != SEAL}
    return {**content, SEAL: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def is_as_sealed(record: Mapping[str, Any]) -> bool:
    """Whether a record's content is unchanged since :func:`sealed`; True for a record without a seal."""
    return SEAL not in record or record[SEAL] == sealed(record)[SEAL]


def _open_special(path: Path) -> BinaryIO | None:
    """Open a device or pipe to write; None for a FIFO without a reader."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO and path.is_fifo():
            return None
        raise
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "wb")


def sync_directory(path: Path) -> None:
    """Make renames within a directory survive a power cut, if the file system supports that for directories.

    Raises:
        OSError: the disk is full or broken.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_DIRECTORIES:
            raise


@contextlib.contextmanager
def locked(path: Path, taken: Exception | Callable[[str], Exception], *, keep: bool = True) -> Iterator[None]:
    """Hold a lock file with this process's id in it. The lock ends with the process, even if that is killed.

    Args:
        taken: exception to raise if another process holds the lock; or a function that returns one, given the holder
            ("process 4711").
        keep: whether the file stays after the lock is released.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_locked(path, taken) as file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            if not keep:
                with contextlib.suppress(OSError):
                    path.unlink()


def _open_locked(path: Path, taken: Exception | Callable[[str], Exception]) -> TextIO:
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                raise (taken if isinstance(taken, Exception) else taken(_holder(file))) from None
        except OSError:
            pass  # some network file systems have no locks; run without one
        # The last holder may have removed the file meanwhile. A lock on a removed file excludes no other process.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def is_locked(path: Path) -> bool:
    """Whether a process of this machine holds a lock file, as far as the system lists locks (Linux).

    Taking the lock to find out would make a process that asks for it at this moment fail.
    """
    try:
        inode, locks = os.stat(path).st_ino, read_bytes("/proc/locks").split(b"\n")
    except OSError:
        return False
    # By inode alone: overlay and Btrfs list another device than stat() does.
    return any(b" FLOCK " in lock and lock.split()[-3].endswith(b":%d" % inode) for lock in locks)


def _holder(file: TextIO) -> str:
    file.seek(0)
    number = file.read(32).strip()
    return f"process {number}" if number.isdigit() else "another process"


def discard(folder: Path) -> bool:
    """Rename a folder out of the way and delete it.

    Returns:
        Whether the folder is gone; also True if it did not exist. If not, :func:`discarded` lists it.

    Raises:
        OSError: it cannot be renamed; it is unchanged.
    """
    if not folder.exists():
        return True
    names = (folder.with_name(f".{folder.name}.{os.getpid()}.{n}{_DISCARDED}") for n in itertools.count())
    doomed = next(name for name in names if not name.exists())
    os.rename(folder, doomed)
    return delete(doomed)


def delete(path: Path) -> bool:
    """Delete a file or folder as far as possible; return whether it is gone."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    return not os.path.lexists(path)


def discarded(folder: Path) -> list[Path]:
    """Folders inside ``folder`` that :func:`discard` could not delete."""
    return sorted(folder.glob(f".*{_DISCARDED}"))
