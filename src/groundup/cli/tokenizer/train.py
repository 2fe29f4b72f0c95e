"""`groundup tokenizer train`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from rich.text import Text

from groundup.cli.parse import DEFAULT_READING, Reading, call
from groundup.config import END_OF_TEXT
from groundup.display.console import make_console
from groundup.display.progress import progress_bar
from groundup.errors import ConfigError


def train(arguments: list[str]) -> None:
    """Parse and run."""
    call(_train, arguments, "tokenizer train")


def _train(
    inputs: tuple[Path, ...] = (),
    /,
    *,
    vocab_size: int,
    out: Path,
    counts: tuple[Path, ...] = (),
    pattern: str | None = None,
    special_tokens: tuple[str, ...] | None = None,
    tie_rule: Literal["bytes", "huggingface"] = "bytes",
    min_frequency: int = 1,
    max_token_length: int | None = None,
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    special_tokens_inside: Literal["text", "encode", "error"] = "text",
    threads: int | None = None,
    overwrite: bool = False,
) -> None:
    """Train a byte-pair encoding (BPE) tokenizer on text and write it in GPT-2's format.

    Args:
        inputs: .txt, .jsonl, .ndjson, .json, .parquet, also .gz and .zst; folders of them; - for standard input.
        vocab_size: maximum number of tokens, including the 256 bytes and the special tokens.
        out: folder for vocab.json, merges.txt and meta.json.
        counts: files that `groundup tokenizer count` wrote, instead of inputs or in addition.
        pattern: gpt2, cl100k, llama3, qwen2, o200k, tekken, or a regular expression (about a hundred times slower).
            Default: that of the counts, or else gpt2.
        special_tokens: text that is always one token and a boundary in training. Default: those of the counts, or
            else <|endoftext|>.
        tie_rule: which of two equally frequent pairs merges first: the greater byte strings, or as in Hugging Face's
            trainer.
        min_frequency: pairs that occur less often do not merge.
        max_token_length: maximum bytes of a token.
        separator: token between the documents of plain text.
        special_tokens_inside: meaning of a special token's name inside a document: ordinary text, the token, which is
            a boundary, or an error. The separator of plain text is always a separator.
        threads: threads that count; default: all cores. The result does not depend on it.
        overwrite: replace a tokenizer that is in the folder.
    """
    from groundup.tokenizer.formats.convert import refuse_existing
    from groundup.tokenizer.training.merges import LearningOptions
    from groundup.tokenizer.training.train import train_tokenizer

    if not inputs and not counts:
        raise ConfigError("no text to train on; give inputs, or files of counts with --counts")
    refuse_existing(out, overwrite=overwrite)
    began = time.perf_counter()
    options = LearningOptions(vocab_size, tie_rule, min_frequency, max_token_length)
    console = make_console()
    with progress_bar(console) as progress:
        trained = train_tokenizer(
            inputs, options, special_tokens=special_tokens, pattern=pattern, counts=counts, separator=separator,
            read=read, special_tokens_inside=special_tokens_inside, num_threads=threads, progress=progress,
        )  # fmt: skip
    trained.tokenizer.save(out)
    console.print(Text(f"{out}: {trained.summary(vocab_size, time.perf_counter() - began)}"), soft_wrap=True)
