"""The encodings that tiktoken has names for: what their .tiktoken files do not say.

`Tokenizer.load("p50k_base.tiktoken", pattern="p50k_base")` takes pattern and special tokens from here. Only constants
are here; the files themselves are read from disk.
"""

from typing import NamedTuple


class Encoding(NamedTuple):
    """How the text of an encoding is split, and the ids of its special tokens."""

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
"""By tiktoken's name (tiktoken 0.14). o200k_harmony is not here, because two of its special tokens have one id."""
