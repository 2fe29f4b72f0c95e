"""One document of a data set, token by token."""

from dataclasses import dataclass
from pathlib import Path

from groundup.data.index import DOCUMENTS_FILE, ENCODE_AGAIN
from groundup.data.shards import TokenShards
from groundup.errors import DataError


@dataclass(frozen=True)
class Piece:
    """Text of one token; or of several that are one character only together."""

    ids: list[int]
    text: str
    is_special: bool


@dataclass(frozen=True)
class Document:
    """One document of a data set, with the separator that ends it."""

    number: int
    documents: int
    start: int
    """Place of its first token in the data set."""
    pieces: list[Piece]

    @property
    def tokens(self) -> int:
        """The separator included."""
        return sum(len(piece.ids) for piece in self.pieces)


def read_document(path: Path, number: int) -> Document:
    """Document ``number`` of a data set, counted from 0; a negative number counts from the end.

    Raises:
        FileMissingError, DataError: there is no data set, it has no such document, or it is damaged.
        TokenizerError: its tokenizer is damaged, or is not the one that made the ids.
    """
    data = TokenShards.open(path)
    if not data.index:
        raise DataError(f"{path} is a bare array, in which documents are not told apart; give a folder of token shards")
    count = data.index["documents"]
    if not -count <= number < count:
        raise DataError(f"{path} has no document {number}; it has {count}: 0 to {count - 1}, or -{count} to -1")
    number %= count
    offsets = data.document_offsets
    assert offsets is not None
    start, end = (int(offset) for offset in offsets[number : number + 2])
    if not 0 <= start < end <= len(data):
        raise DataError(
            f"{path / DOCUMENTS_FILE} has document {number} at tokens {start} to {end} of {len(data)}; it is damaged: "
            f"{ENCODE_AGAIN}"
        )
    return Document(number, count, start, _pieces(data, data.read(start, end - start).tolist()))


def _pieces(data: TokenShards, ids: list[int]) -> list[Piece]:
    tokenizer = data.tokenizer()
    special = {tokenizer.token_id(name): name for name in tokenizer.special_tokens}
    stream, pieces, held = tokenizer.decode_stream(), list[Piece](), list[int]()

    for token in ids:
        name = special.get(token)
        if name is not None:
            if rest := stream.finish():
                pieces.append(Piece(held, rest, False))
            pieces.append(Piece([token], name, True))
            held = []
            continue
        held.append(token)
        if text := stream.feed(token):
            pieces.append(Piece(held, text, False))
            held = []
    if rest := stream.finish():
        pieces.append(Piece(held, rest, False))
    return pieces
