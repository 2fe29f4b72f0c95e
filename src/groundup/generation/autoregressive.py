"""Continuing a sequence of tokens, one token at a time."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from groundup.config import END_OF_TEXT, check_sampling
from groundup.errors import ConfigError
from groundup.generation.engine import check_prompt, special_id
from groundup.generation.sampling import next_token
from groundup.generation.text import TextPieces
from groundup.nn import KVCache, TransformerLM

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


def generate(
    model: TransformerLM,
    prompt_ids: Sequence[int],
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 0.9,
    eos_token_id: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> list[int]:
    """The prompt and what the model continues it with, up to and including eos_token_id.

    Args:
        prompt_ids: at least one id; begin a new document with the end-of-text id.
        max_tokens: most new tokens.
        temperature, top_p: see :func:`groundup.generation.next_token`.
        generator: source of randomness, on the CPU; torch's global one by default.

    Raises:
        ConfigError: empty prompt, temperature below 0, top_p outside (0, 1], negative max_tokens.
        TokenizerError: a prompt id the model has no embedding for.
    """
    new = stream(model, prompt_ids, max_tokens, temperature, top_p, eos_token_id, generator=generator)
    return [*map(int, prompt_ids), *new]


def stream(
    model: TransformerLM,
    prompt_ids: Sequence[int],
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 0.9,
    eos_token_id: int | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Generator[int, None, None]:
    """Only the new ids, each as soon as it is chosen; arguments and errors as for :func:`generate`."""
    check_sampling(temperature, top_p)
    ids = check_prompt(prompt_ids, model.vocab_size)
    if max_tokens < 0:
        raise ConfigError(f"max_tokens = {max_tokens}; expected 0 or greater")
    return _stream(model, ids, max_tokens, temperature, top_p, eos_token_id, generator)


@torch.no_grad()
def _stream(
    model: TransformerLM,
    ids: list[int],
    max_tokens: int,
    temperature: float,
    top_p: float,
    eos_token_id: int | None,
    generator: torch.Generator | None,
) -> Generator[int, None, None]:
    was_training = model.training
    model.eval()
    try:
        caches: list[KVCache] | None = None
        for _ in range(max_tokens):
            logits, caches = _last_logits(model, ids, caches)
            chosen = next_token(logits, temperature, top_p, generator)
            ids.append(chosen)
            yield chosen
            if chosen == eos_token_id:
                return
    finally:
        model.train(was_training)


def _last_logits(
    model: TransformerLM, ids: list[int], caches: list[KVCache] | None
) -> tuple[torch.Tensor, list[KVCache] | None]:
    """Logits after the last id. While the sequence fits the context, only what the caches have not seen is computed.

    Beyond it the window slides: every token then has another position and, through the layers, has seen other tokens,
    so that nothing cached is valid and the window is computed anew.
    """
    device = model.token_embeddings.weight.device
    if len(ids) > model.context_length:
        window = torch.tensor([ids[-model.context_length :]], device=device)
        return model(window)[0, -1], None
    if caches is None:
        caches = model.new_caches(batch_size=1)
    unseen = torch.tensor([ids[caches[0].length :]], device=device)
    return model(unseen, caches=caches)[0, -1], caches


def continue_text(
    model: TransformerLM,
    tokenizer: Tokenizer,
    prompt: str = "",
    max_tokens: int = 256,
    temperature: float = 0.8,
    top_p: float = 0.9,
    *,
    seed: int | None = None,
    begin_token: str = END_OF_TEXT,
    end_token: str = END_OF_TEXT,
) -> Iterator[str]:
    """New text in pieces, as it is written; never half a character. An empty prompt begins a new document.

    The text ends before the end-of-text token. The model stays in evaluation mode until the text is read to its end.

    Args:
        begin_token, end_token: special tokens that begin and end a document, where the tokenizer has them.

    Raises:
        ConfigError: as :func:`generate`; an empty prompt where the tokenizer has no token that begins a document.
    """
    ids = prompt_ids(tokenizer, prompt, begin_token)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    end = special_id(tokenizer, end_token)
    new = stream(model, ids, max_tokens, temperature, top_p, end, generator=generator)
    return text_pieces(new, tokenizer, () if end is None else (end,))


def prompt_ids(tokenizer: Tokenizer, prompt: str, begin_token: str = END_OF_TEXT) -> list[int]:
    """What a model is given to continue: the token after which documents begin, and the prompt.

    Raises:
        ConfigError: the prompt is empty, and the tokenizer has no such token.
    """
    begin = special_id(tokenizer, begin_token)
    if not prompt and begin is None:
        missing = begin_token or "token"
        raise ConfigError(f"the prompt is empty, and the tokenizer has no {missing} to begin a document with")
    return ([begin] if begin is not None else []) + (tokenizer.encode(prompt) if prompt else [])


def text_pieces(ids: Iterator[int], tokenizer: Tokenizer, ends: Collection[int]) -> Iterator[str]:
    """The text of ids up to one of ``ends``, in pieces; never half a character."""
    pieces = TextPieces(tokenizer)
    for chosen in ids:
        if chosen in ends:
            break
        if piece := pieces.push(chosen):
            yield piece
    if rest := pieces.finish():
        yield rest
