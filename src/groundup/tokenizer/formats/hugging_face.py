"""Hugging Face's tokenizer.json, of the kind that is byte-pair encoding on bytes.

Such a file describes a pipeline that can do much more than a `Tokenizer`. What gives other ids is refused by name.
What does not touch the ids of a text is read over, or named in `TokenizerContent.left_out`: then the ids are those of
`tokenizers.Tokenizer.encode(text, add_special_tokens=False)` without truncation and padding.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from groundup.errors import TokenizerError
from groundup.system.files import write_atomically
from groundup.tokenizer.content import Pair, TokenizerContent
from groundup.tokenizer.formats.gpt2 import (
    CHARACTER_TO_BYTE,
    TokenOf,
    from_printable,
    printable,
    token_of_text,
    vocab_of_entries,
)
from groundup.tokenizer.formats.hugging_face_parts import (
    BYTE_LEVEL,
    Json,
    cannot_be_read,
    cannot_be_written,
    kind_of,
    member,
    normalizer_of,
    pattern_of,
    pre_tokenizer_of,
    steps_of,
)
from groundup.tokenizer.formats.strict_reading import as_id, shown
from groundup.tokenizer.normalization.normalizers import Normalizer, apply_steps, normalizer_json
from groundup.tokenizer.patterns import OF_ENGINE

_CONDITIONS = ("single_word", "lstrip", "rstrip")


def write_hugging_face(path: Path, content: TokenizerContent) -> None:
    """Write a tokenizer.json with which `tokenizers` gives the same ids, special tokens included.

    Special tokens stand in the model's vocabulary as well: in added_tokens alone, tokenizers would number them itself.
    Text with a byte that has no token is an error here; tokenizers leaves such a byte out.

    Raises:
        TokenizerError: a special token cannot be told from another token, or an expression of the user's own as
            pattern is not known to mean the same there.
    """
    entries = _written_vocab(content)
    added = [
        {"id": token_id, "content": name, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": name in content.normalized_tokens, "special": special}
        for ids, special in ((content.id_of_special(), True), (content.id_of_added(), False))
        for name, token_id in ids.items()
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": content.ignore_merges,
        "vocab": entries,
        "merges": [[printable(left), printable(right)] for left, right in content.merges],
    }
    file = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer_json(content.normalizer),
        "pre_tokenizer": pre_tokenizer_of(content.pattern),
        "post_processor": None,
        "decoder": BYTE_LEVEL | {"add_prefix_space": True, "use_regex": True},
        "model": model,
    }
    write_atomically(path, json.dumps(file, ensure_ascii=False, indent=2) + "\n")


def _written_vocab(content: TokenizerContent) -> dict[str, int]:
    """Ids by the names that tokens have there: special tokens their text, others GPT-2's byte alphabet."""
    name_of = {token_id: name for name, token_id in (content.id_of_special() | content.id_of_added()).items()}
    ordinary = {b"".join(pair) for pair in content.merges} | {bytes([byte]) for byte in range(256)}
    entries: dict[str, int] = {}
    for token_id, token in sorted(content.vocab.items()):
        name = name_of.get(token_id)
        if content.ignore_merges and name is not None and _is_name_of_another(name):
            raise cannot_be_written(
                f"special token {name!r} is what the text {from_printable(name).decode()!r} is called there, which "
                "ignore_merges would find"
            )
        shares_id = name is not None and name not in content.special_ids
        if shares_id and token in ordinary and name != printable(token):
            raise cannot_be_written(f"special token {name!r} is also an ordinary token, {printable(token)!r}")
        key = printable(token) if name is None else name
        if key in entries:
            raise cannot_be_written(f"tokens {entries[key]} and {token_id} would both be called {key!r}")
        entries[key] = token_id
    return entries


def content_of_hugging_face(path: Path, file: Json) -> TokenizerContent:
    """The tokenizer in a tokenizer.json, from its JSON object.

    Raises:
        TokenizerError: it is damaged, or a part of it would make other ids than a `Tokenizer` can: a normalizer
            other than NFC; a model other than BPE on bytes; dropout; added tokens that match with conditions.
    """
    if file.get("version", "1.0") != "1.0":
        raise cannot_be_read(path, f"its version is {shown(file['version'])}", "1.0 is read; update groundup")
    normalizer = normalizer_of(path, file.get("normalizer"))
    pattern = pattern_of(path, member(path, file, "pre_tokenizer", dict))
    if file.get("decoder") is not None and kind_of(file["decoder"]) != "ByteLevel":
        raise cannot_be_read(path, f"its decoder is {kind_of(file['decoder'])}", "only ByteLevel is read")
    model = member(path, file, "model", dict)
    if model.get("type", "BPE") != "BPE":
        raise cannot_be_read(path, f"its model is {shown(model['type'])}", "only BPE is read")
    entries, merges, added = member(path, model, "vocab", dict), _merges(path, model), added_tokens_of(path, file)
    vocab = _vocab(path, entries, merges, added)
    _refuse_model_options(path, model, vocab)
    ignore_merges = model.get("ignore_merges", False)
    if not isinstance(ignore_merges, bool):
        raise TokenizerError(f"{path}: ignore_merges is {shown(ignore_merges)}; expected true or false")
    if ignore_merges:
        _refuse_names_of_other_text(path, entries, {token["content"] for token in added})
    return TokenizerContent(
        source=str(path),
        vocab=vocab,
        merges=merges,
        special_tokens=[token["content"] for token in added if token.get("special") is True],
        added_tokens=tuple(token["content"] for token in added if token.get("special") is not True),
        pattern=pattern,
        ignore_merges=ignore_merges,
        normalizer=normalizer,
        normalized_tokens=_normalized_tokens(path, normalizer, added),
        unicode_version=OF_ENGINE["tokenizers"],
        special_ids=_special_ids(vocab, added),
        left_out=tuple(left_out_of(file)),
    )


def _merges(path: Path, model: Json) -> list[Pair]:
    number_of: dict[Pair, int] = {}
    token_of = TokenOf()
    for number, entry in enumerate(member(path, model, "merges", list)):
        if isinstance(entry, str) and entry.startswith("#version"):
            continue  # as tokenizers does
        try:
            left, right = map(token_of.__getitem__, entry.split(" ") if isinstance(entry, str) else entry)
        except (AttributeError, KeyError, TypeError, ValueError):
            left = right = b""
        if not (left and right):
            raise TokenizerError(
                f"{path}: merge {number} is {shown(entry)}; expected two tokens in GPT-2's byte alphabet, as a pair or "
                "with a space between"
            )
        if (left, right) in number_of:
            raise TokenizerError(
                f"{path}: merge {number} is {shown(entry)}, as merge {number_of[left, right]}; a pair merges once"
            )
        number_of[left, right] = number
    return list(number_of)


def added_tokens_of(path: Path, file: Json) -> list[Json]:
    """The added tokens of a file.

    Raises:
        TokenizerError: one is damaged, matches under conditions, or overlaps with one of another pass.
    """
    added = member(path, file, "added_tokens", list) if file.get("added_tokens") is not None else []
    for token in added:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise TokenizerError(f"{path}: added token {shown(token)}; expected an object with content and id")
        as_id(path, token["content"], token.get("id"))
        conditions = [name for name in _CONDITIONS if token.get(name, False) is not False]
        if conditions:
            raise cannot_be_read(
                path,
                f"its added token {shown(token['content'])} matches only under conditions ({', '.join(conditions)})",
                "set them to false in a copy of the file",
            )
    first_pass = [token["content"] for token in added if token.get("normalized") is False]
    second_pass = [token["content"] for token in added if token.get("normalized") is not False]
    for first in first_pass:
        for second in second_pass:
            if _overlap(first, second) or _overlap(second, first):
                raise cannot_be_read(
                    path,
                    f"its added tokens {shown(first)} and {shown(second)} overlap, and tokenizers looks for those with "
                    "normalized false before the others",
                    "make normalized the same in both",
                )
    return added


def _vocab(path: Path, entries: Json, merges: list[Pair], added: list[Json]) -> dict[int, bytes]:
    names = {token["content"] for token in added}
    vocab = vocab_of_entries(path, {text: token_id for text, token_id in entries.items() if text not in names})
    merging = {part for left, right in merges for part in (left, right, left + right)}
    largest = -1
    for token in added:
        name, token_id = token["content"], token["id"]
        check_added_id(path, name, token_id, entries, largest)
        if token_id in vocab:
            raise TokenizerError(
                f"{path}: added token {shown(name)} has the id {token_id} of {shown(vocab[token_id])}; ids are unique"
            )
        vocab[token_id] = _token_of_added(path, name, merging)
        largest = max(largest, token_id)
    return vocab


def check_added_id(path: Path, name: str, token_id: int, entries: Json, largest: int) -> None:
    """Check that tokenizers gives an added token the id that the file says; `largest` of those before it.

    Raises:
        TokenizerError: it gives another one.
    """
    own_number = largest + 1 if largest >= len(entries) else len(entries)
    if token_id != entries.get(name, own_number):
        raise TokenizerError(
            f"{path}: added token {shown(name)} has the id {token_id}, and tokenizers would use "
            f"{shown(entries.get(name, own_number))}; give it its id in model.vocab, too"
        )


def _special_ids(vocab: Mapping[int, bytes], added: list[Json]) -> dict[str, int]:
    """Ids of added tokens that have the bytes of an ordinary token, such as runs of spaces beside "ĠĠ"."""
    ids = {token["content"]: token["id"] for token in added}
    ordinary = {token for token_id, token in vocab.items() if token_id not in set(ids.values())}
    return {name: token_id for name, token_id in ids.items() if name.encode() in ordinary}


def _normalized_tokens(path: Path, normalizer: Normalizer, added: list[Json]) -> tuple[str, ...]:
    """The added tokens that tokenizers looks for in the normalized text, if there is a normalizer."""
    names = tuple(token["content"] for token in added if normalizer and token.get("normalized") is not False)
    for name in names:
        if (changed := apply_steps(normalizer, name)) != name:
            raise cannot_be_read(
                path,
                f"its added token {shown(name)} is looked for as {shown(changed)}, its normal form",
                "set normalized to false for it",
            )
    return names


def _token_of_added(path: Path, name: str, merging: set[bytes]) -> bytes:
    token = token_of_text(path, name)
    try:
        as_key = from_printable(name)
    except KeyError:
        return token
    if as_key != token and (len(as_key) == 1 or as_key in merging):
        raise cannot_be_read(
            path, f"its added token {shown(name)} has the name of the token {shown(as_key)}", "rename it"
        )
    return token


def refuse_options_of_pairs(path: Path, model: Json) -> None:
    """Refuse what changes how pairs merge.

    Raises:
        TokenizerError: the model has such an option.
    """
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise cannot_be_read(path, f"its model has {option} {shown(model[option])}", "expected null")


def _refuse_model_options(path: Path, model: Json, vocab: Mapping[int, bytes]) -> None:
    refuse_options_of_pairs(path, model)
    present = set(vocab.values())
    missing = [byte for byte in range(256) if bytes([byte]) not in present]
    for option in ("unk_token", "byte_fallback"):
        if model.get(option) and missing:
            raise cannot_be_read(
                path,
                f"its model has {option} {shown(model[option])} for bytes without a token, such as {missing[0]:#04x}",
                "every byte needs a token",
            )


def _refuse_names_of_other_text(path: Path, entries: Json, names: set[str]) -> None:
    """Keys of the vocabulary that `tokenizers`, which looks pretokens up by name, finds for other text than here."""
    for text in entries:
        if text in names and _is_name_of_another(text):
            why = f"the added token {shown(text)} for the text {shown(from_printable(text).decode())}, too"
        elif text not in names and not CHARACTER_TO_BYTE.keys() >= set(text):
            why = f"never the token {shown(text)}, which is not in GPT-2's byte alphabet and not in added_tokens"
        else:
            continue
        raise cannot_be_read(path, f"by ignore_merges it finds {why}", "rename that token in a copy of the file")


def _is_name_of_another(text: str) -> bool:
    """Whether some other text has this name in GPT-2's byte alphabet."""
    try:
        return from_printable(text).decode() != text
    except (KeyError, UnicodeDecodeError):
        return False


def left_out_of(file: Json) -> Iterator[str]:
    """Parts of a tokenizer.json that add to the ids of a text."""
    for part in ("truncation", "padding"):
        if file.get(part) is not None:
            yield part
    for step in steps_of(file.get("post_processor"), "processors"):
        if step is not None and kind_of(step) != "ByteLevel":  # ByteLevel only moves offsets
            yield f"post_processor {kind_of(step)}"


def _overlap(left: str, right: str) -> bool:
    """Whether the right one is in the left one, or begins with its end."""
    return right in left or any(left.endswith(right[:size]) for size in range(1, min(len(left), len(right))))
