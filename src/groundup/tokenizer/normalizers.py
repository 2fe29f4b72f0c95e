"""Normalizers: changes to the text before it is split, as Hugging Face's tokenizer.json describes them.

`parse_normalizer` reads that description strictly into a tuple of steps. A step changes one stretch of text between
two special tokens. Steps that are not known are refused by name, because leaving one out would give other ids.
"""

import unicodedata
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]


class Step(Protocol):
    """One change to a stretch of text."""

    def apply(self, text: str) -> str:
        """Return the changed text. Bytes that are not valid UTF-8 are lone surrogates in it ("surrogateescape")."""

    def to_json(self) -> Json:
        """Return the step as tokenizer.json has it."""


@dataclass(frozen=True)
class NFC:
    """Unicode normalization form C: a letter and its accents become one code point where there is one."""

    def apply(self, text: str) -> str:
        """Return the text in form C."""
        return unicodedata.normalize("NFC", text)

    def to_json(self) -> Json:
        """Return the step as tokenizer.json has it."""
        return {"type": "NFC"}


Normalizer = tuple[Step, ...]
"""Steps, applied in order. No steps: the text stays as it is."""


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


def normalizer_json(normalizer: Normalizer) -> Json | None:
    """The "normalizer" of a tokenizer.json, from which `parse_normalizer` makes the same steps."""
    steps = [step.to_json() for step in normalizer]
    if len(steps) <= 1:
        return steps[0] if steps else None
    return {"type": "Sequence", "normalizers": steps}
