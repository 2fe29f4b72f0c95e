"""Tokenizers on disk, in the form GPT-2 came in: vocab.json, merges.txt, and meta.json for what those two lack.

Tokens are bytes, and JSON is text. GPT-2 writes each byte as one printable character (`BYTE_TO_CHARACTER`): bytes that
are printable in Latin-1 as themselves, the others, in order, as the characters from U+0100 on; the space is "Ġ".
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from groundup.errors import FileMissingError, TokenizerError
from groundup.files import write_atomically

VOCAB_FILE, MERGES_FILE, META_FILE = "vocab.json", "merges.txt", "meta.json"
FORMAT_VERSION = 1
MERGES_HEADER = "#version: 0.2"

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_UNPRINTABLE = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_TO_CHARACTER = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(0x100 + i) for i, byte in enumerate(_UNPRINTABLE)
}
CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}


class TokenizerFiles(NamedTuple):
    """Where a tokenizer lies. Folders that did not come from `Tokenizer.save` have no `meta`."""

    vocab: Path
    merges: Path
    meta: Path | None


def printable(token: bytes) -> str:
    """The token with one printable character a byte."""
    return "".join(map(BYTE_TO_CHARACTER.__getitem__, token))


def from_printable(text: str) -> bytes:
    """The token that `printable` wrote. KeyError for a character that stands for no byte."""
    return bytes(map(CHARACTER_TO_BYTE.__getitem__, text))


def find_files(path: Path) -> TokenizerFiles:
    """The files of the tokenizer in a folder, or of the one that a file belongs to.

    Raises:
        FileMissingError: nothing is there, or not both a vocabulary and its merges.
    """
    if not path.exists():
        raise FileMissingError(f"tokenizer {path} does not exist; give a folder with {VOCAB_FILE} and {MERGES_FILE}")
    folder = path if path.is_dir() else path.parent
    if (meta := folder / META_FILE).is_file():
        return TokenizerFiles(folder / VOCAB_FILE, folder / MERGES_FILE, meta)
    for vocab, merges in ((VOCAB_FILE, MERGES_FILE), ("encoder.json", "vocab.bpe")):
        if (folder / vocab).is_file() and (folder / merges).is_file():
            return TokenizerFiles(folder / vocab, folder / merges, None)
    raise FileMissingError(
        f"no tokenizer in {folder}; expected {VOCAB_FILE} and {MERGES_FILE}, or GPT-2's encoder.json and vocab.bpe"
    )


def read_vocab(path: Path) -> dict[int, bytes]:
    """Token bytes by id, from a JSON object of printable token -> id.

    A key with characters that stand for no byte is taken as plain text: other libraries write special tokens so.

    Raises:
        FileMissingError: there is no such file.
        TokenizerError: it is not such an object, or gives an id twice.
    """
    entries = _read_json(path)
    vocab: dict[int, bytes] = {}
    for text, token_id in entries.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise TokenizerError(f"{path}: token {text!r} has the id {token_id!r}; ids are integers")
        if token_id in vocab:
            raise TokenizerError(f"{path}: id {token_id} is given to {text!r} and to another token; ids are unique")
        try:
            vocab[token_id] = from_printable(text)
        except KeyError:
            vocab[token_id] = text.encode("utf-8", "replace")
    return vocab


def read_merges(path: Path) -> list[tuple[bytes, bytes]]:
    """Merges in order, from lines of two printable tokens with a space between.

    A first line that begins with "#version" is a header. Other lines may begin with "#", which is a token like any.

    Raises:
        FileMissingError: there is no such file.
        TokenizerError: a line is not two tokens.
    """
    merges = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        try:
            left, right = map(from_printable, line.split(" "))
        except (KeyError, ValueError):
            raise TokenizerError(
                f"{path}: line {number} is {line[:80]!r}; expected two tokens in GPT-2's byte alphabet, "
                "separated by one space"
            ) from None
        merges.append((left, right))
    return merges


def read_meta(path: Path) -> dict[str, Any]:
    """What `write_files` put into meta.json.

    Raises:
        FileMissingError: there is no such file.
        TokenizerError: it is damaged, or from a later version of groundup.
    """
    meta = _read_json(path)
    if meta.get("format_version") != FORMAT_VERSION:
        raise TokenizerError(
            f"{path}: format_version is {meta.get('format_version')!r}, and this groundup reads {FORMAT_VERSION}; "
            "save the tokenizer again, or update groundup"
        )
    expected = {"pattern": str, "special_tokens": list, "sha256": str}
    for key, kind in expected.items():
        if not isinstance(meta.get(key), kind):
            raise TokenizerError(f"{path}: {key} is {meta.get(key)!r}, expected a {kind.__name__}; save it again")
    return meta


def write_files(
    folder: Path, vocab: Mapping[int, bytes], merges: list[tuple[bytes, bytes]], meta: dict[str, Any]
) -> None:
    """Writes the three files into the folder, which is made if need be.

    Each file is replaced in one step. meta.json goes first: whoever reads a folder in which the others are not yet
    there, or not yet of this tokenizer, is told so by the hash in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = {printable(token): token_id for token_id, token in sorted(vocab.items())}
    lines = [MERGES_HEADER, *(f"{printable(left)} {printable(right)}" for left, right in merges)]
    meta = {"format_version": FORMAT_VERSION, **meta}
    write_atomically(folder / META_FILE, json.dumps(meta, ensure_ascii=False, indent=2) + "\n")
    write_atomically(folder / VOCAB_FILE, json.dumps(entries, ensure_ascii=False) + "\n")
    write_atomically(folder / MERGES_FILE, "\n".join(lines) + "\n")


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise FileMissingError(f"{path} does not exist; a tokenizer needs it") from None
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}; give a readable file") from None
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 at byte {error.start}: it is damaged or of another kind") from None


def _read_json(path: Path) -> dict[str, Any]:
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            raise TokenizerError(f"{path}: a key is given twice; every token has one id")
        return entries

    try:
        content = json.loads(_read_text(path), object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}): it is damaged") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds a JSON {type(content).__name__}; expected an object")
    return content
