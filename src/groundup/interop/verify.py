"""Verification of an exported or imported model: its tensors, its logits, its token ids.

The two models are compared layer by layer, with one block of each in memory. What another program makes of the files is
asked where that program is installed: transformers for Hugging Face's format, llama.cpp (xllamacpp) for GGUF.
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from groundup.config import ModelConfig
from groundup.errors import CheckpointError
from groundup.interop.weights import CHUNK_BYTES, Weights, tensor_bytes
from groundup.nn import RotaryPositionalEmbedding, TransformerBlock
from groundup.nn.functional import softcapped
from groundup.nn.layers import new_norm
from groundup.nn.transformer import FromTokens

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

# Shapes: S sequence, D d_model, V vocabulary.

TOLERANCE = 1e-5
"""Largest difference of a logit between two programs with the same float32 weights, for logits of size 1."""
_POSITIONS = 16
_MOST_BYTES = 2 * 10**8
"""Size of the weights up to which another program, which loads all of them, is asked too."""

TEXTS = (
    "Once upon a time, there was a little girl named Lily. She didn't know 1,234 words, but she'd learn.",
    "  Two spaces\n\n\tand a tab;\r\nthen   three. 3.14159 + 2^10 = 1027.14!?",
    "Émile naïvely café — “quotes” … 日本語のテキスト, Привет мир, مرحبا, 👩‍🚀🎉",
    "def f(x):\n    return {'a': [x**2 for _ in range(10)]}  # comment\n",
)
"""What token ids are compared on."""


@dataclass(frozen=True)
class Side:
    """A model whose weights are on disk."""

    config: ModelConfig
    weights: Weights


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare`."""

    positions: int
    difference: float
    """Largest difference of a logit."""
    largest: float
    """Largest logit, regardless of sign."""
    logits: Tensor
    """Logits of the second model, ``(S, V)``."""


@torch.no_grad()
def compare(one: Side, other: Side, ids: Sequence[int]) -> Comparison:
    """Run both models on a sequence, and check that the second has the weights of the first, rounded to its dtypes.

    Args:
        ids: at most as many as the context is long.

    Raises:
        CheckpointError: a tensor differs.
    """
    first, second = _Streamed(one, len(ids)), _Streamed(other, len(ids))
    x_SD, y_SD = first.embedded(ids), second.embedded(ids)
    for layer in range(one.config.num_layers):
        x_SD, y_SD = first.block(layer, x_SD), second.block(layer, y_SD)
        for name, weight in first.module(layer).named_parameters():
            full = f"layers.{layer}.{name}"
            _check_same(other.weights, full, weight, second.module(layer).get_parameter(name))
    x_SD, y_SD = first.normed(x_SD), second.normed(y_SD)
    logits_SV, difference, largest = [], 0.0, 0.0
    for a_ND, b_ND in _heads(one, other):
        a_SN, b_SN = x_SD @ a_ND.T, y_SD @ b_ND.T
        if cap := one.config.logit_softcap:
            a_SN, b_SN = softcapped(a_SN, cap), softcapped(b_SN, cap)
        difference = max(difference, float((a_SN - b_SN).abs().max()))
        largest = max(largest, float(a_SN.abs().max()))
        logits_SV.append(b_SN)
    logits = torch.cat(logits_SV, dim=1)
    if not logits.isfinite().all():
        raise CheckpointError(f"the logits of {one.weights.source} are not finite: a weight is NaN or infinite")
    return Comparison(len(ids), difference, largest, logits)


class _Streamed:
    """A model with one block of each kind in memory, in float32, whose weights are read when they are needed."""

    def __init__(self, side: Side, length: int):
        self.config, self._weights = side.config, side.weights
        config = side.config
        rope = None
        if config.position == "rope":
            rope = RotaryPositionalEmbedding(config.rope_theta, config.head_dim, length, config=config)
        # A block of the last layer is of the other kind where layers differ.
        self._blocks: dict[bool, TransformerBlock] = {}
        for layer in {0, config.num_layers - 1, max(0, config.num_layers - 2)}:
            block = TransformerBlock(config, layer, device="meta")
            # Neither initialized nor by to_empty, which imports a second's worth of modules for the device "meta".
            for module in block.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    module.register_parameter(name, nn.Parameter(torch.empty(parameter.shape), requires_grad=False))
            block.attn.rope = rope
            self._blocks[layer in config.value_layers] = block

    def module(self, layer: int) -> TransformerBlock:
        """The block that has the weights of a layer after it ran."""
        return self._blocks[layer in self.config.value_layers]

    def embedded(self, ids: Sequence[int]) -> Tensor:
        self._ids = ids
        x_SD = self._looked_up(_TABLE) * self.config.input_scale
        self._first_SD = self._normed(_FIRST_NORM, x_SD) if self.config.embedding_norm else x_SD
        return self._first_SD

    def _looked_up(self, table: str) -> Tensor:
        return torch.cat([self._weights.rows(table, i, i + 1) for i in self._ids]).float()

    def block(self, layer: int, x_SD: Tensor) -> Tensor:
        module, config = self.module(layer), self.config
        module.layer_index = layer
        for name, parameter in module.named_parameters():
            self._weights.fill(f"layers.{layer}.{name}", parameter)
        rows = self._looked_up(_VALUES.format(layer)) if layer in config.value_layers else None
        tokens = FromTokens(rows)
        if config.residual_scalars:
            on_stream, on_first = (self._weights.tensor(name).float() for name in _SCALARS)
            tokens = FromTokens(rows, (on_stream, on_first, self._first_SD))
        result: Tensor = module(x_SD[None], None, None, tokens)[0]
        return result

    def normed(self, x_SD: Tensor) -> Tensor:
        return self._normed(_LAST_NORM, x_SD) if self.config.norm == "pre" else x_SD

    def _normed(self, name: str, x_SD: Tensor) -> Tensor:
        norm = new_norm(self.config, self.config.d_model, None, None)
        if norm.weight is not None:
            self._weights.fill(name, norm.weight)
        normed: Tensor = norm(x_SD)
        return normed


_TABLE, _HEAD = "token_embeddings.weight", "lm_head.weight"
_FIRST_NORM, _LAST_NORM = "embedding_norm.weight", "ln_final.weight"
_VALUES, _SCALARS = "value_embeddings.{}.weight", ("residual_scalars", "first_scalars")


def _heads(one: Side, other: Side) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of both output matrices, a few at a time, once they and those of the embeddings have been compared."""
    scale = one.config.input_scale / other.config.input_scale
    for name in (_FIRST_NORM, _LAST_NORM, *_SCALARS):
        if name in one.weights.shapes:
            _check_same(other.weights, name, *(side.weights.tensor(name).float() for side in (one, other)))
    count = one.weights.shapes[_TABLE][0]
    step = max(1, CHUNK_BYTES // (4 * one.config.d_model))
    for start in range(0, count, step):
        stop = min(count, start + step)
        tables = [side.weights.rows(_TABLE, start, stop).float() for side in (one, other)]
        for name in map(_VALUES.format, one.config.value_layers):
            _check_same(other.weights, name, *(side.weights.rows(name, start, stop).float() for side in (one, other)))
        _check_same(other.weights, _TABLE, tables[0] * scale if scale != 1 else tables[0], tables[1])
        heads = [
            table if side.config.tie_embeddings else side.weights.rows(_HEAD, start, stop).float()
            for side, table in zip((one, other), tables, strict=True)
        ]
        if not other.config.tie_embeddings:
            _check_same(other.weights, _HEAD, heads[0], heads[1])
        yield heads[0], heads[1]


def _check_same(weights: Weights, name: str, expected: Tensor, found: Tensor) -> None:
    same = weights.round_trip(name, expected)
    # A sum is finite only if all values are, and takes far less time; where it overflows, each value is looked at.
    if not expected.sum().isfinite() and not expected.isfinite().all():
        raise CheckpointError(
            f"{name} has values that are not finite: the weights have diverged; choose an earlier checkpoint"
        )
    if not torch.equal(same, found):
        raise CheckpointError(
            f"{weights.source}: {name} was not read back as it was written, by up to {(same - found).abs().max():.3g}; "
            f"nothing was kept: check the disk"
        )


def sample_ids(config: ModelConfig, tokenizer: Tokenizer | None) -> list[int]:
    """Token ids on which logits are compared: of text, where there is a tokenizer."""
    length = min(config.context_length, _POSITIONS)
    if tokenizer is not None:
        ids = [i for text in TEXTS for i in tokenizer.encode(text) if i < config.vocab_size]
    else:
        ids = [i * 7919 % config.vocab_size for i in range(length)]
    return ids[:length]


def compare_ids(one: Tokenizer, other: Tokenizer, source: str) -> int:
    """Check that two tokenizers give the same ids, and return how many were compared.

    Raises:
        CheckpointError: they do not.
    """
    compared = 0
    for text in _texts(one):
        expected, found = one.encode(text), other.encode(text)
        if expected != found:
            raise CheckpointError(f"{source} gives other token ids for {text!r} than the tokenizer that was exported")
        compared += len(expected)
    return compared


def _texts(tokenizer: Tokenizer) -> list[str]:
    special = "".join(f"{name}x {name}" for name in tokenizer.special_tokens[:5])
    return [*TEXTS, special] if special else list(TEXTS)


def within(difference: float, largest: float, tolerance: float = TOLERANCE) -> bool:
    """Whether a difference of logits is rounding: the tolerance is relative where logits are larger than 1."""
    return difference <= tolerance * max(1.0, largest)


def small_enough(weights: Weights) -> bool:
    """Whether another program may be asked to load the whole model."""
    return sum(tensor_bytes(weights, name) for name in weights.shapes) <= _MOST_BYTES


def asked_transformers(
    folder: Path, ids: Sequence[int], logits_SV: Tensor, tokenizer: Tokenizer | None, *, is_ours: bool = True
) -> str:
    """Load a folder with transformers and compare logits and token ids; returns what was found, in a line.

    No code that lies in the folder is run.

    Args:
        is_ours: whether groundup wrote the folder. Then it is an error if transformers cannot load it, or has other
            token ids. (It builds a tokenizer of the family by itself where a folder does not name a class, and that may
            have other ids than the folder's tokenizer.json.)

    Returns:
        An empty text where transformers is not installed.

    Raises:
        CheckpointError: transformers cannot load it, or finds something else.
    """
    if find_spec("transformers") is None:
        return ""
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet_transformers(), _named_in_utf8(folder) as place:
        try:
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options)
            theirs = AutoTokenizer.from_pretrained(place, **options) if tokenizer is not None else None
            with torch.no_grad():
                found_SV = model.eval()(torch.tensor([list(ids)])).logits[0].float()
            encoded = [] if theirs is None else [theirs(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        except Exception as error:  # whatever another program raises
            told = f"transformers cannot load {folder}: {_in_one_line(error)}"
            if is_ours:
                raise CheckpointError(told) from None
            return f"not compared: {told}"
    difference = float((found_SV - logits_SV).abs().max())
    if not within(difference, float(logits_SV.abs().max())):
        raise CheckpointError(f"transformers computes other logits from {folder}, by up to {difference:.3g}")
    same_ids = ", ids equal" if encoded else ""
    for text, found in zip(TEXTS, encoded, strict=False):
        if tokenizer is not None and tokenizer.encode(text) != found:
            same_ids = f", but other token ids than tokenizer.json for {text!r}"
            if is_ours:
                raise CheckpointError(f"transformers gives other token ids for {text!r} with {folder}")
    return f"transformers {transformers.__version__}: largest difference of a logit {difference:.1e}{same_ids}"


def asked_llama_cpp(
    path: Path, ids: Sequence[int], logits_SV: Tensor, tokenizer: Tokenizer, *, tolerance: float
) -> str:
    """Load a GGUF file with llama.cpp and compare the probabilities of the next token, and token ids.

    Args:
        ids: two or more.
        tolerance: largest difference of a log-probability, relative to the largest logit where that is above 1.

    Returns:
        What was found, in a line; an empty text where xllamacpp is not installed.

    Raises:
        CheckpointError: llama.cpp cannot load it, or finds something else.
    """
    if find_spec("xllamacpp") is None or len(ids) < 2:
        return ""
    import xllamacpp

    try:
        with _named_in_utf8(path) as place:
            server = xllamacpp.Server(_llama_cpp_settings(place, len(ids)))
        # It holds probabilities back while the text ends inside a character, so a letter is made certain to follow. The
        # bias changes what is chosen, and not the probabilities that are reported.
        letter = next(i for i, token in tokenizer.vocab.items() if token == b"a")
        # The context has to have room for one more token.
        prompt = list(ids)[:-1]
        request = {"prompt": prompt, "n_predict": 1, "n_probs": logits_SV.shape[1], "logit_bias": [[letter, 1e4]]}
        answer = server.handle_completions(request)
        if "error" in answer:
            raise RuntimeError(answer["error"]["message"])
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        encoded = [_tokenized(server.listening_address, text) for text in TEXTS]
    except Exception as error:  # whatever another program raises
        raise CheckpointError(f"llama.cpp cannot load {path}: {_in_one_line(error)}") from None
    expected_V = logits_SV[len(prompt) - 1].double().log_softmax(-1)
    difference = max(abs(entry["logprob"] - float(expected_V[entry["id"]])) for entry in found)
    largest = float(logits_SV.abs().max())
    if not within(difference, largest, tolerance):
        raise CheckpointError(f"llama.cpp computes other probabilities from {path}, by up to {difference:.3g}")
    for text, ids_there in zip(TEXTS, encoded, strict=True):
        if tokenizer.encode(text) != ids_there:
            raise CheckpointError(f"llama.cpp gives other token ids for {text!r} with {path}")
    return f"llama.cpp: largest difference of a log-probability {difference:.1e} ({len(found):,} tokens), ids equal"


def _llama_cpp_settings(path: Path, length: int) -> Any:
    """One thread (more of them wait busily for each other), and keys and values in float32."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(64, length + 1)
    settings.n_parallel = settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.n_gpu_layers = settings.port = 0
    settings.chat_template = "chatml"  # the file's own is foreign code that llama.cpp would run without limits
    settings.warmup = settings.use_jinja = settings.fit_params = False
    settings.verbosity = -1
    return settings


@contextmanager
def _named_in_utf8(path: Path) -> Iterator[Path]:
    """Yield the path; or a link to it, if its name is not UTF-8, which other programs do not open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "model"
            link.symlink_to(path.absolute())
            yield link
    else:
        yield path


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"


def _tokenized(address: str, text: str) -> list[int]:
    body = json.dumps({"content": text, "parse_special": True}).encode()
    request = urllib.request.Request(f"{address}/tokenize", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return list(json.load(answer)["tokens"])


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
