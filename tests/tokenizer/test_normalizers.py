"""Normalizers: which descriptions are read, and as what."""

import json

import pytest

from groundup.tokenizer.normalization.normalizers import NFC, UnknownNormalizerError, normalizer_json, parse_normalizer

NOTHING = {"type": "Sequence", "normalizers": []}
FORM_C = {"type": "NFC"}


@pytest.mark.parametrize(
    ("entry", "steps"),
    [
        (None, ()),
        (NOTHING, ()),
        ({"type": "Sequence", "normalizers": [NOTHING, NOTHING]}, ()),
        (FORM_C, (NFC(),)),
        ({"type": "Sequence", "normalizers": [NOTHING, {"type": "Sequence", "normalizers": [FORM_C]}]}, (NFC(),)),
        ({"type": "Sequence", "normalizers": [FORM_C, FORM_C]}, (NFC(), NFC())),
    ],
)
def test_known_steps_are_read_and_written_back(entry, steps):
    assert parse_normalizer(entry) == steps
    assert parse_normalizer(json.loads(json.dumps(normalizer_json(steps)))) == steps


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"type": "Lowercase"}, "Lowercase"),
        ({"type": "Sequence", "normalizers": [FORM_C, {"type": "NFKC"}]}, "NFKC"),
        ({"type": "Sequence"}, "Sequence"),
        ({"type": "NFC", "form": "D"}, "NFC"),
        ("NFC", "'NFC'"),
        ({}, "None"),
    ],
)
def test_other_steps_are_refused_by_name(entry, name):
    with pytest.raises(UnknownNormalizerError) as error:
        parse_normalizer(entry)
    assert str(error.value) == name
