"""Text from a model."""

from groundup.generation.generate import continue_text, generate, stream
from groundup.generation.sample import next_token

__all__ = ["continue_text", "generate", "next_token", "stream"]
