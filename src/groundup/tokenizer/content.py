"""Content of a tokenizer's file of any format, before it becomes a `Tokenizer`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from groundup.errors import TokenizerError
from groundup.tokenizer.normalization.characters import Characters
from groundup.tokenizer.normalization.normalizers import Normalizer
from groundup.tokenizer.patterns import NEWEST, Pattern
from groundup.tokenizer.special_tokens import checked_special_tokens

SpecialTokens = Mapping[str, int] | Sequence[str]
"""Names with their ids; or names alone, of which those not in the vocabulary get ids from its largest + 1 on."""

Pair = tuple[bytes, bytes]


@dataclass(frozen=True, kw_only=True)
class TokenizerContent:
    """A tokenizer as read from a file, before `Tokenizer` checks that its parts fit, or as written to one."""

    source: str
    """The file or files, as errors name them."""
    vocab: dict[int, bytes]
    """Token bytes by id, special tokens included where the file gives them ids."""
    merges: list[Pair]
    special_tokens: list[str]
    pattern: Pattern
    """Name of a built-in pattern, or a regular expression, or several of them."""
    ignore_merges: bool = False
    """Whether a pretoken that is a token is that token, whatever the merges make of it."""
    normalizer: Normalizer = ()
    """Changes to the text before it is split."""
    characters: Characters | None = None
    """Set if whole texts are encoded on characters. Vocabulary and merges are then in written form, and there is no
    pattern."""
    added_tokens: tuple[str, ...] = ()
    """Tokens that are text, and found whole before anything else: "special": false in a tokenizer.json, user-defined
    symbols in SentencePiece."""
    normalized_tokens: tuple[str, ...] = ()
    """Special and added tokens that are looked for in the normalized text; the others are looked for before."""
    unicode_version: str = NEWEST
    """Version of Unicode of the pattern's character classes."""
    special_ids: Mapping[str, int] = field(default_factory=dict)
    """Ids of special and added tokens whose bytes are those of an ordinary token, which has another id."""
    sha256: str | None = None
    """Expected `Tokenizer.sha256`, in formats that record it."""
    sha256_file: str = ""
    """Name of the file that records it."""
    left_out: tuple[str, ...] = ()
    """Additions to the ids of a text that the file asks for and a `Tokenizer` does not make."""

    def id_of_special(self) -> dict[str, int]:
        """The id of each special token."""
        return self._ids(self.special_tokens)

    def id_of_added(self) -> dict[str, int]:
        """The id of each added token."""
        return self._ids(self.added_tokens)

    def _ids(self, names: Sequence[str]) -> dict[str, int]:
        id_of = {token: token_id for token_id, token in self.vocab.items() if token_id not in self.special_ids.values()}
        return {name: self.special_ids.get(name, id_of.get(name.encode(), -1)) for name in names}


def with_special_tokens(
    path: Path, vocab: Mapping[int, bytes], special_tokens: SpecialTokens
) -> tuple[dict[int, bytes], list[str]]:
    """A file's vocabulary with the special tokens that the caller adds, and their names.

    Raises:
        TokenizerError: an id is not an integer, or another token has it, or the token has another id.
    """
    vocab = dict(vocab)
    names = [name.decode() for name in checked_special_tokens(special_tokens)]
    if isinstance(special_tokens, Mapping):
        id_of = {token: token_id for token_id, token in vocab.items()}
        for name in names:
            token, token_id = name.encode(), special_tokens[name]
            if not isinstance(token_id, int) or isinstance(token_id, bool):
                raise TokenizerError(f"special token {name!r} has the id {token_id!r}; ids are integers")
            if id_of.get(token, token_id) != token_id:
                raise TokenizerError(
                    f"special token {name!r} has the id {id_of[token]} in {path}, not {token_id}; give that one"
                )
            if vocab.get(token_id, token) != token:
                raise TokenizerError(
                    f"special token {name!r} cannot have the id {token_id}, which is {vocab[token_id]!r} in {path}; "
                    f"ids from {max(vocab) + 1} on are free"
                )
            vocab[token_id] = token
            id_of[token] = token_id
    return vocab, names
