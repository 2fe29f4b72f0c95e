"""Choosing the next token from its logits."""

import torch
from torch import Tensor

from groundup.nn import softmax

# Shapes: V vocabulary.


def next_token(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator | None = None) -> int:
    """Sample an id from ``softmax(logits / temperature)`` cut to its nucleus (Holtzman et al. 2020, sec. 3.1).

    The nucleus is the smallest set of likeliest tokens whose probabilities sum to at least top_p; the others
    get probability zero and the rest is renormalised. Temperature 0 takes the likeliest token. Probabilities are
    float32 whatever the dtype of the logits.

    Args:
        logits_V: ``(V,)``.
    """
    logits_V = logits_V.float().cpu()
    if temperature == 0:
        return int(logits_V.argmax())
    # The maximum goes first: a tiny temperature would overflow the quotient otherwise.
    probabilities_V = softmax((logits_V - logits_V.max()) / temperature, dim=-1)
    if top_p < 1:
        descending, order = probabilities_V.sort(descending=True, stable=True)
        before = descending.cumsum(0) - descending
        outside = order[before >= top_p]
        probabilities_V[outside] = 0.0
    return int(torch.multinomial(probabilities_V, 1, generator=generator))
