"""Mistral's tekken.json: tokens in order of rank, their bytes in base64, and the pattern; special tokens come first.

`default_num_special_tokens` ids belong to special tokens, so that the token of rank r has the id r + that number. The
ids are those of mistral-common's `Tekkenizer`, which looks for no special tokens in a text: `encode_ordinary`.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

from groundup.errors import TokenizerError
from groundup.tokenizer.content import TokenizerContent
from groundup.tokenizer.formats.merge_order import merges_of_ranks
from groundup.tokenizer.formats.strict_reading import as_id, shown
from groundup.tokenizer.patterns import OF_ENGINE, PATTERNS

Json = dict[str, Any]

_NAME_OF = {expression: name for name, expression in PATTERNS.items()}
_EARLY_VERSIONS = ("v1", "v2", "v3", "v7")  # whose files need not list the special tokens
_EARLY_SPECIAL_TOKENS = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip
_OTHER_PARTS = ("image", "multimodal", "audio", "model_settings_builder")


def is_tekken(file: Json) -> bool:
    """Whether a JSON object is a tekken.json."""
    config = file.get("config")
    return isinstance(config, dict) and "pattern" in config and isinstance(file.get("vocab"), list)


def content_of_tekken(path: Path, file: Json) -> TokenizerContent:
    """The tokenizer in a tekken.json, from its JSON object.

    Raises:
        TokenizerError: it is damaged, or its pattern is not one of those built in.
    """
    config = file["config"]
    pattern = config["pattern"]
    if not isinstance(pattern, str) or pattern not in _NAME_OF:
        raise TokenizerError(
            f"{path} cannot be read with the same ids: its pattern is {shown(pattern)}; expected that of one of "
            f"{', '.join(PATTERNS)}"
        )
    special_count = _number(path, config, "default_num_special_tokens")
    size = _number(path, config, "default_vocab_size") - special_count
    if not 256 <= size <= len(file["vocab"]):
        raise TokenizerError(
            f"{path}: config has default_vocab_size {size + special_count} and {special_count} special tokens, and "
            f"vocab has {len(file['vocab'])} entries; expected at least the 256 bytes, and an entry for each token"
        )
    names = _special_tokens(path, file, special_count)
    ranks = _ranks(path, file["vocab"][:size])
    merges, unreached = merges_of_ranks(ranks)
    vocab = {token_id: name.encode() for token_id, name in enumerate(names)}
    vocab |= {special_count + rank: token for token, rank in ranks.items()}
    return TokenizerContent(
        source=str(path),
        vocab=vocab,
        merges=merges,
        special_tokens=names,
        pattern=_NAME_OF[pattern],
        ignore_merges=bool(unreached),
        unicode_version=OF_ENGINE["tiktoken"],
        left_out=tuple(part for part in _OTHER_PARTS if file.get(part) is not None),
    )


def _special_tokens(path: Path, file: Json, count: int) -> list[str]:
    """The names of the special tokens in the order of their ids, and fillers for ids without one."""
    entries = file.get("special_tokens")
    if entries is None:
        version = file["config"].get("version")
        if version not in _EARLY_VERSIONS:
            raise TokenizerError(
                f"{path} has no special_tokens, and its version is {shown(version)}; only files of "
                f"{', '.join(_EARLY_VERSIONS)} may leave them out"
            )
        entries = [{"rank": rank, "token_str": name} for rank, name in enumerate(_EARLY_SPECIAL_TOKENS)]
    if not isinstance(entries, list) or len(entries) > count:
        raise TokenizerError(f"{path}: special_tokens is {shown(entries)}; expected a JSON array of at most {count}")
    names: list[str] = []
    for entry in entries:
        name = entry.get("token_str") if isinstance(entry, dict) else None
        if not isinstance(name, str) or as_id(path, name, entry.get("rank")) != len(names):
            raise TokenizerError(
                f"{path}: special token {len(names)} is {shown(entry)}; expected token_str and the rank {len(names)}"
            )
        names.append(name)
    return [*names, *(f"<SPECIAL_{token_id}>" for token_id in range(len(names), count))]


def _ranks(path: Path, entries: list[Any]) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for rank, entry in enumerate(entries):
        try:
            token = base64.b64decode(entry["token_bytes"], validate=True)
            is_right = entry["rank"] == rank and (rank >= 256 or token == bytes([rank]))
        except (binascii.Error, KeyError, TypeError, ValueError):
            is_right = False
        if not is_right:
            raise TokenizerError(
                f"{path}: entry {rank} of vocab is {shown(entry)}; expected the rank {rank} and token_bytes in base64, "
                "the first 256 being the bytes"
            )
        if token in ranks:
            raise TokenizerError(f"{path}: entry {rank} of vocab has token {shown(token)}, as entry {ranks[token]}")
        ranks[token] = rank
    return ranks


def _number(path: Path, config: Json, key: str) -> int:
    number = config.get(key)
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise TokenizerError(f"{path}: {key} in config is {shown(number)}; expected a number of tokens")
    return number
