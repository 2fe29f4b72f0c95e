"""The texts of a tokenizer report, and which of their documents tokenizers are trained on.

Bytes per token on text that the vocabulary was learned from flatters it, so some documents are held out.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from groundup.config import END_OF_TEXT
from groundup.config.recipe import suggestion
from groundup.errors import ConfigError, DataError, TokenizerError
from groundup.text.files import STANDARD_INPUT, is_stream
from groundup.text.options import DEFAULT_FIELD, ReadOptions
from groundup.text.readers import TextReader

DEFAULT_VOCAB_SIZE = 10_000
HELD_OUT_PERIOD = 10
HELD_OUT_FIRST = 1
"""The 2nd, 12th, 22nd, … document is held out: every tenth, and one even where there are only two."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents under a name; empty documents do not count.

    Args:
        name: what tables and pictures call it.
        inputs: files or folders as `groundup.text.readers` takes them.
        held_out: inputs that nothing is trained on; none: every tenth document of `inputs`.
        vocab_size: tokens to learn from it.
        separator: token between the documents of plain text; a special token of the trained tokenizer.
        read: how the texts are read.
    """

    name: str
    inputs: list[str]
    held_out: list[str] = field(default_factory=list)
    vocab_size: int = DEFAULT_VOCAB_SIZE
    separator: str = END_OF_TEXT
    read: ReadOptions = field(default_factory=ReadOptions)

    def check(self) -> None:
        """Check before hours of work that the corpus can be used.

        Raises:
            FileMissingError: an input does not exist.
            DataError: an input cannot be read or read twice, holds no text, or has no document to hold out.
            TokenizerError: the vocabulary has no room for bytes and separator.
        """
        for given in (*self.inputs, *self.held_out):
            if is_stream(Path(given)):
                what = "standard input (-)" if given == STANDARD_INPUT else f"the pipe {given}"
                raise DataError(
                    f"corpus {self.name}: {what} can be read only once, and a report reads its texts several times; "
                    "write it to a file first"
                )
        least = 256 + (len(self.separator.encode()) > 1)
        if self.vocab_size < least:
            raise TokenizerError(
                f"corpus {self.name}: vocab_size = {self.vocab_size} has no room for the 256 bytes and the separator "
                f"{self.separator!r}; give at least {least}"
            )
        if self.held_out:
            self._first(self.held_out, 1)
        found = self._first(self.inputs, 1 if self.held_out else HELD_OUT_FIRST + 1)
        if not self.held_out and found <= HELD_OUT_FIRST:
            raise DataError(
                f"corpus {self.name}: {', '.join(self.inputs)} is a single document, and at least 2 are needed to hold "
                f"one out; check that its documents are separated by {self.separator}, or name held-out text"
            )

    def reader(self, inputs: list[str]) -> TextReader:
        """A reader of some of the inputs. What is said of reading is for all texts, whatever each of them is."""
        read = dataclasses.asdict(self.read)
        return TextReader(inputs, separator=self.separator, field=read.pop("field") or DEFAULT_FIELD, **read)

    def training_documents(self) -> Documents:
        """Documents to train a tokenizer on."""
        return self._documents(self.inputs, None if self.held_out else False)

    def held_out_documents(self) -> Documents:
        """Documents to measure tokenizers on."""
        return self._documents(self.held_out) if self.held_out else self._documents(self.inputs, True)

    def _documents(self, inputs: list[str], held_out: bool | None = None) -> Documents:
        return Documents(self.reader(inputs), held_out)

    def _first(self, inputs: list[str], count: int) -> int:
        found = sum(1 for _ in itertools.islice(self._documents(inputs), count))
        if not found:
            raise DataError(
                f"corpus {self.name}: {', '.join(inputs)} holds no text, only separators; give text with documents"
            )
        return found


class Documents(Iterator[bytes]):
    """Documents in reading order, with their number, bytes, and the time spent on reading.

    Args:
        reader: where they come from. Empty ones are left out, and not counted.
        held_out: only those that are held out, or only the others; None for all.

    Attributes:
        count: documents so far.
        bytes: bytes of text in them.
        seconds: wall time spent on reading.
    """

    def __init__(self, reader: TextReader, held_out: bool | None):
        self._reader, self._held_out = reader, held_out
        self._numbered = enumerate(document for document in reader.documents() if document)
        self.count = self.bytes = 0
        self.seconds = 0.0

    @property
    def read(self) -> tuple[int, int | None]:
        """Bytes on disk read so far, and their total."""
        return self._reader.bytes_read, self._reader.bytes_total

    def __next__(self) -> bytes:
        began = time.perf_counter()
        try:
            for number, document in self._numbered:
                if self._held_out is None or self._held_out == (number % HELD_OUT_PERIOD == HELD_OUT_FIRST):
                    self.count += 1
                    self.bytes += len(document)
                    return document
            raise StopIteration
        finally:
            self.seconds += time.perf_counter() - began


def read_corpora(
    corpora: Sequence[str], vocab_sizes: Sequence[str], held_out: Sequence[str], *, separator: str, read: ReadOptions
) -> list[Corpus]:
    """Texts from arguments such as NAME=PATH, sizes from N or NAME=N, and held-out text from NAME=PATH.

    Raises:
        ConfigError: a name given twice or not at all, or a vocabulary size that is not a number.
    """
    inputs = read_named(corpora, "NAME=PATH", path_alone=True)
    measured = read_named(held_out, "--held-out NAME=PATH")
    size_for_all, sizes = DEFAULT_VOCAB_SIZE, {}
    for text in vocab_sizes:
        name, equals, number = text.rpartition("=")
        if not (number.isascii() and number.isdigit() and len(number) < 19):
            raise ConfigError(f"--vocab-size {text}; expected a number, or NAME=NUMBER")
        if not equals:
            size_for_all = int(number)
        elif name in sizes:
            raise ConfigError(f"--vocab-size {text}: {name} has a size already; give one")
        else:
            sizes[name] = int(number)
    for option, named in (("--vocab-size", sizes), ("--held-out", measured)):
        for name in named:
            if name not in inputs:
                raise ConfigError(f"{option} {name}=…: no text has the name {name!r}{suggestion(name, inputs)}")
    return [
        Corpus(
            name=name,
            inputs=[path],
            held_out=[measured[name]] if name in measured else [],
            vocab_size=sizes.get(name, size_for_all),
            separator=separator,
            read=read,
        )
        for name, path in inputs.items()
    ]


def read_named(arguments: Sequence[str], form: str, *, path_alone: bool = False) -> dict[str, str]:
    """Paths by name from arguments NAME=PATH.

    Args:
        form: the arguments' form, for errors.
        path_alone: also take PATH; the name is then that of the file.

    Raises:
        ConfigError: an argument of another form, or a name given twice.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals and path_alone:
            name = "standard-input" if argument == STANDARD_INPUT else Path(argument).name.split(".")[0]
            path = argument
        if not (name and path):
            raise ConfigError(f"{argument!r}; expected {form}")
        if name in found:
            raise ConfigError(
                f"{found[name]} and {path} both have the name {name!r}; name each differently with NAME=PATH"
            )
        found[name] = path
    return found
