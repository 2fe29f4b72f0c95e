"""`groundup encode`."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.parse import DEFAULT_READING, Reading, call
from groundup.config import END_OF_TEXT
from groundup.data.encode import DEFAULT_SHARD_TOKENS, encode_with_summary
from groundup.display.console import make_console
from groundup.display.progress import progress_bar
from groundup.text.chat.rendering import Loss
from groundup.tokenizer.special_tokens import SpecialTokenMode


def encode(arguments: list[str]) -> None:
    """Parse and run."""
    call(_encode, arguments, "encode")


def _encode(
    inputs: tuple[Path, ...],
    /,
    *,
    tokenizer: Path,
    out: Path,
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    loss: Loss | None = None,
    special_tokens: SpecialTokenMode | None = None,
    add_special_tokens: bool = False,
    shard_tokens: int = DEFAULT_SHARD_TOKENS,
    overwrite: bool = False,
    threads: int | None = None,
) -> None:
    """Encode text into token shards, in bounded memory. After an interruption, the same command resumes.

    Args:
        inputs: .txt, .jsonl, .ndjson, .json, .parquet, also .gz and .zst; folders of them; - for standard input.
        tokenizer: folder that `groundup tokenizer train` wrote, or one with GPT-2's two files.
        out: folder for the shards.
        separator: token between the documents of plain text; its id also ends each document in the shards.
        loss: for conversations, the tokens that count for the loss: those that the assistant writes, with the one that
            ends its turn (the default), or all.
        special_tokens: meaning of a special token's name inside a document. Default: text. Between the documents
            of plain text the separator is always a separator.
        add_special_tokens: for conversations, add those of the template to the tokenizer in the shards, if it lacks
            them; they get the ids after its largest.
        shard_tokens: tokens per shard file.
        overwrite: replace what is in the folder.
        threads: threads that encode; default: as many cores as this process may use. The result is the same.
    """
    from groundup.tokenizer import Tokenizer

    loaded = Tokenizer.load(tokenizer)
    with progress_bar(make_console()) as progress:
        encode_with_summary(
            inputs, loaded, out, separator=separator, read=read, loss=loss, special_tokens=special_tokens,
            add_special_tokens=add_special_tokens, shard_tokens=shard_tokens, overwrite=overwrite, num_threads=threads,
            progress=progress,
        )  # fmt: skip
