"""Options of the verbs that generate text in a terminal."""

from __future__ import annotations

import codecs
import os
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from groundup.errors import ConfigError, DataError

ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
"""What a letter behind a backslash stands for where text is typed in a shell."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """How text is sampled, and what follows at the end of the context.

    Raises:
        ConfigError: fewer tokens than one, or an empty stop string.
        DataError: a stop string is not UTF-8.
    """

    # The docstrings of the fields are the help of the flags.
    tokens: int | None = None
    """Maximum number of tokens of a text, or of a reply. Default: the run's sample.tokens, 128 unless it was set."""
    temperature: float | None = None
    """Sampling temperature; 0 always takes the most probable token. Default: the run's sample.temperature, 0.8 unless
    it was set."""
    top_p: float | None = None
    """Nucleus sampling: sample from the most probable tokens whose probabilities sum to this. Default: the run's
    sample.top_p, 0.9 unless it was set."""
    top_k: int = 0
    """Sample from this many most probable tokens; 0 from all."""
    min_p: float = 0.0
    """Leave out tokens less probable than this share of the most probable one."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that are already in the text become less probable."""
    stop: tuple[str, ...] = ()
    """End the text before the first of these strings; in them \\n is a line break, \\t a tab, and two backslashes are
    one."""
    seed: int | None = None
    """Seed of sampling. Default: a new one each time."""
    beyond: Literal["slide", "stop"] = "slide"
    """What follows when the text is as long as the context: go on with a sliding window, or stop."""
    compile: bool = False
    """Compile the step of generation with torch.compile, for GPUs; on a CPU the C++ decoder is faster."""

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"--tokens {self.tokens}; expected at least 1")
        if not all(self.stops):
            raise ConfigError("--stop ''; expected at least one character")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as the text has them."""
        return tuple(with_escapes(checked_argument(text, "--stop")) for text in self.stop)

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of :meth:`groundup.language_model.LanguageModel.sampling`."""
        of_engine = ("beyond", "compile")
        return {name: value for name, value in asdict(self).items() if name not in of_engine} | {"stop": self.stops}


def decoded(content: bytes, where: str) -> str:
    """UTF-8 as text, without a byte order mark.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        position = error.start + len(codecs.BOM_UTF8) * content.startswith(codecs.BOM_UTF8)
        raise DataError(f"{where}: byte {position} is not UTF-8; convert it to UTF-8") from None


def checked_argument(text: str, name: str) -> str:
    """Text of the command line, in which Python has bytes that are not UTF-8 as lone surrogates.

    Raises:
        DataError: it is not UTF-8.
    """
    return decoded(os.fsencode(text), name)


def with_escapes(text: str) -> str:
    """Text as it is typed in a shell, with \\n as a line break, \\t as a tab and two backslashes as one."""
    return re.sub(r"\\([nt\\])", lambda found: ESCAPES[found[1]], text)
