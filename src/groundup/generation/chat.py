"""A conversation with a model that was trained on conversations."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Self

import torch

from groundup.config import END_OF_TEXT, check_sampling
from groundup.errors import ConfigError, DataError
from groundup.generation.autoregressive import stream, text_pieces
from groundup.nn import TransformerLM
from groundup.text.chat.conversations import Conversation, clean
from groundup.text.chat.rendering import Renderer
from groundup.text.chat.templates import ChatTemplate
from groundup.text.rows import BadRow
from groundup.tokenizer.chat import LEARN, check_can_chat, encode_segments

if TYPE_CHECKING:
    from rich.console import Console

    from groundup.tokenizer import Tokenizer

COMMANDS = "/reset begins a new conversation, /quit or Ctrl-D ends"


class Chat:
    """A conversation: the template renders it, the model continues it until it ends its turn.

        with Chat(model, tokenizer, template) as chat:
            print("".join(chat.reply("Hello")))

    A message cannot write special tokens, whatever it says. Where the conversation no longer fits the model's context,
    its oldest messages are left out, but for a system message.

    Args:
        system: first message, by the system; empty for none.
        max_tokens: most tokens of a reply.
        temperature, top_p: see :func:`groundup.generation.next_token`.
        seed: makes replies repeatable; None for other ones each time.
        end_token: special token that ends a document, and so a reply; beside the one that ends a turn.

    Attributes:
        messages: the conversation so far, as templates have it.
        left_out: number of messages that the last reply did not see.

    Raises:
        ConfigError: as :func:`groundup.generation.generate`.
        DataError, MissingExtraError: the template cannot be used.
        TokenizerError: the tokenizer lacks a special token of the template.
    """

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        system: str = "",
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_p: float = 0.9,
        seed: int | None = None,
        end_token: str = END_OF_TEXT,
    ):
        check_sampling(temperature, top_p)
        if max_tokens < 1:
            raise ConfigError(f"max_tokens = {max_tokens}; expected at least 1")
        self._model, self._tokenizer = model, tokenizer
        self._system, self._max_tokens, self._seed = system, max_tokens, seed
        self._temperature, self._top_p = temperature, top_p
        self._renderer = Renderer(template, tokenizer.special_tokens)
        try:
            check_can_chat(tokenizer, self._renderer.names, template.name, LEARN)
            ends = {self._renderer.end_of_turn(), end_token} & set(tokenizer.special_tokens)
        except BaseException:
            self._renderer.close()
            raise
        self._stops = {tokenizer.token_id(name) for name in ends if name}
        self.reset()

    def reset(self) -> None:
        """Begin a new conversation."""
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": self._system}] if self._system else []
        self.left_out = self._replies = 0

    def reply(self, message: str) -> Iterator[str]:
        """The model's reply to a message, in pieces; never half a character. Both become part of the conversation.

        If the reply is not read to its end, what was read of it counts.

        Raises:
            DataError: the template refuses the conversation, or the message alone is longer than the model's context.
        """
        asked = [*self.messages, {"role": "user", "content": clean(message)}]
        ids = self._prompt(asked)
        generator = None if self._seed is None else torch.Generator().manual_seed(self._seed + self._replies)
        self.messages, self._replies = asked, self._replies + 1
        room = min(self._max_tokens, self._model.context_length - len(ids))
        new = stream(self._model, ids, room, self._temperature, self._top_p, generator=generator)
        pieces: list[str] = []
        try:
            for piece in text_pieces(new, self._tokenizer, self._stops):
                pieces.append(piece)
                yield piece
        finally:
            new.close()
            self.messages.append({"role": "assistant", "content": "".join(pieces)})

    def close(self) -> None:
        """End the process that renders the template."""
        self._renderer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        """Ids of as many of the latest messages as leave room for a reply; of the last message at least."""
        context_length = self._model.context_length
        room = min(self._max_tokens, context_length // 4)
        first = 1 if messages[0]["role"] == "system" else 0
        # From one message of the user to the next: templates want the two to take turns.
        begins = [i for i in range(first, len(messages)) if messages[i]["role"] == "user"]
        for begin in begins:
            ids = self._ids(messages[:first] + messages[begin:])
            self.left_out = begin - first
            if len(ids) + room <= context_length:
                return ids
        if len(ids) < context_length:
            return ids
        raise DataError(
            f"the message takes {len(ids)} tokens with what the template adds, but the model's context has "
            f"{context_length}; shorten it"
        )

    def _ids(self, messages: list[dict[str, Any]]) -> list[int]:
        (found,) = self._renderer.render([Conversation(messages)], prompt=True)
        if isinstance(found, BadRow):
            raise DataError(f"the conversation{found}")
        return [int(i) for i in encode_segments(self._tokenizer, [found])[0]]


def talk(chat: Chat, console: Console) -> None:
    """Talk with a model in the terminal; or answer standard input, one message a line.

    Args:
        console: shows the conversation; where it is no terminal, replies only.
    """
    is_terminal = console.is_terminal and sys.stdin.isatty()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if is_terminal:
        console.print(COMMANDS, style="dim")
    for message in lines(console if is_terminal else None):
        if message == "/quit":
            return
        if message == "/reset":
            chat.reset()
            continue
        try:
            for piece in chat.reply(message):
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:  # of a terminal: enough of this reply
            if not is_terminal:
                raise
        except DataError as error:
            if not is_terminal:
                raise
            console.print(str(error), style="red", markup=False)
            continue
        print(flush=True)
        if is_terminal and chat.left_out:
            console.print(f"the first {chat.left_out} messages no longer fit the context", style="dim")


def lines(console: Console | None) -> Iterator[str]:
    """What the user writes, without blank lines, to its end."""
    while True:
        try:
            line = console.input("[bold cyan]> [/]") if console else input()
        except EOFError:
            if console:
                print()
            return
        if line.strip():
            yield line.strip()
