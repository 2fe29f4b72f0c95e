"""The models that are served: their names, how many texts fit into memory, and prompts as ids."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from groundup.account.memory import available_memory, resident_memory
from groundup.account.params import parameter_count
from groundup.config import ModelConfig
from groundup.display.units import size_text
from groundup.errors import ConfigError, GroundupError
from groundup.generation import Sampling, prompt_ids
from groundup.generation.cache import BatchedCache
from groundup.generation.chat import ChatPrompts
from groundup.generation.engine import Beyond, special_id
from groundup.generation.weights import Weights
from groundup.language_model import LanguageModel, is_foreign, load
from groundup.serve.errors import ApiError
from groundup.serve.fields import TextRequest
from groundup.serve.gate import Answers
from groundup.serve.worker import Worker

_DEFAULT_ROWS = 32
_SHARE = 0.8
"""Of the free memory that keys and values may take; the rest is for requests and other programs."""
_ANSWER_SHARE, _MOST_ANSWER_BYTES = 0.1, 1 << 29
"""Of the rest, what answers may take."""
_PREFILL_TOKENS = 512
_FLOAT32 = 4


class ServedModel:
    """A model, the thread that generates with it, and its chat template if it has one.

    Args:
        name: that requests give.
        rows: most texts at once.
        queue: texts that may wait.
        compile, reuse: see :class:`groundup.generation.Engine`.
        answer_bytes: memory of all answers that are being generated or sent.
    """

    def __init__(
        self,
        name: str,
        model: LanguageModel,
        *,
        rows: int,
        queue: int,
        beyond: Beyond,
        compile: bool = False,
        reuse: int = 0,
        answer_bytes: float = _MOST_ANSWER_BYTES,
    ):
        self.answers = Answers(answer_bytes)
        self.name, self.model, self.beyond, self.created = name, model, beyond, int(time.time())
        engine = model.engine(rows=rows, beyond=beyond, prefill_tokens=_PREFILL_TOKENS, compile=compile, reuse=reuse)
        self.worker = Worker(engine, queue=queue, name=name)
        self._longest = max(map(len, model.tokenizer.vocab.values()))
        self._chat_thread = ThreadPoolExecutor(1, "chat template")  # starts with the first conversation
        self.chat: ChatPrompts | None = None
        self.no_chat = f"{name} has no chat template: it was not trained on conversations"
        try:
            if model.chat_template is not None:
                self.chat = ChatPrompts(model.chat_template, model.tokenizer)
        except GroundupError as error:  # it can still continue texts
            self.no_chat = f"{name} cannot chat: {error}"

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its text."""
        return self.model.config.context_length

    @property
    def begin(self) -> int | None:
        """The token that stands before each prompt that is text."""
        return special_id(self.model.tokenizer, self.model.sample.begin_token)

    def prompts(self, asked: TextRequest) -> list[list[int]]:
        """The ids of each prompt of a request; may take seconds, so in a thread (:meth:`thread`).

        Raises:
            ApiError: a prompt is longer than the context, cannot be encoded, or has an unknown id.
        """
        if asked.conversation is None:
            found = [self._ids(prompt) for prompt in asked.prompts]
        elif self.chat is None:
            raise ApiError(400, f"{self.no_chat}; use /v1/completions", param="messages", code="no_chat_template")
        else:
            self._check_size(sum(len(str(message)) for message in asked.conversation.messages), "messages")
            try:
                found = [self.chat.ids(asked.conversation)]
            except GroundupError as error:
                raise ApiError(400, str(error), param="messages") from None
        param = "prompt" if asked.conversation is None else "messages"
        for ids in found:
            if len(ids) > self.context:
                raise self._too_long(f"{len(ids):,} tokens", param)
            if (largest := max(ids)) >= self.model.model.vocab_size:
                raise ApiError(
                    400, f"the prompt has the token id {largest}; expected 0 to {self.model.model.vocab_size - 1}",
                    param=param,
                )  # fmt: skip
        return found

    def thread(self, asked: TextRequest) -> ThreadPoolExecutor | None:
        """Where to call :meth:`prompts`: conversations wait for each other only; None is asyncio's own threads."""
        return None if asked.conversation is None else self._chat_thread

    def texts(self, asked: TextRequest, prompts: Sequence[list[int]]) -> list[tuple[list[int], Sampling]]:
        """Prompt and settings of each text: n of the first prompt, n of the second, …"""
        found = []
        for ids in prompts:
            settings = asked.sampling
            if asked.fills_context:
                rest = max(1, self.context - len(ids))
                settings = dataclasses.replace(settings, max_tokens=min(settings.max_tokens, rest))
            if asked.conversation is not None and self.chat is not None:
                settings = dataclasses.replace(settings, end_ids=self.chat.end_ids)
            for number in range(asked.n):
                seed = None if settings.seed is None else (settings.seed + number) % 2**63
                found.append((ids, dataclasses.replace(settings, seed=seed)))
        return found

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, list):
            return prompt
        self._check_size(len(prompt), "prompt")
        try:
            return prompt_ids(self.model.tokenizer, prompt, self.model.sample.begin_token)
        except GroundupError as error:
            raise ApiError(400, str(error), param="prompt") from None

    def _check_size(self, characters: int, param: str) -> None:
        """Refuse, without encoding it, what is too long even if each token were the longest one, twice over."""
        if characters > 2 * self._longest * self.context + 10_000:
            raise self._too_long(f"{characters:,} characters", param)

    def _too_long(self, size: str, param: str) -> ApiError:
        return ApiError(
            400, f"the prompt has {size}, but the context of {self.name} holds {self.context:,} tokens; shorten it",
            param=param, code="context_length_exceeded",
        )  # fmt: skip

    def close(self) -> bool:
        """End the thread; returns whether it has ended."""
        self._chat_thread.shutdown(wait=False, cancel_futures=True)
        if self.chat is not None:
            self.chat.close()
        return self.worker.stop()


def load_models(
    sources: Sequence[str],
    *,
    rows: int | None,
    queue: int,
    beyond: Beyond,
    checkpoint: str = "best",
    device: str = "auto",
    weights: Weights = "float32",
    context: int = 0,
    longer_context: int = 0,
    compile: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, ServedModel]:
    """Load models, and choose how many texts of each are generated at once.

    Args:
        sources: as :func:`groundup.load` takes them.
        rows: most texts of each model at once; None for as many as fit into memory, at most 32. If memory is left, as
            many finished texts are kept for prompts that begin as they do.
        compile: see :class:`groundup.generation.Engine`.
        told: is given a line about each model.

    Raises:
        ConfigError: two models of the same name, or the keys and values do not fit into memory.
        GroundupError: as :func:`groundup.load`.
    """
    loaded: dict[str, LanguageModel] = {}
    for source in sources:
        limit = context if is_foreign(source) or not any(map(is_foreign, sources)) else 0  # of runs alone it is refused
        model = load(
            source, checkpoint=checkpoint, device=device, weights=weights, context=limit, longer_context=longer_context
        )
        name = model_name(source, model)
        if name in loaded:
            raise ConfigError(f"two models are called {name!r}, the second {source}; rename a folder or file")
        loaded[name] = model
    served = {}
    shares = {name: _free_memory(model) / len(loaded) for name, model in loaded.items()}  # before any keys and values
    for name, model in loaded.items():
        free = shares[name]
        chosen = fitting_rows(name, model, free, rows)
        reuse = min(chosen, fitting(model, free) - chosen)
        answers = min(_ANSWER_SHARE * free, _MOST_ANSWER_BYTES)
        served[name] = ServedModel(
            name, model, rows=chosen, queue=queue, beyond=beyond, compile=compile, reuse=reuse, answer_bytes=answers
        )
        size, parameters = _needed(model, chosen + reuse), parameter_count(model.config)
        told(
            f"{name}: {parameters:,} parameters, context {model.config.context_length:,}, {chosen} rows, "
            f"at most {size_text(size)} of memory for them and {size_text(answers)} for answers "
            f"({size_text(free)} free)" + ("" if served[name].chat is None else ", chat")
        )
        if served[name].chat is None and "cannot chat" in served[name].no_chat:
            told(f"warning: {served[name].no_chat}")
    return served


def model_name(source: str, model: LanguageModel) -> str:
    """The name under which a model is served: the run's, the file's or folder's, or ORG/NAME."""
    if model.run is not None:
        return model.run.path.resolve().name
    if source.startswith("hf://"):
        return re.sub(r"@[^/]*", "", source.removeprefix("hf://"))
    path = Path(source).resolve()
    return path.stem if path.is_file() else path.name


def fitting_rows(name: str, model: LanguageModel, free: float, wanted: int | None) -> int:
    """Most texts at once: those wanted, or as many as fit into free memory, at most 32.

    Raises:
        ConfigError: they do not fit.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError(f"--rows {wanted}; expected at least 1")
    fits = fitting(model, free)
    context = model.config.context_length
    if fits < 1:
        raise ConfigError(
            f"{name} needs {size_text(_needed(model, 1))} for a text of {context:,} tokens, but {size_text(free)} of "
            f"memory are free; free some, or give --context a smaller number if it is another program's model"
        )
    if wanted is not None and wanted > fits:
        raise ConfigError(
            f"--rows {wanted} of {name} need {size_text(_needed(model, wanted))} for texts of {context:,} tokens, but "
            f"{size_text(free)} of memory are free; expected at most {fits}"
        )
    return min(fits, _DEFAULT_ROWS) if wanted is None else wanted


def fitting(model: LanguageModel, free: float) -> int:
    """Number of texts whose keys, values and logits fit into free memory, generated or kept."""
    return math.floor((_SHARE * free - _needed(model, 0)) / _of_row(model)) if free < math.inf else _DEFAULT_ROWS


def _of_row(model: LanguageModel) -> int:
    """Bytes of a text: keys and values of the whole context, and its logits."""
    cache = BatchedCache(model.model, limit=model.config.context_length)
    return cache.bytes_of_full_row + _FLOAT32 * model.config.vocab_size


def _needed(model: LanguageModel, rows: int) -> int:
    """Bytes of texts, and of the temporary tensors of a step: a piece of a prompt through a block, and its logits."""
    config: ModelConfig = model.config
    widths = 4 * config.d_model + 3 * config.ffn_dim + 2 * config.vocab_size
    scores = 4 * config.num_heads * config.context_length  # with their mask, exponentials and quotients
    pieces = min(_PREFILL_TOKENS, config.context_length)
    return rows * _of_row(model) + _FLOAT32 * pieces * (widths + scores)


def _free_memory(model: LanguageModel) -> float:
    device = model.model.token_embeddings.weight.device
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return max(0.0, available_memory() - resident_memory())
