"""The learning rate as a function of the step."""

import math


def get_lr_cosine_schedule(
    it: int, max_learning_rate: float, min_learning_rate: float, warmup_iters: int, cosine_cycle_iters: int
) -> float:
    """Linear warm-up, then half a cosine down to the minimum (Loshchilov & Hutter 2017; Touvron et al. 2023).

        it < Tw:         it / Tw · max
        Tw <= it <= Tc:  min + ½ (1 + cos(π (it - Tw) / (Tc - Tw))) (max - min)
        it > Tc:         min

    Args:
        it: t, counted from 0. warmup_iters: Tw. cosine_cycle_iters: Tc.
    """
    if it < warmup_iters:
        return it / warmup_iters * max_learning_rate
    if it >= cosine_cycle_iters:
        return min_learning_rate
    progress = (it - warmup_iters) / (cosine_cycle_iters - warmup_iters)
    return min_learning_rate + 0.5 * (1 + math.cos(math.pi * progress)) * (max_learning_rate - min_learning_rate)
