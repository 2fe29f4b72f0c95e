"""The patterns that split text into pretokens, by name. A tokenizer's files carry the name."""

from groundup.errors import TokenizerError

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Words, numbers and runs of other characters, each with the space before it (Radford et al. 2019).

The classes are those of the `regex` package: letters, numbers and White_Space of Unicode.
"""

PATTERNS = {"gpt2": GPT2}


def pattern_named(name: str) -> str:
    """The regular expression called `name`.

    Raises:
        TokenizerError: there is no pattern of that name.
    """
    try:
        return PATTERNS[name]
    except KeyError:
        known = ", ".join(PATTERNS)
        raise TokenizerError(f"pattern {name!r} is not known; choose one of: {known}") from None
