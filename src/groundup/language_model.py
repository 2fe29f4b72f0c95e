"""A trained model in one object: weights, tokenizer and run.

model = groundup.load("runs/mine")
print(model.generate("Once upon a time"))
"""

from __future__ import annotations

import hashlib
import html
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from groundup.config import END_OF_TEXT, ModelConfig, SampleConfig
from groundup.display.progress import Update
from groundup.display.units import count_text
from groundup.errors import ConfigError, TokenizerError
from groundup.generation import Engine, Generation, Sampling, Token, prompt_ids
from groundup.generation.engine import Beyond
from groundup.generation.scoring import TextScore, Windows, score, score_text
from groundup.generation.weights import Weights, quantize
from groundup.nn import TransformerLM
from groundup.record.run import RunDirectory
from groundup.text.chat.templates import ChatTemplate
from groundup.text.options import ReadOptions
from groundup.text.readers import Inputs, TextReader
from groundup.train.checkpoint.folder import load_model
from groundup.train.device import choose_device

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

# Shapes: S sequence, V vocabulary.


def load(
    source: str | Path,
    *,
    checkpoint: str | int = "best",
    context: int = 0,
    longer_context: int = 0,
    tokenizer: str | Path | None = None,
    device: str = "auto",
    weights: Weights = "float32",
) -> LanguageModel:
    """Load a model with its tokenizer, ready to generate.

    Args:
        source: a run directory, or the name of a run in runs/; a folder or file that `groundup import` reads; or
            hf://ORG/NAME.
        checkpoint: of a run: "best", "latest", or a step.
        context: of another program's model: context length to limit it to; 0 takes the model's.
        longer_context: context length beyond the model's own, which its rotary embedding is rescaled to
            (:meth:`groundup.nn.TransformerLM.lengthen`); 0 keeps it.
        tokenizer: of another program's model: file or folder of its tokenizer, if it is not the source's.
        device: "auto" (cuda, then mps, then cpu), or a torch device.
        weights: type that the matrices are rounded to: "bfloat16", or "int8" with a scale for each row. Less memory and
            more speed on a CPU; activations stay in float32.

    Raises:
        ConfigError: context or tokenizer of a run, or a longer context that is not longer.
        FileMissingError: no such run, file or folder.
        CheckpointError: a damaged checkpoint, or a model that groundup cannot express.
        TokenizerError: its tokenizer cannot be read with the same ids.
    """
    where = choose_device(device)
    if is_foreign(source):
        from groundup.interop.importing import open_source

        foreign, _ = open_source(source, context=context, tokenizer=None if tokenizer is None else Path(tokenizer))
        if foreign.tokenizer is None:
            raise TokenizerError(f"{source} has no tokenizer; name one with tokenizer=")
        template = ChatTemplate(str(source), foreign.chat_template) if foreign.chat_template else None
        model = _lengthened(foreign.module(where), longer_context)
        return LanguageModel(
            quantize(model, weights), foreign.tokenizer, sample=foreign.config.sample,
            chat_template=template, source=str(source),
        )  # fmt: skip
    run = RunDirectory.open(source)
    for name, value in (("context", context), ("tokenizer", tokenizer)):
        if value:
            raise ConfigError(
                f"{name} = {value} is for a model of another program, and {source} is a run, which has its own; leave "
                f"--{name} out"
            )
    with ThreadPoolExecutor(1) as beside:  # reading weights is the system's work, reading a tokenizer Python's
        own_tokenizer = beside.submit(run.tokenizer)
        model, state = load_model(run, str(checkpoint), where)
    model = _lengthened(model, longer_context)
    return LanguageModel(quantize(model, weights), own_tokenizer.result(), run=run, step=state["step"])


def _lengthened(model: TransformerLM, context: int) -> TransformerLM:
    if context:
        model.lengthen(context)
    return model


def is_foreign(source: str | Path) -> bool:
    """Whether a source is something other than a run: a file, a folder without checkpoints, or a model of a hub.

    A name of a run in runs/ may also be that of a folder with something else, such as its data.
    """
    path = Path(source)
    if str(source).startswith("hf://") or path.is_file():
        return True
    if not path.is_dir() or (path / "checkpoints").is_dir():
        return False
    is_model = (path / "config.json").is_file() or (path / "config.toml").is_file()
    return is_model or not ("runs" / path / "config.toml").is_file()


def check_source(source: str | Path, checkpoint: str | int = "best") -> None:
    """Find what :func:`load` would load, and read nothing of its weights; a model of a hub is not looked for.

    Raises:
        GroundupError: as for :func:`load`.
    """
    if not is_foreign(source):
        RunDirectory.open(source).checkpoint(str(checkpoint))
    elif not str(source).startswith("hf://"):
        from groundup.interop.importing import open_source

        open_source(source)


class LanguageModel:
    """Weights, tokenizer and, if it comes from one, the run.

    Attributes:
        model: the ``torch.nn.Module``, in evaluation mode.
        tokenizer: of the model.
        config: sizes and options of the model.
        run: run directory; None for a model that was not trained by a run.
        step: optimizer steps of the checkpoint; None likewise.
        sample: the tokens that begin and end a text; by default the run's.
        source: what it was loaded from; empty for a run.
    """

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: Tokenizer,
        *,
        run: RunDirectory | None = None,
        step: int | None = None,
        sample: SampleConfig | None = None,
        chat_template: ChatTemplate | None = None,
        source: str = "",
    ):
        self.source = source
        self.model, self.tokenizer, self.run, self.step = model, tokenizer, run, step
        self.config: ModelConfig = model.config
        self.sample = sample or (SampleConfig() if run is None else run.config.sample)
        self._chat_template = chat_template
        self._engines: dict[tuple[Beyond, bool], Engine] = {}

    @property
    def chat_template(self) -> ChatTemplate | None:
        """Template of the conversations that it was trained on; None for a model of text.

        Raises:
            DataError: the run's cannot be read.
        """
        if self._chat_template is None and self.run is not None and self.run.is_chat:
            self._chat_template = self.run.chat_template()
        return self._chat_template

    def generate(self, prompt: str = "", **sampling: Any) -> str:
        """Return the new text that continues a prompt; arguments as for :meth:`stream`."""
        return "".join(self.stream(prompt, **sampling))

    def stream(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 256,
        temperature: float = 0.8,
        top_p: float = 0.9,
        beyond: Beyond = "slide",
        **sampling: Any,
    ) -> Iterator[str]:
        """Yield new text in pieces, as it is generated. An empty prompt begins a new document.

        Args:
            max_tokens: most new tokens; the text ends earlier at the end-of-text token.
            temperature: divides the logits; 0 takes the most probable token.
            top_p: sample from the most probable tokens whose probabilities sum to this.
            beyond: what follows when the text is as long as the context: "slide" or "stop" (see
                :class:`groundup.generation.Engine`).
            sampling: further settings by name, such as ``seed``, ``top_k``, ``min_p``, ``repetition_penalty`` or
                ``stop=("\n",)``; :class:`groundup.generation.Sampling` has all.

        Raises:
            ConfigError: an argument outside its range.
        """
        settings = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, **sampling)
        return (token.text for token in self.tokens(prompt, settings, beyond=beyond) if token.text)

    def tokens(
        self, prompt: str, sampling: Sampling, *, beyond: Beyond = "slide", compile: bool = False
    ) -> Iterator[Token]:
        """Yield new tokens with their text, and their log-probabilities if the settings ask for them."""
        if (beyond, compile) not in self._engines:
            self._engines[beyond, compile] = self.engine(rows=1, beyond=beyond, compile=compile)
        engine = self._engines[beyond, compile]
        text = engine.submit(prompt_ids(self.tokenizer, prompt, self.sample.begin_token), sampling)
        return _until_over(engine, text)

    def sampling(
        self, tokens: int | None = None, temperature: float | None = None, top_p: float | None = None, **more: Any
    ) -> Sampling:
        """Settings of sampling; of the first three, those that are None are the run's sample options."""
        return Sampling(
            max_tokens=self.sample.tokens if tokens is None else tokens,
            temperature=self.sample.temperature if temperature is None else temperature,
            top_p=self.sample.top_p if top_p is None else top_p,
            **more,
        )

    def sha256(self) -> str:
        """SHA-256 of what texts depend on: weights as they are in memory, options of the model, tokenizer, tokens of a
        document. It is the same for the same model under any path."""
        found = hashlib.sha256(f"{self.config} {self.sample.begin_token} {self.sample.end_token}".encode())
        found.update(self.tokenizer.sha256.encode())
        for name, tensor in self.model.state_dict().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()

    def engine(self, **options: Any) -> Engine:
        """A new engine for many texts at once; options as for :class:`groundup.generation.Engine`."""
        return Engine(self.model, self.tokenizer, end_token=self.sample.end_token, **options)

    @torch.no_grad()
    def logits(self, token_ids: Sequence[int] | Tensor) -> Tensor:
        """Return the logits of the next token at every position.

        Args:
            token_ids: ``(S,)`` or ``(B, S)``, at most ``config.context_length`` tokens.

        Returns:
            ``(S, V)`` or ``(B, S, V)``, on the model's device.

        Raises:
            ConfigError: too many tokens.
            TokenizerError: an id outside the vocabulary.
        """
        ids = torch.as_tensor(token_ids, dtype=torch.int64, device=self.model.token_embeddings.weight.device)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.model.vocab_size:
            raise TokenizerError(
                f"token ids from {int(ids.min())} to {int(ids.max())}; expected 0 to {self.model.vocab_size - 1}"
            )
        logits: Tensor = self.model(ids if ids.ndim > 1 else ids[None])
        return logits if ids.ndim > 1 else logits[0]

    def score(self, text: str) -> Score:
        """Return the log-probability of each token of a text, given those before it.

        The text stands at the beginning of a document, after the end-of-text token. Without one in the tokenizer the
        first token has nothing to be predicted from, and is not scored. A text longer than the context is scored in
        windows that overlap by half: each token then sees at least ``context_length / 2`` tokens before it.

        Raises:
            ConfigError: an empty text.
        """
        if not text:
            raise ConfigError("the text to score is empty; give at least one character")
        ids = prompt_ids(self.tokenizer, text, self.sample.begin_token)
        if len(ids) < 2:
            raise ConfigError(
                f"the text {text!r} is one token with nothing before it to predict it from; give more text"
            )
        windows = Windows(self.config.context_length)
        parts = score(self.model, [*windows.feed(np.array(ids)), *windows.finish()])
        found = [-nats for part in parts for nats in part.nats.tolist()]
        not_scored = len(self.tokenizer.vocab[ids[0]]) if ids == self.tokenizer.encode(text) else 0
        return Score(tuple(ids[1:]), tuple(found), len(text.encode()) - not_scored)

    def evaluate_text(
        self,
        inputs: Inputs,
        *,
        separator: str | None = END_OF_TEXT,
        read: ReadOptions | None = None,
        limit: int = 0,
        progress: Update | None = None,
    ) -> TextScore:
        """Return loss, perplexity and bits per byte of the documents of files, of any size.

        Each document is scored as :meth:`score` does it. Names of special tokens inside documents are text.

        Args:
            inputs: files, folders or ``-``, of the formats that `groundup encode` reads.
            separator: token between the documents of plain text; None: each file is one document.
            read: options for reading, such as the field of JSON rows.
            limit: bytes of text after which to stop; 0 reads all.
            progress: called after each batch.

        Raises:
            FileMissingError, DataError, MissingExtraError: as for :class:`groundup.text.readers.TextReader`.
            DataError: no token can be scored.
            TrainingError: the model's logits are not finite.
        """
        reader = TextReader(inputs, separator=separator, read=read)
        return score_text(
            self.model, self.tokenizer, reader, begin_token=self.sample.begin_token, limit=limit, progress=progress
        )

    def __repr__(self) -> str:
        return f"<LanguageModel {', '.join(f'{name} {value}' for name, value in self._facts().items())}>"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        rows = (
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table>{''.join(rows)}</table>"

    def _facts(self) -> dict[str, str]:
        config = self.config
        facts = {"source": self.source} if self.source else {}
        if self.run is not None:
            facts = {"run": str(self.run.path), "step": f"{self.step:,}"}
        return facts | {
            "parameters": count_text(sum(parameter.numel() for parameter in self.model.parameters())),
            "layers": str(config.num_layers),
            "width": str(config.d_model),
            "heads": str(config.num_heads),
            "context": str(config.context_length),
            "vocabulary": f"{config.vocab_size:,}",
        }


def _until_over(engine: Engine, text: Generation) -> Iterator[Token]:
    try:
        yield from engine.run(text)
    finally:
        text.cancel()  # if it is not read to its end


@dataclass(frozen=True)
class Score:
    """Log-probabilities of a text."""

    token_ids: tuple[int, ...]
    """The scored tokens."""
    log_probabilities: tuple[float, ...]
    """In nats, one for each scored token."""
    bytes: int
    """UTF-8 bytes of the scored text."""

    @property
    def total(self) -> float:
        """Log-probability of the text, in nats."""
        return math.fsum(self.log_probabilities)

    @property
    def perplexity(self) -> float:
        """exp of the mean nats per token."""
        return math.exp(-self.total / len(self.log_probabilities))

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8; comparable between tokenizers."""
        return -self.total / math.log(2) / self.bytes
