"""tiktoken's format: a line per token, its bytes in base64, a space, its rank, which is its id.

The format has neither the pattern nor special tokens; the reader has to know them. Ranks without a token are the ids of
special tokens, such as 50256 in p50k_base.
"""

import base64
import binascii
import itertools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from groundup.errors import TokenizerError
from groundup.system.files import write_atomically
from groundup.tokenizer.content import SpecialTokens, TokenizerContent, with_special_tokens
from groundup.tokenizer.formats.merge_order import merges_of_ranks
from groundup.tokenizer.formats.strict_reading import as_text, read_bytes, shown
from groundup.tokenizer.patterns import OF_ENGINE

_LINE = re.compile(r"([A-Za-z0-9+/]+=*) ([0-9]{1,9})\r?")

_SHOWN_HOLES = 5


class Encoding(NamedTuple):
    """Pattern of an encoding, and the ids of its special tokens."""

    pattern: str
    special_tokens: dict[str, int]


_END = {"<|endoftext|>": 50256}
_CL100K = {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260}
_O200K = {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}
ENCODINGS = {
    "r50k_base": Encoding("gpt2", _END),
    "p50k_base": Encoding("gpt2", _END),
    "p50k_edit": Encoding("gpt2", _END | {"<|fim_prefix|>": 50281, "<|fim_middle|>": 50282, "<|fim_suffix|>": 50283}),
    "cl100k_base": Encoding("cl100k", _CL100K | {"<|endofprompt|>": 100276}),
    "o200k_base": Encoding("o200k", _O200K),
}
"""Encodings by tiktoken's name (tiktoken 0.14): what their .tiktoken files do not say. o200k_harmony is left
out, because two of its special tokens have one id."""


def looks_like_tiktoken(first_line: str) -> bool:
    """Whether a file that begins with this line is of tiktoken's format."""
    return _LINE.fullmatch(first_line) is not None


def read_tiktoken(path: Path, pattern: str, special_tokens: SpecialTokens) -> TokenizerContent:
    """The tokens of a .tiktoken file, with the merges that they imply.

    A file that lost its last lines is not noticed if what is left ends with a whole line: the format has no end mark.

    Raises:
        FileMissingError: the file does not exist.
        TokenizerError: a line is not a token and its rank; a rank between others is neither in the file nor the id
            of a special token; a token or a byte is missing or there twice, or a special token does not fit.
    """
    return content_of_lines(path, read_bytes(path), pattern, special_tokens)


def content_of_lines(path: Path, data: bytes, pattern: str, special_tokens: SpecialTokens) -> TokenizerContent:
    """`read_tiktoken`, of bytes that were read from the path.

    The pattern may also be the name of a known encoding (`ENCODINGS`), whose special tokens are then taken if
    there are none given.
    """
    if pattern in ENCODINGS:
        pattern, known = ENCODINGS[pattern]
        special_tokens = special_tokens or known
    ranks = _read_ranks(path, as_text(path, data))
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(
            f"{path} has {len(ranks)} tokens and none for byte {missing[0]:#04x}: it is cut short, or its tokens are "
            "not bytes"
        )
    tokens = {rank: token for token, rank in ranks.items()}
    vocab, names = with_special_tokens(path, tokens, special_tokens)
    _refuse_holes(path, tokens, vocab)
    merges, unreached = merges_of_ranks(ranks)
    # tiktoken looks a pretoken up before it merges; without a token that merges do not make, that changes nothing.
    only_whole = {token for token, _ in unreached} - {name.encode() for name in names}
    return TokenizerContent(
        source=str(path),
        vocab=vocab,
        merges=merges,
        special_tokens=names,
        pattern=pattern,
        ignore_merges=bool(only_whole),
        unicode_version=OF_ENGINE["tiktoken"],
    )


def write_tiktoken(path: Path, content: TokenizerContent) -> None:
    """Write the tokens that are not special.

    Raises:
        TokenizerError: the tokenizer is on characters or has a normalizer; ids of bytes and merges are not 0, 1, 2 …,
            except those of special tokens; a byte is missing; a token is not made by merges, and the tokenizer has not
            `ignore_merges`; or the ids are not in the order of the merges, so that tiktoken would merge in another
            order.
    """
    if content.characters is not None:
        raise _cannot_be_written("it encodes characters with byte fallback, and tiktoken's merges are of bytes")
    merges = content.merges
    if content.normalizer:
        raise _cannot_be_written("tiktoken does not normalize text, and this tokenizer does")
    ranks = _ordinary_ranks(content)
    holes = _holes(ranks.values(), content.vocab)
    if holes:
        raise _cannot_be_written(
            f"no token has the id {holes[0]}, and ranks have no holes but special tokens (the largest id is "
            f"{max(ranks.values())})"
        )
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise _cannot_be_written(f"byte {missing[0]:#04x} is not a token, and tiktoken fails on text that has it")
    implied, unreached = merges_of_ranks(ranks)
    if unreached and not content.ignore_merges:
        token, parts = unreached[0]
        raise _cannot_be_written(
            f"token {ranks[token]}, {shown(token)}, would be found as a whole pretoken, and merges end in "
            f"{shown(parts)}"
        )
    listed = set(merges)
    for pair in implied:
        if pair not in listed:
            token = b"".join(pair)
            raise _cannot_be_written(
                f"token {ranks[token]}, {shown(token)}, would be made of {shown(pair)}, which is not a merge"
            )
    # Other pairs that make the same token never meet in a text (see merge_order), so only the order of these counts.
    wanted = set(implied)
    for pair, expected in zip((pair for pair in merges if pair in wanted), implied, strict=True):
        if pair != expected:
            raise _cannot_be_written(
                f"the merge of {shown(pair)} comes before that of {shown(expected)}, but its token has the larger id"
            )
    lines = [
        f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in sorted(ranks.items(), key=lambda x: x[1])
    ]
    write_atomically(path, "".join(lines))


def _read_ranks(path: Path, text: str) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    line_of: dict[int, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.rstrip("\r"):
            continue
        try:
            encoded, digits = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]  # AttributeError: see below
            token = base64.b64decode(encoded, validate=True)
        except (AttributeError, binascii.Error):
            raise TokenizerError(
                f"{path}: line {number} is {shown(line)}; expected a token in base64, one space and its rank"
            ) from None
        rank = int(digits)
        if token in ranks:
            raise TokenizerError(f"{path}: line {number} has token {shown(token)} again, of rank {ranks[token]} before")
        if rank in line_of:
            raise TokenizerError(f"{path}: line {number} has rank {rank}, as line {line_of[rank]}; ranks are unique")
        ranks[token] = rank
        line_of[rank] = number
    return ranks


def _holes(ranks: Collection[int], vocab: Mapping[int, bytes]) -> list[int]:
    """The first ids below the largest rank, at most a few, that no token has."""
    absent = (rank for rank in range(max(ranks, default=-1)) if rank not in vocab)
    return list(itertools.islice(absent, _SHOWN_HOLES + 1))


def _refuse_holes(path: Path, tokens: Mapping[int, bytes], vocab: Mapping[int, bytes]) -> None:
    holes = _holes(tokens, vocab)
    if not holes:
        return
    shown_holes = ", ".join(map(str, holes[:_SHOWN_HOLES])) + (" …" if len(holes) > _SHOWN_HOLES else "")
    raise TokenizerError(
        f"{path} has {len(tokens)} tokens and none of rank {shown_holes}: ids of special tokens, or it is damaged; "
        f'name the special tokens with their ids: special_tokens={{"<|endoftext|>": {holes[0]}}}, or with '
        f"--special-tokens{_known_name(path)}"
    )


def _known_name(path: Path) -> str:
    """Hint for an error, if the file has the name of a known encoding."""
    return f'; or pattern="{path.stem}", which is known' if path.stem in ENCODINGS else ""


def _ordinary_ranks(content: TokenizerContent) -> dict[bytes, int]:
    products = {left + right for left, right in content.merges} | {bytes([byte]) for byte in range(256)}
    special = {
        token_id
        for name, token_id in (content.id_of_special() | content.id_of_added()).items()
        if name in content.special_ids or name.encode() not in products
    }
    return {token: token_id for token_id, token in content.vocab.items() if token_id not in special}


def _cannot_be_written(why: str) -> TokenizerError:
    return TokenizerError(f"this tokenizer cannot be written as .tiktoken: {why}; use another format")
