"""Description of a data set: content and origin as plain values, and single documents token by token."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundup.data.index import (
    DOCUMENTS_FILE,
    ENCODE_AGAIN,
    INDEX_FILE,
    PROGRESS_FILE,
    read_index,
    read_progress,
    token_dtype,
)
from groundup.data.shards import TokenShards
from groundup.display.units import size_text
from groundup.errors import DataError, GroundupError

NOT_RECORDED = "written by groundup 0.1, which did not record"


def describe(path: Path) -> dict[str, Any]:
    """Content and origin of a folder of token shards, finished or not, or of a ``.npy`` file.

    Raises:
        FileMissingError, DataError: as for ``TokenShards.open``.
    """
    if path.is_dir() and not (path / INDEX_FILE).exists() and (path / PROGRESS_FILE).exists():
        progress = read_progress(path)
        shards = progress["shards"]
        totals = {key: sum(shard[key] for shard in shards) for key in ("tokens", "bytes")}
        if any("mask" in shard for shard in shards):
            totals["counted"] = sum(shard["mask"]["counted"] for shard in shards)
        size = totals["tokens"] * token_dtype(progress["vocab_size"]).itemsize
        return {"state": "unfinished", "path": str(path)} | _made(progress, totals | {"bytes_on_disk": size})
    data = TokenShards.open(path)
    totals = {"tokens": len(data), "bytes": data.total_bytes, "bytes_on_disk": len(data) * data.dtype.itemsize}
    if not data.index:
        return {"state": "array", "path": str(path), **totals, "dtype": data.dtype.name, "sha256": data.sha256}
    found = {"state": "finished", "path": str(path)} | _made(read_index(path), totals)
    return found | {"sha256": data.sha256, "tokenizer": _tokenizer(data)}


def _made(record: dict[str, Any], totals: dict[str, Any]) -> dict[str, Any]:
    tokens, documents = totals["tokens"], record["documents"]
    return {
        "documents": documents,
        "empty_documents": record.get("empty_documents"),
        **totals,
        "bytes_per_token": round(totals["bytes"] / tokens, 4) if tokens else None,
        "tokens_per_document": round(tokens / documents, 1) if documents else None,
        "dtype": token_dtype(record["vocab_size"]).name,
        "vocab_size": record["vocab_size"],
        "tokenizer_sha256": record["tokenizer_sha256"],
        "separator": record.get("separator"),
        "special_tokens": record.get("special_tokens", "encode"),
        "special_tokens_met": record.get("special_tokens_met"),
        "field": record.get("field"),
        "reading": record.get("reading") or {},
        "skipped_rows": record.get("skipped_rows"),
        "left_out": record.get("left_out") or [],
        "counted": record.get("counted", totals.get("counted")),
        "chat": record.get("chat"),
        "shard_tokens": record.get("shard_tokens"),
        "shards": [{key: shard[key] for key in ("file", "tokens", "bytes", "sha256")} for shard in record["shards"]],
        "inputs": record.get("inputs") or [],
        "groundup": record.get("groundup"),
        "notes": _notes(record),
    }


def _notes(record: dict[str, Any]) -> list[str]:
    notes = []
    if "special_tokens" not in record:
        notes.append(f"{NOT_RECORDED} special tokens in documents; it encoded them as special tokens")
    if not all("text_sha256" in source for source in record.get("inputs") or [{}]) and "read" not in record:
        notes.append(f"{NOT_RECORDED} hashes of the inputs; they are compared by size and first and last 64 KiB")
    return notes


def _tokenizer(data: TokenShards) -> dict[str, Any]:
    try:
        tokenizer = data.tokenizer()
    except GroundupError as error:
        return {"problem": str(error)}
    return {
        "sha256": tokenizer.sha256,
        "tokens": len(tokenizer.vocab),
        "special_tokens": list(tokenizer.special_tokens),
        "pattern": tokenizer.pattern,
    }


def facts(found: dict[str, Any]) -> dict[str, object]:
    """Rows of names and values of a description, for the terminal."""
    rows: dict[str, object] = {"data set": found["path"]}
    if found["state"] == "unfinished":
        rows["state"] = "unfinished: run the same encode command again"
    if "documents" in found:
        empty = f", {found['empty_documents']:,} empty ones dropped" if found["empty_documents"] else ""
        mean = f", {found['tokens_per_document']:,} tokens each on average" if found["tokens_per_document"] else ""
        rows["documents"] = f"{found['documents']:,}{mean}{empty}"
    rows["tokens"] = f"{found['tokens']:,} as {found['dtype']}, {size_text(found['bytes_on_disk'])}"
    if "shards" not in found:
        return rows | {"SHA-256": found["sha256"]}
    if found["chat"]:
        template = found["chat"]["template"] or f"a file, SHA-256 {found['chat']['template_sha256'][:12]}…"
        rows["conversations"] = f"rendered by the chat template {template}"
        counted = found["tokens"] if found["counted"] is None else found["counted"]
        share = f" ({counted / found['tokens']:.1%})" if found["tokens"] else ""
        rows["loss"] = f"{counted:,} tokens{share} count: {_LOSS[found['chat']['loss']]}"
    if found["bytes_per_token"]:
        rows["text"] = f"{size_text(found['bytes'])}, {found['bytes_per_token']:.2f} bytes a token"
    rows["shards"] = f"{len(found['shards']):,} of up to {found['shard_tokens'] or 0:,} tokens"
    rows["tokenizer"] = _tokenizer_fact(found)
    if found["separator"]:
        rows["separator"] = f"{found['separator']['token']} = {found['separator']['id']}"
    rows["special tokens"] = _special_fact(found)
    options = {"field": found["field"]} | found["reading"]
    rows["read with"] = ", ".join(f"{name} = {value!r}" for name, value in options.items() if value is not None)
    if found["skipped_rows"]:
        rows["skipped rows"] = f"{found['skipped_rows']:,}"
    if found["left_out"]:
        rows["left out"] = ", ".join(found["left_out"])
    rows["made by"] = f"groundup {found['groundup'] or '0.1'}"
    if "sha256" in found:
        rows["SHA-256"] = found["sha256"]
    return rows


_LOSS = {"assistant": "what the assistant writes", "all": "all"}


def _tokenizer_fact(found: dict[str, Any]) -> str:
    tokenizer = found.get("tokenizer") or {}
    if "problem" in tokenizer:
        return f"damaged: {tokenizer['problem']}"
    about = f", pattern {tokenizer['pattern']}" if tokenizer else ""
    return f"{found['vocab_size']:,} ids{about}, SHA-256 {found['tokenizer_sha256'][:12]}…"


def _special_fact(found: dict[str, Any]) -> str:
    taken = {"text": "taken as text", "encode": "encoded as special tokens", "error": "not allowed"}
    mode = f"names in documents {taken.get(found['special_tokens'], found['special_tokens'])}"
    met = found["special_tokens_met"]
    if met is None:
        return mode
    return f"{mode}; met: " + (", ".join(f"{name} × {count:,}" for name, count in met.items()) or "none")


@dataclass(frozen=True)
class Piece:
    """Text of one token, or of several tokens that only together decode to characters."""

    ids: list[int]
    text: str
    is_special: bool
    counts: bool = True
    """Whether it counts for the loss."""


@dataclass(frozen=True)
class Document:
    """One document of a data set, with the separator that ends it."""

    number: int
    documents: int
    start: int
    """Position of its first token in the data set."""
    pieces: list[Piece]

    @property
    def has_mask(self) -> bool:
        """Whether some of it does not count for the loss."""
        return not all(piece.counts for piece in self.pieces)

    @property
    def tokens(self) -> int:
        """Number of tokens, separator included."""
        return sum(len(piece.ids) for piece in self.pieces)


def read_document(path: Path, number: int) -> Document:
    """Document ``number`` of a data set, counted from 0; a negative number counts from the end.

    Raises:
        FileMissingError, DataError: the data set is missing or damaged, or has no such document.
        TokenizerError: its tokenizer is damaged, or is not the tokenizer of the data set.
    """
    data = TokenShards.open(path)
    if not data.index:
        raise DataError(f"{path} is an array without document boundaries; give a folder of token shards")
    count = data.index["documents"]
    if not -count <= number < count:
        raise DataError(f"{path} has no document {number}; it has {count}: 0 to {count - 1}, or -{count} to -1")
    number %= count
    offsets = data.document_offsets
    assert offsets is not None
    start, end = (int(offset) for offset in offsets[number : number + 2])
    if not 0 <= start < end <= len(data):
        raise DataError(
            f"{path / DOCUMENTS_FILE} has document {number} at tokens {start} to {end} of {len(data)}; it is damaged: "
            f"{ENCODE_AGAIN}"
        )
    counts = data.gather_counts(np.array([start]), end - start)[0]
    return Document(number, count, start, _pieces(data, data.read(start, end - start).tolist(), counts.tolist()))


def _pieces(data: TokenShards, ids: list[int], counts: list[bool]) -> list[Piece]:
    tokenizer = data.tokenizer()
    special = {tokenizer.token_id(name): name for name in tokenizer.special_tokens}
    stream, pieces, held, counts_held = tokenizer.decode_stream(), list[Piece](), list[int](), False

    for token, counts_here in zip(ids, counts, strict=True):
        name = special.get(token)
        if name is not None:
            if rest := stream.finish():
                pieces.append(Piece(held, rest, False, counts_held))
            pieces.append(Piece([token], name, True, counts_here))
            held, counts_held = [], False
            continue
        held.append(token)
        counts_held |= counts_here
        if text := stream.feed(token):
            pieces.append(Piece(held, text, False, counts_held))
            held, counts_held = [], False
    if rest := stream.finish():
        pieces.append(Piece(held, rest, False, counts_held))
    return pieces
