"""`groundup tokenizer convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.text import Text
from tyro.conf import arg

from groundup.cli.parse import call
from groundup.display.console import make_console
from groundup.errors import ConfigError

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.content import SpecialTokens

FormatName = Literal["folder", "json", "hugging-face", "tiktoken"]


def convert(arguments: list[str]) -> None:
    """Parse and run."""
    call(_convert, arguments, "tokenizer convert")


def _convert(
    source: Path,
    out: Path,
    /,
    *,
    to: FormatName | None = None,
    pattern: str | None = None,
    special_tokens: Annotated[tuple[str, ...], arg(aliases=["--special-token"])] = (),
    overwrite: bool = False,
) -> None:
    """Read a tokenizer of any format and write it in another, with the same ids; what cannot be exact is refused.

    Args:
        source: a tokenizer's folder; groundup's or Hugging Face's JSON; a tekken.json; a .tiktoken file.
        out: what to write.
        to: folder (vocab.json, merges.txt, meta.json; one file for a tokenizer on characters), json (groundup's single
            file), hugging-face (tokenizer.json) or tiktoken; by default what the name of out suggests.
        pattern: how text is split, for .tiktoken and GPT-2's two files, which do not say it: gpt2, cl100k, llama3,
            qwen2, o200k, tekken, or a regular expression. For .tiktoken also r50k_base, p50k_base, p50k_edit,
            cl100k_base or o200k_base, which have special tokens as well.
        special_tokens: for the same files: NAME=ID, or NAME alone for the next free id.
        overwrite: replace what is there.
    """
    from groundup.tokenizer import Tokenizer
    from groundup.tokenizer.formats.detect import read_tokenizer

    form = _format_of(out, to)
    _refuse_existing(out, form, overwrite=overwrite)
    content = read_tokenizer(source, pattern, _with_ids(special_tokens) if special_tokens else None)
    tokenizer = Tokenizer.from_content(content)
    if form == "hugging-face":
        tokenizer.save_hugging_face(out)
    elif form == "tiktoken":
        tokenizer.save_tiktoken(out)
    else:
        tokenizer.save(out)
    left_out = f"; left out: {', '.join(content.left_out)}" if content.left_out else ""
    make_console().print(Text(f"{out}: {_summary(tokenizer, form)}{left_out}"), soft_wrap=True)


def _format_of(out: Path, to: FormatName | None) -> FormatName:
    if out == Path():
        raise ConfigError("out is the current folder; name a folder or file for the tokenizer")
    if to is None:
        if out.name == "tokenizer.json" and not out.is_dir():
            raise ConfigError(
                f"{out}: say --to hugging-face or --to json (groundup's own), which both may be called so"
            )
        if out.suffix == ".tiktoken":
            return "tiktoken"
        return "json" if out.suffix == ".json" and not out.is_dir() else "folder"
    if to == "json" and (out.suffix != ".json" or out.is_dir()):
        raise ConfigError(f"--to json writes one file, whose name ends in .json; {out} is not such a name")
    if to == "folder" and out.suffix == ".json" and not out.is_dir():
        raise ConfigError(f"--to folder, and {out} is the name of a file; leave .json away")
    return to


def _refuse_existing(out: Path, form: FormatName, *, overwrite: bool) -> None:
    from groundup.tokenizer.formats.detect import GROUNDUP_FILE

    names = ("meta.json", "vocab.json", "merges.txt", GROUNDUP_FILE)
    taken = [out / name for name in names if (out / name).exists()] if form == "folder" else [out]
    if not overwrite and (found := [str(path) for path in taken if path.is_file()]):
        raise ConfigError(f"{', '.join(found)} exists already; choose another name, or replace it with --overwrite")


def _with_ids(special_tokens: tuple[str, ...]) -> SpecialTokens:
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
    from groundup.tokenizer.patterns import PATTERNS

    special = [f"{name} = {tokenizer.token_id(name)}" for name in tokenizer.special_tokens]
    shown = ", ".join(special[:5]) + (f" and {len(special) - 5:,} more" if len(special) > 5 else "")
    pattern = tokenizer.pattern if tokenizer.pattern in PATTERNS else repr(tokenizer.pattern)
    how = "characters with byte fallback" if tokenizer.characters else f"pattern {pattern}"
    facts = f"{len(tokenizer.vocab):,} tokens, {len(tokenizer.merges):,} merges, "
    if tokenizer.ignore_merges:
        facts += "ignore_merges, "
    known = f"{how}, special tokens: {shown or 'none'}"
    if form == "tiktoken":
        return f"{form}, {facts}without what the format has no place for: {known}"
    return f"{form}, {facts}{known}"
