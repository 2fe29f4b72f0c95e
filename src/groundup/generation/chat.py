"""A conversation with a model that was trained on conversations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Self

from groundup.errors import ConfigError, DataError
from groundup.generation.engine import Engine
from groundup.generation.sampling import Sampling
from groundup.text.chat.conversations import Conversation, clean
from groundup.text.chat.rendering import Renderer
from groundup.text.chat.templates import ChatTemplate
from groundup.text.rows import BadRow
from groundup.tokenizer.chat import LEARN, check_can_chat, encode_segments

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


class ChatPrompts:
    """Conversations as prompts: the template renders them in a separate process, one at a time.

    Attributes:
        end_ids: tokens that end the assistant's turn.

    Raises:
        DataError, MissingExtraError: the template cannot be used.
        TokenizerError: the tokenizer lacks a special token of the template.
    """

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._renderer = Renderer(template, tokenizer.special_tokens)
        try:
            check_can_chat(tokenizer, self._renderer.names, template.name, LEARN)
            end = self._renderer.end_of_turn()
        except BaseException:
            self.close()
            raise
        self.end_ids = (tokenizer.token_id(end),) if end in tokenizer.special_tokens else ()

    def ids(self, conversation: Conversation) -> list[int]:
        """The conversation, and what begins an answer.

        Raises:
            DataError: the template refuses it.
        """
        (found,) = self._renderer.render([conversation], prompt=True)
        if isinstance(found, BadRow):
            raise DataError(f"the conversation{found}")
        return [int(i) for i in encode_segments(self._tokenizer, [found])[0]]

    def close(self) -> None:
        """End the process that renders the template."""
        self._renderer.close()


class Chat:
    """A conversation: the template renders it, the model continues it until it ends its turn.

        with Chat(model.engine(rows=1), model.chat_template, Sampling(temperature=0.8)) as chat:
            print("".join(chat.reply("Hello")))

    A message cannot write special tokens, whatever it says. Where the conversation no longer fits the model's context,
    its oldest messages are left out, but for a system message.

    Args:
        engine: with a tokenizer; its end-of-text token ends a reply too.
        sampling: of each reply; the i-th has the seed ``seed`` + i.
        system: first message, by the system; empty for none.

    Attributes:
        messages: the conversation so far, as templates have it.
        left_out: number of messages that the last reply did not see.

    Raises:
        ConfigError: no token of a reply is allowed.
        DataError, MissingExtraError, TokenizerError: as :class:`ChatPrompts`.
    """

    def __init__(self, engine: Engine, template: ChatTemplate, sampling: Sampling, *, system: str = ""):
        if sampling.max_tokens < 1:
            raise ConfigError(f"max_tokens = {sampling.max_tokens}; expected at least 1")
        assert engine.tokenizer is not None
        self._engine, self._system, self._context = engine, system, engine.model.context_length
        self._prompts = ChatPrompts(template, engine.tokenizer)
        self._sampling = dataclasses.replace(sampling, end_ids=(*sampling.end_ids, *self._prompts.end_ids))
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
        text = self._engine.submit(ids, self._sampling.with_seed(self._replies))
        self.messages, self._replies = asked, self._replies + 1
        pieces: list[str] = []
        try:
            for token in self._engine.run(text):
                if token.text:
                    pieces.append(token.text)
                    yield token.text
        finally:
            text.cancel()
            self.messages.append({"role": "assistant", "content": "".join(pieces)})

    def close(self) -> None:
        """End the process that renders the template."""
        self._prompts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        """Ids of as many of the latest messages as leave room for a reply; of the last message at least."""
        room = min(self._sampling.max_tokens, self._context // 4)
        first = 1 if messages[0]["role"] == "system" else 0
        # From one message of the user to the next: templates want the two to take turns.
        begins = [i for i in range(first, len(messages)) if messages[i]["role"] == "user"]
        for begin in begins:
            ids = self._prompts.ids(Conversation(messages[:first] + messages[begin:]))
            self.left_out = begin - first
            if len(ids) + room <= self._context:
                return ids
        if len(ids) < self._context:
            return ids
        raise DataError(
            f"the message takes {len(ids)} tokens with what the template adds, but the model's context has "
            f"{self._context}; shorten it"
        )
