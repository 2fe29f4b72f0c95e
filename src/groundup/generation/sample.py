"""Choosing the next token from its logits."""

import torch
from torch import Tensor

from groundup.config import check_sampling
from groundup.errors import TrainingError
from groundup.nn import softmax

# Shapes: V vocabulary.


def next_token(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator | None = None) -> int:
    """Sample an id from ``softmax(logits / temperature)`` cut to its nucleus (Holtzman et al. 2020, sec. 3.1).

    The nucleus is the smallest set of likeliest tokens whose probabilities sum to at least top_p; the others
    get probability zero and the rest is renormalised. Temperature 0 takes the likeliest token. Computed in float64
    whatever the dtype of the logits, so that no accepted setting underflows.

    Args:
        logits_V: ``(V,)``.

    Raises:
        ConfigError: temperature below 0, or top_p outside (0, 1].
        TrainingError: a logit is NaN or infinity, or all are minus infinity: the weights have diverged.
    """
    check_sampling(temperature, top_p)
    logits_V = logits_V.cpu().double()
    if not logits_V.max().isfinite():  # NaN if one of them is
        raise TrainingError("the model's logits are not finite: its weights have diverged; use an earlier checkpoint")
    if temperature == 0:
        return int(logits_V.argmax())
    # The maximum goes first: a tiny temperature would overflow the quotient otherwise.
    probabilities_V = softmax((logits_V - logits_V.max()) / temperature, dim=-1)
    if top_p < 1:
        descending, order = probabilities_V.sort(descending=True, stable=True)
        enough = int((descending.cumsum(0) < top_p).sum()) + 1
        probabilities_V[order[enough:]] = 0.0
    return int(torch.multinomial(probabilities_V, 1, generator=generator))
