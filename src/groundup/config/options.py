"""Every option of a run, as frozen dataclasses that validate themselves.

A run is described by one ``RunConfig``; :mod:`groundup.config.recipe` reads it from TOML. Values that follow
from others (d_ff, head size, gradient accumulation) are computed here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from groundup.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"

Norm = Literal["pre", "post", "none"]
Position = Literal["rope", "none"]
FeedForward = Literal["swiglu", "silu", "relu2"]
OutputInit = Literal["glorot", "depth", "zero"]
ValueEmbeddings = Literal["none", "alternate"]
RopeScaling = Literal["none", "linear", "llama3"]
MuonCoefficients = Literal["jordan", "polar-express"]
MuonType = Literal["auto", "float32", "bfloat16"]


GATE_CHANNELS = 12
"""First features of a layer's input that the gates of its value embeddings are computed from."""


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {value!r}; expected {expected}")


def nearest_divisors(number: int, wanted: int) -> list[int]:
    """The one or two divisors of ``number`` closest to ``wanted``, for error messages."""
    # Divisors up to a million and their quotients, so that an absurd number is refused at once.
    small = [d for d in range(1, min(math.isqrt(number), 10**6) + 1) if number % d == 0]
    divisors = sorted({*small, *(number // d for d in small)})
    below = [d for d in divisors if d < wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return below + above


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the Transformer. The ablations are values here, never forks of the code."""

    vocab_size: int = 0
    """Rows of the embedding table; 0 takes the tokenizer's size from the token shards."""
    context_length: int = 256
    """Longest sequence of the model, in tokens."""
    d_model: int = 512
    """Width of the residual stream."""
    num_layers: int = 4
    """Transformer blocks."""
    num_heads: int = 16
    """Attention heads; d_model must be a multiple of it unless head_size is set, and the head size even (RoPE rotates
    pairs)."""
    head_size: int = 0
    """Width of one attention head; 0 derives it: d_model / num_heads."""
    num_kv_heads: int = 0
    """Heads of keys and values, each shared by as many query heads (grouped-query attention); 0 takes num_heads."""
    d_ff: int = 0
    """Inner width of the feed-forward layer; 0 derives it: 8/3 d_model rounded up to a multiple of 64 for swiglu
    (512 -> 1408), 4 d_model for silu and relu2, so that all have about the same number of parameters."""
    rope_theta: float = 10_000.0
    """Base of the rotary angles."""
    rope_scaling: RopeScaling = "none"
    """Stretch the rotary angles for a longer context than the model was trained with: all frequencies divided by
    rope_factor (position interpolation), or low ones only, as Llama 3.1 does."""
    rope_factor: float = 1.0
    """Divisor of the rotary frequencies, with rope_scaling."""
    rope_original_context: int = 0
    """Context length before it was stretched, with rope_scaling = "llama3"."""
    rope_low_frequency: float = 1.0
    """Frequencies with fewer rotations than this in the original context are divided, with rope_scaling = "llama3"."""
    rope_high_frequency: float = 4.0
    """Frequencies with more rotations than this in the original context stay, with rope_scaling = "llama3"; those
    between the two are interpolated."""
    norm: Norm = "pre"
    """RMSNorm before each sublayer, after each residual sum, or nowhere (then no final norm either)."""
    position: Position = "rope"
    """Rotary position embedding, or no position information at all (NoPE)."""
    ffn: FeedForward = "swiglu"
    """Gated (W2(SiLU(W1 x) * W3 x)), plain (W2 SiLU(W1 x)), or with a squared ReLU (W2 ReLU(W1 x)²) feed-forward
    layer."""
    tie_embeddings: bool = False
    """Use the embedding table as output matrix too; it is then initialized small, so that the first loss is ln V."""
    embedding_scale: float = 0.0
    """Factor on the embeddings where they enter the residual stream; 0 derives it: 1, or for a tied table what makes
    its initial vectors of unit variance. Imported tied models have 1."""
    norm_eps: float = 1e-5
    """Added to the mean square inside RMSNorm."""
    qk_norm: bool = False
    """Normalize queries and keys per head before RoPE (RMSNorm; Henry et al. 2020)."""
    qk_scale: float = 1.0
    """Factor on queries and on keys after their norms, with qk_norm: 1.2 makes attention sharper."""
    qkv_bias: bool = False
    """Add a bias to queries, keys and values (as Qwen2 does)."""
    norm_gains: bool = True
    """Multiply what a norm returns by learned gains, one for each feature."""
    embedding_norm: bool = False
    """Normalize the embeddings before the first block (RMSNorm)."""
    output_init: OutputInit = "glorot"
    """Initial matrices that write into the residual stream, attention's output_proj and the feed-forward layer's w2:
    as all others, those divided by sqrt(2 num_layers) (Radford et al. 2019), or zeros, so that each block begins as
    the identity."""
    logit_softcap: float = 0.0
    """Bound of the logits: c tanh(logits / c) (Gemma 2). 0: none."""
    value_embeddings: ValueEmbeddings = "none"
    """Tables of vectors by token id that are added to the values of attention, with a learned gate for each head: none,
    or in every other layer, the last one included (Zhou et al. 2024, value residual learning; as in nanochat)."""
    residual_scalars: bool = False
    """Learned factors before each layer: a times the residual stream plus b times the embeddings that entered it; a
    begins as 1, b as 0.1."""

    def __post_init__(self) -> None:
        _require(self.vocab_size >= 0, "model.vocab_size", self.vocab_size, "0 (take the data's) or a positive number")
        for name in ("context_length", "d_model", "num_layers", "num_heads"):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        named = (
            ("norm", Norm), ("position", Position), ("ffn", FeedForward), ("rope_scaling", RopeScaling),
            ("output_init", OutputInit), ("value_embeddings", ValueEmbeddings),
        )  # fmt: skip
        for name, kind in named:
            choices = get_args(kind)
            listed = ", ".join(map(repr, choices))
            _require(getattr(self, name) in choices, f"model.{name}", getattr(self, name), f"one of {listed}")
        _require(self.d_ff >= 0, "model.d_ff", self.d_ff, "a positive number, or 0 to derive it from d_model")
        _require(0 < self.rope_theta < math.inf, "model.rope_theta", self.rope_theta, "a positive, finite number")
        _require(0 < self.norm_eps < math.inf, "model.norm_eps", self.norm_eps, "a positive, finite number")
        _require(self.head_size >= 0, "model.head_size", self.head_size, "a positive number, or 0 to derive it")
        scale = self.embedding_scale
        _require(0 <= scale < math.inf, "model.embedding_scale", scale, "a finite number, 0 (derive it) or greater")
        cap = self.logit_softcap
        _require(0 <= cap < math.inf, "model.logit_softcap", cap, "a positive, finite number, or 0 for none")
        _require(0 < self.qk_scale < math.inf, "model.qk_scale", self.qk_scale, "a positive, finite number")
        if self.qk_scale != 1 and not self.qk_norm:
            raise ConfigError(
                f"model.qk_scale = {self.qk_scale} is a factor on normalized queries and keys; set model.qk_norm = "
                f"true too, or leave it out"
            )
        if self.value_embeddings != "none" and self.d_model < GATE_CHANNELS:
            raise ConfigError(
                f"model.d_model = {self.d_model} is too small for model.value_embeddings, whose gates are computed "
                f"from {GATE_CHANNELS} features; expected at least {GATE_CHANNELS}, or value_embeddings = 'none'"
            )
        self._check_rope_scaling()
        if not self.head_size and self.d_model % self.num_heads:
            nearest = ", ".join(map(str, nearest_divisors(self.d_model, self.num_heads)))
            raise ConfigError(
                f"model.num_heads = {self.num_heads} does not divide model.d_model = {self.d_model}; "
                f"nearest that do: {nearest}"
            )
        if self.num_kv_heads and (self.num_kv_heads < 0 or self.num_heads % self.num_kv_heads):
            nearest = ", ".join(map(str, nearest_divisors(self.num_heads, self.num_kv_heads)))
            raise ConfigError(
                f"model.num_kv_heads = {self.num_kv_heads} does not divide model.num_heads = {self.num_heads}; "
                f"nearest that do: {nearest}"
            )
        if self.position == "rope" and self.head_dim % 2:
            size = f"model.d_model / model.num_heads = {self.d_model} / {self.num_heads} = {self.head_dim}"
            if self.head_size:
                size = f"model.head_size = {self.head_size}"
            raise ConfigError(
                f"the head size {size} is odd, but RoPE rotates pairs of features; "
                f"choose num_heads so that it is even, or position = 'none'"
            )

    def _check_rope_scaling(self) -> None:
        low, high = self.rope_low_frequency, self.rope_high_frequency
        _require(1 <= self.rope_factor < math.inf, "model.rope_factor", self.rope_factor, "a finite number from 1 on")
        _require(0 < low < math.inf, "model.rope_low_frequency", low, "a positive, finite number")
        _require(
            low < high < math.inf,
            "model.rope_high_frequency",
            high,
            f"a finite number above rope_low_frequency = {low}",
        )
        original = self.rope_original_context
        _require(original >= 0, "model.rope_original_context", original, "a positive number, or 0 without rope_scaling")
        if self.rope_scaling == "llama3" and not original:
            raise ConfigError(
                'model.rope_scaling = "llama3" needs model.rope_original_context, the context length that the model '
                "was trained with before it was stretched, such as 8192"
            )

    @property
    def head_dim(self) -> int:
        """Size of one attention head: ``head_size``, or d_model / num_heads where it is 0."""
        return self.head_size or self.d_model // self.num_heads

    @property
    def initial_head_std(self) -> float:
        """Standard deviation of the initial output matrix."""
        return math.sqrt(2 / (self.d_model + self.vocab_size))

    @property
    def input_scale(self) -> float:
        """``embedding_scale``, or what it is derived to where it is 0."""
        enters_small = self.tie_embeddings and self.norm != "none" and not self.embedding_norm
        derived = 1 / self.initial_head_std if enters_small else 1.0
        return self.embedding_scale or derived

    @property
    def kv_heads(self) -> int:
        """``num_kv_heads``, or num_heads where it is 0."""
        return self.num_kv_heads or self.num_heads

    @property
    def value_layers(self) -> range:
        """Indices of the layers with value embeddings."""
        first = self.num_layers if self.value_embeddings == "none" else (self.num_layers - 1) % 2
        return range(first, self.num_layers, 2)

    @property
    def ffn_dim(self) -> int:
        """``d_ff``, or what it is derived to where it is 0."""
        if self.d_ff:
            return self.d_ff
        if self.ffn != "swiglu":
            return 4 * self.d_model
        return 64 * -(-8 * self.d_model // (3 * 64))


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """What one group of parameters has in place of the options of all. An option that is left out is that of all."""

    rate: float | None = None
    """Factor on the schedule's learning rate."""
    beta1: float | None = None
    """In place of optim.beta1. A recipe may give both as `betas = [0.8, 0.95]`."""
    beta2: float | None = None
    """In place of optim.beta2."""
    decay: float | None = None
    """Weight decay of the group, also where optim.decay leaves it out."""

    @property
    def given(self) -> dict[str, float]:
        """The options that are set."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class GroupsConfig:
    """Groups of parameters with a learning rate, betas or weight decay of their own."""

    embedding: GroupConfig = field(default_factory=GroupConfig)
    value_embedding: GroupConfig = field(default_factory=GroupConfig)
    head: GroupConfig = field(default_factory=GroupConfig)
    matrices: GroupConfig = field(default_factory=GroupConfig)
    vectors: GroupConfig = field(default_factory=GroupConfig)
    scalars: GroupConfig = field(default_factory=GroupConfig)

    def __post_init__(self) -> None:
        for f in fields(self):
            for name, value in getattr(self, f.name).given.items():
                place = f"optim.groups.{f.name}.{name}"
                if name in ("beta1", "beta2"):
                    _require(0 <= value < 1, place, value, "a number in [0, 1)")
                else:
                    _require(0 <= value < math.inf, place, value, "a finite number, 0 or greater")

    @property
    def given(self) -> dict[str, dict[str, float]]:
        """The groups with options of their own, and these."""
        return {f.name: given for f in fields(self) if (given := getattr(self, f.name).given)}


RATE_SCALES = {
    "embedding": "embedding_rate_scale", "head": "head_rate_scale", "matrices": "matrix_rate_scale",
    "vectors": "vector_rate_scale",
}  # fmt: skip
"""Groups whose rate has an option outside of optim.groups, too."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer, its schedule, and gradient clipping."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for every parameter; or Muon for the matrices between embedding and head, and AdamW for the rest."""
    max_learning_rate: float = 1e-3
    """Peak of the schedule, reached at the end of the warm-up. By default Muon's update is scaled to the size of
    AdamW's, so that the same learning rates suit both (optim.muon_scale)."""
    min_learning_rate: float = 1e-4
    """Learning rate at the last step."""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """What comes after the warm-up: half a cosine; a plateau and then a straight line (warm-up, stable, decay); a
    straight line; or the peak until the end."""
    warmup_iters: int = 200
    """Steps of linear warm-up."""
    decay_fraction: float = 0.2
    """Share of all steps in which wsd decays."""
    stage_from: int = 0
    """Last step of this schedule; a second stage follows until train.max_iters, with the schedule of the options below
    (`--resume RUN --then SCHEDULE` sets it). 0: there is one stage."""
    stage_schedule: Literal["wsd", "linear", "constant"] = "linear"
    """What comes after the second stage's warm-up, over the steps of that stage."""
    stage_learning_rate: float = 0.0
    """Peak of the second stage; 0 takes the learning rate that the first one ends with."""
    stage_min_learning_rate: float = 0.0
    """Learning rate at the last step of the second stage."""
    stage_warmup_iters: int = 0
    """Steps in which the second stage goes in a straight line from the end of the first one to its peak."""
    embedding_rate_scale: float = 1.0
    """Factor on the learning rate of the embedding table, also a tied one."""
    head_rate_scale: float = 1.0
    """Factor on the learning rate of the output matrix."""
    matrix_rate_scale: float = 1.0
    """Factor on the learning rate of the matrices in between."""
    vector_rate_scale: float = 1.0
    """Factor on the learning rate of the norms' gains and of biases."""
    beta1: float = 0.9
    """Decay of AdamW's running mean of gradients."""
    beta2: float = 0.95
    """Decay of AdamW's running mean of squared gradients."""
    eps: float = 1e-8
    """Added to AdamW's denominator."""
    muon_momentum: float = 0.9
    """Decay of Muon's running mean of gradients. 0.95 is usual for runs of many thousand steps."""
    muon_momentum_warmup: int = 0
    """Steps in which Muon's momentum goes from 0.85 to muon_momentum; 0: it is constant."""
    muon_momentum_cooldown: int = 0
    """Last steps, in which Muon's momentum goes back to 0.85; 0: none."""
    muon_iterations: int = 5
    """Newton-Schulz iterations of each of Muon's steps."""
    muon_coefficients: MuonCoefficients = "jordan"
    """Polynomials of the iterations: one for all (Jordan et al. 2024), or one each, which bring singular values closer
    to 1 (Polar Express; Amsel et al. 2025)."""
    muon_dtype: MuonType = "auto"
    """Type of the iterations. auto takes bfloat16 on GPUs, on processors with AMX, and, where train.precision is bf16,
    on processors with AVX512-BF16; float32 elsewhere."""
    muon_equalize: bool = False
    """Scale the rows of the momentum to one norm before the iterations (MuonEq-R), and the result to the norm of an
    orthogonal matrix after them (Muon+)."""
    muon_variance: float = 0.0
    """Decay of the running mean square of each row of Muon's update, by whose root the row is divided; the norm of the
    update stays (NorMuon; usual is 0.95). 0 turns it off."""
    muon_scale: Literal["rms", "spectral"] = "rms"
    """Size of Muon's update of an M x N matrix, as a factor on the learning rate: 0.2 sqrt(max(M, N)), so that its root
    mean square is AdamW's; or sqrt(max(1, M / N)), so that what a step changes in the layer's output does not depend
    on the width, and the best rate neither."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    decay: Literal["matrices", "all"] = "matrices"
    """Parameters with weight decay: only Linear weights, or all (embeddings and norm gains too)."""
    cautious_decay: bool = False
    """Decay a weight only in steps whose update moves it towards 0 as well (cautious weight decay)."""
    grad_clip: float = 1.0
    """Largest global L2 norm of the gradient; 0 turns clipping off (the norm is logged either way)."""
    groups: GroupsConfig = field(default_factory=GroupsConfig)

    def __post_init__(self) -> None:
        for name in (
            "max_learning_rate", "min_learning_rate", "warmup_iters", "weight_decay", "grad_clip", "stage_from",
            "stage_learning_rate", "stage_min_learning_rate", "stage_warmup_iters",
            "embedding_rate_scale", "head_rate_scale", "matrix_rate_scale", "vector_rate_scale",
            "muon_momentum_warmup", "muon_momentum_cooldown",
        ):  # fmt: skip
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"optim.{name}", value, "a finite number, 0 or greater")
        _require(
            self.min_learning_rate <= self.max_learning_rate,
            "optim.min_learning_rate", self.min_learning_rate,
            f"at most optim.max_learning_rate = {self.max_learning_rate}",
        )  # fmt: skip
        if self.stage_from:
            _require(self.stage_peak > 0, "optim.stage_learning_rate", 0.0, "a rate: the first stage ends with 0")
            _require(
                self.stage_min_learning_rate <= self.stage_peak,
                "optim.stage_min_learning_rate", self.stage_min_learning_rate,
                f"at most the peak of the second stage, {self.stage_peak}",
            )  # fmt: skip
        _require(self.muon_scale in ("rms", "spectral"), "optim.muon_scale", self.muon_scale, "'rms' or 'spectral'")
        for name, kinds in (("muon_coefficients", MuonCoefficients), ("muon_dtype", MuonType)):
            listed = " or ".join(map(repr, get_args(kinds)))
            _require(getattr(self, name) in get_args(kinds), f"optim.{name}", getattr(self, name), listed)
        for name in ("beta1", "beta2", "muon_momentum", "muon_variance"):
            _require(0 <= getattr(self, name) < 1, f"optim.{name}", getattr(self, name), "a number in [0, 1)")
        _require(0 < self.decay_fraction <= 1, "optim.decay_fraction", self.decay_fraction, "a number in (0, 1]")
        _require(self.muon_iterations >= 1, "optim.muon_iterations", self.muon_iterations, "at least 1")
        _require(0 < self.eps < math.inf, "optim.eps", self.eps, "a positive, finite number")
        self._check_groups()

    def _check_groups(self) -> None:
        for group, given in self.groups.given.items():
            scale = RATE_SCALES.get(group, "")
            if "rate" in given and scale and getattr(self, scale) != 1:
                raise ConfigError(
                    f"optim.{scale} = {getattr(self, scale)} and optim.groups.{group}.rate = {given['rate']} are both "
                    f"the rate of one group; leave one of them out"
                )
        betas = [name for name in self.groups.matrices.given if name.startswith("beta")]
        if betas and self.optimizer == "muon":
            raise ConfigError(
                f"optim.groups.matrices.{betas[0]} does not apply to Muon, which trains the matrices; "
                f"use optim.muon_momentum"
            )

    @property
    def last_learning_rate(self) -> float:
        """Learning rate at the last step of the first stage."""
        return self.max_learning_rate if self.schedule == "constant" else self.min_learning_rate

    @property
    def stage_peak(self) -> float:
        """``stage_learning_rate``, or what it is derived to where it is 0."""
        return self.stage_learning_rate or self.last_learning_rate


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training and validation tokens, and their batches."""

    train: str = ""
    """Training tokens: a folder written by `groundup encode`, or a 1-D .npy file of token ids."""
    valid: str = ""
    """Validation tokens, in the same form; empty means no evaluation."""
    vocab: str = ""
    """vocab.json of the tokenizer; only needed for .npy data, since a shards folder carries its tokenizer."""
    merges: str = ""
    """merges.txt of the tokenizer; goes with vocab."""
    order: Literal["shuffled", "random"] = "shuffled"
    """A new permutation of all windows each epoch, or uniformly random windows (the classical get_batch)."""
    pack: Literal["stream", "documents"] = "stream"
    """Windows of the tokens one after the other, over the borders of documents; or each sequence one document, padded
    at the end, or context_length tokens of a longer one."""
    batch_size: int = 32
    """Sequences per optimizer step, over all ranks together."""
    micro_batch_size: int = 0
    """Sequences per forward pass of each rank; 0 means all of its share of batch_size, over which gradients
    accumulate."""

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, "data.batch_size", self.batch_size, "at least 1")
        _require(self.micro_batch_size >= 0, "data.micro_batch_size", self.micro_batch_size, "a positive number, or 0")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            nearest = ", ".join(map(str, nearest_divisors(self.batch_size, self.micro_batch_size)))
            raise ConfigError(
                f"data.micro_batch_size = {self.micro_batch_size} does not divide data.batch_size = {self.batch_size}; "
                f"nearest that do: {nearest}"
            )
        _require(
            bool(self.vocab) == bool(self.merges), "data.vocab and data.merges", (self.vocab, self.merges),
            "both or neither",
        )  # fmt: skip

    @property
    def accumulation_steps(self) -> int:
        """Micro-batches per optimizer step of one process."""
        return self.micro_batches()

    def micro_batches(self, ranks: int = 1) -> int:
        """Number of micro-batches of each rank per optimizer step.

        Raises:
            ConfigError: the ranks cannot share the batch evenly, or not in micro-batches of micro_batch_size.
        """
        share, rest = divmod(self.batch_size, ranks)
        if rest:
            nearest = [batch for batch in (share * ranks, (share + 1) * ranks) if batch]
            raise ConfigError(
                f"data.batch_size = {self.batch_size} cannot be shared by {ranks} ranks; nearest that can: "
                f"{', '.join(map(str, nearest))}"
            )
        micro = min(self.micro_batch_size or share, share)
        if share % micro:
            nearest = nearest_divisors(share, micro)
            raise ConfigError(
                f"data.micro_batch_size = {self.micro_batch_size} does not divide the {share} sequences that each of "
                f"{ranks} ranks has of data.batch_size = {self.batch_size}; nearest that do: "
                f"{', '.join(map(str, nearest))}"
            )
        return share // micro


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length of the run, evaluation, checkpoints, and how it is computed."""

    max_iters: int = 5000
    """Optimizer steps; the cosine ends exactly at the last one."""
    init: str = ""
    """Run whose weights this one begins with, its parent: a name or path (its best checkpoint), RUN@STEP, or the folder
    of a checkpoint. Model options that are not given are the parent's. Empty: weights from the seed."""
    seed: int = 0
    """Seed of weights, batches and samples."""
    device: str = "auto"
    """"auto" (cuda, then mps, then cpu), or a torch device such as "cuda:1"."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun, with more than one rank: a copy of the model on each, or a share of it on each, where one device
    cannot hold it. The results agree to rounding."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Dtype of the matmuls; weights, optimizer state and the loss stay float32. "auto" is bf16 where the device
    supports it natively, fp32 elsewhere."""
    matmul_precision: Literal["highest", "high"] = "highest"
    """How float32 matrices are multiplied on a GPU: in float32, or as TF32 with 10 bits of mantissa."""
    attention: Literal["flash", "plain"] = "flash"
    """torch's fused attention, or our own from first principles. The results agree to rounding."""
    kernels: Literal["fast", "plain"] = "fast"
    """Fused layers and a loss that never holds all logits, or one formula after the other. The results agree to
    rounding."""
    compile: bool = False
    """Compile forward, loss and backward, and the evaluations' forward, with torch.compile; if that fails, the run says
    so and continues without."""
    compile_mode: Literal["default", "max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune"] = "default"
    """Mode of torch.compile: what it spends to find faster kernels, and whether it records CUDA graphs."""
    activation_checkpointing: bool = False
    """Save only the input of each block, and recompute the rest in the backward pass: less memory, a third more
    FLOPs."""
    average_last: float = 0.0
    """Share of the steps, at the end, whose weights are averaged, in [0, 1]; 0 turns it off. Checkpoints of these steps
    hold the average, which is evaluated, sampled from and exported; val_loss_raw is the loss of the weights
    themselves."""
    average_decay: float = 0.999
    """Decay of the exponential average of the weights. It begins as their mean, and stays one for 1 / (1 - decay)
    steps."""
    log_interval: int = 10
    """Steps between lines of metrics."""
    eval_interval: int = 100
    """Steps between evaluations; one more is made after the last step."""
    eval_windows: int = 640
    """Validation windows per evaluation, spread evenly and the same every time; 0 takes the whole split."""
    eval_batch_size: int = 32
    """Windows per forward pass of an evaluation. It never changes the result beyond rounding."""
    checkpoint_interval: int = 1000
    """Steps between checkpoints; more are made after the last step, on interruption, and, with keep_best = "full",
    before each evaluation."""
    checkpoint_minutes: float = 15.0
    """Longest time without a checkpoint, in minutes; 0 sets no limit."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep, beside the best; 0 keeps all."""
    keep_best: Literal["full", "weights", "none"] = "full"
    """What is kept of the step with the lowest validation loss: a full checkpoint, which is written before each
    evaluation; its weights only, written at each new best, so that full checkpoints follow checkpoint_interval alone;
    or nothing. Without it, "best" names the newest checkpoint."""
    background_checkpoints: bool = True
    """Copy the checkpoint's tensors and continue training while a thread writes them; takes that much more memory."""
    checkpoint_format: Literal["gathered", "sharded"] = "gathered"
    """One file of weights and one of optimizer state, gathered by the first rank; or a file of each from every rank,
    for a model that one process cannot hold. Both are read on any number of ranks."""
    max_minutes: float = 0.0
    """Save a checkpoint and stop after this many minutes of a session; 0 sets no limit."""
    minutes: float = 0.0
    """Train for this many minutes in all, evaluations and checkpoints included, in place of max_iters steps: the
    learning-rate schedule ends then. The number of steps follows from the measured speed. Warm-up and decay keep the
    shares that they have of max_iters. 0 trains max_iters steps."""
    finish_schedule: bool = False
    """With max_minutes: finish the learning-rate schedule within the limit, as if it were the whole run."""
    stop_at: int = 0
    """Save a checkpoint after this step and end the session, inside a longer schedule; --resume goes on. A session that
    begins at this step or later does not stop there; 0 never stops."""
    ratio_interval: int = 100
    """Steps between measurements of the update-to-weight ratio of each parameter group; 0 turns them off."""
    spike_factor: float = 1.5
    """A loss above this factor times the recent average is reported as a spike; 0 turns that off."""
    peak_tflops: float = 0.0
    """Matrix throughput of the device in TFLOP/s, for MFU; 0 looks it up by the device's name."""
    profile: bool = False
    """Profile a few steps, and write a trace and a summary of their time into RUN/profile."""

    def __post_init__(self) -> None:
        for name in ("max_iters", "log_interval", "eval_interval", "eval_batch_size", "checkpoint_interval"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        for name in ("seed", "eval_windows", "keep_checkpoints", "ratio_interval", "stop_at"):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or greater")
        for name in ("checkpoint_minutes", "max_minutes", "minutes", "spike_factor", "peak_tflops"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"train.{name}", value, "a finite number, 0 or greater")
        _require(
            0 <= self.average_last <= 1, "train.average_last", self.average_last, "a share of the steps, in [0, 1]"
        )
        _require(0 <= self.average_decay < 1, "train.average_decay", self.average_decay, "a number in [0, 1)")
        if self.finish_schedule and not self.max_minutes:
            raise ConfigError("train.finish_schedule needs a limit to finish by; set train.max_minutes too")
        modes = ("default", "max-autotune-no-cudagraphs", "reduce-overhead", "max-autotune")
        listed = ", ".join(map(repr, modes))
        _require(self.compile_mode in modes, "train.compile_mode", self.compile_mode, f"one of {listed}")
        kinds = ("full", "weights", "none")
        _require(self.keep_best in kinds, "train.keep_best", self.keep_best, f"one of {', '.join(map(repr, kinds))}")
        if self.keep_best == "weights" and self.checkpoint_format == "sharded":
            raise ConfigError(
                "train.keep_best = 'weights' gathers the weights in one file, which "
                "train.checkpoint_format = 'sharded' avoids; keep 'full' or 'none'"
            )
        if self.finish_schedule and self.minutes:
            raise ConfigError(
                f"train.minutes = {self.minutes:g} finishes the schedule by itself; leave train.finish_schedule out"
            )
        _require(self.seed < 2**63, "train.seed", self.seed, "a number below 2**63")
        _require(
            self.stop_at <= self.max_iters or self.minutes > 0, "train.stop_at", self.stop_at,
            f"a step of the schedule, at most train.max_iters = {self.max_iters}",
        )  # fmt: skip

    @property
    def schedule_by_time(self) -> bool:
        """Whether the learning rate follows the time in place of the steps."""
        return self.finish_schedule or self.minutes > 0


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Text written by the model: during training, and by default in `groundup generate`."""

    interval: int = 500
    """Steps between samples during training; 0 turns them off."""
    tokens: int = 128
    """Most tokens per sample; it ends earlier at the end-of-text token."""
    temperature: float = 0.8
    """Divides the logits before the softmax; 0 always takes the likeliest token."""
    top_p: float = 0.9
    """Sample from the smallest set of tokens whose probabilities sum to at least this (nucleus sampling)."""
    prompt: str = ""
    """What the sample continues; empty begins a new document."""
    begin_token: str = END_OF_TEXT
    """Special token that stands before each prompt; none where it is empty or the tokenizer does not have it."""
    end_token: str = END_OF_TEXT
    """Special token that ends a text; likewise."""

    def __post_init__(self) -> None:
        _require(self.interval >= 0, "sample.interval", self.interval, "0 or greater")
        _require(self.tokens >= 1, "sample.tokens", self.tokens, "at least 1")
        check_sampling(self.temperature, self.top_p)


def check_sampling(temperature: float, top_p: float) -> None:
    """Refuse sampling settings that have no meaning.

    Raises:
        ConfigError: temperature is negative or not finite, or top_p is outside (0, 1].
    """
    _require(
        0 <= temperature < math.inf, "temperature", temperature, "a finite number, 0 (always the likeliest) or greater"
    )
    _require(0 < top_p <= 1, "top_p", top_p, "a number in (0, 1]; 1 samples from all tokens, a tiny value is greedy")


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Where metrics go beside metrics.jsonl, which is always written."""

    tensorboard: bool = False
    """Write TensorBoard event files into the run directory."""
    wandb: bool = False
    """Log to Weights & Biases; without an account set WANDB_MODE=offline."""
    wandb_project: str = "groundup"
    """W&B project."""
    wandb_run_name: str = ""
    """W&B run name; empty takes the run's name."""
    group: str = ""
    """What W&B shows this run together with; a sweep sets it to its name."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that defines a run."""

    name: str = "run"
    """The run directory is <runs_dir>/<name>."""
    runs_dir: str = "runs"
    """Folder of all runs."""
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    track: TrackConfig = field(default_factory=TrackConfig)

    def __post_init__(self) -> None:
        _require(
            self.name not in ("", ".", "..") and not set("/\0") & set(self.name), "name", self.name,
            "one folder's name; runs_dir says where it lies",
        )  # fmt: skip
        for name, value in _texts(self):
            _require(_can_be_written(value), name, value, "text without halves of surrogate pairs")

    @property
    def run_dir(self) -> Path:
        """Where the run is recorded."""
        return Path(self.runs_dir) / self.name


def _texts(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Options that are text, by their full names."""
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield from _texts(value, f"{prefix}{f.name}.")
        elif isinstance(value, str):
            yield prefix + f.name, value


def _can_be_written(text: str) -> bool:
    """Whether a text is UTF-8, or a name of a file that is not, which `save_toml` writes as its bytes."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def check_warmup(config: RunConfig) -> None:
    """Refuse a warm-up that is longer than the run, or than its stage, and a stage without steps."""
    optim, steps = config.optim, config.train.max_iters
    if optim.stage_from and config.train.minutes:
        raise ConfigError(
            f"optim.stage_from = {optim.stage_from} counts steps, but train.minutes = {config.train.minutes:g} leaves "
            f"their number open; leave one of them out"
        )
    if optim.stage_from >= steps:
        raise ConfigError(
            f"optim.stage_from = {optim.stage_from} leaves no step for the second stage: train.max_iters = {steps}; "
            f"raise --max_iters, which counts the steps of both"
        )
    first = ("optim.warmup_iters", optim.warmup_iters, "optim.stage_from" if optim.stage_from else "train.max_iters")
    second = ("optim.stage_warmup_iters", optim.stage_warmup_iters, "the steps of the second stage")
    for (name, warmup, what), length in ((first, optim.stage_from or steps), (second, steps - optim.stage_from)):
        if warmup > length:
            raise ConfigError(
                f"{name} = {warmup} is longer than {what} = {length}, so the learning rate would never decay; "
                f"set it to {length // 10}, say"
            )
