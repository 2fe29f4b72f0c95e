"""GPT-2's format: vocab.json, merges.txt, and groundup's meta.json for what those two lack.

Tokens are bytes, and JSON is text. GPT-2 writes each byte as one printable character (`BYTE_TO_CHARACTER`): bytes that
are printable in Latin-1 as themselves, the others, in order, as the characters from U+0100 on; the space is "Ġ". All
our formats do so but tiktoken's.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from groundup.config import END_OF_TEXT
from groundup.errors import TokenizerError
from groundup.system.files import write_atomically
from groundup.tokenizer.content import Pair, SpecialTokens, TokenizerContent, with_special_tokens
from groundup.tokenizer.formats.strict_reading import as_id, as_json_object, as_text, read_bytes, shown
from groundup.tokenizer.normalization.normalizers import normalizer_json, saved_normalizer
from groundup.tokenizer.patterns import NEWEST

VOCAB_FILE, MERGES_FILE, META_FILE = "vocab.json", "merges.txt", "meta.json"
GPT2_VOCAB_FILE, GPT2_MERGES_FILE = "encoder.json", "vocab.bpe"
FORMAT_VERSION = 1
MERGES_HEADER = "#version: 0.2"
_META_KINDS: dict[str, type] = {"pattern": str, "special_tokens": list, "sha256": str}
_OPTIONAL_META_KINDS: dict[str, type] = {
    "ignore_merges": bool,
    "normalizer": dict,
    "normalized_tokens": list,
    "unicode_version": str,
    "special_ids": dict,
    "added_tokens": list,
}
_KIND_NAMES: dict[type, str] = {bool: "true or false"}

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_UNPRINTABLE = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_TO_CHARACTER = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + i) for i, byte in enumerate(_UNPRINTABLE)
}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
_BYTE_TO_PRINTABLE = str.maketrans({chr(byte): character for byte, character in BYTE_TO_CHARACTER.items()})
# To the character of the byte's number, so that Latin-1 makes the byte of it; and those that stand for no byte, but are
# in Latin-1, to one that is not.
_PRINTABLE_TO_BYTE = str.maketrans(
    {chr(byte): "\uffff" for byte in _UNPRINTABLE} | {character: chr(b) for b, character in BYTE_TO_CHARACTER.items()}
)


class TokenizerFiles(NamedTuple):
    """Paths of a tokenizer's files. Folders that `Tokenizer.save` did not write have no `meta`."""

    vocab: Path
    merges: Path
    meta: Path | None


def printable(token: bytes) -> str:
    """The token with one printable character a byte."""
    return token.decode("latin-1").translate(_BYTE_TO_PRINTABLE)


def from_printable(text: str) -> bytes:
    """The token that `printable` wrote. KeyError for a character that stands for no byte."""
    try:
        return text.translate(_PRINTABLE_TO_BYTE).encode("latin-1")
    except UnicodeEncodeError:
        raise KeyError(next(character for character in text if character not in CHARACTER_TO_BYTE)) from None


class TokenOf(dict[str, bytes]):
    """`from_printable` of what is asked for, each once: the halves of merges come many times."""

    def __missing__(self, text: str) -> bytes:
        token = self[text] = from_printable(text)
        return token


def find_files(folder: Path) -> TokenizerFiles | None:
    """The files of the tokenizer in a folder: those that `write_files` wrote, or only GPT-2's two; None without."""
    if os.path.lexists(meta := folder / META_FILE):  # whatever it is: without it the other two may mean other ids
        return TokenizerFiles(folder / VOCAB_FILE, folder / MERGES_FILE, meta)
    for vocab, merges in ((VOCAB_FILE, MERGES_FILE), (GPT2_VOCAB_FILE, GPT2_MERGES_FILE)):
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return TokenizerFiles(folder / vocab, folder / merges, None)
    return None


def read_saved(vocab: Path, merges: Path, meta: Path) -> TokenizerContent:
    """Read a folder that `write_files` wrote.

    Raises:
        FileMissingError: one of the files does not exist.
        TokenizerError: one of them is damaged.
    """
    about = read_meta(meta)
    return TokenizerContent(
        source=str(meta.parent),
        vocab=read_vocab(vocab),
        merges=read_merges(merges),
        special_tokens=about["special_tokens"],
        pattern=tuple(about["pattern"]) if isinstance(about["pattern"], list) else about["pattern"],
        ignore_merges=about.get("ignore_merges", False),
        normalizer=saved_normalizer(meta, about.get("normalizer")),
        normalized_tokens=tuple(about.get("normalized_tokens", ())),
        unicode_version=about.get("unicode_version", NEWEST),
        special_ids=about.get("special_ids", {}),
        added_tokens=tuple(about.get("added_tokens", ())),
        sha256=about["sha256"],
        sha256_file=META_FILE,
    )


def read_two_files(
    vocab: Path, merges: Path, pattern: str | None = None, special_tokens: SpecialTokens | None = None
) -> TokenizerContent:
    """GPT-2's two files. They carry neither pattern nor special tokens.

    Args:
        vocab: the vocabulary.
        merges: the merges.
        pattern: None for GPT-2's.
        special_tokens: None for <|endoftext|> if it is in the vocabulary.

    Raises:
        FileMissingError: one of the files does not exist.
        TokenizerError: one of them is damaged, or a special token does not fit.
    """
    tokens = read_vocab(vocab)
    if special_tokens is None:
        special_tokens = [END_OF_TEXT] if END_OF_TEXT.encode() in tokens.values() else []
    tokens, names = with_special_tokens(vocab, tokens, special_tokens)
    return TokenizerContent(
        source=f"{vocab} and {merges.name}",
        vocab=tokens,
        merges=read_merges(merges),
        special_tokens=names,
        pattern=pattern or "gpt2",
    )


def read_vocab(path: Path) -> dict[int, bytes]:
    """Token bytes by id, from a JSON object of printable token -> id.

    A key with characters that stand for no byte is taken as plain text: other libraries write special tokens so.

    Raises:
        FileMissingError: the file does not exist.
        TokenizerError: it is not such an object, gives an id twice, or a token.
    """
    return vocab_of_entries(path, as_json_object(path, read_bytes(path)))


def vocab_of_entries(path: Path, entries: Mapping[str, Any]) -> dict[int, bytes]:
    """`read_vocab`, of a JSON object that was read from the path."""
    try:
        tokens = list(map(from_printable, entries))
    except KeyError:
        return _vocab_of_each(path, entries)
    if set(map(type, entries.values())) <= {int}:
        vocab = dict(zip(entries.values(), tokens, strict=True))
        if len(vocab) == len(tokens):  # no two characters stand for one byte, so the tokens differ as the texts do
            return vocab
    return _vocab_of_each(path, entries)


def _vocab_of_each(path: Path, entries: Mapping[str, Any]) -> dict[int, bytes]:
    vocab: dict[int, bytes] = {}
    text_of: dict[bytes, str] = {}
    for text, entry in entries.items():
        token_id = as_id(path, text, entry)
        if token_id in vocab:
            raise TokenizerError(
                f"{path}: id {token_id} is given to {shown(text)} and to another token; ids are unique"
            )
        try:
            token = from_printable(text)
        except KeyError:
            token = token_of_text(path, text)
        if token in text_of:
            raise TokenizerError(
                f"{path}: {shown(text_of[token])} and {shown(text)} are the same bytes {shown(token)}; keep one of them"
            )
        vocab[token_id] = token
        text_of[token] = text
    return vocab


def token_of_text(path: Path, text: str) -> bytes:
    """The UTF-8 bytes of a token that a file has as plain text.

    Raises:
        TokenizerError: it has a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise TokenizerError(f"{path}: token {shown(text)} has a lone surrogate, which is not text: damaged") from None


def read_merges(path: Path) -> list[Pair]:
    """Merges in order, from lines of two printable tokens with a space between.

    A first line that begins with "#version" is a header. Other lines may begin with "#", which is a token like any.

    Raises:
        FileMissingError: the file does not exist.
        TokenizerError: a line is not two tokens, or is there twice.
    """
    line_of: dict[Pair, int] = {}
    token_of = TokenOf()
    for number, line in enumerate(as_text(path, read_bytes(path)).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        try:
            left, right = map(token_of.__getitem__, line.split(" "))
        except (KeyError, ValueError):
            left = right = b""
        if not (left and right):
            raise TokenizerError(
                f"{path}: line {number} is {shown(line)}; expected two tokens in GPT-2's byte alphabet, "
                "separated by one space"
            )
        if (left, right) in line_of:
            raise TokenizerError(
                f"{path}: line {number} is {shown(line)}, as line {line_of[left, right]}; a pair merges once"
            )
        line_of[left, right] = number
    return list(line_of)


def read_meta(path: Path) -> dict[str, Any]:
    """Read the meta.json that `write_files` wrote.

    Raises:
        FileMissingError: the file does not exist.
        TokenizerError: it is damaged, or from a later version of groundup.
    """
    meta = as_json_object(path, read_bytes(path))
    if meta.get("format_version") != FORMAT_VERSION:
        raise TokenizerError(
            f"{path}: format_version is {shown(meta.get('format_version'))}, and this groundup reads {FORMAT_VERSION}; "
            "save the tokenizer again, or update groundup"
        )
    for key, kind in (_META_KINDS | {key: kind for key, kind in _OPTIONAL_META_KINDS.items() if key in meta}).items():
        if not isinstance(meta.get(key), kind) and not (key == "pattern" and _is_several(meta.get(key))):
            name = _KIND_NAMES.get(kind, f"a {kind.__name__}")
            raise TokenizerError(f"{path}: {key} is {shown(meta.get(key))}, expected {name}; save the tokenizer again")
    return meta


def _is_several(pattern: object) -> bool:
    return isinstance(pattern, list) and bool(pattern) and all(isinstance(step, str) for step in pattern)


def write_files(folder: Path, content: TokenizerContent, sha256: str) -> None:
    """Write the three files into the folder, which is created if it does not exist.

    Each file is replaced in one step. meta.json goes first: a reader of a folder in which the others are not yet
    there, or not yet of this tokenizer, is told so by the hash in it.

    Raises:
        TokenizerError: the folder is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise TokenizerError(
            f"{folder} is a file or lies in one; give a folder, or a name that ends in .json for a single file"
        ) from None
    # A token that shares its bytes with another has no place in vocab.json, whose keys are the bytes.
    apart = set(content.special_ids.values())
    entries = {printable(token): token_id for token_id, token in sorted(content.vocab.items()) if token_id not in apart}
    lines = [MERGES_HEADER, *(f"{printable(left)} {printable(right)}" for left, right in content.merges)]
    meta: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "pattern": content.pattern,
        "unicode_version": content.unicode_version,
        "special_tokens": content.special_tokens,
        "sha256": sha256,
    }
    # A groundup that does not know one of these sees another hash.
    if content.ignore_merges:
        meta["ignore_merges"] = True
    if content.added_tokens:
        meta["added_tokens"] = list(content.added_tokens)
    if content.special_ids:
        meta["special_ids"] = dict(content.special_ids)
    if content.normalizer:
        meta["normalizer"] = normalizer_json(content.normalizer)
        meta["normalized_tokens"] = list(content.normalized_tokens)
    write_atomically(folder / META_FILE, json.dumps(meta, ensure_ascii=False, indent=2) + "\n")
    write_atomically(folder / VOCAB_FILE, json.dumps(entries, ensure_ascii=False) + "\n")
    write_atomically(folder / MERGES_FILE, "\n".join(lines) + "\n")
