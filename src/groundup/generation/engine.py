"""Generation engine: many texts at once, which join and leave between steps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from groundup.config import END_OF_TEXT
from groundup.errors import ConfigError, TokenizerError
from groundup.generation.cache import BatchedCache
from groundup.generation.native import NativeDecoder, suits
from groundup.generation.reuse import Kept, KeptTexts
from groundup.generation.sampling import Sampler, Sampling, finite
from groundup.generation.text import TextPieces
from groundup.nn import RotaryPositionalEmbedding, TransformerLM
from groundup.system.process import wide_matmul

if TYPE_CHECKING:
    from groundup.generation.compiled import CompiledStep
    from groundup.tokenizer import Tokenizer

# Shapes: B active rows, S tokens, V vocabulary.

_GEMM_ROWS = 1000
"""From this many rows on torch's matmuls are faster than the C++ decoder."""
_SHORT_PROMPT = 64
"""Prompts of more tokens are computed one by one by the model's modules, whose matmuls are faster for many tokens."""
_SCORED_AT_ONCE = 64
"""Positions of a prompt whose log-probabilities exist at once, in float64."""
Beyond = Literal["stop", "slide"]
FinishReason = Literal["end", "stop", "length", "cancelled"]


Scored = tuple[float, tuple[tuple[int, float], ...]]
"""Log-probability of a token, and the most probable tokens in its place with theirs."""


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token."""

    token_id: int
    text: str
    """What may be shown now: whole characters that cannot become part of a stop string."""
    log_probability: float | None = None
    """Of the model itself, before bias, penalties and temperature; None unless it was asked for."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """Most probable tokens with their log-probabilities."""


class Generation:
    """One text that is being generated.

    Attributes:
        prompt_ids: what it continues.
        tokens: so far.
        finish_reason: "end" at the end-of-text token, "stop" at a stop string, "length" at max_tokens or at the end of
            the context, "cancelled"; None while it goes on.
        prompt_scores: log-probability of each prompt token but the first, given those before it, and the most probable
            tokens in its place with theirs; empty unless it was asked for.
        error: raised by the sampler, for example because the logits are not finite.
    """

    def __init__(self, prompt_ids: Sequence[int], sampling: Sampling, pieces: TextPieces | None):
        self.prompt_ids, self.sampling = tuple(prompt_ids), sampling
        self.tokens: list[Token] = []
        self.prompt_scores: list[Scored] = []
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.began = time.monotonic()
        self.first_token_seconds: float | None = None
        self._sampler = Sampler(sampling, prompt_ids)
        self._pieces = pieces

    @property
    def token_ids(self) -> list[int]:
        """The new ids, the end-of-text token included."""
        return [token.token_id for token in self.tokens]

    @property
    def text(self) -> str:
        """The new text, as far as it may be shown."""
        return "".join(token.text for token in self.tokens)

    @property
    def is_over(self) -> bool:
        """Whether no token follows."""
        return self.finish_reason is not None

    def cancel(self) -> None:
        """End it; its place is free before the next step."""
        if not self.is_over:
            self.finish_reason = "cancelled"


class Engine:
    """Generates the texts of all requests together, one token of each a step (continuous batching; Yu et al. 2022).

    A request joins as soon as there is a free row: its prompt is computed, at most ``prefill_tokens`` a step, and its
    rows leave when it ends. Each text is the one that it would be alone: the rows share matmuls and nothing else.

    Args:
        model: its mode is set to evaluation.
        tokenizer: for texts and stop strings; without it only ids are generated.
        rows: most texts at once.
        beyond: what follows when a text is as long as the context. "stop" ends it; "slide" goes on with sliding-window
            attention of that width, without computing anything again (:class:`BatchedCache`). The model was not
            trained for that; today's :func:`groundup.generate` computes the whole window anew for each token instead.
        prefill_tokens: most prompt tokens a step, so that a long prompt does not keep the other texts waiting.
        look_up: tokens that are guessed at once from an earlier occurrence of the last tokens (prompt-lookup decoding;
            Saxena 2023), while a single text is generated. The guesses are checked: the text is the same.
        end_token: special token that ends a text.
        native: compute a step by the C++ decoder; by default where it knows the model and fewer than
            ``_GEMM_ROWS`` texts are generated.
        threads: of the C++ decoder; by default torch's.
        compile: compute a step by a function that torch compiles for 1, 2, 4, … ``rows`` texts
            (:mod:`groundup.generation.compiled`), instead of the C++ decoder. Keys and values of all rows are allocated
            at once.
        reuse: keep the keys and values of this many finished texts, so that a prompt that begins as one of them, such
            as the next turn of a conversation, is computed from where they differ. Each takes as much memory as a
            row. The model's weights must stay as they are.

    Raises:
        ConfigError: a number below its least one, both of ``native`` and ``compile``, or a model that torch cannot
            compile here.
    """

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Tokenizer | None = None,
        *,
        rows: int = 32,
        beyond: Beyond = "stop",
        prefill_tokens: int = 512,
        look_up: int = 0,
        end_token: str = END_OF_TEXT,
        native: bool | None = None,
        threads: int | None = None,
        compile: bool = False,
        reuse: int = 0,
    ):
        least = {"rows": (rows, 1), "prefill_tokens": (prefill_tokens, 1), "look_up": (look_up, 0), "reuse": (reuse, 0)}
        for name, (value, lowest) in least.items():
            if value < lowest:
                raise ConfigError(f"{name} = {value}; expected at least {lowest}")
        if compile and native:
            raise ConfigError("native and compile are both on; expected one: the C++ decoder, or compiled modules")
        self.model, self.tokenizer = model.eval(), tokenizer
        self.beyond, self.rows, self.prefill_tokens, self.look_up = beyond, rows, prefill_tokens, look_up
        self._compiled: CompiledStep | None = None
        self.cache = self._new_cache()
        if compile:
            from groundup.generation.compiled import CompiledStep, FixedCache  # loads torch's compiler

            self.cache = FixedCache(model, limit=model.context_length, rows=rows)
            self._compiled, native = CompiledStep(model, self.cache), False
        self._kept = KeptTexts(reuse)
        self._in_step = False
        self.end = special_id(tokenizer, end_token) if tokenizer is not None else None
        self._rope = next((part for part in model.modules() if isinstance(part, RotaryPositionalEmbedding)), None)
        self._native: NativeDecoder | None = None
        self._most_native = 0
        if suits(model) if native is None else native:
            self._native = NativeDecoder(model, threads=threads or torch.get_num_threads())
            self._most_native = _GEMM_ROWS if native is None else rows
        self._waiting: deque[Generation] = deque()
        self._active: list[Generation] = []
        """In the order of their rows; the one whose prompt is not computed yet comes after them."""
        self._prefilling: Generation | None = None
        self.generated = 0
        """Tokens in all."""

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling | None = None) -> Generation:
        """Queue a request.

        Args:
            prompt_ids: at least one id; more than the context holds are cut to the last ones that it does, if beyond
                is "slide".

        Raises:
            ConfigError: an empty prompt, one that leaves no room for a token, or stop strings without a tokenizer.
            TokenizerError: a prompt id the model has no embedding for.
        """
        sampling = sampling or Sampling()
        ids = check_prompt(prompt_ids, self.model.vocab_size)
        context = self.model.context_length
        if len(ids) > context and self.beyond == "slide":
            ids = ids[-context:]
        if len(ids) > context:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens, but the context of the model holds {context}; "
                f"shorten it, or let the context slide"
            )
        if sampling.stop and self.tokenizer is None:
            raise ConfigError("stop strings need the tokenizer of the model")
        for name in ("logit_bias", "end_ids"):
            bad = [token for token in getattr(sampling, name) if not 0 <= token < self.model.vocab_size]
            if bad:
                raise ConfigError(f"{name} names token {bad[0]}; expected 0 to {self.model.vocab_size - 1}")
        pieces = None if self.tokenizer is None else TextPieces(self.tokenizer, sampling.stop)
        generation = Generation(ids, sampling, pieces)
        if sampling.max_tokens == 0 and not sampling.scores_prompt:
            generation.finish_reason = "length"
        else:
            self._waiting.append(generation)
        return generation

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._waiting or self._active or self._prefilling)

    @property
    def running(self) -> int:
        """Texts that have a row."""
        return len(self._active) + (self._prefilling is not None)

    @property
    def waiting(self) -> int:
        """Texts without a row yet."""
        return len(self._waiting)

    @torch.inference_mode()
    def step(self) -> list[tuple[Generation, Token]]:
        """Compute prompts of waiting requests, and one more token of each text.

        After a step that did not return, because of an exception or Ctrl-C, the texts that had a row are cancelled.

        Returns:
            The new tokens. A text that has ended has its ``finish_reason``.
        """
        if self._in_step:  # the last one was broken off, as by Ctrl-C: what the rows hold is not known
            for text in (*self._active, self._prefilling):
                if text is not None:
                    text.cancel()
            self.cache, self._active, self._prefilling = self._new_cache(), [], None
        self._in_step = True
        self._drop_cancelled()
        new = self._prefill()
        new += self._decode()
        self.generated += len(new)
        for generation in [text for text in self._active if text.is_over]:
            self._leave(generation)
        self._in_step = False
        return new

    def _new_cache(self) -> BatchedCache:
        if self._compiled is not None:  # whose tensors stay where they are
            self.cache.lengths = [0] * self.rows
            return self.cache
        return BatchedCache(self.model, limit=self.model.context_length, most_rows=self.rows)

    def run(self, generation: Generation) -> Iterator[Token]:
        """Step until this text has ended; yields its tokens."""
        done = 0
        while True:
            yield from generation.tokens[done:]
            done = len(generation.tokens)
            if generation.is_over or self.is_idle:
                break
            self.step()
        if generation.error is not None:
            raise generation.error

    def _prefill(self) -> list[tuple[Generation, Token]]:
        new: list[tuple[Generation, Token]] = []
        room = self.prefill_tokens
        if self._prefilling is None and (texts := self._short_prompts()):
            room -= sum(len(text.prompt_ids) for text in texts)
            new += self._prefill_together(texts)
        while room > 0:
            if self._prefilling is None:
                if not self._waiting or len(self._active) >= self.rows:
                    break
                self._prefilling = self._waiting.popleft()
                self._begin(self._prefilling, len(self._active))
            generation, row = self._prefilling, len(self._active)
            done = self.cache.lengths[row]
            chunk = generation.prompt_ids[done : done + room]
            room -= len(chunk)
            keep = 0 if generation.sampling.scores_prompt else 1
            logits_SV = self._forward(slice(row, row + 1), torch.tensor([chunk]), logits_to_keep=keep)[0]
            if generation.sampling.scores_prompt:
                self._score_prompt(generation, logits_SV, done)
            if generation.is_over:
                self._prefilling = None
            elif done + len(chunk) == len(generation.prompt_ids):
                self._prefilling = None
                self._active.append(generation)
                new += self._sample(generation, logits_SV[-1])
        return new

    def _begin(self, text: Generation, row: int) -> None:
        """Give a text its row, with as much of its prompt as a kept text has."""
        self.cache.reserve(row + 1, len(text.prompt_ids))
        self.cache.lengths[row] = 0
        kept, length = self._reusable(text)
        if kept is not None:
            self._kept.restore(kept, length, self.cache, row)

    def _reusable(self, text: Generation) -> tuple[Kept | None, int]:
        # The scores of a prompt need the logits of all its tokens.
        return (None, 0) if text.sampling.scores_prompt else self._kept.longest(text.prompt_ids)

    def _short_prompts(self) -> list[Generation]:
        """The next waiting texts whose prompts are computed together."""
        texts: list[Generation] = []
        longest = 0
        while self._waiting and len(self._active) + len(texts) < self.rows:
            text = self._waiting[0]
            longest = max(longest, len(text.prompt_ids))
            is_too_much = longest * (len(texts) + 1) > self.prefill_tokens
            if longest > _SHORT_PROMPT or is_too_much or text.sampling.scores_prompt or self._reusable(text)[1]:
                break
            texts.append(self._waiting.popleft())
        return texts

    def _prefill_together(self, texts: list[Generation]) -> list[tuple[Generation, Token]]:
        first, lengths = len(self._active), [len(text.prompt_ids) for text in texts]
        rows = slice(first, first + len(texts))
        self.cache.reserve(rows.stop, max(lengths))
        if self._native is not None:
            self.cache.lengths[rows] = lengths
            ids_T = torch.tensor([token for text in texts for token in text.prompt_ids])
            positions_T = torch.cat([torch.arange(length) for length in lengths])
            rows_T = torch.arange(rows.start, rows.stop).repeat_interleave(torch.tensor(lengths))
            last = torch.tensor(lengths).cumsum(0) - 1
            logits_BV = self._native.step(ids_T, positions_T, rows_T, self.cache, last)
        else:
            # Shorter ones are padded at the end: nothing before attends to it, and what follows takes its slots.
            ids_BS = torch.zeros(len(texts), max(lengths), dtype=torch.long)
            for ids_S, text in zip(ids_BS, texts, strict=True):
                ids_S[: len(text.prompt_ids)] = torch.tensor(text.prompt_ids)
            self.cache.lengths[rows] = [0] * len(texts)
            positions_BS = self.cache.begin(rows, max(lengths))
            ids_BS, last = ids_BS.to(positions_BS.device), torch.tensor(lengths, device=positions_BS.device) - 1
            with self._wide_matmul(sum(lengths)):
                layers: Any = self.cache.layers
                hidden_BSD = self.model.hidden(ids_BS, positions_BS, layers)
                logits_BV = self.model.logits(hidden_BSD[torch.arange(len(texts), device=last.device), last])
            self.cache.lengths[rows] = lengths
        self._active += texts
        return [pair for text, logits_V in zip(texts, logits_BV, strict=True) for pair in self._sample(text, logits_V)]

    def _score_prompt(self, text: Generation, logits_SV: Tensor, done: int) -> None:
        """Log-probabilities of the prompt's tokens after each of these positions, the first of which is ``done``."""
        following = text.prompt_ids[done + 1 : done + 1 + len(logits_SV)]
        try:
            for begin in range(0, len(following), _SCORED_AT_ONCE):
                ids = following[begin : begin + _SCORED_AT_ONCE]
                logits = finite(logits_SV[begin : begin + len(ids)])
                text.prompt_scores += log_probabilities(logits, ids, text.sampling.log_probabilities or 0)
        except Exception as error:  # of this text only
            text.error, text.finish_reason = error, "cancelled"
        if len(following) < len(logits_SV) and text.sampling.max_tokens == 0 and not text.is_over:
            text.finish_reason = "length"

    def _decode(self) -> list[tuple[Generation, Token]]:
        for text in [text for text in self._active if text.is_over]:  # ended with its first token
            self._leave(text)
        texts = list(self._active)  # in the order of their rows, which those that left have changed
        if not texts:
            return []
        longest = max(self.cache.lengths[: len(texts)]) + 1 + self.look_up
        self.cache.reserve(len(texts) + (self._prefilling is not None), longest)
        if self.look_up and len(texts) == 1 and self._prefilling is None:
            return self._decode_guessing(texts[0])
        last_B1 = torch.tensor([[text.tokens[-1].token_id] for text in texts])
        logits_BV = self._forward(slice(0, len(texts)), last_B1)[:, -1]
        if all(text.sampling.is_plain_greedy for text in texts) and (chosen := self._most_probable(logits_BV)):
            return [pair for text, token in zip(texts, chosen, strict=True) for pair in self._accept(text, token)]
        return [pair for text, logits_V in zip(texts, logits_BV, strict=True) for pair in self._sample(text, logits_V)]

    def _decode_guessing(self, text: Generation) -> list[tuple[Generation, Token]]:
        """Several tokens in one pass, as far as the sampled ones are those that were guessed."""
        room = self.cache.capacity - self.cache.lengths[0] - 1
        left = text.sampling.max_tokens - len(text.tokens) - 1
        guess = guessed([*text.prompt_ids, *text.token_ids], min(self.look_up, room, left))
        ids = [text.tokens[-1].token_id, *guess]
        logits_SV = self._forward(slice(0, 1), torch.tensor([ids]))[0]
        new: list[tuple[Generation, Token]] = []
        for i, logits_V in enumerate(logits_SV):
            new += self._sample(text, logits_V)
            if text.is_over or i == len(guess) or text.tokens[-1].token_id != guess[i]:
                self.cache.lengths[0] -= len(guess) - i  # what was guessed wrong is forgotten
                break
        return new

    def _forward(self, rows: slice, ids_BS: Tensor, logits_to_keep: int = 0) -> Tensor:
        if self._compiled is not None and ids_BS.shape[1] == 1 and rows.start == 0:
            return self._compiled.step(ids_BS[:, 0].tolist())[:, None]
        positions_BS = self.cache.begin(rows, ids_BS.shape[1])
        if self.beyond == "slide" and self._rope is not None:
            self._rope.extend(max(self.cache.lengths[rows]))
        if self._native is not None and ids_BS.shape[1] == 1 and len(ids_BS) <= self._most_native:
            numbers = torch.arange(rows.start, rows.stop)
            return self._native.step(ids_BS[:, 0], positions_BS[:, 0], numbers, self.cache)[:, None]
        if self._native is not None and logits_to_keep == 1 and ids_BS.shape[1] <= _SHORT_PROMPT:
            numbers = torch.full_like(ids_BS[0], rows.start)  # what is left of a prompt, with the bits of a short one
            last = torch.tensor([ids_BS.shape[1] - 1])
            return self._native.step(ids_BS[0], positions_BS[0], numbers, self.cache, last)[:, None]
        device = self.model.token_embeddings.weight.device
        with self._wide_matmul(ids_BS.shape[1]):
            logits: Tensor = self.model(
                ids_BS.to(device), positions_BS, self.cache.layers, logits_to_keep=logits_to_keep
            )
        return logits

    def _wide_matmul(self, tokens: int) -> AbstractContextManager[None]:
        # oneDNN prepares itself for each shape: for a few tokens that would take longer than it gains.
        is_long = self.model.token_embeddings.weight.device.type == "cpu" and tokens > _SHORT_PROMPT
        return wide_matmul() if is_long else nullcontext()

    def _most_probable(self, logits_BV: Tensor) -> list[int]:
        """The most probable token of each row; nothing if a row's logits are not finite."""
        with self._one_thread():
            most_B, chosen_B = logits_BV.max(-1)
            return chosen_B.tolist() if most_B.isfinite().all() else []

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """Keep torch from waking its threads for small work: they would wait actively on the decoder's cores."""
        count = torch.get_num_threads()
        if self._native is None or count == 1:
            yield
            return
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(count)

    def _sample(self, text: Generation, logits_V: Tensor) -> list[tuple[Generation, Token]]:
        with self._one_thread():
            try:
                chosen = text._sampler.next(logits_V)
            except Exception as error:  # of this text only: the others go on
                text.error, text.finish_reason = error, "cancelled"
                return []
            return self._accept(text, chosen, logits_V)

    def _accept(self, text: Generation, chosen: int, logits_V: Tensor | None = None) -> list[tuple[Generation, Token]]:
        """Add a token to a text, and see whether it ends."""
        sampling = text.sampling
        ends = (chosen == self.end and not sampling.ignore_end) or chosen in sampling.end_ids
        piece = ""
        if text._pieces is not None and not ends:
            piece = text._pieces.push(chosen)
        full = len(text.prompt_ids) + len(text.tokens) >= self.model.context_length and self.beyond == "stop"
        if ends:
            text.finish_reason = "end"
        elif text._pieces is not None and text._pieces.stopped:
            text.finish_reason = "stop"
        elif full or len(text.tokens) + 1 >= sampling.max_tokens:
            text.finish_reason = "length"
        if text.is_over and text._pieces is not None:
            piece += text._pieces.finish()
        found: Scored | tuple[None, tuple[()]] = (None, ())
        if sampling.log_probabilities is not None and logits_V is not None:
            (found,) = log_probabilities(logits_V[None], [chosen], sampling.log_probabilities)
        token = Token(chosen, piece, *found)
        if text.first_token_seconds is None:
            text.first_token_seconds = time.monotonic() - text.began
        text.tokens.append(token)
        return [(text, token)]

    def _leave(self, text: Generation) -> None:
        """Free the row of a text; the last one moves into its place."""
        row = self._active.index(text)
        if text.error is None:
            self._kept.add(self.cache, row, [*text.prompt_ids, *text.token_ids])
        last = len(self._active) - 1
        if row != last:
            self.cache.copy(last, row)
            self._active[row] = self._active[last]
        self._active.pop()
        if self._prefilling is not None:  # it stays the one after the active ones
            self.cache.copy(last + 1, last)

    def _drop_cancelled(self) -> None:
        self._waiting = deque(text for text in self._waiting if not text.is_over)
        if self._prefilling is not None and self._prefilling.is_over:
            self._prefilling = None
        for text in [text for text in self._active if text.is_over]:
            self._leave(text)


def check_prompt(prompt_ids: Sequence[int], vocab_size: int) -> list[int]:
    """The prompt as a list of ints.

    Raises:
        ConfigError: it is empty.
        TokenizerError: an id the model has no embedding for.
    """
    ids = [int(i) for i in prompt_ids]
    if not ids:
        raise ConfigError(f"the prompt is empty; give at least one token, such as {END_OF_TEXT} to begin a document")
    for i in ids:
        if not 0 <= i < vocab_size:
            raise TokenizerError(f"prompt id {i} is outside the model's vocabulary of {vocab_size}")
    return ids


def special_id(tokenizer: Tokenizer, name: str) -> int | None:
    """Id of a special token; None for an empty name, and if the tokenizer has no such token."""
    try:
        return tokenizer.token_id(name) if name else None
    except TokenizerError:
        return None


def guessed(ids: Sequence[int], most: int, longest: int = 3) -> list[int]:
    """What followed the last tokens when they occurred before: at most ``most`` ids, by the longest match."""
    for n in range(min(longest, len(ids) - 1), 0, -1):
        end = ids[-n:]
        for start in range(len(ids) - n - 1, -1, -1):
            if ids[start : start + n] == end:
                return list(ids[start + n : start + n + max(most, 0)])
    return []


def log_probabilities(logits_SV: Tensor, chosen: Sequence[int], count: int) -> list[Scored]:
    """Log-probability of the chosen token at each position, and the ``count`` most probable tokens with theirs."""
    log_p_SV = logits_SV.double().log_softmax(-1)
    values, ids = log_p_SV.topk(min(count, log_p_SV.shape[-1]))
    chosen_S = log_p_SV.gather(1, torch.tensor(chosen, device=log_p_SV.device)[:, None])[:, 0]
    ranked = [tuple(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
    return list(zip(chosen_S.tolist(), ranked, strict=True))
