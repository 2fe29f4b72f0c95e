"""The parts of a tokenizer.json before its model: the normalizer, and the pre-tokenizer as a pattern and back."""

import re
from pathlib import Path
from typing import Any

from groundup.errors import TokenizerError
from groundup.tokenizer.formats.regex_dialects import difference
from groundup.tokenizer.formats.strict_reading import shown
from groundup.tokenizer.normalization.normalizers import Normalizer, UnknownNormalizerError, parse_normalizer
from groundup.tokenizer.patterns import DIGITS, GPT2, LLAMA3, O200K, PATTERNS, QWEN2, TEKKEN, Pattern, expression_of

Json = dict[str, Any]

# Possessive counts and the end of the text are written differently in each dialect, and these are the same in all.
_CL100K = LLAMA3.replace(r"|\s*[\r\n]+", r"|\s+(?![\s\S])|\s*[\r\n]+")
_WRITTEN = PATTERNS | {"cl100k": _CL100K}
_NAME_OF = {
    GPT2: "gpt2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    _CL100K: "cl100k",
    LLAMA3: "llama3",
    QWEN2: "qwen2",
    O200K: "o200k",
    TEKKEN: "tekken",
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def pre_tokenizer_of(pattern: Pattern) -> Json:
    """The pre-tokenizer of a pattern.

    Raises:
        TokenizerError: a regular expression of the user's own is not known to mean the same there.
    """
    if pattern == "gpt2":
        return BYTE_LEVEL | {"use_regex": True}
    steps = [_written_split(step) for step in ((pattern,) if isinstance(pattern, str) else pattern)]
    return {"type": "Sequence", "pretokenizers": [*steps, BYTE_LEVEL | {"use_regex": False}]}


def _written_split(step: str) -> Json:
    if step in DIGITS:
        return {"type": "Digits", "individual_digits": step == "digit"}
    regex = _WRITTEN.get(step)
    if regex is None:
        regex = expression_of(step)
        if (other := difference(regex)) is not None:
            raise cannot_be_written(f"its pattern has {shown(other)}, which tokenizers may understand otherwise")
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def pattern_of(path: Path, pre_tokenizer: Json) -> Pattern:
    """The pattern of a pre-tokenizer: Splits and Digits, each of the pieces of the one before, then ByteLevel.

    Raises:
        TokenizerError: it has another part, or one that is not known to give the same splits.
    """
    *splits, last = steps_of(pre_tokenizer, "pretokenizers") or [{}]
    by_byte_level = last.get("use_regex", True) if kind_of(last) == "ByteLevel" else None
    if not isinstance(by_byte_level, bool) or last.get("add_prefix_space") is not False:
        raise cannot_be_read(
            path,
            f"its pre_tokenizer is {shown([kind_of(step) for step in (*splits, last)])}",
            "expected one that ends with ByteLevel, add_prefix_space false",
        )
    steps = [_split_pattern(path, split) for split in splits]
    if by_byte_level:
        steps.append("gpt2")
    if not steps:
        raise cannot_be_read(
            path, "its pre_tokenizer does not split text", "expected a Split or Digits, or use_regex true in ByteLevel"
        )
    return steps[0] if len(steps) == 1 and steps[0] not in DIGITS else tuple(steps)


def _split_pattern(path: Path, split: Json) -> str:
    if kind_of(split) == "Digits" and isinstance(split.get("individual_digits"), bool):
        return "digit" if split["individual_digits"] else "digits"
    if kind_of(split) != "Split":
        raise cannot_be_read(
            path, f"its pre_tokenizer has {kind_of(split)}", "Split and Digits are read, and ByteLevel at the end"
        )
    pattern = split.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(pattern, dict) and isinstance(pattern.get("String"), str) and pattern["String"]:
        regex = re.escape(pattern["String"])
    if not isinstance(regex, str):
        raise cannot_be_read(path, f"its Split has the pattern {shown(pattern)}", 'expected {"Regex": "…"}')
    behavior, invert = split.get("behavior"), split.get("invert")
    isolated = behavior == "Isolated" and invert in (False, True)
    if regex in _NAME_OF and (isolated or (behavior == "Removed" and invert is True)):
        return _NAME_OF[regex]  # a pattern that matches all text has nothing between its matches to remove
    if not isolated:
        raise cannot_be_read(
            path, f"its Split is {shown(behavior)} with invert {shown(invert)}", 'only "Isolated" is read'
        )
    if (other := difference(regex)) is not None:
        raise cannot_be_read(
            path,
            f"its Split has a regular expression with {shown(other)}, which may mean another thing here",
            "rewrite that part in a copy of the file",
        )
    # checked_pattern would take bare letters for a name.
    return f"(?:{regex})" if re.fullmatch(r"[\w.-]*", regex) else regex


def normalizer_of(path: Path, entry: object) -> Normalizer:
    """The steps of a file's normalizer.

    Raises:
        TokenizerError: one of them is not supported.
    """
    try:
        return parse_normalizer(entry)
    except UnknownNormalizerError as error:
        raise cannot_be_read(
            path,
            f"its normalizer {error} changes the text before it is split",
            "NFC and empty Sequences are read; set it to null in a copy of the file, and normalize the text yourself",
        ) from None


def member(path: Path, entries: Json, key: str, kind: type) -> Any:
    """A part of a JSON object, which has to be of a kind."""
    if not isinstance(entries.get(key), kind):
        name = "object" if kind is dict else "array"
        raise TokenizerError(f"{path}: {key} is {shown(entries.get(key))}; expected a JSON {name}")
    return entries[key]


def steps_of(part: Any, key: str) -> list[Any]:
    """Return the members of a Sequence, nested ones flattened, or the one part that is not a Sequence."""
    found, waiting = [], [part]
    while waiting:
        step = waiting.pop()
        members = step.get(key) if kind_of(step) == "Sequence" else None
        if isinstance(members, list):
            waiting += reversed(members)
        else:
            found.append(step)
    return found


def kind_of(part: object) -> str:
    """The type of a part; what it is instead, if it is not a part."""
    return str(part.get("type")) if isinstance(part, dict) else shown(part)


def cannot_be_read(path: Path, why: str, fix: str) -> TokenizerError:
    """The error for a file that would give other ids here."""
    return TokenizerError(f"{path} cannot be read with the same ids: {why}; {fix}")


def cannot_be_written(why: str) -> TokenizerError:
    """The error for a tokenizer that would give other ids in `tokenizers`."""
    return TokenizerError(f"this tokenizer cannot be written as tokenizer.json: {why}; use another format")
