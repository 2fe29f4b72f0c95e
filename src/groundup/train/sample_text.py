"""What the model of a run writes at one of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from groundup.config import RunConfig
from groundup.errors import DivergenceError, TrainingError
from groundup.generation import continue_text
from groundup.nn import TransformerLM

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


def sample_line(
    model: TransformerLM,
    tokenizer: Tokenizer,
    config: RunConfig,
    step: int,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """A line of ``samples.jsonl``: the text, the prompt, and the settings that reproduce it.

    Args:
        stop: asked after each token; True gives up the sample, and the result is None.
    """
    settings = config.sample
    # A seed of its own for every step: the sample depends on the run's seed and the step, on nothing drawn before.
    seed = (config.train.seed * 1_000_003 + step) % 2**63
    pieces: list[str] = []
    try:
        for piece in continue_text(
            model, tokenizer, settings.prompt, settings.tokens, settings.temperature, settings.top_p, seed=seed
        ):
            pieces.append(piece)
            if stop():
                return None
    except TrainingError as error:
        raise DivergenceError(f"step {step}: in its sample, {error}", step) from None
    return {
        "step": step,
        "prompt": settings.prompt,
        "text": "".join(pieces),
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": seed,
    }
