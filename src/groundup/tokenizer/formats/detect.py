"""Detection of a tokenizer's format, from the content of the file and not from its name."""

import os
import stat
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from groundup.errors import FileMissingError, TokenizerError
from groundup.tokenizer.content import SpecialTokens, TokenizerContent
from groundup.tokenizer.formats import gpt2 as files
from groundup.tokenizer.formats import groundup_json as groundup_file
from groundup.tokenizer.formats.groundup_json import content_of_groundup_file
from groundup.tokenizer.formats.hugging_face import content_of_hugging_face
from groundup.tokenizer.formats.hugging_face_characters import content_of_sentencepiece, is_sentencepiece
from groundup.tokenizer.formats.strict_reading import as_json_object, as_text, read_bytes, shown
from groundup.tokenizer.formats.tekken import content_of_tekken, is_tekken
from groundup.tokenizer.formats.tiktoken import ENCODINGS, content_of_lines, looks_like_tiktoken
from groundup.tokenizer.patterns import checked_pattern, expression_of

HUGGING_FACE_FILE = "tokenizer.json"
GROUNDUP_FILE = "tokenizer.groundup.json"
"""What a folder holds that `Tokenizer.save` wrote, if it is not in GPT-2's form."""
_LARGEST = 1 << 28
"""Bytes that no file of a tokenizer has."""
_NAMES_IN_FOLDERS = {
    files.VOCAB_FILE, files.MERGES_FILE, files.META_FILE, files.GPT2_VOCAB_FILE, files.GPT2_MERGES_FILE
}  # fmt: skip


class Format(Enum):
    """Format of a file."""

    GROUNDUP = "groundup's JSON file"
    HUGGING_FACE = "a Hugging Face tokenizer.json"
    TIKTOKEN = "a .tiktoken file"
    TEKKEN = "a tekken.json"
    ONE_OF_SEVERAL = "one of the files of a folder"


class _Recognised(NamedTuple):
    format: Format
    json: dict[str, Any]
    """The content of a JSON file."""


def read_tokenizer(
    path: Path, pattern: str | None = None, special_tokens: SpecialTokens | None = None
) -> TokenizerContent:
    """Read a file of any format, or a folder with vocab.json and merges.txt, or with a tokenizer.json.

    Args:
        path: the file or folder.
        pattern: for formats that lack it: .tiktoken, where it has to be given, and GPT-2's two files. For .tiktoken
            also the name of a known encoding, such as "p50k_base", which has special tokens as well.
        special_tokens: for the same formats.

    Raises:
        FileMissingError: nothing is there, or a part is missing.
        TokenizerError: it is damaged, of no known format, or cannot give the same ids here; or the pattern is missing,
            or pattern or special tokens are given where the file has them.
    """
    try:
        if not _is_folder(path):
            return _read_file(path, pattern, special_tokens)
        if os.path.lexists(path / GROUNDUP_FILE):
            return _read_file(path / GROUNDUP_FILE, pattern, special_tokens)
        several, one = files.find_files(path), path / HUGGING_FACE_FILE
        # tokenizer.json says how text is split; beside it, GPT-2's two files would be read with GPT-2's pattern.
        if os.path.lexists(one) and (several is None or several.meta is None):
            return _read_file(one, pattern, special_tokens)
        if several is not None:
            return _read_several(several, pattern, special_tokens)
        raise FileMissingError(_nothing_in(path))
    except FileMissingError:
        raise
    except OSError as error:
        raise TokenizerError(f"tokenizer {path} cannot be read: {error.strerror}; give a readable path") from None


def kind_of_tokenizer(path: Path) -> str:
    """Which tokenizer's format a file has, in words; empty if it has none of them."""
    try:
        if path.stat().st_size > _LARGEST:
            return ""
        return _recognise(path, read_bytes(path)).format.value
    except (OSError, TokenizerError):
        return ""


def _read_file(path: Path, pattern: str | None, special_tokens: SpecialTokens | None) -> TokenizerContent:
    data = read_bytes(path)
    found = _recognise(path, data)
    if found.format is Format.ONE_OF_SEVERAL:
        of_folder = files.find_files(path.parent)
        if of_folder is None or path.name not in {part.name for part in of_folder if part is not None}:
            raise FileMissingError(
                f"{path} is only a part of a tokenizer; vocabulary and merges are recognised as {files.VOCAB_FILE} and "
                f"{files.MERGES_FILE} in one folder, or name both: Tokenizer.from_files(vocab, merges)"
            )
        return _read_several(of_folder, pattern, special_tokens)
    if found.format is Format.TIKTOKEN:
        if pattern is None:
            known = path.stem if path.stem in ENCODINGS else "cl100k_base"
            raise TokenizerError(
                f"{path} is a .tiktoken file, which does not say how text is split; give the pattern of its tokenizer: "
                f'Tokenizer.load(path, pattern="{known}") for what tiktoken calls {known}, or pattern="cl100k", '
                'special_tokens={"<|endoftext|>": 100257}; or `groundup tokenizer convert` with --pattern and '
                "--special-tokens"
            )
        return content_of_lines(path, data, pattern, special_tokens or [])
    if found.format is Format.GROUNDUP:
        content = content_of_groundup_file(path, found.json)
    elif found.format is Format.TEKKEN:
        content = content_of_tekken(path, found.json)
    elif is_sentencepiece(found.json):
        content = content_of_sentencepiece(path, found.json)
    else:
        content = content_of_hugging_face(path, found.json)
    return _complete(content, pattern, special_tokens)


def _read_several(
    found: files.TokenizerFiles, pattern: str | None, special_tokens: SpecialTokens | None
) -> TokenizerContent:
    if found.meta is None:
        return files.read_two_files(found.vocab, found.merges, pattern, special_tokens)
    return _complete(files.read_saved(found.vocab, found.merges, found.meta), pattern, special_tokens)


def _complete(content: TokenizerContent, pattern: str | None, special_tokens: SpecialTokens | None) -> TokenizerContent:
    """The content of a file that has a pattern and special tokens, if the caller does not want others."""
    if pattern is not None and expression_of(checked_pattern(pattern)) != expression_of(content.pattern):
        raise TokenizerError(
            f"{content.source} says that its pattern is {shown(content.pattern)}, and {shown(pattern)} is asked for; "
            "leave the pattern out"
        )
    if special_tokens is not None:
        raise TokenizerError(
            f"{content.source} says what its special tokens are ({', '.join(map(shown, content.special_tokens))}); "
            "leave them out"
        )
    return content


def _recognise(path: Path, data: bytes) -> _Recognised:
    start = data[:4096].lstrip()
    if start.startswith(b"{"):
        return _recognise_json(path, as_json_object(path, data))
    first_line = start.split(b"\n", 1)[0].decode("ascii", "replace")
    if looks_like_tiktoken(first_line) and path.name not in _NAMES_IN_FOLDERS:
        return _Recognised(Format.TIKTOKEN, {})
    if first_line.startswith("#version") or path.name in _NAMES_IN_FOLDERS:
        return _Recognised(Format.ONE_OF_SEVERAL, {})
    if path.suffix == ".tiktoken":  # its reader says what is wrong with the first line
        return _Recognised(Format.TIKTOKEN, {})
    as_text(path, data)
    raise TokenizerError(
        f"{path} begins with {shown(first_line)} and is of no known format; expected a folder, groundup's or Hugging "
        "Face's JSON, or lines of base64 and rank (.tiktoken)"
    )


def _recognise_json(path: Path, content: dict[str, Any]) -> _Recognised:
    if content.get("format") == groundup_file.FORMAT:
        return _Recognised(Format.GROUNDUP, content)
    if isinstance(content.get("model"), dict):
        return _Recognised(Format.HUGGING_FACE, content)
    if is_tekken(content):
        return _Recognised(Format.TEKKEN, content)
    only_ids = all(isinstance(value, int) for value in content.values())
    if only_ids or path.name in _NAMES_IN_FOLDERS:
        return _Recognised(Format.ONE_OF_SEVERAL, content)
    raise TokenizerError(
        f"{path} is a JSON object with {shown(list(content)[:5])} and of no known format; expected groundup's, with "
        f'"format": "{groundup_file.FORMAT}", or Hugging Face\'s, with "model"'
    )


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        raise FileMissingError(
            f"tokenizer {path} does not exist; give a folder with {files.VOCAB_FILE} and {files.MERGES_FILE}, or a file"
        ) from None


def _nothing_in(folder: Path) -> str:
    expected = (
        f"no tokenizer in {folder}; expected {files.VOCAB_FILE} and {files.MERGES_FILE}, GPT-2's "
        f"{files.GPT2_VOCAB_FILE} and {files.GPT2_MERGES_FILE}, or {HUGGING_FACE_FILE}"
    )
    others = sorted(path.name for path in folder.glob("*.tiktoken"))
    return f"{expected}; to load {others[0]}, name the file itself" if others else expected
