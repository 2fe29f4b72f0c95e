"""Normalizers: changes to the text before it is split, as Hugging Face's tokenizer.json describes them.

`parse_normalizer` reads that description strictly into a tuple of steps. A step changes one stretch of text between
two special tokens. Steps that are not known are refused by name, because leaving one out would give other ids.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.errors import TokenizerError
from groundup.tokenizer.normalization import nfc

Json = dict[str, Any]


@dataclass(frozen=True)
class NFC:
    """Unicode normalization form C: a letter and its accents become one code point where there is one (`nfc`)."""

    def apply(self, text: str) -> str:
        """Return the text in form C. Bytes that are not valid UTF-8 are lone surrogates in it ("surrogateescape")."""
        return nfc.nfc(text)

    def keeps(self, text: str) -> bool:
        """Return whether the text is in form C."""
        return nfc.is_nfc(text)

    def begins_anew(self, character: str) -> bool:
        """Return whether the character neither combines with what is before it nor moves."""
        return nfc.begins_anew(character)

    def apply_with_spans(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the text in form C, and where each of its characters comes from, as `tokenizers` says it."""
        return nfc.nfc_spans(text)

    def to_json(self) -> Json:
        """Return the step as tokenizer.json has it."""
        return {"type": "NFC"}


Normalizer = tuple[NFC, ...]
"""Steps, applied in order; without steps the text is unchanged."""


def apply_steps(normalizer: Normalizer, text: str) -> str:
    """The text after all steps."""
    for step in normalizer:
        text = step.apply(text)
    return text


def is_normal(normalizer: Normalizer, text: str) -> bool:
    """Whether all steps leave the text unchanged."""
    return all(step.keeps(text) for step in normalizer)


def begins_anew(normalizer: Normalizer, character: str) -> bool:
    """Whether text may be cut before the character, and the two parts normalized apart."""
    return all(step.begins_anew(character) for step in normalizer)


def normal_spans(normalizer: Normalizer, text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text after all steps, and the span of the given text that each of its characters comes from."""
    spans = [(place, place + 1) for place in range(len(text))]
    for step in normalizer:
        text, own = step.apply_with_spans(text)
        spans = [(spans[begin][0], spans[end - 1][1]) if begin < end else (0, 0) for begin, end in own]
    return text, spans


class UnknownNormalizerError(ValueError):
    """A step that is not supported. The message names it."""


def parse_normalizer(entry: object) -> Normalizer:
    """The steps in the "normalizer" of a tokenizer.json. A Sequence is replaced by its members, at any depth.

    Raises:
        UnknownNormalizerError: one of the steps is of another type, or has a setting that is not known.
    """
    if entry is None:
        return ()
    if not isinstance(entry, dict):
        raise UnknownNormalizerError(repr(entry))
    if entry.get("type") == "Sequence" and isinstance(entry.get("normalizers"), list):
        return tuple(step for member in entry["normalizers"] for step in parse_normalizer(member))
    if entry == {"type": "NFC"}:
        return (NFC(),)
    raise UnknownNormalizerError(str(entry.get("type")))


def saved_normalizer(path: Path, entry: object) -> Normalizer:
    """`parse_normalizer`, of a file that groundup wrote.

    Raises:
        TokenizerError: a step is not known.
    """
    try:
        return parse_normalizer(entry)
    except UnknownNormalizerError as error:
        raise TokenizerError(f"{path}: its normalizer has {error}, which is not known here; update groundup") from None


def normalizer_json(normalizer: Normalizer) -> Json | None:
    """The "normalizer" of a tokenizer.json, from which `parse_normalizer` makes the same steps."""
    steps = [step.to_json() for step in normalizer]
    if len(steps) <= 1:
        return steps[0] if steps else None
    return {"type": "Sequence", "normalizers": steps}
