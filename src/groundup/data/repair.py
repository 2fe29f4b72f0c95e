"""Repair of a finished data set: damaged or missing files are written again from the same text.

A file is replaced only when the new one is complete and has the SHA-256 in the index. So a repaired data set is the
same byte for byte, and nothing is lost if the text has changed.
"""

import shutil
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundup.data.check import Fault, hash_fault
from groundup.data.document_pass import DocumentPass
from groundup.data.index import (
    DOCUMENTS_FILE,
    INDEX_FILE,
    TOKEN_LENGTHS_FILE,
    TOKENIZER_FOLDER,
    map_array,
    write_record,
)
from groundup.data.shard_writer import OpenShard, text_lengths, token_lengths_file, tokenizer_files
from groundup.errors import DataError
from groundup.system.files import file_sha256, write_atomically
from groundup.tokenizer.tokenizer import Tokenizer


def repair(
    folder: Path,
    index: dict[str, Any],
    faults: Iterable[Fault],
    tokenizer: Tokenizer,
    documents: DocumentPass,
    save_tokenizer: Callable[[Path], object],
) -> list[str]:
    """Write the damaged files again; return their names.

    Args:
        faults: the damaged files.
        tokenizer: the tokenizer of the data set.
        documents: a pass over the same inputs; it runs only if shards or ``documents.bin`` are damaged.
        save_tokenizer: writes the folder of the tokenizer.

    Raises:
        DataError: the inputs have changed; the damaged file is kept.
    """
    names = list(dict.fromkeys(fault.file for fault in faults))
    # A shard and its mask are made together: they come from the same documents.
    shards = {
        entry["file"] for entry in index["shards"] if {entry["file"], entry.get("mask", entry)["file"]} & set(names)
    }
    if (
        shards
        and DOCUMENTS_FILE not in names
        and hash_fault(folder / DOCUMENTS_FILE, index["documents_file"]["sha256"])
    ):
        names.append(DOCUMENTS_FILE)
    if shards or DOCUMENTS_FILE in names:
        remake = _Remake(folder, index, shards, tokenizer, with_ends=DOCUMENTS_FILE in names)
        try:
            documents.run(remake)
            remake.finish()
        finally:
            remake.close()
    if TOKEN_LENGTHS_FILE in names:
        separator = (index.get("separator") or {}).get("id")
        write_atomically(folder / TOKEN_LENGTHS_FILE, token_lengths_file(text_lengths(tokenizer, separator)))
        _check_same(folder / TOKEN_LENGTHS_FILE, index["token_lengths_file"]["sha256"])
    if TOKENIZER_FOLDER in names:
        shutil.rmtree(folder / TOKENIZER_FOLDER, ignore_errors=True)
        save_tokenizer(folder / TOKENIZER_FOLDER)
        found = tokenizer_files(folder)
        if "tokenizer_files" in index and index["tokenizer_files"] != found:  # another version of groundup wrote them
            write_record(folder / INDEX_FILE, index | {"tokenizer_files": found})
    return names


class _Remake:
    """Sink that writes damaged shards again, from the documents in them.

    Args:
        shards: names of the damaged shards.
        with_ends: write ``documents.bin`` again as well, which needs all documents.
    """

    def __init__(self, folder: Path, index: dict[str, Any], shards: set[str], tokenizer: Tokenizer, *, with_ends: bool):
        self.tokens = 0  # position of the next token in the data set
        self._folder, self._index = folder, index
        self._lengths = text_lengths(tokenizer, (index.get("separator") or {}).get("id"))
        self._separator = np.array([index["separator"]["id"]], np.uint32)
        starts = list(accumulate((entry["tokens"] for entry in index["shards"]), initial=0))
        self._wanted = [
            (begin, end, entry)
            for begin, end, entry in zip(starts, starts[1:], index["shards"], strict=False)
            if entry["file"] in shards
        ]
        self._shard: OpenShard | None = None
        self._ends = array("Q", [0])
        self._offsets: NDArray[Any] | None = None
        if not with_ends:
            self._offsets = map_array(folder / DOCUMENTS_FILE, "<u8")
            self._documents = deque(self._documents_of(self._offsets))
        self._coming: deque[int] = deque()

    def wants(self, number: int) -> bool:
        """Whether a document is needed: it is in a damaged shard, or all are needed."""
        if self._offsets is not None:
            while self._documents and number > self._documents[0][1]:
                self._documents.popleft()
            if not self._documents or number < self._documents[0][0]:
                return False
            self._coming.append(number)
        return True

    def add_documents(self, ids: NDArray[Any], ends: NDArray[Any], counts: NDArray[np.uint8] | None = None) -> None:
        """Take whole documents."""
        begin = 0
        for end in ends.tolist():
            self.add(ids[begin:end], None if counts is None else counts[begin:end])
            self._end()
            begin = end

    def add(self, ids: NDArray[Any], counts: NDArray[np.uint8] | None = None) -> None:
        """Take ids of a document."""
        if self._offsets is not None and self._coming:
            self.tokens = int(self._offsets[self._coming.popleft()])
        self._write(ids, counts)

    def end_document(self) -> None:
        """Close a document that came in parts."""
        self._write(self._separator)
        self._end()

    def finish(self) -> None:
        """Move the last files into place.

        Raises:
            DataError: the documents end before the last damaged shard does, or have changed.
        """
        while self._wanted:
            self._put(self._wanted[0][2])
        if self._offsets is None:
            ends = np.array(self._ends, "<u8").tobytes()
            path = self._folder / DOCUMENTS_FILE
            temporary = path.with_name(path.name + ".part")
            try:
                write_atomically(temporary, ends)
                _check_same(temporary, self._index["documents_file"]["sha256"])
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Delete an incomplete shard."""
        if self._shard is not None:
            self._shard.discard()

    def _documents_of(self, offsets: NDArray[Any]) -> list[tuple[int, int]]:
        """First and last document of each damaged shard."""
        places = [(begin, end - 1) for begin, end, _ in self._wanted]
        found = np.searchsorted(offsets, np.array(places, np.uint64), side="right") - 1
        return [(first, last) for first, last in found.tolist()]

    def _end(self) -> None:
        if self._offsets is None:
            self._ends.append(self.tokens)

    def _write(self, ids: NDArray[Any], counts: NDArray[np.uint8] | None = None) -> None:
        while len(ids) and self._wanted:
            begin, end, entry = self._wanted[0]
            if self.tokens >= end:
                self._put(entry)
                continue
            skipped = min(max(begin - self.tokens, 0), len(ids))
            part = ids[skipped : skipped + end - max(self.tokens, begin)]
            taken = skipped + len(part)
            if len(part):
                if self._shard is None:
                    path = self._folder / entry["file"]
                    self._shard = OpenShard(path, self._index["vocab_size"], self._lengths, has_mask="mask" in entry)
                self._shard.add(part, None if counts is None else counts[skipped:taken])
            self.tokens += taken
            ids, counts = ids[taken:], None if counts is None else counts[taken:]
        self.tokens += len(ids)

    def _put(self, entry: dict[str, Any]) -> None:
        """Move a new shard into place, if it equals its entry in the index."""
        if self._shard is None or self._shard.complete() != entry:
            raise _other_text(self._folder / entry["file"])
        self._shard.put_in_place()
        self._shard = None
        del self._wanted[0]


def _check_same(path: Path, sha256: str) -> None:
    if file_sha256(path) != sha256:
        raise _other_text(path.with_name(path.name.removesuffix(".part")))


def _other_text(path: Path) -> DataError:
    return DataError(
        f"{path} is damaged or missing, and the inputs now give another SHA-256 for it than {INDEX_FILE} says; "
        "restore the file or the text, or start over with --overwrite"
    )
