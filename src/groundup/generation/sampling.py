"""Choosing the next token from its logits: penalties, temperature, and what may be sampled from."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from groundup.config import check_sampling
from groundup.errors import ConfigError, TrainingError
from groundup.nn import softmax

# Shapes: V vocabulary.


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text is sampled. The defaults sample from the model's distribution.

    The order is that of ``transformers``: bias and penalties, temperature, top-k, top-p, min-p, typical.

    Raises:
        ConfigError: a setting outside its range.
    """

    max_tokens: int = 256
    """Most new tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token, of equal ones the first."""
    top_k: int = 0
    """Sample from this many most probable tokens (and those equal to the last of them); 0: from all."""
    top_p: float = 1.0
    """Sample from the smallest set of most probable tokens with at least this probability (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Leave out tokens less probable than this share of the most probable one (Nguyen et al. 2024)."""
    typical_p: float = 1.0
    """Sample from the smallest set of tokens whose surprise is nearest to the entropy (Meister et al. 2023)."""
    repetition_penalty: float = 1.0
    """Divide positive logits of tokens in the prompt and the text by this, and multiply negative ones (Keskar et al.
    2019)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens in the new text."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time it is in the new text."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    seed: int | None = None
    """Seed of sampling; None draws one."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these strings."""
    ignore_end: bool = False
    """Go on after the end-of-text token."""
    end_ids: tuple[int, ...] = ()
    """Further tokens that end the text, as the end of a turn does in a conversation."""
    log_probabilities: int | None = None
    """Report each token's log-probability, and those of this many most probable tokens; None reports none."""
    scores_prompt: bool = False
    """Report them also for the prompt's tokens, each given the ones before it."""

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_p)
        _check("max_tokens", self.max_tokens, self.max_tokens >= 0, "0 or greater")
        _check("top_k", self.top_k, self.top_k >= 0, "0 (all) or greater")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "a number from 0 to 1")
        _check("typical_p", self.typical_p, 0 < self.typical_p <= 1, "a number in (0, 1]")
        penalty = self.repetition_penalty
        _check("repetition_penalty", penalty, 0 < penalty < math.inf, "a positive, finite number")
        for name in ("presence_penalty", "frequency_penalty"):
            _check(name, getattr(self, name), math.isfinite(getattr(self, name)), "a finite number")
        for token, bias in self.logit_bias.items():
            _check(f"logit_bias[{token}]", bias, not math.isnan(bias) and bias < math.inf, "a number below infinity")
        _check("seed", self.seed, self.seed is None or 0 <= self.seed < 2**63, "0 or greater, below 2**63")
        _check("stop", self.stop, all(self.stop), "strings of at least one character")
        count = self.log_probabilities
        _check("log_probabilities", count, count is None or count >= 0, "0 or greater, or None")
        _check("log_probabilities", count, count is not None or not self.scores_prompt, "a number, with scores_prompt")

    def with_seed(self, number: int) -> Sampling:
        """The settings of the text with this number of several: its seed is that many higher."""
        return self if self.seed is None else dataclasses.replace(self, seed=self.seed + number)

    @property
    def is_plain_greedy(self) -> bool:
        """Whether the most probable token is taken as it is, so that nothing but the logits is needed."""
        return self.temperature == 0 and not self.changes_logits and self.log_probabilities is None

    @property
    def changes_logits(self) -> bool:
        """Whether a bias or penalty applies."""
        return bool(self.repetition_penalty != 1 or self.presence_penalty or self.frequency_penalty or self.logit_bias)


def _check(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {value!r}; expected {expected}")


class Sampler:
    """Samples the tokens of one text, with its own source of randomness and its own history.

    Args:
        prompt_ids: count for the repetition penalty.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Iterable[int] = ()):
        self.sampling = sampling
        self.generator = torch.Generator()
        if sampling.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(sampling.seed)
        self._seen = set(prompt_ids) if sampling.repetition_penalty != 1 else set()
        self._new: Counter[int] = Counter()

    def next(self, logits_V: Tensor) -> int:
        """Choose a token, and remember it for the penalties.

        Raises:
            TrainingError: a logit is NaN or infinity, or all are minus infinity: the weights have diverged.
        """
        sampling = self.sampling
        logits_V = finite(logits_V)
        if sampling.changes_logits:
            logits_V = self._changed(logits_V)
        chosen = choose(logits_V, sampling, self.generator)
        if sampling.changes_logits:
            self._seen.add(chosen)
            self._new[chosen] += 1
        return chosen

    def _changed(self, logits_V: Tensor) -> Tensor:
        sampling, logits_V = self.sampling, logits_V.clone()
        if self._seen and sampling.repetition_penalty != 1:
            seen = torch.tensor(sorted(self._seen))
            here = logits_V[seen]
            penalty = sampling.repetition_penalty
            logits_V[seen] = torch.where(here < 0, here * penalty, here / penalty)
        if self._new and (sampling.presence_penalty or sampling.frequency_penalty):
            tokens = torch.tensor(list(self._new))
            counts = torch.tensor(list(self._new.values()), dtype=torch.float64)
            logits_V[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        for token, bias in sampling.logit_bias.items():
            if not 0 <= token < len(logits_V):
                raise ConfigError(f"logit_bias names token {token}; expected 0 to {len(logits_V) - 1}")
            logits_V[token] += bias
        if logits_V.max() == -math.inf:
            raise ConfigError("logit_bias leaves no token to choose; give at least one a bias above minus infinity")
        return logits_V


def next_token(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator | None = None) -> int:
    """Sample an id from ``softmax(logits / temperature)`` cut to its nucleus (Holtzman et al. 2020, sec. 3.1).

    Args:
        logits_V: ``(V,)``.
        temperature, top_p: see :class:`Sampling`.

    Raises:
        ConfigError: temperature below 0, or top_p outside (0, 1].
        TrainingError: a logit is NaN or infinity, or all are minus infinity: the weights have diverged.
    """
    return choose(finite(logits_V), Sampling(temperature=temperature, top_p=top_p), generator)


def finite(logits_V: Tensor) -> Tensor:
    """The logits on the CPU in float64, whatever their dtype, so that no accepted setting underflows.

    Raises:
        TrainingError: as for :func:`next_token`.
    """
    logits_V = logits_V.cpu().double()
    if not logits_V.max().isfinite():  # NaN if one of them is
        raise TrainingError("the model's logits are not finite: its weights have diverged; use an earlier checkpoint")
    return logits_V


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator | None) -> int:
    """Sample an id from :func:`probabilities`; at temperature 0 the most probable one."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    return int(torch.multinomial(probabilities(logits_V, sampling), 1, generator=generator))


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """What is sampled from: ``(V,)`` in float64, 0 for tokens that are left out, not normalized again.

    Args:
        logits_V: in float64.
    """
    # The maximum goes first: a tiny temperature would overflow the quotient otherwise.
    scaled_V = (logits_V - logits_V.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scaled_V):
        least = scaled_V.topk(sampling.top_k).values[-1]
        scaled_V = scaled_V.masked_fill(scaled_V < least, -math.inf)
    p_V = softmax(scaled_V, dim=-1)
    if sampling.top_p < 1:
        _keep_nucleus(p_V, sampling.top_p)
    if sampling.min_p:
        p_V[p_V < sampling.min_p * p_V.max()] = 0.0
    if sampling.typical_p < 1:
        p_V /= p_V.sum()
        surprise_V = -p_V.log()
        entropy = (p_V * surprise_V).nansum()  # 0 log 0 is 0
        order = (surprise_V - entropy).abs().nan_to_num(nan=math.inf).argsort(stable=True)
        enough = int((p_V[order].cumsum(0) < sampling.typical_p).sum()) + 1
        p_V[order[enough:]] = 0.0
    return p_V


def _keep_nucleus(p_V: Tensor, top_p: float) -> None:
    # Tokens below (1 - top_p) / V sum to less than 1 - top_p, so the nucleus is full before it comes to them: only the
    # others are sorted.
    candidates = (p_V >= (1 - top_p) / len(p_V)).nonzero().squeeze(1)
    descending, order = p_V[candidates].sort(descending=True, stable=True)
    enough = int((descending.cumsum(0) < top_p).sum()) + 1
    kept = candidates[order[:enough]]
    values = p_V[kept]
    p_V.zero_()
    p_V[kept] = values
