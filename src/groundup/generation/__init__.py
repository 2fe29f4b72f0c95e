"""Text from a model."""

from groundup.generation.autoregressive import continue_text, generate, prompt_ids, stream
from groundup.generation.sample import next_token

__all__ = ["continue_text", "generate", "next_token", "prompt_ids", "stream"]
