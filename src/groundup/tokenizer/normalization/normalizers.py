"""Normalizers: changes to the text before pre-tokenization, as in Hugging Face's tokenizer.json.

`parse_normalizer` parses the entry strictly into a tuple of steps. A step changes a stretch of text between two special
tokens. Unknown steps are refused by name, because leaving one out would change the ids.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.errors import TokenizerError
from groundup.tokenizer.normalization import nfc

Json = dict[str, Any]


@dataclass(frozen=True)
class NFC:
    """Unicode normalization form C (`nfc`): a letter and its accents become one code point, if that exists."""

    def apply(self, text: str) -> str:
        """Return the text in form C. Invalid UTF-8 is represented by lone surrogates ("surrogateescape")."""
        return nfc.nfc(text)

    def keeps(self, text: str) -> bool:
        """Return whether the text is in form C."""
        return nfc.is_nfc(text)

    def begins_anew(self, character: str) -> bool:
        """Return whether the character neither combines with the text before it nor is reordered."""
        return nfc.begins_anew(character)

    def apply_with_spans(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the text in form C, and the span of each of its characters in the original text."""
        return nfc.nfc_spans(text)

    def to_json(self) -> Json:
        """Return the step as in tokenizer.json."""
        return {"type": "NFC"}


Normalizer = tuple[NFC, ...]
"""Steps, applied in order; an empty tuple leaves the text unchanged."""


def apply_steps(normalizer: Normalizer, text: str) -> str:
    """The text after all steps."""
    for step in normalizer:
        text = step.apply(text)
    return text


def is_normal(normalizer: Normalizer, text: str) -> bool:
    """Whether all steps leave the text unchanged."""
    return all(step.keeps(text) for step in normalizer)


def begins_anew(normalizer: Normalizer, character: str) -> bool:
    """Whether a text may be cut before the character and the two parts normalized separately."""
    return all(step.begins_anew(character) for step in normalizer)


def normal_spans(normalizer: Normalizer, text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text after all steps, and the span of each of its characters in the original text."""
    spans = [(place, place + 1) for place in range(len(text))]
    for step in normalizer:
        text, own = step.apply_with_spans(text)
        spans = [(spans[begin][0], spans[end - 1][1]) if begin < end else (0, 0) for begin, end in own]
    return text, spans


class UnknownNormalizerError(ValueError):
    """An unsupported step. The message names it."""


def parse_normalizer(entry: object) -> Normalizer:
    """The steps in the "normalizer" of a tokenizer.json. A Sequence is replaced by its members, at any depth.

    Raises:
        UnknownNormalizerError: a step has an unsupported type or option.
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
    """`parse_normalizer` for a file that groundup wrote.

    Raises:
        TokenizerError: a step is unsupported.
    """
    try:
        return parse_normalizer(entry)
    except UnknownNormalizerError as error:
        raise TokenizerError(
            f"{path}: the normalizer has the step {error}, which this version does not support; update groundup"
        ) from None


def normalizer_json(normalizer: Normalizer) -> Json | None:
    """The "normalizer" entry of a tokenizer.json, which `parse_normalizer` parses to the same steps."""
    steps = [step.to_json() for step in normalizer]
    if len(steps) <= 1:
        return steps[0] if steps else None
    return {"type": "Sequence", "normalizers": steps}
