"""Conversations into token shards: template, tokenizer, and which tokens count for the loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from groundup.errors import DataError
from groundup.system.files import write_atomically
from groundup.text.chat.reading import ConversationReader, segments_of
from groundup.text.chat.rendering import Loss, Renderer
from groundup.text.chat.templates import BUILT_IN, TEMPLATE_FILE, load_template
from groundup.text.options import ReadOptions
from groundup.tokenizer.chat import check_can_chat, encode_segments
from groundup.tokenizer.special_tokens import SpecialTokenMode
from groundup.tokenizer.tokenizer import Tokenizer

DEFAULT_TEMPLATE = "chatml"
_TODAY = "2024-07-26"
"""What `strftime_now` gives, so that a data set does not depend on the day: the date that Llama 3 has without it."""


class ChatEncoding:
    """Template and tokenizer of a data set of conversations, for the block.

        with ChatEncoding(read, tokenizer, "<|endoftext|>") as chat:
            encode_files(TextReader(inputs, read=read, conversations=chat.reader), chat.tokenizer, out, chat=chat)

    Args:
        read: its template is a built-in one's name or a file.
        loss: which tokens count.
        special_tokens: meaning of a special token's name in a message: text (None too), or an error.
        adds_special_tokens: add those of the template to a tokenizer that lacks them.

    Attributes:
        tokenizer: the given one, with what was added.
        reader: makes the documents.
        note: what the user should know; or empty.

    Raises:
        FileMissingError, DataError, MissingExtraError: the template cannot be used.
        TokenizerError: the tokenizer cannot write the template.
    """

    def __init__(
        self,
        read: ReadOptions,
        tokenizer: Tokenizer,
        separator: str,
        *,
        loss: Loss = "assistant",
        special_tokens: SpecialTokenMode | None = None,
        adds_special_tokens: bool = False,
    ):
        if special_tokens == "encode":
            raise DataError(
                "--special-tokens encode would let messages write special tokens, and so speak for the assistant; "
                "leave it out: in conversations only the template writes them"
            )
        self.loss = loss
        self.template = load_template(read.template or DEFAULT_TEMPLATE, separator)
        self.renderer = Renderer(self.template, now=_TODAY)
        try:
            if adds_special_tokens:
                tokenizer = tokenizer.with_special_tokens(self.renderer.names)
            check_can_chat(tokenizer, self.renderer.names, self.template.name)
            self.renderer.protect(tokenizer.special_tokens)
            ends = loss == "all" or self.renderer.end_of_turn()
            self.note = "" if ends else _without_end(self.template.name, separator)
        except BaseException:
            self.renderer.close()
            raise
        self.tokenizer = tokenizer
        self.reader = ConversationReader(self.renderer, loss, refuses_names=special_tokens == "error")

    def record(self) -> dict[str, Any]:
        """What decides the tokens, for the plan of a data set; no path."""
        name = self.template.name if self.template.name in BUILT_IN else None
        return {"template": name, "template_sha256": self.template.sha256, "loss": self.loss}

    def encode(
        self, documents: Sequence[bytes], append: int, num_threads: int | None
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint8] | None]:
        """Ids of documents, where each ends, and which count; None if all do."""
        conversations = [segments_of(document) for document in documents]
        ids, ends, counts = encode_segments(self.tokenizer, conversations, append, num_threads)
        return ids, ends, None if self.loss == "all" else counts

    def save(self, folder: Path) -> None:
        """Write tokenizer and template into a folder."""
        self.tokenizer.save(folder)
        write_atomically(folder / TEMPLATE_FILE, self.template.text)

    def met(self) -> dict[str, int]:
        """Names of special tokens in messages, which became text, and how often each was there."""
        return dict(sorted(self.renderer.met.items()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.renderer.close()


def _without_end(template: str, separator: str) -> str:
    return (
        f"note: the chat template {template} ends the assistant's turn with no special token of the tokenizer; "
        f"{separator}, which follows each conversation, has to teach the model to stop"
    )
