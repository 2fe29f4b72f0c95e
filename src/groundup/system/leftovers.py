"""Deletion of folders that cannot end a run: what cannot be deleted now stays under another name, for later.

A network file system keeps a file that another process reads (NFS: as ``.nfs…``), and its folder with it. So a folder
is renamed first, which makes it nothing that a reader takes for complete, and then deleted as far as possible.
"""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

_SUFFIX = ".old.tmp"


def discard(folder: Path) -> bool:
    """Rename a folder out of the way and delete it; a missing one is deleted already.

    Returns:
        Whether all of it is gone. If not, :func:`discarded` lists it.

    Raises:
        OSError: it cannot be renamed, and is as it was.
    """
    if not folder.exists():
        return True
    names = (folder.with_name(f".{folder.name}.{os.getpid()}.{n}{_SUFFIX}") for n in itertools.count())
    doomed = next(name for name in names if not name.exists())
    os.rename(folder, doomed)
    return delete(doomed)


def delete(path: Path) -> bool:
    """Delete a file or folder as far as that is possible; returns whether it is gone."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        return False
    return not os.path.lexists(path)


def discarded(folder: Path) -> list[Path]:
    """What :func:`discard` could not delete in a folder."""
    return sorted(folder.glob(f".*{_SUFFIX}"))
