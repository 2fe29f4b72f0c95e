"""GGUF files of llama.cpp: model, options and tokenizer in one file.

It is written with the package ``gguf``. It is read by the parser below, which trusts no count and no offset of the
file: the package's own would follow an array of 2^60 elements to its end.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from groundup.config import ModelConfig, RunConfig, override
from groundup.errors import CheckpointError, ConfigError, MissingExtraError
from groundup.interop.families import FAMILIES, Family, family_of, links
from groundup.interop.gguf_tokenizer import read_tokenizer, write_tokenizer
from groundup.interop.model import Model, check_tokenizer, load_tokenizer, sample_tokens
from groundup.interop.weights import (
    ExportedWeights,
    LinkedWeights,
    Place,
    Weights,
    check_tensors,
    chunks,
    write_tensor,
)
from groundup.nn.attention import scaled_frequencies
from groundup.system.files import open_regular, why
from groundup.text.chat.templates import complete_template
from groundup.train.checkpoint.tensor_file import OpenFile, as_bytes

if TYPE_CHECKING:
    from gguf import GGUFWriter

# Shapes: R rows, N blocks of 32 elements.

BLOCK = 32
"""Elements that share a factor in q8_0."""
_BLOCK_BYTES = 2 + BLOCK
_BELOW_HALF = torch.tensor(0.5).nextafter(torch.tensor(0.0))
"""Added before a fraction is cut off, it rounds halves away from zero; 0.5 would round up what is just below a half."""
_TEMPLATE = "tokenizer.chat_template"
_ROPE_FACTORS = "rope_freqs.weight"
_F32, _F16, _Q8_0, _BF16 = 0, 1, 8, 30
_TYPES = {_F32: torch.float32, _F16: torch.float16, _BF16: torch.bfloat16}
_TYPE_NAMES = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
    15: "Q8_K", 20: "IQ4_NL", 23: "IQ4_XS", 28: "F64",
}  # fmt: skip


# Writing


def write_gguf(path: Path, model: Model, dtype: str, license_name: str = "") -> str:
    """Write a model into a file, and return its architecture in llama.cpp.

    Vectors stay float32, as llama.cpp has them. With q8_0 a matrix whose rows are no multiple of 32 elements is
    written in f16.

    Args:
        dtype: "f32", "f16", "bf16" or "q8_0", of the matrices.
        license_name: of the model; empty where none is given.

    Raises:
        ConfigError: llama.cpp has no architecture with the model's options.
        TokenizerError: llama.cpp cannot split text as the tokenizer does.
        MissingExtraError: the package gguf is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError.for_package("gguf", "gguf", "writing GGUF") from None
    config = model.config.model
    family = family_of(config, "gguf")
    if model.tokenizer is None:
        raise ConfigError("the run has no tokenizer, and a GGUF file has one; use --to hugging-face")
    found = links(config, family, "gguf")
    weights = ExportedWeights(model.weights, found, torch.float32)
    writer = gguf.GGUFWriter(path, family.gguf)
    _add_options(writer, model, family)
    if license_name:
        writer.add_license(license_name)
    write_tokenizer(writer, model.tokenizer, config.vocab_size, *model.begin_and_end(), model.end_of_turn())
    if model.chat_template:
        writer.add_chat_template(model.chat_template)
    factors = _rope_factors(config) if config.rope_scaling == "llama3" else None
    kinds = {name: _kind(shape, dtype) for name, shape in weights.shapes.items()}
    writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}[dtype])
    if factors is not None:
        _add_info(writer, _ROPE_FACTORS, tuple(factors.shape), _F32)
    for name, shape in weights.shapes.items():
        _add_info(writer, name, shape, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    (file,) = writer.fout or []
    writer.write_padding(file, file.tell())
    if factors is not None:
        with _padded(writer, file):
            file.write(as_bytes(factors))
    for name, kind in kinds.items():
        with _padded(writer, file):
            if kind == _F32:
                write_tensor(file, weights, name)
                continue
            for chunk in chunks(weights, name):
                file.write(_encoded(chunk, kind))
    writer.flush()
    writer.close()
    return family.gguf


@contextmanager
def _padded(writer: GGUFWriter, file: Any) -> Iterator[None]:
    begin = file.tell()
    yield
    writer.write_padding(file, file.tell() - begin)


def _kind(shape: tuple[int, ...], dtype: str) -> int:
    if len(shape) == 1 or dtype == "f32":
        return _F32
    if dtype == "q8_0":
        return _F16 if shape[-1] % BLOCK else _Q8_0
    return _F16 if dtype == "f16" else _BF16


def _add_info(writer: GGUFWriter, name: str, shape: tuple[int, ...], kind: int) -> None:
    import gguf
    import numpy as np

    size = math.prod(shape)
    count = size // BLOCK * _BLOCK_BYTES if kind == _Q8_0 else size * _TYPES[kind].itemsize
    writer.add_tensor_info(name, shape, np.dtype(np.float32), count, raw_dtype=gguf.GGMLQuantizationType(kind))


def _add_options(writer: GGUFWriter, model: Model, family: Family) -> None:
    config, arch = model.config.model, family.gguf
    writer.add_name(model.config.name)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.ffn_dim)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    if config.rope_scaling == "linear":
        writer.add_string(f"{arch}.rope.scaling.type", "linear")
        writer.add_float32(f"{arch}.rope.scaling.factor", config.rope_factor)
    if config.rope_scaling == "llama3":  # llama.cpp uses the factors that are written as a tensor
        writer.add_uint32(f"{arch}.rope.scaling.original_context_length", config.rope_original_context)
        writer.add_float32("groundup.rope_low_frequency", config.rope_low_frequency)
        writer.add_float32("groundup.rope_high_frequency", config.rope_high_frequency)


def _rope_factors(config: ModelConfig) -> Tensor:
    """What llama.cpp divides each rotary frequency by."""
    frequencies = config.rope_theta ** (-torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim)
    return (frequencies / scaled_frequencies(frequencies, config)).float()


def _encoded(rows: Tensor, kind: int) -> memoryview:
    if kind == _Q8_0:
        return as_bytes(quantized(rows))
    result = rows.to(_TYPES[kind])
    if kind == _F16 and not result.isfinite().all() and rows.isfinite().all():
        raise CheckpointError(
            f"a weight of {rows.abs().max():.3g} is beyond the largest float16, 65504; use --dtype bf16 or f32"
        )
    return as_bytes(result)


def quantized(rows: Tensor) -> Tensor:
    """Rows in q8_0, as bytes ``(R, N · 34)``: for each 32 elements a factor in float16 and 32 signed bytes.

    The factor is the largest magnitude over 127; halves are rounded away from zero (ggml's reference quantization).

    Args:
        rows: float32 ``(R, 32 N)``.
    """
    blocks = rows.reshape(-1, BLOCK)
    factor = blocks.abs().amax(1, keepdim=True) / 127
    inverse = torch.where(factor == 0, 0.0, 1 / factor)
    scaled = blocks * inverse
    integers = scaled.add_(torch.copysign(_BELOW_HALF, scaled)).to(torch.int8)  # which cuts off the fraction
    content = torch.empty(len(blocks), _BLOCK_BYTES, dtype=torch.uint8)
    content[:, :2] = factor.half().view(torch.uint8)
    content[:, 2:] = integers.view(torch.uint8)
    return content.reshape(len(rows), -1)


def dequantized(content: Tensor) -> Tensor:
    """Undo :func:`quantized`: bytes ``(R, N · 34)`` -> float32 ``(R, 32 N)``."""
    blocks = content.reshape(-1, _BLOCK_BYTES)
    factor = blocks[:, :2].contiguous().view(torch.float16).float()
    return (blocks[:, 2:].contiguous().view(torch.int8).float() * factor).reshape(len(content), -1)


# Reading


@dataclass(frozen=True)
class _Info:
    shape: tuple[int, ...]
    kind: int
    begin: int


class GGUFWeights(Weights):
    """Tensors of a GGUF file; those in q8_0 are read as float32."""

    def __init__(self, file: OpenFile, infos: Mapping[str, _Info]):
        self.source, self._file, self._infos = str(file.path), file, infos
        self.shapes = {name: info.shape for name, info in infos.items()}
        self.dtypes = {name: _TYPES.get(info.kind, torch.float32) for name, info in infos.items()}

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        info = self._infos[name]
        width = math.prod(info.shape[1:])
        if info.kind == _Q8_0:
            row = width // BLOCK * _BLOCK_BYTES
            content = self._file.read((stop - start, row), torch.uint8, info.begin + start * row)
            return dequantized(content).view(stop - start, *info.shape[1:])
        dtype = _TYPES[info.kind]
        begin = info.begin + start * width * dtype.itemsize
        return self._file.read((stop - start, *info.shape[1:]), dtype, begin)

    def place(self, name: str) -> Place | None:
        info = self._infos[name]
        if info.kind == _Q8_0:
            return None
        return Place(self._file, info.begin, math.prod(info.shape) * _TYPES[info.kind].itemsize)

    def round_trip(self, name: str, rows: Tensor) -> Tensor:
        if self._infos[name].kind == _Q8_0:
            return dequantized(quantized(rows)).view(rows.shape)
        return super().round_trip(name, rows)

    def kinds(self) -> tuple[str, ...]:
        """Names of the types of the matrices."""
        names = {_F32: "f32", _F16: "f16", _BF16: "bf16", _Q8_0: "q8_0"}
        return tuple(sorted({names[info.kind] for info in self._infos.values() if len(info.shape) > 1}))


def is_gguf(path: Path) -> bool:
    """Whether a file begins as one of GGUF.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return file.read(4) == b"GGUF"


def read_gguf(path: Path, *, context: int = 0, tokenizer: Path | None = None) -> Model:
    """Open a model in a GGUF file.

    Args:
        context: context length to limit the model to; 0 takes the model's.
        tokenizer: of another place; None takes the file's.

    Raises:
        CheckpointError: a damaged or foreign file, or a model that groundup cannot express.
        TokenizerError: its tokenizer cannot be read with the same ids.
    """
    file, metadata, infos = _parsed(path)
    read = _Metadata(path, metadata)
    factors = infos.pop(_ROPE_FACTORS, None)
    weights = GGUFWeights(file, infos)
    config, family = _options(read, weights, context=context)
    if factors is not None:
        values = GGUFWeights(file, {_ROPE_FACTORS: factors}).tensor(_ROPE_FACTORS)
        config = _with_factors(read, config, values.double())
    found = links(config, family, "gguf")
    check_tensors(weights, {link.theirs: link.shape for link in found})
    loaded = load_tokenizer(tokenizer) if tokenizer else read_tokenizer(path, metadata)
    check_tokenizer(loaded, config.vocab_size, str(path))
    begin, end = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos"))
    run = override(RunConfig(model=config), sample_tokens(loaded, begin, end))
    template = ""
    if text := read.text(_TEMPLATE, ""):
        tokens = {"bos_token": run.sample.begin_token, "eos_token": run.sample.end_token}
        template = complete_template(f"{path}: {_TEMPLATE}", text, tokens).text
    return Model(
        run, LinkedWeights(weights, found), loaded, {"source": str(path.resolve())}, f"{family.gguf} (GGUF)",
        weights.kinds(), chat_template=template,
    )  # fmt: skip


def _options(read: _Metadata, weights: GGUFWeights, *, context: int) -> tuple[ModelConfig, Family]:
    arch = read.text("general.architecture")
    family = next((family for family in FAMILIES if family.gguf == arch), None)
    if family is None:
        known = ", ".join(dict.fromkeys(family.gguf for family in FAMILIES if family.gguf))
        raise CheckpointError(f"{read.path} has the architecture {arch!r}; read are {known}")
    if read.count(f"{arch}.expert_count", 0):
        raise CheckpointError(f"{read.path} is a mixture of experts, which groundup does not have")
    longest, d_model = read.count(f"{arch}.context_length"), read.count(f"{arch}.embedding_length")
    heads = read.count(f"{arch}.attention.head_count")
    head_dim = read.count(f"{arch}.attention.key_length", d_model // max(1, heads))
    for name in ("attention.value_length", "rope.dimension_count"):
        if (found := read.count(f"{arch}.{name}", head_dim)) != head_dim:
            raise CheckpointError(f"{read.path}: {arch}.{name} = {found}, the heads have {head_dim} features each")
    window = read.count(f"{arch}.attention.sliding_window", 0)
    length = context or longest
    if context > longest:
        raise CheckpointError(f"context {context} is longer than the model's {longest}; leave it out, or give less")
    if window and length > window:
        raise CheckpointError(
            f"{read.path} has a sliding window of {window} tokens in a context of {length}, which groundup does not "
            f"have; within the window the model is the same: limit the context with --context {window}"
        )
    scaling = read.text(f"{arch}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise CheckpointError(f"{read.path}: rotary scaling {scaling!r}, which groundup does not have")
    rope: dict[str, Any] = {"rope_theta": read.number(f"{arch}.rope.freq_base", 10_000.0)}
    if scaling == "linear":
        rope |= {"rope_scaling": "linear", "rope_factor": read.number(f"{arch}.rope.scaling.factor")}
    table = weights.shapes.get("token_embd.weight")
    if table is None:
        raise CheckpointError(
            f"{read.path} has no tensor token_embd.weight, the table of token embeddings; it is not a whole model: if "
            f"it is in several files, join them with llama-gguf-split --merge"
        )
    try:
        config = ModelConfig(
            vocab_size=table[0],
            context_length=length,
            d_model=d_model,
            num_layers=read.count(f"{arch}.block_count"),
            num_heads=heads,
            head_size=0 if head_dim * heads == d_model else head_dim,
            num_kv_heads=read.count(f"{arch}.attention.head_count_kv", heads),
            d_ff=read.count(f"{arch}.feed_forward_length"),
            norm_eps=read.number(f"{arch}.attention.layer_norm_rms_epsilon"),
            tie_embeddings="output.weight" not in weights.shapes,
            embedding_scale=1.0,
            **rope,
            **family.options,
        )
    except ConfigError as error:
        raise CheckpointError(f"{read.path}: {error}") from None
    if config.num_layers > len(weights.shapes):
        raise CheckpointError(f"{read.path} names {config.num_layers} blocks and has {len(weights.shapes)} tensors")
    return config, family


def _with_factors(read: _Metadata, config: ModelConfig, factors: Tensor) -> ModelConfig:
    """The options of Llama 3's rotary scaling, from the factors that it comes to."""
    arch = read.text("general.architecture")
    low = read.number("groundup.rope_low_frequency", 1.0)
    high = read.number("groundup.rope_high_frequency", 4.0)
    said = read.count(f"{arch}.rope.scaling.original_context_length", 0)
    factor = float(f"{float(factors.max()):.6g}") if len(factors) else 1.0
    fitting = factors.shape == (config.head_dim // 2,) and bool(factors.isfinite().all())
    for original in [said, *(2**k for k in range(5, 21))] if fitting else []:
        options = {
            "rope_scaling": "llama3", "rope_factor": factor, "rope_original_context": original,
            "rope_low_frequency": low, "rope_high_frequency": high,
        }  # fmt: skip
        try:
            candidate = override(config, options)
        except ConfigError:
            continue
        if torch.allclose(_rope_factors(candidate).double(), factors, rtol=1e-5):
            return candidate
    raise CheckpointError(
        f"{read.path}: {_ROPE_FACTORS} holds factors of rotary frequencies that are not those of Llama 3's scaling"
    )


class _Metadata:
    """Strict reading of the file's options."""

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self.path, self._values = path, values

    def _value(self, name: str, default: Any, kinds: tuple[type, ...], expected: str) -> Any:
        value = self._values.get(name, default)
        if value is None:
            raise CheckpointError(f"{self.path} has no {name}; it is not the file of a model, or damaged")
        if type(value) not in kinds:
            raise CheckpointError(f"{self.path}: {name} = {str(value)[:60]}; expected {expected}")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        value = int(self._value(name, default, (int,), "a whole number"))
        if not 0 <= value < 2**28:
            raise CheckpointError(f"{self.path}: {name} = {value}; expected a number of a model")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = float(self._value(name, default, (int, float), "a number"))
        # Numbers are written as float32; what is closest to it in few digits was meant.
        return float(f"{value:.7g}")

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._value(name, default, (str,), "a text"))


_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4


def _parsed(path: Path) -> tuple[OpenFile, dict[str, Any], dict[str, _Info]]:
    """A file with its metadata and tensors, each checked against the file's size.

    Raises:
        CheckpointError: it is damaged, or a tensor has a type that is not read.
    """
    try:
        file = OpenFile(path)
        with os.fdopen(os.dup(file.descriptor), "rb") as opened:
            return file, *_Parser(path, opened).parse()
    except (OSError, ValueError, struct.error) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is truncated or not a GGUF file: {why(error)}") from None


class _Parser:
    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size

    def parse(self) -> tuple[dict[str, Any], dict[str, _Info]]:
        if self._bytes(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._scalar("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}, expected 2 or 3")
        tensors, entries = self._scalar("<Q"), self._scalar("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(self._plausible(entries, 12, "entries")):
            name = self._string()
            if name in metadata:
                raise ValueError(f"{name[:60]!r} is there twice")
            metadata[name] = self._value(self._scalar("<I"))
        infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(self._plausible(tensors, 24, "tensors")):
            name = self._string()
            if name in infos:
                raise ValueError(f"the tensor {name[:60]!r} is there twice")
            infos[name] = self._tensor(name)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 2**20:
            raise ValueError(f"alignment {str(alignment)[:20]}")
        begin = -(-self.file.tell() // alignment) * alignment
        return metadata, {name: self._placed(name, begin, info) for name, info in infos.items()}

    def _placed(self, name: str, begin: int, info: tuple[tuple[int, ...], int, int]) -> _Info:
        shape, kind, offset = info
        elements = math.prod(shape)
        if kind == _Q8_0:
            if shape[-1] % BLOCK:
                raise ValueError(f"{name} has rows of {shape[-1]} elements, q8_0 needs a multiple of {BLOCK}")
            count = elements // BLOCK * _BLOCK_BYTES
        else:
            count = elements * _TYPES[kind].itemsize
        if begin + offset + count > self.size:
            raise ValueError(f"{name} ends at byte {begin + offset + count:,}, the file at {self.size:,}")
        return _Info(shape, kind, begin + offset)

    def _tensor(self, name: str) -> tuple[tuple[int, ...], int, int]:
        dimensions = self._scalar("<I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"{name[:60]!r} has {dimensions} dimensions")
        shape = tuple(reversed([self._scalar("<Q") for _ in range(dimensions)]))
        if not all(0 < length <= self.size for length in shape) or math.prod(shape) > 8 * self.size:
            raise ValueError(f"{name[:60]!r} has the shape {shape}, more than the file can hold")
        kind = self._scalar("<I")
        if kind not in _TYPES and kind != _Q8_0:
            what = _TYPE_NAMES.get(kind, f"type {kind}")
            raise CheckpointError(f"{self.path}: {name[:60]} is {what}; read are F32, F16, BF16 and Q8_0")
        return shape, kind, self._scalar("<Q")

    def _value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY and depth < 2:
            inner, count = self._scalar("<I"), self._scalar("<Q")
            if inner in _SCALARS:
                width = struct.calcsize(_SCALARS[inner])
                content = self._bytes(self._plausible(count, width, "elements") * width)
                return list(struct.unpack(f"<{count}{_SCALARS[inner][1]}", content))
            return [self._value(inner, depth + 1) for _ in range(self._plausible(count, 8, "elements"))]
        if kind not in _SCALARS:
            raise ValueError(f"an entry of type {kind}")
        return self._scalar(_SCALARS[kind])

    def _plausible(self, count: int, width: int, what: str) -> int:
        if count * width > self.size - self.file.tell():
            raise ValueError(f"{count:,} {what} in a file of {self.size:,} bytes")
        return count

    def _scalar(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _string(self) -> str:
        return self._bytes(self._plausible(self._scalar("<Q"), 1, "bytes of text")).decode("utf-8")

    def _bytes(self, count: int) -> bytes:
        content = self.file.read(count)
        if len(content) != count:
            raise ValueError("it ends too early")
        return content
