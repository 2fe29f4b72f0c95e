"""Reading files in which nothing may be guessed: every fault is one error that names the file and the place."""

import json
from pathlib import Path
from typing import Any

from groundup.errors import FileMissingError, TokenizerError
from groundup.system import files as reading


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        FileMissingError: the file does not exist.
        TokenizerError: it is empty, a folder, or cannot be read.
    """
    try:
        data = reading.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise FileMissingError(f"{path} does not exist; a tokenizer needs it") from None
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}; give a readable file") from None
    if not data.strip():
        raise TokenizerError(f"{path} is empty: it is damaged, or was not written to its end; write it again")
    return data


def as_text(path: Path, data: bytes) -> str:
    """The text of a file's bytes.

    Raises:
        TokenizerError: they are not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 at byte {error.start}: it is damaged or of another kind") from None


def as_json_object(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in a file's bytes.

    Raises:
        TokenizerError: they are not JSON, not an object, or an object in it has a key twice.
    """

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise TokenizerError(f"{path}: a key is given twice, {shown(key)}; keep one of them")
                seen.add(key)
        return entries

    try:
        content = json.loads(as_text(path, data), object_pairs_hook=without_repeats)
    except json.JSONDecodeError as error:
        raise TokenizerError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}): it is damaged") from None
    except RecursionError:
        raise TokenizerError(
            f"{path} nests JSON too deeply for a tokenizer: it is damaged or of another kind"
        ) from None
    except TokenizerError:
        raise
    except ValueError:  # int() refuses thousands of digits
        raise TokenizerError(f"{path} has a number of thousands of digits: it is damaged") from None
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} holds a JSON {type(content).__name__}; expected an object")
    return content


def as_id(path: Path, token: str, token_id: object) -> int:
    """The id of a token, which JSON may have as anything.

    Raises:
        TokenizerError: it is not an integer.
    """
    if not isinstance(token_id, int) or isinstance(token_id, bool):
        raise TokenizerError(f"{path}: token {shown(token)} has the id {shown(token_id)}; ids are integers")
    return token_id


def shown(value: object) -> str:
    """A value as an error shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
