"""Facts about a tokenizer for the user: size, longest tokens, compression and speed on a text."""

import time
from pathlib import Path
from typing import Any

from groundup.text.options import ReadOptions
from groundup.text.readers import read_documents
from groundup.tokenizer.tokenizer import Tokenizer


def facts_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Size, special tokens, pattern and SHA-256."""
    return {
        "tokens": tokenizer.vocab_size,
        "merges": len(tokenizer.merges),
        "special_tokens": tokenizer.special_tokens,
        "pattern": tokenizer.pattern,
        "sha256": tokenizer.sha256,
    }


def longest_tokens(tokenizer: Tokenizer, count: int) -> list[dict[str, Any]]:
    """Id, length in bytes and text of the longest ordinary tokens; of equally long ones the greatest id first."""
    special = {tokenizer.token_id(name) for name in tokenizer.special_tokens}
    by_length = sorted(((len(b), i, b) for i, b in tokenizer.vocab.items() if i not in special), reverse=True)
    return [{"id": i, "bytes": n, "text": b.decode("utf-8", errors="replace")} for n, i, b in by_length[:count]]


def measure_on_text(tokenizer: Tokenizer, path: Path, separator: str, read: ReadOptions) -> dict[str, Any]:
    """Bytes per token and MB/s on a text, on one thread and with a warm cache, as in the middle of a long text."""
    documents = list(read_documents(path, separator=separator, read=read))
    for _ in range(2):  # the second pass finds the cache warm
        began = time.perf_counter()
        tokens = sum(len(tokenizer.encode_bytes(document)) for document in documents)
        seconds = time.perf_counter() - began
    count = sum(map(len, documents))
    return {
        "text": str(path),
        "text_bytes": count,
        "text_tokens": tokens,
        "bytes_per_token": round(count / max(tokens, 1), 4),
        "mb_per_second": round(count / 1e6 / seconds, 2),
    }
