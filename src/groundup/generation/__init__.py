"""Text from a model."""

from groundup.generation.autoregressive import continue_text, generate, prompt_ids, stream
from groundup.generation.engine import Engine, Generation, Token
from groundup.generation.sampling import Sampling, next_token

__all__ = [
    "Engine",
    "Generation",
    "Sampling",
    "Token",
    "continue_text",
    "generate",
    "next_token",
    "prompt_ids",
    "stream",
]
