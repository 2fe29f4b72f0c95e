"""Hugging Face's tokenizer.json, of the kind that is byte-pair encoding on characters: SentencePiece's vocabularies.

Read are the files of Llama 2, Mistral v1, Gemma and those like them: `byte_fallback`, and around it a normalizer or a
`Metaspace` that do no more than put "▁" for spaces. As in `hugging_face`, what gives other ids or other text is refused
by name.
"""

import json
from pathlib import Path

from groundup.errors import TokenizerError
from groundup.system.files import write_atomically
from groundup.tokenizer.content import Pair, TokenizerContent
from groundup.tokenizer.formats.gpt2 import token_of_text
from groundup.tokenizer.formats.hugging_face import (
    added_tokens_of,
    check_added_id,
    left_out_of,
    refuse_options_of_pairs,
)
from groundup.tokenizer.formats.hugging_face_parts import Json, cannot_be_read, kind_of, member, steps_of
from groundup.tokenizer.formats.strict_reading import as_id, shown
from groundup.tokenizer.normalization.characters import SPACE_MARK, Characters, Prefix

_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
_PREPEND = {"type": "Prepend", "prepend": SPACE_MARK}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_DECODER = [
    {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_METASPACE: dict[str, Prefix] = {"never": "never", "always": "unless_there", "first": "first_unless_there"}


def is_sentencepiece(file: Json) -> bool:
    """Whether the JSON object of a tokenizer.json describes BPE with byte fallback on text that is not bytes yet."""
    model = file.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or model.get("byte_fallback") is not True:
        return False
    return all(kind_of(step) != "ByteLevel" for step in steps_of(file.get("pre_tokenizer"), "pretokenizers"))


def content_of_sentencepiece(path: Path, file: Json) -> TokenizerContent:
    """The tokenizer in such a file, from its JSON object.

    Raises:
        TokenizerError: it is damaged, or a part of it would make other ids or text.
    """
    if file.get("version", "1.0") != "1.0":
        raise cannot_be_read(path, f"its version is {shown(file['version'])}", "1.0 is read; update groundup")
    prefix, split = _spaces(path, file)
    characters = Characters(prefix=prefix, split=split, strip=_strip(path, file.get("decoder")))
    model = member(path, file, "model", dict)
    refuse_options_of_pairs(path, model)
    if model.get("ignore_merges"):
        raise cannot_be_read(path, "its model has ignore_merges, which looks up whole texts", "expected false")
    entries, added = member(path, model, "vocab", dict), added_tokens_of(path, file)
    _refuse_normalized(path, added, is_normalized=file.get("normalizer") is not None, prefix=prefix)
    return TokenizerContent(
        source=str(path),
        vocab=_vocab(path, entries, added),
        merges=_merges(path, model),
        special_tokens=[token["content"] for token in added if token.get("special") is True],
        pattern="",
        characters=characters,
        added_tokens=tuple(token["content"] for token in added if token.get("special") is not True),
        left_out=tuple(left_out_of(file)),
    )


def write_sentencepiece(path: Path, content: TokenizerContent) -> None:
    """Write a tokenizer.json with which `tokenizers` gives the same ids and the same text."""
    assert content.characters is not None
    characters = content.characters
    id_of = {token: token_id for token_id, token in content.vocab.items()}
    entries = {token.decode(): token_id for token_id, token in sorted(content.vocab.items())}
    added: list[Json] = [
        {"id": id_of[name.encode()], "content": name, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": special}
        for names, special in ((content.special_tokens, True), (content.added_tokens, False))
        for name in names
    ]
    normalizer: Json | None = _SPACES
    pre_tokenizer: Json | None = None
    if characters.prefix == "always":
        normalizer = {"type": "Sequence", "normalizers": [_PREPEND, _SPACES]}
    if characters.split or characters.prefix in ("unless_there", "first_unless_there"):
        scheme = {prefix: scheme for scheme, prefix in _METASPACE.items()} | {"always": "never"}
        pre_tokenizer = {"type": "Metaspace", "replacement": SPACE_MARK}
        pre_tokenizer |= {"prepend_scheme": scheme[characters.prefix], "split": characters.split}
        normalizer = normalizer if characters.prefix == "always" else None
    file = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [*_DECODER, _STRIP] if characters.strip else _DECODER},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": entries,
            "merges": [[left.decode(), right.decode()] for left, right in content.merges],
        },
    }
    write_atomically(path, json.dumps(file, ensure_ascii=False, indent=2) + "\n")


def _spaces(path: Path, file: Json) -> tuple[Prefix, bool]:
    """Rule for the space before a text, and whether words are split."""
    normalizer, pre_tokenizer = file.get("normalizer"), file.get("pre_tokenizer")
    steps = [step for step in steps_of(normalizer, "normalizers") if step is not None]
    prefix: Prefix = "never"
    are_replaced = False
    for step in steps:
        if step == _SPACES:
            are_replaced = True
        elif prefix == "never" and (step == _PREPEND or (step == _PREPEND | {"prepend": " "} and not are_replaced)):
            prefix = "always"
        else:
            raise _other_normalizer(path, normalizer)
    if steps and not are_replaced:
        raise _other_normalizer(path, normalizer)
    pre_steps = [step for step in steps_of(pre_tokenizer, "pretokenizers") if step is not None]
    if are_replaced:
        # No space is left that a Split could find; Gemma's files have one all the same.
        pre_steps = [step for step in pre_steps if not _splits_on_spaces(step)]
    if not pre_steps and are_replaced:
        return prefix, False
    if len(pre_steps) == 1 and not are_replaced and kind_of(pre_steps[0]) == "Metaspace":
        return _metaspace(path, pre_steps[0])
    raise cannot_be_read(
        path,
        f"its pre_tokenizer is {shown(pre_tokenizer)} after the normalizer {shown(normalizer)}",
        "expected Replace in the normalizer and no pre_tokenizer, or no normalizer and one Metaspace",
    )


def _other_normalizer(path: Path, normalizer: object) -> TokenizerError:
    return cannot_be_read(
        path,
        f"its normalizer {shown(normalizer)} does other things than put {SPACE_MARK!r} for spaces",
        "expected Replace, or Prepend and Replace",
    )


def _splits_on_spaces(step: object) -> bool:
    if not isinstance(step, dict) or step.get("type") != "Split":
        return False
    return step.get("pattern") == {"String": " "} and step.get("invert") is False


def _metaspace(path: Path, step: Json) -> tuple[Prefix, bool]:
    scheme, split = step.get("prepend_scheme", "always"), step.get("split", True)
    if step.get("add_prefix_space") is False:
        scheme = "never"
    if step.get("replacement") != SPACE_MARK or scheme not in _METASPACE or not isinstance(split, bool):
        raise cannot_be_read(path, f"its Metaspace is {shown(step)}", f"expected one that puts {SPACE_MARK!r}")
    return _METASPACE[scheme], split


def _strip(path: Path, decoder: object) -> bool:
    """Whether the decoder removes a space from the beginning."""
    steps = steps_of(decoder, "decoders")
    if steps[:3] != _DECODER or steps[3:] not in ([], [_STRIP]):
        raise cannot_be_read(
            path,
            f"its decoder is {shown(decoder)}",
            "expected Replace, ByteFallback and Fuse, and perhaps a Strip of one space from the start",
        )
    return len(steps) == 4


def _refuse_normalized(path: Path, added: list[Json], *, is_normalized: bool, prefix: Prefix) -> None:
    """Added tokens that are looked for in normalized text and would be found elsewhere there."""
    for token in added:
        changed = prefix == "always" or any(space in token["content"] for space in (" ", SPACE_MARK))
        if is_normalized and token.get("normalized") is not False and changed:
            raise cannot_be_read(
                path,
                f"its added token {shown(token['content'])} is looked for after the text is normalized",
                "set its normalized to false in a copy of the file, if that is what its makers meant",
            )


def _vocab(path: Path, entries: Json, added: list[Json]) -> dict[int, bytes]:
    vocab: dict[int, bytes] = {}
    for text, entry in entries.items():
        if as_id(path, text, entry) in vocab:
            raise TokenizerError(f"{path}: id {entry} is given to {shown(text)} and to another token; ids are unique")
        vocab[entry] = token_of_text(path, text)
    largest = -1
    for token in added:
        name, token_id = token["content"], token["id"]
        check_added_id(path, name, token_id, entries, largest)
        largest = max(largest, token_id)
        if name in entries:
            continue
        if len(name) == 1:
            raise cannot_be_read(
                path, f"its added token {shown(name)} is one character", "give it its id in model.vocab, too"
            )
        if token_id in vocab:
            raise TokenizerError(
                f"{path}: added token {shown(name)} has the id {token_id} of {shown(vocab[token_id])}; ids are unique"
            )
        vocab[token_id] = token_of_text(path, name)
    return vocab


class _Utf8Of(dict[str, bytes]):
    """The UTF-8 of what is asked for, each once: the halves of merges come many times."""

    def __missing__(self, text: str) -> bytes:
        token = self[text] = text.encode()
        return token


def _merges(path: Path, model: Json) -> list[Pair]:
    number_of: dict[Pair, int] = {}
    token_of = _Utf8Of()
    for number, entry in enumerate(member(path, model, "merges", list)):
        if isinstance(entry, str) and entry.startswith("#version"):
            continue  # as tokenizers does
        try:
            left, right = map(token_of.__getitem__, entry.split(" ") if isinstance(entry, str) else entry)
        except (AttributeError, TypeError, ValueError):
            left = right = b""
        if not (left and right):
            raise TokenizerError(
                f"{path}: merge {number} is {shown(entry)}; expected two tokens, as a pair or with a space between"
            )
        if (left, right) in number_of:
            raise TokenizerError(
                f"{path}: merge {number} is {shown(entry)}, as merge {number_of[left, right]}; a pair merges once"
            )
        number_of[left, right] = number
    return list(number_of)
