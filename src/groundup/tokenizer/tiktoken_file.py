"""tiktoken's format: a line per token, its bytes in base64, a space, its rank, which is its id.

The format has neither the pattern nor special tokens; whoever reads it has to know them.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path

from groundup.errors import TokenizerError
from groundup.files import write_atomically
from groundup.tokenizer.content import Pair, SpecialTokens, TokenizerContent, with_special_tokens
from groundup.tokenizer.merge_order import merges_of_ranks
from groundup.tokenizer.strict_reading import as_text, read_bytes, shown

_LINE = re.compile(r"([A-Za-z0-9+/]+=*) ([0-9]{1,9})\r?")


def looks_like_tiktoken(first_line: str) -> bool:
    """Whether a file that begins with this line is of tiktoken's format."""
    return _LINE.fullmatch(first_line) is not None


def read_tiktoken(path: Path, pattern: str, special_tokens: SpecialTokens) -> TokenizerContent:
    """The tokens of a .tiktoken file, with the merges that they imply.

    A file that lost its last lines is not noticed if what is left ends with a whole line: the format has no end mark.

    Raises:
        FileMissingError: there is no such file.
        TokenizerError: a line is not a token and its rank; ranks are not 0, 1, 2 … each once; a token or a byte is
            missing or there twice, or a special token does not fit.
    """
    return content_of_lines(path, read_bytes(path), pattern, special_tokens)


def content_of_lines(path: Path, data: bytes, pattern: str, special_tokens: SpecialTokens) -> TokenizerContent:
    """`read_tiktoken`, of bytes that were read from the path."""
    ranks = _read_ranks(path, as_text(path, data))
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(
            f"{path} has {len(ranks)} tokens and none for byte {missing[0]:#04x}: it is cut short, or its tokens are "
            "not bytes"
        )
    merges, unreached = merges_of_ranks(ranks)
    tokens = {rank: token for token, rank in ranks.items()}
    vocab, names = with_special_tokens(path, tokens, special_tokens)
    # tiktoken looks a pretoken up before it merges; without a token that merges do not make, that changes nothing.
    only_whole = {token for token, _ in unreached} - {name.encode() for name in names}
    return TokenizerContent(
        source=str(path),
        vocab=vocab,
        merges=merges,
        special_tokens=names,
        pattern=pattern,
        ignore_merges=bool(only_whole),
    )


def write_tiktoken(path: Path, content: TokenizerContent) -> None:
    """Writes the tokens that are not special.

    Raises:
        TokenizerError: the tokenizer is on characters; ids of bytes and merges are not 0, 1, 2 …; a byte is missing; a
            token is not made by merges, and the tokenizer has not `ignore_merges`; or the ids are not in the order of
            the merges, so that tiktoken would merge in another order.
    """
    if content.characters is not None:
        raise _cannot_be_written("it encodes characters with byte fallback, and tiktoken's merges are of bytes")
    merges = content.merges
    ranks = _ordinary_ranks(content.vocab, merges, content.special_tokens)
    ids = sorted(ranks.values())
    if ids != list(range(len(ids))):
        hole = next(i for i, token_id in enumerate(ids) if token_id != i)
        raise _cannot_be_written(
            f"no token that is not special has the id {hole}, and ranks have no holes (the largest id is {ids[-1]})"
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
                f"token {ranks[token]}, {shown(token)}, would be made of {shown(pair)}, which is no merge"
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
            encoded, digits = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]
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
    if len(ranks) != max(line_of) + 1:
        hole = next(rank for rank in range(len(ranks)) if rank not in line_of)
        raise TokenizerError(
            f"{path} has {len(ranks)} tokens and none of rank {hole}; ranks have no holes, so it is damaged"
        )
    return ranks


def _ordinary_ranks(vocab: Mapping[int, bytes], merges: list[Pair], special_tokens: list[str]) -> dict[bytes, int]:
    products = {left + right for left, right in merges}
    only_special = {name.encode() for name in special_tokens} - products
    return {token: token_id for token_id, token in vocab.items() if len(token) == 1 or token not in only_special}


def _cannot_be_written(why: str) -> TokenizerError:
    return TokenizerError(f"this tokenizer cannot be written as .tiktoken: {why}; use another format")
