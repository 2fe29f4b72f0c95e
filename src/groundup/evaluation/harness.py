"""A language model as lm-evaluation-harness asks it: log-likelihoods in batches, generation on the engine.

The rules are those of its class for transformers (HFLM): how a context and a continuation are split into tokens, what
is cut, and what stands for an empty context. Import this module only where lm-eval is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from groundup.display.progress import Silent, Update
from groundup.errors import ConfigError, DataError
from groundup.generation import Sampling
from groundup.generation.engine import Generation, special_id
from groundup.generation.scoring import Window, score
from groundup.language_model import LanguageModel
from groundup.text.chat.conversations import Conversation, clean
from groundup.text.chat.rendering import Renderer
from groundup.text.rows import BadRow

_AT_ONCE = 512
"""Requests that are sorted by length together, and scored between two reports of progress."""
_MOST_NEW_TOKENS = 256
_SETTINGS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
_WITHOUT_MEANING = ("do_sample", "until", "max_gen_toks", "use_cache", "pad_token_id", "early_stopping")
_Request = tuple[Any, list[int], list[int]]


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm-eval has no types here
    """A model under the names of ``lm_eval.api.model.LM``.

        results = lm_eval.simple_evaluate(model=HarnessModel(groundup.load("runs/mine")), tasks=["arc_easy"])

    Args:
        model: its tokens that begin and end a text are lm-eval's BOS and EOS.
        add_bos_token: put the token that begins a text before contexts that do not begin with it.
        progress: called with the number of requests that are done.

    Attributes:
        cut: number of contexts of which only the end fitted into the model's context.
    """

    def __init__(self, model: LanguageModel, *, add_bos_token: bool = False, progress: Update | None = None):
        super().__init__()
        self._language_model, self._add_bos_token, self._progress = model, add_bos_token, progress or Silent()
        self._renderer: Renderer | None = None
        self._text_tokenizer = model.tokenizer
        self._special = {model.tokenizer.token_id(name) for name in model.tokenizer.special_tokens}
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        """Id of the token that ends a text, or else of the one that begins it.

        Raises:
            ConfigError: the tokenizer has neither.
        """
        sample = self._language_model.sample
        for name in (sample.end_token, sample.begin_token):
            if (found := special_id(self._text_tokenizer, name)) is not None:
                return found
        raise ConfigError(
            "the tokenizer has no token that begins or ends a text, which would stand for an empty context; choose "
            "another task, or a tokenizer with an end-of-text token"
        )

    @property
    def prefix_token_id(self) -> int:
        """Id of the token that stands for an empty context: the one that begins a text, or else ends it."""
        found = special_id(self._text_tokenizer, self._language_model.sample.begin_token)
        return self.eot_token_id if found is None else found

    @property
    def max_length(self) -> int:
        """Most tokens of a context with its continuation."""
        return self._language_model.config.context_length

    @property
    def max_gen_toks(self) -> int:
        """Most new tokens where the task does not say: 256, or half the context if that is less."""
        return min(_MOST_NEW_TOKENS, self.max_length // 2)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, in which names of special tokens are these tokens."""
        ids = self._text_tokenizer.encode(string)
        adds = self._add_bos_token if add_special_tokens is None else add_special_tokens and self._add_bos_token
        if adds and ids[:1] != [self.prefix_token_id]:
            return [self.prefix_token_id, *ids]
        return ids

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation after its context, and whether it is what the model would write."""
        for request in requests:
            if not request.args[1]:
                raise DataError(f"the task {request.task_name} has an empty continuation; expected a text to score")
        found: list[tuple[float, bool]] = super().loglikelihood(list(requests), disable_tqdm=True)
        return found

    def _loglikelihood_tokens(self, requests: Sequence[_Request], **_: Any) -> list[tuple[float, bool]]:
        windows = [self._window(context, continuation) for _, context, continuation in requests]
        found: list[tuple[float, bool]] = []
        for start in range(0, len(windows), _AT_ONCE):
            for scored in score(self._language_model.model, windows[start : start + _AT_ONCE], greedy=True):
                assert scored.greedy is not None
                found.append((-float(scored.nats.sum(dtype=np.float64)), bool(scored.greedy.all())))
            self._progress("log-likelihoods", len(found), len(windows))
        return found

    def _window(self, context: list[int], continuation: list[int]) -> Window:
        """The last tokens of a context and its continuation, as many as fit."""
        if not continuation:
            raise DataError("a continuation of the task has no token by itself; expected a text to score")
        if len(continuation) > self.max_length:
            raise DataError(
                f"the task has a continuation of {len(continuation)} tokens, and the context {self.max_length}; "
                f"choose another task, or a model with a longer context"
            )
        ids = [*context, *continuation]
        self.cut += len(ids) > self.max_length + 1
        return Window(np.array(ids[-(self.max_length + 1) :]), len(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood of each text, from its beginning, in windows that do not overlap (the last one does)."""
        windows: list[_Request] = []
        owners: list[int] = []
        for place, request in enumerate(requests):
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length, context_len=1,
            )  # fmt: skip
            for context, continuation in map(make_disjoint_window, pairs):
                windows.append((None, context, continuation))
                owners.append(place)
        totals = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each context, up to a stop string or the end of the text."""
        engine = self._language_model.engine()
        texts: list[tuple[Generation, list[str]]] = []
        for request in requests:
            context, given = request.args
            settings = normalize_gen_kwargs(given, self.max_gen_toks)
            stop = [text for text in settings["until"] if text]
            if end := self._language_model.sample.end_token:
                stop.append(end)
            room = self.max_length - settings["max_gen_toks"]
            if room < 1:
                raise ConfigError(
                    f"the task {request.task_name} wants {settings['max_gen_toks']} new tokens, but the model's "
                    f"context has {self.max_length}; set max_gen_toks in its generation_kwargs, or choose another task"
                )
            ids = self.tok_encode(context) or [self.prefix_token_id]
            self.cut += len(ids) > room
            sampling = _sampling(settings, stop, request.task_name)
            texts.append((engine.submit(ids[-room:], sampling), stop))
        done = 0
        while not engine.is_idle:
            engine.step()
            if (now := len(texts) - engine.running - engine.waiting) > done:
                done = now
                self._progress("generating", done, len(texts))
        for text, _ in texts:
            if text.error is not None:
                raise text.error
        return [self._text(text, stop) for text, stop in texts]

    def _text(self, text: Generation, stop: list[str]) -> str:
        """The text without special tokens, up to the first stop string."""
        ids = [token_id for token_id in text.token_ids if token_id not in self._special]
        written = self._text_tokenizer.decode([i for i in ids if i in self._text_tokenizer.vocab])
        for end in stop:
            written = written.split(end)[0]
        return written

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a conversation; without ``add_generation_prompt`` it ends with its last message, to be continued."""
        if self._renderer is None:
            self._renderer = Renderer(self._template(), self._text_tokenizer.special_tokens)
        messages = [clean(message) for message in chat_history]
        (found,) = self._renderer.render([Conversation(messages)], loss="all", prompt=add_generation_prompt)
        if isinstance(found, BadRow):
            raise DataError(f"a conversation of the task{found}")
        text = "".join(segment.text for segment in found)
        if add_generation_prompt:
            return text
        last = messages[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)] if last in text else text

    def _template(self) -> Any:
        run = self._language_model.run
        if run is None:
            raise ConfigError("--chat needs the chat template of a run; make one with `groundup import`")
        return run.chat_template()

    @property
    def tokenizer_name(self) -> str:
        """Identity of the tokenizer."""
        return self._text_tokenizer.sha256

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Text of the template."""
        return str(self._template().text) if chat_template else None

    def close(self) -> None:
        """End the process that renders the chat template, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _sampling(settings: dict[str, Any], stop: list[str], task: str) -> Sampling:
    for name, value in settings.items():
        if name not in (*_SETTINGS, *_WITHOUT_MEANING) and not (name in ("num_beams", "n") and value == 1):
            raise ConfigError(
                f"generation_kwargs of the task {task} have {name} = {value}; expected {', '.join(_SETTINGS)}, "
                f"do_sample, max_gen_toks and until"
            )
    chosen = {name: settings[name] for name in _SETTINGS if settings.get(name) is not None}
    if not settings.get("do_sample"):
        chosen = {name: value for name, value in chosen.items() if name == "repetition_penalty"} | {"temperature": 0.0}
    return Sampling(max_tokens=settings["max_gen_toks"], stop=tuple(stop), seed=0, **chosen)
