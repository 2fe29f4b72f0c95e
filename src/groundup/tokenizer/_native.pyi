"""The C++ core (native/bindings.cpp). Long work releases the GIL; `data` is any object with a contiguous buffer."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from groundup.errors import TokenizerError

class MissingByteError(TokenizerError): ...

class Encoder:
    def __init__(
        self,
        byte_ids: list[int],  # 256 of them; -1 where the vocabulary lacks the byte
        rules: NDArray[np.uint32],  # (merges, 3): left id, right id, merged id
        special_tokens: list[tuple[bytes, int]],
    ) -> None: ...
    def encode(self, data: Buffer) -> NDArray[np.uint32]: ...

class EncodeStream:
    def __init__(self, encoder: Encoder) -> None: ...
    def feed(self, data: Buffer) -> NDArray[np.uint32]: ...
    def finish(self) -> NDArray[np.uint32]: ...

class Trainer:
    def __init__(self, special_tokens: list[bytes], thread_count: int, chunk_bytes: int) -> None: ...
    def count(self, texts: list[Buffer], progress: Callable[[int], None] | None) -> None: ...
    def learn(self, merge_limit: int, progress: Callable[[int], None] | None) -> list[tuple[int, int]]: ...
    @property
    def bytes_counted(self) -> int: ...

def pretokens(data: Buffer) -> list[bytes]: ...  # of text without special tokens
def character_classes() -> bytes: ...  # for each code point 0 letter, 1 number, 2 white space, 3 other
