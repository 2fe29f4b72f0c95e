"""`groundup tokenizer convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from rich.text import Text
from tyro.conf import arg

from groundup.cli.parse import call
from groundup.display.console import make_console


def convert(arguments: list[str]) -> None:
    """Parse and run."""
    call(_convert, arguments, "tokenizer convert")


def _convert(
    source: Path,
    out: Path,
    /,
    *,
    to: Literal["folder", "json", "hugging-face", "tiktoken"] | None = None,
    pattern: str | None = None,
    special_tokens: Annotated[tuple[str, ...], arg(aliases=["--special-token"])] = (),
    overwrite: bool = False,
) -> None:
    """Read a tokenizer of any format and write it in another, with the same ids; what cannot be exact is refused.

    Args:
        source: a tokenizer's folder; groundup's or Hugging Face's JSON; a tekken.json; a .tiktoken file.
        out: file or folder to write.
        to: folder (vocab.json, merges.txt, meta.json; one file for a tokenizer on characters), json (groundup's single
            file), hugging-face (tokenizer.json) or tiktoken. Default: the format that the name of out suggests.
        pattern: pre-tokenization pattern, for .tiktoken and GPT-2's two files, which lack it: gpt2, cl100k, llama3,
            qwen2, o200k, tekken, or a regular expression. For .tiktoken also r50k_base, p50k_base, p50k_edit,
            cl100k_base or o200k_base, which include special tokens.
        special_tokens: for the same files: NAME=ID, or NAME alone for the next free id.
        overwrite: replace existing files.
    """
    from groundup.tokenizer.formats.convert import convert_tokenizer

    line = convert_tokenizer(
        source, out, to, pattern=pattern, special_tokens=special_tokens, overwrite=overwrite
    )  # fmt: skip
    make_console().print(Text(f"{out}: {line}"), soft_wrap=True)
