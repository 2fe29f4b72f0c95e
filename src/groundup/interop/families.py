"""Families of models: which one a config is, and how its options and tensors are called in other formats.

One table serves both directions and both formats. A family is the Llama architecture with other values of the options
in ``USUAL``; what no family has is refused by name.

Rotation. groundup rotates neighbouring pairs of features (2k, 2k + 1), Hugging Face's models the pairs (k, k + K/2).
The rows of queries and keys (weights, biases and the gains of their norms) are therefore permuted within each head.
llama.cpp rotates neighbouring pairs in the architecture "llama", and halves in "qwen2" and "qwen3".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from groundup.config import ModelConfig
from groundup.errors import CheckpointError, ConfigError
from groundup.tokenizer.normalization.normalizers import NFC

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

# Shapes: R rows, D any further axis, K head size.

Form = Literal["hugging-face", "gguf"]

USUAL: dict[str, Any] = {
    "norm": "pre", "position": "rope", "ffn": "swiglu", "qk_norm": False, "qkv_bias": False, "norm_gains": True,
    "embedding_norm": False, "logit_softcap": 0.0, "qk_scale": 1.0, "value_embeddings": "none",
    "residual_scalars": False,
}  # fmt: skip
"""Values of Llama's options. Another value has a form in some family, or in none."""


@dataclass(frozen=True)
class Family:
    """A family of models in Hugging Face's transformers, and its architecture in llama.cpp."""

    name: str
    """``model_type`` in config.json."""
    class_name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options whose value is not the usual one."""
    gguf: str = ""
    """``general.architecture`` in GGUF; empty where llama.cpp has no form of it."""
    gguf_pairs: bool = False
    """Whether llama.cpp rotates neighbouring pairs, as groundup does."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What config.json leaves out has transformers' default; where it is not that of Llama."""
    any_head_size: bool = True
    """Whether hidden_size need not be a multiple of num_attention_heads."""
    windows: Literal["no", "all", "some"] = "no"
    """Which layers have the sliding window of config.json: all, or some if ``use_sliding_window`` says so."""
    splits_as: str = ""
    """Pattern by which transformers splits text for this family, after NFC, whatever tokenizer.json says."""


FAMILIES = (
    Family("llama", "LlamaForCausalLM", gguf="llama", gguf_pairs=True, any_head_size=False),
    Family(
        "mistral", "MistralForCausalLM", gguf="llama", gguf_pairs=True, windows="all",
        defaults={"sliding_window": 4096},
    ),
    Family(
        "qwen2", "Qwen2ForCausalLM", {"qkv_bias": True}, gguf="qwen2", windows="some", splits_as="qwen2",
        defaults={"sliding_window": 4096},
    ),
    Family("seed_oss", "SeedOssForCausalLM", {"qkv_bias": True}, defaults={"head_dim": 128, "attention_bias": True}),
    Family(
        "qwen3", "Qwen3ForCausalLM", {"qk_norm": True}, gguf="qwen3", windows="some",
        defaults={"head_dim": 128, "sliding_window": 4096},
    ),
    Family(
        "smollm3", "SmolLM3ForCausalLM", {"position": "none"}, windows="some",
        defaults={"tie_word_embeddings": True, "rope_theta": 2_000_000.0},
    ),
    Family(
        "arcee", "ArceeForCausalLM", {"ffn": "relu2"}, gguf="arcee", gguf_pairs=True, any_head_size=False,
        defaults={"hidden_act": "relu2"},
    ),
    Family("arcee", "ArceeForCausalLM", {"ffn": "silu"}, any_head_size=False, defaults={"hidden_act": "relu2"}),
)  # fmt: skip
"""In the order of choice: of two that fit, the first one is written."""


def family_of(config: ModelConfig, form: Form, tokenizer: Tokenizer | None = None) -> Family:
    """Return the family that a config is exported as.

    Args:
        tokenizer: of the model, which some families of transformers would replace by their own.

    Raises:
        ConfigError: no family has its options, or the format has none that has.
    """
    options = {name: getattr(config, name) for name, usual in USUAL.items() if getattr(config, name) != usual}
    divides = config.d_model % config.num_heads == 0
    found = [
        family
        for family in FAMILIES
        if family.options == options
        and (divides or family.any_head_size)
        and (form == "gguf" or tokenizer is None or _keeps(family, tokenizer))
    ]
    if not found:
        alone = [name for name in options if any({name: options[name]} == family.options for family in FAMILIES)]
        what = _said({name: value for name, value in options.items() if name not in alone} or options)
        if not divides and len(options) == len(alone) == 1:
            what += f" and model.num_heads = {config.num_heads} that does not divide model.d_model = {config.d_model}"
        raise ConfigError(
            f"{what} has no form in any family of transformers or llama.cpp; --to folder, groundup's own format, has "
            f"every option"
        )
    family = found[0]
    if form == "gguf" and not family.gguf:
        raise ConfigError(
            f"{_said(options)} has no form in llama.cpp (GGUF); --to hugging-face has one, as {family.class_name}"
        )
    if form == "gguf" and config.rope_scaling == "llama3" and family.gguf != "llama":
        raise ConfigError(
            f'model.rope_scaling = "llama3" has no form in llama.cpp\'s architecture {family.gguf}; '
            f"--to hugging-face has one, as {family.class_name}"
        )
    return family


def _keeps(family: Family, tokenizer: Tokenizer) -> bool:
    """Whether transformers gives a tokenizer's ids for a model of the family."""
    return not family.splits_as or (tokenizer.pattern == family.splits_as and tokenizer.normalizer == (NFC(),))


def _said(options: Mapping[str, Any]) -> str:
    return " together with ".join(f"model.{name} = {value!r}" for name, value in options.items())


# Options


def config_json(config: ModelConfig, family: Family, *, tied: bool) -> dict[str, Any]:
    """Return the entries of Hugging Face's config.json that describe the architecture.

    The rotary options stand there twice, as transformers 5 and as earlier versions read them.

    Args:
        tied: whether the output matrix is the embedding table.
    """
    rope: dict[str, Any] = {"rope_type": "default" if config.rope_scaling == "none" else config.rope_scaling}
    if config.rope_scaling != "none":
        rope["factor"] = config.rope_factor
    if config.rope_scaling == "llama3":
        rope |= {
            "original_max_position_embeddings": config.rope_original_context,
            "low_freq_factor": config.rope_low_frequency,
            "high_freq_factor": config.rope_high_frequency,
        }
    entries = {
        "architectures": [family.class_name],
        "model_type": family.name,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "relu2" if config.ffn == "relu2" else "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": rope | {"rope_theta": config.rope_theta},
        "tie_word_embeddings": tied,
    }
    if config.rope_scaling != "none":
        entries["rope_scaling"] = rope
    if family.name in ("mistral", "qwen2", "qwen3", "smollm3"):
        entries["sliding_window"] = None
    if family.name in ("qwen2", "qwen3", "smollm3"):
        entries["use_sliding_window"] = False
    if family.name in ("llama", "qwen3", "smollm3", "arcee"):
        entries["attention_bias"] = False
    if family.name in ("llama", "smollm3", "arcee", "seed_oss"):
        entries["mlp_bias"] = False
    if family.name == "seed_oss":
        entries |= {"attention_bias": True, "attention_out_bias": False}
    if family.name == "smollm3":
        entries["no_rope_layers"] = [0] * config.num_layers
    return entries


def model_config(entries: Mapping[str, Any], *, context: int = 0) -> tuple[ModelConfig, Family]:
    """Return the options and the family that a config.json describes.

    Args:
        entries: content of config.json.
        context: context length to limit the model to; 0 takes the model's.

    Raises:
        CheckpointError: another family, an option that groundup does not have, or a value of the wrong type.
    """
    family = _family_named(entries.get("model_type"))
    read = _Entries(entries, family.defaults)
    if "quantization_config" in entries:
        raise CheckpointError(f"config.json has quantization_config, and quantized weights are not read; {_ORIGINAL}")
    act, family_acts = read.text("hidden_act", "silu"), _ACTIVATIONS.get(family.name, {"silu": family})
    if act not in family_acts:
        raise CheckpointError(
            f"hidden_act = {act!r} in config.json; groundup's feed-forward layers have "
            f"{' and '.join(map(repr, family_acts))} for {family.name}"
        )
    family = family_acts[act]
    biased = "attention_out_bias" if family.name == "seed_oss" else "attention_bias"
    for name, what in ((biased, "a bias of o_proj"), ("mlp_bias", "biases in the feed-forward layers")):
        if read.flag(name, False):
            raise CheckpointError(f"{name} = true in config.json: {what}, which groundup does not have")
    heads, d_model = read.count("num_attention_heads"), read.count("hidden_size")
    layers = read.count("num_hidden_layers")
    head_dim = read.count("head_dim", d_model // heads if d_model % heads == 0 else None)
    longest = read.count("max_position_embeddings", 2048)
    if context > longest:
        raise CheckpointError(f"context {context} is longer than the model's {longest}; leave it out, or give less")
    length = context or longest
    options = dict(family.options)
    if family.name == "smollm3":
        options = {"position": _position(read, layers)}
    if family.name == "seed_oss":
        options = {"qkv_bias": read.flag("attention_bias", True)}
    _check_window(read, family, length, layers)
    try:
        config = ModelConfig(
            vocab_size=read.count("vocab_size"),
            context_length=length,
            d_model=d_model,
            num_layers=layers,
            num_heads=heads,
            head_size=0 if head_dim * heads == d_model else head_dim,
            num_kv_heads=read.count("num_key_value_heads", heads),
            d_ff=read.count("intermediate_size"),
            norm_eps=read.number("rms_norm_eps", 1e-6),
            tie_embeddings=read.flag("tie_word_embeddings", False),
            embedding_scale=1.0,
            **_rope(read, longest),
            **options,
        )
    except ConfigError as error:
        raise CheckpointError(f"config.json: {error}") from None
    return config, family


_ACTIVATIONS = {"arcee": {family.options["ffn"]: family for family in FAMILIES if family.name == "arcee"}}
"""Forms of a family by ``hidden_act``, for a family that has several."""
_ORIGINAL = "import the original model"


def _family_named(name: object) -> Family:
    for family in FAMILIES:
        if family.name == name:
            return family
    names = ", ".join(family.name for family in FAMILIES)
    raise CheckpointError(f"model_type = {name!r} in config.json; the families that are read: {names}")


def _position(read: _Entries, layers: int) -> str:
    every = read.count("no_rope_layer_interval", 4)
    rotated = read.entries.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(layers)]
    if not isinstance(rotated, list) or len(rotated) < layers or len(set(rotated[:layers])) > 1:
        raise CheckpointError(
            "no_rope_layers in config.json rotates some layers and not others, which groundup does not have; "
            "all or none is read"
        )
    return "rope" if rotated[0] else "none"


def _check_window(read: _Entries, family: Family, length: int, layers: int) -> None:
    """Refuse a sliding window that a sequence of the context length would notice."""
    window = read.entries.get("sliding_window", read.defaults.get("sliding_window"))
    used = family.windows == "all" or (family.windows == "some" and read.flag("use_sliding_window", False))
    if used and family.name in ("qwen2", "qwen3"):
        used = layers > read.count("max_window_layers", 28)
    kinds = read.entries.get("layer_types")
    if isinstance(kinds, list) and kinds:
        if unknown := sorted({str(kind) for kind in kinds[:layers]} - {"full_attention", "sliding_attention"}):
            raise CheckpointError(f"layer_types in config.json has {unknown[0]!r}, which groundup does not have")
        if family.windows == "some":
            used = "sliding_attention" in kinds[:layers]
    if window is None or not used:
        return
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise CheckpointError(f"sliding_window = {window!r} in config.json; expected a positive number, or null")
    if length > window:
        raise CheckpointError(
            f"config.json has a sliding window of {window} tokens in a context of {length}, which groundup does not "
            f"have; within the window the model is the same: limit the context with --context {window}"
        )


def _rope(read: _Entries, longest: int) -> dict[str, Any]:
    rope = read.entries.get("rope_scaling") or read.entries.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise CheckpointError(f"rope_parameters = {rope!r} in config.json; expected an object")
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise CheckpointError("rope_parameters in config.json differ between layers, which groundup does not have")
    inner = _Entries({**read.entries, **rope}, read.defaults)
    if inner.number("partial_rotary_factor", 1.0) != 1:
        raise CheckpointError("partial_rotary_factor in config.json; groundup rotates whole heads")
    options: dict[str, Any] = {"rope_theta": inner.number("rope_theta", 10_000.0)}
    match rope.get("rope_type", rope.get("type", "default")):
        case "default":
            return options
        case "linear":
            return options | {"rope_scaling": "linear", "rope_factor": inner.number("factor")}
        case "llama3":
            return options | {
                "rope_scaling": "llama3",
                "rope_factor": inner.number("factor"),
                "rope_original_context": inner.count("original_max_position_embeddings", longest),
                "rope_low_frequency": inner.number("low_freq_factor"),
                "rope_high_frequency": inner.number("high_freq_factor"),
            }
        case other:
            raise CheckpointError(
                f"rope_type = {other!r} in config.json; groundup has default, linear and llama3 (YaRN and dynamic "
                f"scaling change with the length of a sequence)"
            )


_MOST = 2**28
"""No size of a model is as large."""


@dataclass(frozen=True)
class _Entries:
    """Strict reading of config.json: what is missing has a default, what has another type is refused."""

    entries: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def _value(self, name: str, default: Any) -> Any:
        value = self.entries.get(name)
        if value is None:
            value = self.defaults.get(name, default)
        if value is None:
            raise CheckpointError(f"config.json has no {name}; the file is not that of a model, or damaged")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        value = self._value(name, default)
        if type(value) is not int or not 1 <= value < _MOST:
            raise CheckpointError(f"{name} = {value!r} in config.json; expected a positive whole number")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, default)
        if type(value) not in (int, float):
            raise CheckpointError(f"{name} = {value!r} in config.json; expected a number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        if type(value) is not bool:
            raise CheckpointError(f"{name} = {value!r} in config.json; expected true or false")
        return value

    def text(self, name: str, default: str) -> str:
        return str(self._value(name, default))


# Tensors

_TABLE = "token_embeddings.weight"
_MODEL_NAMES = (
    (_TABLE, "model.embed_tokens.weight", "token_embd.weight"),
    ("ln_final.weight", "model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "lm_head.weight", "output.weight"),
)
_BLOCK_NAMES = (
    ("ln1.weight", "input_layernorm.weight", "attn_norm.weight"),
    ("attn.q_proj.weight", "self_attn.q_proj.weight", "attn_q.weight"),
    ("attn.k_proj.weight", "self_attn.k_proj.weight", "attn_k.weight"),
    ("attn.v_proj.weight", "self_attn.v_proj.weight", "attn_v.weight"),
    ("attn.q_proj.bias", "self_attn.q_proj.bias", "attn_q.bias"),
    ("attn.k_proj.bias", "self_attn.k_proj.bias", "attn_k.bias"),
    ("attn.v_proj.bias", "self_attn.v_proj.bias", "attn_v.bias"),
    ("attn.q_norm.weight", "self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("attn.k_norm.weight", "self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("attn.output_proj.weight", "self_attn.o_proj.weight", "attn_output.weight"),
    ("ln2.weight", "post_attention_layernorm.weight", "ffn_norm.weight"),
    ("ffn.w1.weight", "mlp.gate_proj.weight", "ffn_gate.weight"),
    ("ffn.w3.weight", "mlp.up_proj.weight", "ffn_up.weight"),
    ("ffn.w2.weight", "mlp.down_proj.weight", "ffn_down.weight"),
)
"""Name in groundup, in Hugging Face's format and in GGUF."""
_ROTATED = ("attn.q_proj.", "attn.k_proj.", "attn.q_norm.", "attn.k_norm.")


@dataclass(frozen=True)
class Link:
    """A tensor of groundup and the same one in another format."""

    ours: str
    theirs: str
    shape: tuple[int, ...]
    head_size: int = 0
    """Rows that are permuted among themselves, head by head; 0 keeps their order."""
    scale: float = 1.0
    """Factor on the values where they are written."""

    def to_theirs(self, rows: Tensor) -> Tensor:
        """Rows as the other format has them; whole heads."""
        rows = halves_of_pairs(rows, self.head_size)
        return rows if self.scale == 1 else rows * self.scale

    def to_ours(self, rows: Tensor) -> Tensor:
        """Rows as groundup has them; whole heads."""
        return pairs_of_halves(rows, self.head_size)


def links(config: ModelConfig, family: Family, form: Form) -> list[Link]:
    """Return the tensors of a model in the order in which they are used.

    A tied table that is scaled where it enters has no form elsewhere. It is written twice: with the factor as
    embedding, and as it is as output matrix.
    """
    permuted = config.position == "rope" and not (form == "gguf" and family.gguf_pairs)
    which = 1 if form == "hugging-face" else 2
    shapes = _shapes(config)
    scale = config.input_scale
    found = [Link(_TABLE, _MODEL_NAMES[0][which], shapes[_TABLE], scale=scale)]
    prefix = "model.layers" if form == "hugging-face" else "blk"
    for i in range(config.num_layers):
        for names in _BLOCK_NAMES:
            ours, theirs = names[0], names[which]
            if config.ffn != "swiglu" and ours == "ffn.w1.weight":
                theirs = {"hugging-face": "mlp.up_proj.weight", "gguf": "ffn_up.weight"}[form]
            if ours in shapes:
                head_size = config.head_dim if permuted and ours.startswith(_ROTATED) else 0
                found.append(Link(f"layers.{i}.{ours}", f"{prefix}.{i}.{theirs}", shapes[ours], head_size))
    found.append(Link("ln_final.weight", _MODEL_NAMES[1][which], shapes["ln_final.weight"]))
    if not is_tied(config):
        head = _TABLE if config.tie_embeddings else "lm_head.weight"
        found.append(Link(head, _MODEL_NAMES[2][which], shapes[_TABLE]))
    return found


def is_tied(config: ModelConfig) -> bool:
    """Whether the exported model ties its output matrix to the embedding table."""
    return config.tie_embeddings and config.input_scale == 1


def plain_names(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's parameters in groundup; a tied matrix occurs once."""
    from groundup.nn import TransformerLM

    model = TransformerLM(dataclasses.replace(config, context_length=1), device="meta")
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by name, those of one block under their names in it."""
    from groundup.nn import TransformerLM

    small = dataclasses.replace(config, num_layers=1, context_length=1)
    model = TransformerLM(small, device="meta")
    return {name.removeprefix("layers.0."): tuple(p.shape) for name, p in model.named_parameters()}


def halves_of_pairs(rows: Tensor, head_size: int) -> Tensor:
    """Order the rows of each head as (0, 2, 4, …, 1, 3, 5, …); 0 as head size keeps their order."""
    if not head_size:
        return rows
    return rows.unflatten(0, (-1, head_size // 2, 2)).transpose(1, 2).flatten(0, 2)


def pairs_of_halves(rows: Tensor, head_size: int) -> Tensor:
    """Undo :func:`halves_of_pairs`."""
    if not head_size:
        return rows
    return rows.unflatten(0, (-1, 2, head_size // 2)).transpose(1, 2).flatten(0, 2)
