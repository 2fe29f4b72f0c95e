"""Conversion of a tokenizer from any format into another, with the same ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from groundup.errors import ConfigError
from groundup.tokenizer.content import SpecialTokens
from groundup.tokenizer.formats.detect import GROUNDUP_FILE, read_tokenizer
from groundup.tokenizer.formats.gpt2 import MERGES_FILE, META_FILE, VOCAB_FILE
from groundup.tokenizer.patterns import PATTERNS
from groundup.tokenizer.tokenizer import Tokenizer

FormatName = Literal["folder", "json", "hugging-face", "tiktoken"]
_NAMED_SPECIAL_TOKENS = 5


def convert_tokenizer(
    source: Path,
    out: Path,
    to: FormatName | None = None,
    *,
    pattern: str | None = None,
    special_tokens: Sequence[str] = (),
    overwrite: bool = False,
) -> str:
    """Read a tokenizer of any format and write it in another; return a line on what was written.

    Args:
        source: file or folder, as `Tokenizer.load` takes it.
        out: file or folder to write.
        to: format to write; None for the one that the name of `out` suggests.
        pattern, special_tokens: for formats that lack them: see `Tokenizer.load`. Special tokens are NAME or NAME=ID.
        overwrite: replace existing files.

    Raises:
        ConfigError: `out` fits the format badly or exists already, or the ids of special tokens are inconsistent.
        FileMissingError, TokenizerError: from reading and writing; what cannot be exact is refused.
    """
    form = format_to_write(out, to)
    refuse_existing(out, overwrite=overwrite, is_folder=form == "folder")
    content = read_tokenizer(source, pattern, _with_ids(special_tokens) if special_tokens else None)
    tokenizer = Tokenizer.from_content(content)
    if form == "hugging-face":
        tokenizer.save_hugging_face(out)
    elif form == "tiktoken":
        tokenizer.save_tiktoken(out)
    else:
        tokenizer.save(out)
    left_out = f"; left out: {', '.join(content.left_out)}" if content.left_out else ""
    return f"{_summary(tokenizer, form)}{left_out}"


def format_to_write(out: Path, to: FormatName | None) -> FormatName:
    """The format asked for, or the one that the name of `out` suggests.

    Raises:
        ConfigError: the name is ambiguous, or contradicts the format.
    """
    is_folder = out.is_dir()
    if to is None:
        if out.name == "tokenizer.json" and not is_folder:
            raise ConfigError(
                f"{out}: the name fits two formats; choose --to hugging-face or --to json (groundup's own)"
            )
        if out.suffix == ".tiktoken":
            return "tiktoken"
        return "json" if out.suffix == ".json" and not is_folder else "folder"
    if to == "json" and (out.suffix != ".json" or is_folder):
        raise ConfigError(f"--to json writes one file, whose name ends in .json; {out} is not such a name")
    if to == "folder" and out.suffix == ".json" and not is_folder:
        raise ConfigError(f"--to folder, and {out} is the name of a file; leave .json away")
    return to


def refuse_existing(out: Path, *, overwrite: bool, is_folder: bool = True) -> None:
    """Raise ConfigError if a tokenizer would be replaced: data encoded with the old one would become useless."""
    if out == Path():
        raise ConfigError("out is the current folder; name a folder or file for the tokenizer")
    names = (META_FILE, VOCAB_FILE, MERGES_FILE, GROUNDUP_FILE)
    found = [str(path) for path in ([out / name for name in names] if is_folder else [out]) if path.is_file()]
    if found and not overwrite:
        raise ConfigError(f"{', '.join(found)} exists already; choose another name, or replace it with --overwrite")


def _with_ids(special_tokens: Sequence[str]) -> SpecialTokens:
    """Names with ids, if all have ids: "<|x|>=5"."""
    parts = [token.rpartition("=") for token in special_tokens]
    numbered = [bool(name) and digits.isascii() and digits.isdigit() for name, _, digits in parts]
    if not any(numbered):
        return special_tokens
    if not all(numbered):
        raise ConfigError(
            f"--special-tokens gives {special_tokens[numbered.index(True)]!r} an id and none to "
            f"{special_tokens[numbered.index(False)]!r}; give all of them ids, or none"
        )
    if repeated := next((name for i, (name, _, _) in enumerate(parts) if name in [p[0] for p in parts[:i]]), None):
        raise ConfigError(f"--special-tokens gives {repeated!r} two ids; keep one")
    return {name: int(digits[:10]) for name, _, digits in parts}


def _summary(tokenizer: Tokenizer, form: FormatName) -> str:
    special = [f"{name} = {tokenizer.token_id(name)}" for name in tokenizer.special_tokens]
    shown = ", ".join(special[:_NAMED_SPECIAL_TOKENS])
    if len(special) > _NAMED_SPECIAL_TOKENS:
        shown += f" and {len(special) - _NAMED_SPECIAL_TOKENS:,} more"
    pattern = tokenizer.pattern if tokenizer.pattern in PATTERNS else repr(tokenizer.pattern)
    how = "characters with byte fallback" if tokenizer.characters else f"pattern {pattern}"
    ignored = "ignore_merges, " if tokenizer.ignore_merges else ""
    # A .tiktoken file holds the tokens alone.
    without = "without what the format has no place for: " if form == "tiktoken" else ""
    return (
        f"{form}, {len(tokenizer.vocab):,} tokens, {len(tokenizer.merges):,} merges, {ignored}{without}{how}, "
        f"special tokens: {shown or 'none'}"
    )
