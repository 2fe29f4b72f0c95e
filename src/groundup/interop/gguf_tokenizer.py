"""Tokenizers in GGUF files: byte-level BPE, whose pattern llama.cpp knows by a name (``tokenizer.ggml.pre``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.errors import TokenizerError
from groundup.tokenizer.content import TokenizerContent
from groundup.tokenizer.formats.gpt2 import from_printable, printable

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from groundup.tokenizer import Tokenizer

_PRE: dict[Any, str] = {
    "gpt2": "gpt-2",
    "llama3": "llama-bpe",
    "cl100k": "llama-bpe",
    "qwen2": "qwen2",
    "o200k": "gpt-4o",
    "tekken": "tekken",
    ("digit", "gpt2"): "smollm",
}
"""Pattern in groundup to its name in llama.cpp."""
_PATTERN: dict[str, Any] = {name: pattern for pattern, name in reversed(_PRE.items())} | {
    "llama3": "llama3", "llama-v3": "llama3", "starcoder": ("digit", "gpt2"), "refact": ("digit", "gpt2"),
}  # fmt: skip
_WHOLE_WORDS = ("llama-bpe", "tekken")
"""Names for which llama.cpp takes a pretoken that is a token as it is (``ignore_merges``)."""
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5


def write_tokenizer(
    writer: GGUFWriter, tokenizer: Tokenizer, vocab_size: int, begin: str, end: str, end_of_turn: str
) -> None:
    """Add a tokenizer to a file that is written.

    Ids that no token has are filled with unused ones, up to the model's vocabulary.

    Args:
        begin, end, end_of_turn: names of the tokens around a text, and after a message; empty where there is none.

    Raises:
        TokenizerError: llama.cpp has no name for its pattern, or would give other ids.
    """
    pre = _name_of(tokenizer)
    special, added = set(tokenizer.special_tokens), set(tokenizer.added_tokens)
    names = {tokenizer.token_id(name): name for name in (*special, *added)}
    tokens, types = [], []
    for token_id in range(vocab_size):
        if (name := names.get(token_id)) is not None:
            tokens.append(name)
            types.append(_CONTROL if name in special else _USER_DEFINED)
        elif token_id in tokenizer.vocab:
            tokens.append(printable(tokenizer.vocab[token_id]))
            types.append(_NORMAL)
        else:
            tokens.append(f"[PAD{token_id}]")
            types.append(_UNUSED)
    if repeated := len(tokens) - len(set(tokens)):
        raise TokenizerError(f"{repeated} tokens would have the name of another token in GGUF; use --to hugging-face")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{printable(left)} {printable(right)}" for left, right in tokenizer.merges])
    # llama.cpp ends an answer at the second and at the third; without a third it goes by names that it knows.
    added_ids = {writer.add_bos_token_id: begin, writer.add_eos_token_id: end, writer.add_eot_token_id: end_of_turn}
    for add, name in added_ids.items():
        if name:
            add(tokenizer.token_id(name))
    writer.add_add_bos_token(False)


def _name_of(tokenizer: Tokenizer) -> str:
    if tokenizer.characters:
        raise TokenizerError(
            "the tokenizer encodes characters with byte fallback (SentencePiece), which is not written to GGUF; "
            "use --to hugging-face"
        )
    pre = _PRE.get(tokenizer.pattern)
    if pre is None:
        raise TokenizerError(
            f"llama.cpp has no name for the tokenizer's pattern {str(tokenizer.pattern)[:80]!r}, and a GGUF file "
            f"cannot hold one; use --to hugging-face"
        )
    whole = pre in _WHOLE_WORDS
    if tokenizer.ignore_merges != whole and (differs := _differs(tokenizer)):
        raise TokenizerError(
            f"llama.cpp {'takes' if whole else 'does not take'} words that are tokens as they are with the pattern "
            f"{tokenizer.pattern}, and would encode {differs!r} otherwise; use --to hugging-face"
        )
    return pre


def _differs(tokenizer: Tokenizer) -> str:
    """A text that has other ids with ``ignore_merges`` than without; empty if no token is such a text."""
    from groundup.tokenizer import Tokenizer

    other = Tokenizer(
        tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, pattern=tokenizer.pattern,
        ignore_merges=not tokenizer.ignore_merges,
    )  # fmt: skip
    texts = []
    for token in tokenizer.vocab.values():
        try:
            texts.append(token.decode())
        except UnicodeDecodeError:
            continue  # part of a character: never a whole pretoken
    pairs = zip(texts, tokenizer.encode_batch(texts), other.encode_batch(texts), strict=True)
    return next((text for text, one, two in pairs if one != two), "")


def differences(tokenizer: Tokenizer) -> list[str]:
    """What llama.cpp is known to do otherwise with a tokenizer that can be written, in lines for the user."""
    found = []
    if tokenizer.normalizer:
        found.append("note: llama.cpp does not normalize text (NFC); text in another form has other token ids there")
    if tokenizer.pattern in ("o200k", "tekken"):
        found.append(
            f"note: llama.cpp simplifies the pattern {tokenizer.pattern}; text with combining marks (e + U+0301) has "
            f"other token ids there"
        )
    return found


def read_tokenizer(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a GGUF file.

    Raises:
        TokenizerError: it is of another kind, its pattern is not known, or it is damaged.
    """
    from groundup.tokenizer import Tokenizer

    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in _PATTERN:
        what = f"tokenizer.ggml.model {kind!r}" if kind != "gpt2" else f"tokenizer.ggml.pre {pre!r}"
        raise TokenizerError(f"{path} has {what}, which is not read; name the model's tokenizer with --tokenizer")
    tokens, merges = (_texts(path, metadata, f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    types = metadata.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise TokenizerError(f"{path}: tokenizer.ggml.token_type does not have one entry for each token; it is damaged")
    vocab: dict[int, bytes] = {}
    special: list[str] = []
    added: list[str] = []
    for token_id, (token, type_) in enumerate(zip(tokens, types, strict=True)):
        if type_ == _UNUSED:
            continue
        if type_ in (_CONTROL, _USER_DEFINED):
            vocab[token_id] = token.encode()
            (special if type_ == _CONTROL else added).append(token)
        else:
            vocab[token_id] = _bytes(path, token)
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        pairs.append((_bytes(path, left), _bytes(path, right)))
    content = TokenizerContent(
        source=str(path), vocab=vocab, merges=pairs, special_tokens=special, added_tokens=tuple(added),
        pattern=_PATTERN[pre], ignore_merges=pre in _WHOLE_WORDS,
    )  # fmt: skip
    return Tokenizer.from_content(content)


def _texts(path: Path, metadata: Mapping[str, Any], name: str) -> list[str]:
    value = metadata.get(name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TokenizerError(f"{path} has no list of texts {name}; it is damaged, or has no tokenizer")
    return value


def _bytes(path: Path, text: str) -> bytes:
    try:
        return from_printable(text)
    except KeyError:
        raise TokenizerError(f"{path}: the token {text[:40]!r} is not in GPT-2's byte alphabet") from None
