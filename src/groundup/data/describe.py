"""Description of a data set as plain values: what is in it, and how it was made."""

from pathlib import Path
from typing import Any

from groundup.data.index import INDEX_FILE, PROGRESS_FILE, read_index, read_progress, token_dtype
from groundup.data.shards import TokenShards
from groundup.errors import GroundupError

NOT_RECORDED = "made by groundup 0.1, which did not record"


def describe(path: Path) -> dict[str, Any]:
    """What a folder of token shards, finished or not, or a ``.npy`` file holds.

    Raises:
        FileMissingError, DataError: as for ``TokenShards.open``.
    """
    if path.is_dir() and not (path / INDEX_FILE).exists() and (path / PROGRESS_FILE).exists():
        progress = read_progress(path)
        shards = progress["shards"]
        totals = {key: sum(shard[key] for shard in shards) for key in ("tokens", "bytes")}
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
        "shard_tokens": record.get("shard_tokens"),
        "shards": [{key: shard[key] for key in ("file", "tokens", "bytes", "sha256")} for shard in record["shards"]],
        "inputs": record.get("inputs") or [],
        "groundup": record.get("groundup"),
        "notes": _notes(record),
    }


def _notes(record: dict[str, Any]) -> list[str]:
    notes = []
    if "special_tokens" not in record:
        notes.append(f"{NOT_RECORDED} how often special tokens were in documents; it encoded them as special tokens")
    if not all("text_sha256" in source for source in record.get("inputs") or [{}]) and "read" not in record:
        notes.append(f"{NOT_RECORDED} hashes of the inputs; they are known by size and their first and last 64 KiB")
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
