"""Our own format: a whole tokenizer in one JSON file, exact, and to be read by eye.

One token and one merge a line, in GPT-2's byte alphabet (`files.BYTE_TO_CHARACTER`), so that versions of a file can be
compared line by line; the pattern both as name and as expression; special tokens as their text. `sha256` is the
tokenizer's hash, of what the file means and not of how it is laid out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundup.errors import TokenizerError
from groundup.system.files import write_atomically
from groundup.tokenizer.content import Pair, TokenizerContent
from groundup.tokenizer.formats.gpt2 import TokenOf, from_printable, printable
from groundup.tokenizer.formats.strict_reading import as_id, shown
from groundup.tokenizer.normalization.characters import Characters
from groundup.tokenizer.normalization.normalizers import normalizer_json, saved_normalizer
from groundup.tokenizer.patterns import NEWEST, PATTERNS, Pattern, expression_of

FORMAT = "groundup-tokenizer"
FORMAT_VERSION = 1
_KINDS: dict[str, type] = {
    "format": str,
    "format_version": int,
    "pattern": dict,
    "sha256": str,
    "special_tokens": dict,
    "vocab": dict,
    "merges": list,
}
# A groundup that does not know one of these refuses the file, and does not ignore it.
_OPTIONAL: dict[str, type] = {
    "ignore_merges": bool,
    "characters": dict,
    "added_tokens": dict,
    "normalizer": dict,
    "normalized_tokens": list,
    "unicode_version": str,
}


def write_groundup_file(path: Path, content: TokenizerContent, sha256: str) -> None:
    """Write the file atomically. The vocabulary includes the special tokens."""
    vocab, pattern = content.vocab, content.pattern
    id_of_special, id_of_added = content.id_of_special(), content.id_of_added()
    apart = {*id_of_special.values(), *id_of_added.values()}
    head: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "pattern": {"name": pattern if pattern in PATTERNS else None, "regex": expression_of(pattern)},
        "sha256": sha256,
        "special_tokens": id_of_special,
        "unicode_version": content.unicode_version,
    }
    if content.ignore_merges:
        head["ignore_merges"] = True
    if content.characters is not None:
        head["characters"] = asdict(content.characters)
    if content.added_tokens:
        head["added_tokens"] = id_of_added
    if content.normalizer:
        head["normalizer"] = normalizer_json(content.normalizer)
        head["normalized_tokens"] = list(content.normalized_tokens)
    tokens = [f"{_json(printable(vocab[i]))}: {i}" for i in sorted(vocab) if i not in apart]
    pairs = [_json(f"{printable(left)} {printable(right)}") for left, right in content.merges]
    members = [f"{_json(key)}: {_json(value)}" for key, value in head.items()]
    members += [f'"vocab": {_lines("{", tokens, "}")}', f'"merges": {_lines("[", pairs, "]")}']
    write_atomically(path, _lines("{", members, "}") + "\n")


def content_of_groundup_file(path: Path, entries: Mapping[str, Any]) -> TokenizerContent:
    """The tokenizer in a file that `write_groundup_file` wrote, from its JSON object.

    Raises:
        TokenizerError: it is damaged, or from a later version of groundup.
    """
    version = entries.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise TokenizerError(
            f"{path}: format_version is {shown(version)}, and this groundup reads {FORMAT_VERSION}; update groundup, "
            "or write the file again"
        )
    kinds = _KINDS | {key: kind for key, kind in _OPTIONAL.items() if key in entries}
    for key in sorted(kinds.keys() | entries.keys()):
        if key not in kinds:
            raise TokenizerError(f"{path} has the key {shown(key)}, which no {FORMAT} has: it is damaged")
        kind = kinds[key]
        if not isinstance(entries.get(key), kind):
            raise TokenizerError(
                f"{path}: {key} is {shown(entries.get(key))}, expected a JSON {_JSON_NAMES[kind]}; write it again"
            )
    apart = entries["special_tokens"] | entries.get("added_tokens", {})
    vocab = _vocab(path, entries["vocab"], apart)
    ordinary = {token for token_id, token in vocab.items() if token_id not in set(apart.values())}
    return TokenizerContent(
        source=str(path),
        vocab=vocab,
        merges=_merges(path, entries["merges"]),
        special_tokens=list(entries["special_tokens"]),
        pattern=_pattern(path, entries["pattern"]),
        ignore_merges=entries.get("ignore_merges", False),
        characters=_characters(path, entries["characters"]) if "characters" in entries else None,
        added_tokens=tuple(entries.get("added_tokens", ())),
        normalizer=saved_normalizer(path, entries.get("normalizer")),
        normalized_tokens=tuple(entries.get("normalized_tokens", ())),
        unicode_version=entries.get("unicode_version", NEWEST),
        special_ids={name: token_id for name, token_id in apart.items() if name.encode() in ordinary},
        sha256=entries["sha256"],
        sha256_file=path.name,
    )


_JSON_NAMES = {str: "string", int: "number", dict: "object", list: "array", bool: "true or false"}


def _vocab(path: Path, entries: Mapping[str, Any], special_tokens: Mapping[str, Any]) -> dict[int, bytes]:
    try:
        tokens = [*map(from_printable, entries), *map(str.encode, special_tokens)]
    except (KeyError, UnicodeEncodeError):
        return _vocab_of_each(path, entries, special_tokens)
    ids = [*entries.values(), *special_tokens.values()]
    if set(map(type, ids)) <= {int} and len(set(ids)) == len(ids):
        return dict(zip(ids, tokens, strict=True))
    return _vocab_of_each(path, entries, special_tokens)


def _vocab_of_each(path: Path, entries: Mapping[str, Any], special_tokens: Mapping[str, Any]) -> dict[int, bytes]:
    vocab: dict[int, bytes] = {}
    for text, token_id, is_special in (
        *((text, entry, False) for text, entry in entries.items()),
        *((text, entry, True) for text, entry in special_tokens.items()),
    ):
        if as_id(path, text, token_id) in vocab:
            raise TokenizerError(f"{path}: id {token_id} is given to {shown(text)} and to another token; give it once")
        try:
            vocab[token_id] = text.encode() if is_special else from_printable(text)
        except KeyError as error:
            raise TokenizerError(
                f"{path}: token {shown(text)} has {error.args[0]!r}, which stands for no byte in GPT-2's alphabet; "
                "special tokens go into special_tokens"
            ) from None
        except UnicodeEncodeError:
            raise TokenizerError(f"{path}: special token {shown(text)} has a lone surrogate: damaged") from None
    return vocab


def _merges(path: Path, entries: Sequence[Any]) -> list[Pair]:
    number_of: dict[Pair, int] = {}
    token_of = TokenOf()
    for number, entry in enumerate(entries):
        try:
            left, right = map(token_of.__getitem__, entry.split(" "))
        except (AttributeError, KeyError, ValueError):
            left = right = b""
        if not (left and right):
            raise TokenizerError(
                f"{path}: merge {number} is {shown(entry)}; expected two tokens in GPT-2's byte alphabet with a space "
                "between"
            )
        if (left, right) in number_of:
            raise TokenizerError(
                f"{path}: merge {number} is {shown(entry)}, as merge {number_of[left, right]}; a pair merges once"
            )
        number_of[left, right] = number
    return list(number_of)


def _characters(path: Path, entry: Mapping[str, Any]) -> Characters:
    try:
        return Characters(**entry)
    except (TokenizerError, TypeError) as error:
        raise TokenizerError(f"{path}: characters is {shown(entry)}: {error}") from None


def _pattern(path: Path, entry: Mapping[str, Any]) -> Pattern:
    name, regex = entry.get("name"), entry.get("regex")
    if isinstance(regex, list) and regex and name is None and set(map(type, regex)) == {str}:
        return tuple(regex)
    if entry.keys() != {"name", "regex"} or not isinstance(name, str | None) or not isinstance(regex, str):
        raise TokenizerError(f'{path}: pattern is {shown(entry)}; expected {{"name": string or null, "regex": string}}')
    if name in PATTERNS and regex != PATTERNS[name]:
        raise TokenizerError(
            f"{path}: pattern {name!r} is {shown(regex)} there and {shown(PATTERNS[name])} in this groundup; "
            "set its name to null to use the expression"
        )
    # A name that this version does not know: the expression says what it is.
    return name if name in PATTERNS else regex


def _lines(opening: str, members: Sequence[str], closing: str) -> str:
    return "\n".join([opening, ",\n".join(members), closing]) if members else opening + closing


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
