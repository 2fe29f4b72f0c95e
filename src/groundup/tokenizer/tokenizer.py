"""Text to token ids and back."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.config import END_OF_TEXT
from groundup.errors import TokenizerError
from groundup.tokenizer.arguments import (
    checked_str,
    checked_text,
    checked_texts,
    checked_thread_count,
    plain_id,
)
from groundup.tokenizer.base import TokenizerBase
from groundup.tokenizer.content import SpecialTokens, TokenizerContent
from groundup.tokenizer.encoders import offsets_of
from groundup.tokenizer.formats import gpt2 as files
from groundup.tokenizer.formats.detect import GROUNDUP_FILE, read_tokenizer
from groundup.tokenizer.formats.groundup_json import write_groundup_file
from groundup.tokenizer.formats.hugging_face import write_hugging_face
from groundup.tokenizer.formats.hugging_face_characters import write_sentencepiece
from groundup.tokenizer.formats.tiktoken import read_tiktoken, write_tiktoken
from groundup.tokenizer.normalization.characters import (
    character_offsets,
)
from groundup.tokenizer.normalization.encoder import NormalizingEncoder
from groundup.tokenizer.special_tokens import AllowedSpecial
from groundup.tokenizer.streams import EncodeStream, encode_pieces

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

    from groundup.text.options import ReadOptions
    from groundup.text.readers import Inputs
    from groundup.tokenizer import _native


class Tokenizer(TokenizerBase):
    """A vocabulary and its merges, ready to encode text and decode ids.

    Encoding splits the text on special tokens (leftmost, of those the longest), splits what lies between with the
    pattern into pretokens, and within a pretoken merges, while there is a pair that merges, the one whose merge was
    learned first, leftmost first. That is what GPT-2 does (Radford et al. 2019), and with its files the ids are its.

    Tokens are bytes, so nothing is lost: `decode_bytes(encode_bytes(data)) == data` for any bytes, UTF-8 or not.

    A tokenizer never changes. Threads may share it; it can be pickled. Encoding needs the C++ core, the rest does not.

    Args:
        vocab: token bytes by id. Ids may have gaps. All 256 single bytes should be there; text that needs one that
            is not cannot be encoded.
        merges: pairs of tokens, the first learned first; both and their product must be in `vocab`.
        special_tokens: text that always is one token. Those that are not in `vocab` get ids from its largest + 1 on.
        pattern: what makes pretokens: the name of a built-in pattern (`groundup.tokenizer.patterns`), or a regular
            expression of the `regex` package, which is far slower; or several, each splitting the pieces of the one
            before.
        ignore_merges: a pretoken that is a token is that token, whatever the merges make of it (Llama 3 has this).
        characters: encode whole texts on characters with byte fallback, as SentencePiece does (Llama 2, Gemma). Then
            `vocab` and `merges` have tokens in written form, "▁the" and "<0x0A>"
            (`groundup.tokenizer.normalization.characters`), and `pattern` and `ignore_merges` mean nothing.
        added_tokens: tokens of `vocab` that are text, and found whole before anything else.
        normalizer: changes to the text before it is split (`groundup.tokenizer.normalization.normalizers`); none by
            default.
        normalized_tokens: special and added tokens that are looked for in the normalized text; the others, before.
        unicode_version: version of Unicode of the pattern's character classes (`groundup.tokenizer.patterns`).
        special_ids: ids of special and added tokens whose bytes are also those of an ordinary token with another id.

    Raises:
        TokenizerError: any of that does not hold; or two ids have the same bytes, or a merge is listed twice.
        MissingExtraError: the pattern is an expression, and the package `regex` is not installed.
    """

    @classmethod
    def from_files(
        cls,
        vocab_filepath: str | os.PathLike[str],
        merges_filepath: str | os.PathLike[str],
        special_tokens: SpecialTokens | None = None,
        *,
        pattern: str = "gpt2",
    ) -> "Tokenizer":
        """A tokenizer from a vocabulary and a merges file in GPT-2's format, which is also what `save` writes.

        The two files do not say how text is split, nor which tokens are special.

        Raises:
            FileMissingError: one of the files does not exist.
            TokenizerError: one of them is damaged, or they do not fit together.
        """
        vocab, merges = Path(vocab_filepath), Path(merges_filepath)
        return cls.from_content(files.read_two_files(vocab, merges, pattern, special_tokens or []))

    @classmethod
    def from_tiktoken(
        cls, path: str | os.PathLike[str], *, pattern: str, special_tokens: SpecialTokens | None = None
    ) -> "Tokenizer":
        """A tokenizer from tiktoken's format: a line per token, its bytes in base64 and its rank.

        Args:
            path: the .tiktoken file. It has no merges; they are found from the ranks (`merge_order`). If there are
                tokens that merges do not make, the tokenizer has `ignore_merges`, which is how tiktoken finds them.
            pattern: how text is split, which the file does not say, and which has to be that of its makers for the ids
                to be theirs: a built-in name or a regular expression, such as `Encoding._pat_str`. Or the name of an
                encoding that is known: r50k_base, p50k_base, p50k_edit, cl100k_base, o200k_base.
            special_tokens: names with ids; names alone get the ids after the largest rank. A known encoding has them.

        Raises:
            FileMissingError: the file does not exist.
            TokenizerError: it is damaged, or the special tokens do not fit it.
        """
        return cls.from_content(read_tiktoken(Path(path), pattern, special_tokens or []))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        pattern: str | None = None,
        special_tokens: SpecialTokens | None = None,
    ) -> "Tokenizer":
        """The tokenizer in a folder or file. What it is, its content says:

        * a folder that `save` wrote, or a file in it;
        * a file that `save` wrote;
        * a Hugging Face tokenizer.json, or a folder with one. What would make other ids here is refused; the ids are
          those of `tokenizers` with `add_special_tokens=False`;
        * GPT-2's two files (vocab.json and merges.txt, or encoder.json and vocab.bpe) in a folder, with GPT-2's pattern
          and <|endoftext|> as special token if it is in the vocabulary;
        * a .tiktoken file: see `from_tiktoken`.

        Args:
            path: the folder or file.
            pattern: for the last two, which do not say it: a built-in name or a regular expression; for .tiktoken
                also the name of a known encoding, such as "p50k_base".
            special_tokens: for the last two: names with ids, or names alone, which get the ids after the largest.

        Raises:
            FileMissingError: the folder or one of its files does not exist.
            TokenizerError: a file is damaged, is not the one that was saved, or cannot give the same ids here.
        """
        return cls.from_content(read_tokenizer(Path(path), pattern, special_tokens))

    @classmethod
    def from_content(cls, content: TokenizerContent) -> "Tokenizer":
        """A tokenizer from what a file holds (`formats.read_tokenizer`). Raises as `load`."""
        try:
            tokenizer = cls(
                content.vocab,
                content.merges,
                content.special_tokens,
                pattern=content.pattern,
                ignore_merges=content.ignore_merges,
                characters=content.characters,
                added_tokens=content.added_tokens,
                normalizer=content.normalizer,
                normalized_tokens=content.normalized_tokens,
                unicode_version=content.unicode_version,
                special_ids=content.special_ids,
            )
        except TokenizerError as error:
            raise TokenizerError(f"{content.source}: {error}") from None
        if content.sha256 is not None and tokenizer.sha256 != content.sha256:
            raise TokenizerError(
                f"{content.source}: the tokenizer has SHA-256 {tokenizer.sha256[:12]}…, and {content.sha256_file} says "
                f"{content.sha256[:12]}…; a file was changed or is of another save, so save the tokenizer again"
            )
        return tokenizer

    def with_special_tokens(self, names: Iterable[str]) -> "Tokenizer":
        """This tokenizer with more special tokens; those that it lacks get the ids after its largest, in their order.

        A name that is an ordinary token becomes a special one with the same id.

        Raises:
            TokenizerError: a name is empty or no text.
        """
        new = [name for name in dict.fromkeys(names) if name not in self.special_tokens]
        content = self._content()
        added = tuple(name for name in content.added_tokens if name not in new)
        special_tokens = [*content.special_tokens, *new]
        return Tokenizer.from_content(replace(content, special_tokens=special_tokens, added_tokens=added))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write vocab.json, merges.txt and meta.json into a folder; or one file, if the name ends in .json.

        The first two are GPT-2's format, which other libraries read. The single file is groundup's format: complete,
        exact, a token or merge per line. Missing folders are created, every file is replaced atomically, and `load`
        detects an interrupted save.

        Raises:
            TokenizerError: the folder is a file.
        """
        target = Path(path)
        if target.suffix == ".json" and not target.is_dir():
            write_groundup_file(_file_to_write(target), self._content(), self.sha256)
        elif self._characters is not None:
            write_groundup_file(_file_to_write(target / GROUNDUP_FILE), self._content(), self.sha256)
        else:
            files.write_files(target, self._content(), self.sha256)

    def save_hugging_face(self, path: str | os.PathLike[str]) -> None:
        """Write a tokenizer.json with which Hugging Face's tokenizers gives the same ids, special tokens included.

        It is read by `tokenizers.Tokenizer.from_file` and by transformers' `PreTrainedTokenizerFast`, as
        `tokenizer_file`.

        Raises:
            TokenizerError: the path is a folder; a special token has the name of another token in GPT-2's byte
                alphabet; or the pattern is an expression that may mean another thing there.
        """
        write = write_hugging_face if self._characters is None else write_sentencepiece
        write(_file_to_write(path), self._content())

    def save_tiktoken(self, path: str | os.PathLike[str]) -> None:
        """Write the tokens that are not special in tiktoken's format.

        The format has neither the pattern nor the special tokens; `tiktoken.Encoding` takes them beside the ranks, as
        `pat_str` and `special_tokens`.

        Raises:
            TokenizerError: the path is a folder; or tiktoken would merge in another order: the ids of the bytes and of
                the merges' tokens have to be 0, 1, 2 … in the order of the merges.
        """
        write_tiktoken(_file_to_write(path), self._content())

    def encode(
        self, text: str, *, allowed_special: AllowedSpecial = "all", disallowed_special: AllowedSpecial = ()
    ) -> list[int]:
        """The ids of a text.

        A lone surrogate, which is not a character, is encoded as U+FFFD, as tiktoken does; a pair of them as the
        character they stand for.

        Args:
            text: the text.
            allowed_special: special tokens that become their ids where they are in the text: "all" (tiktoken has none
                by default), "none", or some of them. The others are text like any.
            disallowed_special: special tokens that must not be in the text: "all" that are not allowed, or some. None
                by default (tiktoken has all). For untrusted text, use `encode_ordinary`.

        Raises:
            TokenizerError: a disallowed special token is in the text, or a name is not that of a special token; or the
                text has a byte that the vocabulary lacks.
        """
        if type(text) is str and allowed_special == "all" and not disallowed_special:
            return self._encoder.encode_to_list(text, self._special_tokens.all)
        specials = self._special_tokens.chosen([checked_str(text)], allowed_special, disallowed_special)
        return self._encoder.encode_to_list(text, specials)

    def encode_ordinary(self, text: str) -> list[int]:
        """The ids of a text in which special tokens are text like any. Raises as `encode` does."""
        return self._encoder.encode_to_list(text if type(text) is str else checked_str(text), self._special_tokens.none)

    def encode_to_numpy(
        self,
        text: "str | Buffer",
        *,
        allowed_special: AllowedSpecial = "all",
        disallowed_special: AllowedSpecial = (),
        num_threads: int | None = 1,
    ) -> "NDArray[np.uint32]":
        """The ids, uint32 (N,), of a text, str or UTF-8; what is not UTF-8 in it is kept byte by byte.

        Args:
            text: a str, or any object with a buffer: bytes, a memoryview, a file mapped into memory.
            allowed_special, disallowed_special: as for `encode`.
            num_threads: for texts of more than a megabyte; None for as many as this process may use cores. The ids
                do not depend on it.

        Raises:
            TokenizerError: as `encode`; or the text is neither str nor bytes of any kind.
        """
        threads = checked_thread_count(num_threads)
        if type(text) is str and allowed_special == "all" and not disallowed_special:
            return self._encoder.encode_to_array(text, self._special_tokens.all, threads)
        specials = self._special_tokens.chosen([checked_text(text)], allowed_special, disallowed_special)
        return self._encoder.encode_to_array(text, specials, threads)

    def encode_bytes(self, data: "Buffer") -> "NDArray[np.uint32]":
        """`encode_to_numpy` on one thread, as a plain function from bytes to ids."""
        return self._encoder.encode_to_array(checked_text(data), self._special_tokens.all, 1)

    def encode_batch(
        self,
        texts: Iterable[str],
        *,
        allowed_special: AllowedSpecial = "all",
        disallowed_special: AllowedSpecial = (),
        num_threads: int | None = None,
    ) -> list[list[int]]:
        """The ids of each text, in order; on all cores by default.

        Args:
            texts: the texts.
            allowed_special, disallowed_special: as for `encode`.
            num_threads: None for as many as this process may use cores. The ids do not depend on it.

        Raises:
            TokenizerError: as `encode`; it names the text by its number, from 0.
        """
        threads, listed = checked_thread_count(num_threads), checked_texts(texts, only_str=True)
        specials = self._special_tokens.chosen(listed, allowed_special, disallowed_special)
        try:
            return self._encoder.encode_batch_to_lists(listed, specials, threads)
        except TokenizerError as error:
            raise self._with_text_named(error, listed, specials) from None

    def encode_batch_to_numpy(
        self,
        texts: "Iterable[str | Buffer]",
        *,
        allowed_special: AllowedSpecial = "all",
        disallowed_special: AllowedSpecial = (),
        append: int | None = None,
        num_threads: int | None = None,
    ) -> "tuple[NDArray[np.uint32], NDArray[np.uint64]]":
        """The ids of all texts in one array, uint32 (N,), and where those of each end in it, uint64 (texts,).

        Text i has the ids `ids[ends[i - 1] : ends[i]]`, the first of them `ids[: ends[0]]`. No list of lists is made,
        which for many short texts takes most of the time. Arguments and errors as for `encode_batch`; a text may also
        be bytes of any kind. `append` is an id that follows those of each text, such as that of the end of a text.
        """
        threads, listed = checked_thread_count(num_threads), checked_texts(texts)
        if append is not None:
            append = plain_id(append)
            self._token(append)
        specials = self._special_tokens.chosen(listed, allowed_special, disallowed_special)
        try:
            return self._encoder.encode_batch_to_arrays(listed, specials, threads, append)
        except TokenizerError as error:
            raise self._with_text_named(error, listed, specials) from None

    def encode_files(
        self,
        inputs: "Inputs",
        *,
        separator: str = END_OF_TEXT,
        field: str = "text",
        read: "ReadOptions | None" = None,
        num_threads: int | None = None,
    ) -> "Iterator[NDArray[np.uint32]]":
        """The ids of each document in files, uint32 (N,), one after the other in bounded memory.

        Args:
            inputs: text, JSON or parquet files, compressed or not, or folders, as `groundup.text` reads them.
            separator: what stands between the documents of plain text; it is not part of them.
            field: JSON field or parquet column with the text.
            read: how the inputs are read: template, format, encoding, bad rows (`ReadOptions`).
            num_threads: None for as many as this process may use cores.

        Raises:
            FileMissingError, MissingExtraError, DataError: from the readers.
            TokenizerError: a document has a byte that the vocabulary lacks.
        """
        from groundup.text.batches import batches_of
        from groundup.text.readers import read_documents

        threads, specials, first = checked_thread_count(num_threads), self._special_tokens.all, 0
        for batch in batches_of(read_documents(inputs, separator=separator, field=field, read=read)):
            try:
                ids, ends = self._encoder.encode_batch_to_arrays(list(batch), specials, threads, None)
            except TokenizerError as error:
                raise self._with_text_named(error, batch, specials, "document {} (from 0)", first) from None
            first += len(batch)
            begin = 0
            for end in ends.tolist():
                yield ids[begin:end]
                begin = end

    def encode_iterable(self, iterable: Iterable[str]) -> Iterator[int]:
        """The ids of the joined strings, one after the other, however the text is cut into strings.

        Lazy, and in constant memory: no more is held back than the pretoken or special token that the next string may
        continue. With a pattern that is not built in, all is held back.

        Raises:
            TokenizerError: as `encode`; or one of the strings is none.
        """
        return encode_pieces(self.stream(), iterable)

    def encode_with_offsets(
        self, text: "str | Buffer", *, allowed_special: AllowedSpecial = "all", disallowed_special: AllowedSpecial = ()
    ) -> "tuple[NDArray[np.uint32], NDArray[np.int64]]":
        """The ids, uint32 (N,), and where in the text each begins and ends, int64 (N, 2).

        Offsets in a str count characters. A character that is several tokens belongs to each of them. Offsets in bytes
        count bytes. With a normalizer they are places in the given text, not in the normalized one, as `tokenizers`
        gives them. Arguments and errors as for `encode_to_numpy`.
        """
        ids = self.encode_to_numpy(text, allowed_special=allowed_special, disallowed_special=disallowed_special)
        lengths = self._byte_lengths[ids]
        if self._characters is None and not self._normalizer:
            return ids, offsets_of(text, lengths)
        specials = self._special_tokens.chosen([text], allowed_special, disallowed_special)
        if isinstance(self._encoder, NormalizingEncoder):
            return ids, self._encoder.offsets(text, specials, lengths)
        assert self._characters is not None
        return ids, character_offsets(text, lengths, specials, self._characters.prefix)

    def count(
        self, text: "str | Buffer", *, allowed_special: AllowedSpecial = "all", disallowed_special: AllowedSpecial = ()
    ) -> int:
        """Number of ids of a text, without storing them. Arguments and errors as for `encode_to_numpy`."""
        specials = self._special_tokens.chosen([checked_text(text)], allowed_special, disallowed_special)
        return self._encoder.count(text, specials)

    def stream(self, *, allowed_special: AllowedSpecial = "all") -> "EncodeStream":
        """Encoding of a text that arrives in pieces, str or bytes. Allowed special tokens in it become their ids.

        With a pattern that is not built in, all text is held until it is complete.

        Raises:
            TokenizerError: an allowed name is not that of a special token.
        """
        return self._encoder.stream(self._special_tokens.chosen((), allowed_special, ()))

    def _with_text_named(
        self,
        error: TokenizerError,
        texts: "Sequence[str | Buffer]",
        specials: "_native.SpecialTokens",
        name: str = "text {}",
        first: int = 0,
    ) -> TokenizerError:
        """The error with the name of the first text that has it. Counting finds the same faults as encoding."""
        for number, text in enumerate(texts, start=first):
            try:
                self._encoder.count(text, specials)
            except TokenizerError as found:
                return TokenizerError(f"{name.format(number)}: {found}")
        return error


def _file_to_write(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.is_dir():
        raise TokenizerError(f"{target} is a folder; give the name of the file to write")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise TokenizerError(f"{target} would lie in a file; give a path in a folder") from None
    return target
