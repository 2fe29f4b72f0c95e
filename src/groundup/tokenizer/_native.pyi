"""The C++ core (native/bindings.cpp). A text is a str, or any object with a contiguous buffer."""

import mmap
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from groundup.errors import TokenizerError

class MissingByteError(TokenizerError): ...

class CutGuard:
    def __init__(self, mapped: mmap.mmap) -> None: ...
    @property
    def was_cut(self) -> bool: ...
    def release(self) -> None: ...

class SpecialTokens:
    def __init__(self, tokens: list[tuple[bytes, int]]) -> None: ...
    def find(self, text: str | Buffer, start: int = 0) -> tuple[int, int, int] | None: ...  # begin, end, id
    @property
    def ids(self) -> list[int]: ...

class Encoder:
    def __init__(
        self,
        byte_ids: list[int],  # 256 of them; -1 where the vocabulary lacks the byte
        rules: NDArray[np.uint32],  # (merges, 3): left id, right id, merged id
        whole: list[tuple[bytes, int]],  # pretokens that are one id, whatever the merges make of them
        pattern: str,  # name of a built-in pattern
        unicode_version: str = ...,  # of the character classes; by default the newest
    ) -> None: ...
    @staticmethod
    def of_characters(
        characters: NDArray[np.uint32],  # (characters, 2): code point, id
        byte_ids: list[int],
        rules: NDArray[np.uint32],
        prefix: int,  # where a space is put before text: 0 never, 1 always, 2 unless there, 3 first unless there
        every_space: bool,  # no token reaches over a space
    ) -> Encoder: ...
    def encode_to_list(self, text: str | Buffer, specials: SpecialTokens) -> list[int]: ...
    def encode_to_array(self, text: str | Buffer, specials: SpecialTokens, threads: int = 1) -> NDArray[np.uint32]: ...
    def encode_batch_to_lists(
        self, texts: list[str | Buffer], specials: SpecialTokens, threads: int = 1
    ) -> list[list[int]]: ...
    def encode_batch_to_arrays(
        self, texts: list[str | Buffer], specials: SpecialTokens, threads: int = 1, last: int | None = None
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]: ...  # all ids, and where those of each text end
    def encode_pretokens(self, text: str | Buffer, ends: NDArray[np.uint64]) -> NDArray[np.uint32]: ...
    def count(self, text: str | Buffer, specials: SpecialTokens) -> int: ...
    def stream(self, specials: SpecialTokens) -> EncodeStream: ...

class EncodeStream:
    def feed(self, data: str | Buffer, /) -> NDArray[np.uint32]: ...
    def finish(self) -> NDArray[np.uint32]: ...

class PretokenCounts:
    def __init__(self, pattern: str, special_tokens: list[bytes], threads: int, chunk_bytes: int) -> None: ...
    def count(
        self,
        texts: list[str | Buffer],
        weight: int,
        mapped: bool,  # the texts are a file mapped into memory, whose pages are given back
        progress: Callable[[int], None] | None,
    ) -> None: ...
    # Pretokens that follow one another from 0 on; and some with a count each.
    def add_pretokens(self, text: str | Buffer, ends: NDArray[np.uint64], weight: int) -> None: ...
    def add_counts(self, text: str | Buffer, ends: NDArray[np.uint64], counts: NDArray[np.uint64]) -> None: ...
    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint64]]: ...  # bytes, ends, counts
    def learn(
        self,
        merge_limit: int,
        tie_rule: Literal["bytes", "huggingface"],
        min_frequency: int,
        max_token_length: int | None,
        progress: Callable[[int], None] | None,
    ) -> list[tuple[int, int]]: ...  # token 256 + i is the product of merge i; the counts are then empty
    @property
    def bytes_counted(self) -> int: ...
    def __len__(self) -> int: ...

# Of text without special tokens.
def pretokens(data: str | Buffer, pattern: str, unicode_version: str = ...) -> list[bytes]: ...
def character_classes(
    unicode_version: str = ...,
) -> bytes: ...  # for each code point its number in native/generate_unicode_tables.py
def simd_name() -> str: ...  # what classifies windows of text: avx512, avx2, neon, masks or scalar
